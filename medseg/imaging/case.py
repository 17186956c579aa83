"""What a dataset is made of: labelled cases, how they are read, and what was found beside them but not used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # DICOM volumes tell what was left, so their module imports this one
    from medseg.imaging.source import Source

LabelKind = Literal["file", "seg", "rtstruct"]


@dataclass(frozen=True, slots=True)
class Left:
    """Something that was found but is not used: where (never a patient's name) and why, in one line.

    `broken` if it was meant to be used and cannot be: then it counts as a failed case. An image without a label, a
    localiser or a text file is merely left.
    """

    where: str
    reason: str
    broken: bool = False


@dataclass(frozen=True, slots=True)
class LabelFile:
    """Where the label of a case stands, and what its values mean.

    renames: every value of the file that has a meaning -> value in the dataset; empty where they are the same.
    others: further DICOM objects that label the same scan.
    """

    path: Path
    kind: LabelKind = "file"
    renames: Mapping[int, int] = field(default_factory=dict)
    others: tuple[LabelFile, ...] = ()

    @property
    def parts(self) -> tuple[LabelFile, ...]:
        """This and the others, each on its own."""
        return (LabelFile(self.path, self.kind, self.renames), *self.others)


@dataclass(frozen=True, slots=True)
class Case:
    """One labelled scan: a source for each channel, its label, and the patient that it came from."""

    name: str
    images: tuple[Source, ...]
    label: LabelFile | None
    patient: str

    @property
    def files(self) -> tuple[Path, ...]:
        """All its files, each once: those of the channels in their order, then the label's."""
        images = [path for source in self.images for path in source.paths]
        labels = [part.path for part in self.label.parts] if self.label else []
        return tuple(dict.fromkeys([*images, *labels]))
