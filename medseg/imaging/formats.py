"""Files that hold a whole volume: which they are, by name, and how many volumes one holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from medseg.imaging import itk, nifti
from medseg.imaging.itk_header import read_itk_header

FileFormat = Literal["nifti", "itk"]


def is_volume_file(path: Path) -> FileFormat | None:
    """The format of a volume file by its name, or None."""
    if nifti.is_nifti(path):
        return "nifti"
    return "itk" if itk.is_itk(path) else None


def volumes_in(path: Path) -> int:
    """How many volumes a volume file holds: 1, or those of a 4D file.

    Raises:
        InputError: its header cannot be read.
    """
    return nifti.n_volumes(path) if nifti.is_nifti(path) else itk.n_volumes(path)


def with_data(files: Sequence[Path]) -> Iterator[Path]:
    """The files, and those that hold the voxels of a header of its own (.mhd, .nhdr)."""
    for path in files:
        yield path
        data = read_itk_header(path).data if itk.is_itk(path) else path
        if data != path:
            yield data
