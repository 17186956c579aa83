"""What a case is called by the name of its file: a rule of names alone, without the formats that are read."""

from __future__ import annotations

SUFFIXES = (".gz", ".nii", ".nrrd", ".mha", ".mhd", ".dcm", ".seg", ".labelmap", ".rtstruct")  # stripped in this order


def case_name(file_name: str) -> str:
    """The name of a file of labels without its extension and `_0000`."""
    stem = file_name
    for suffix in SUFFIXES:
        stem = stem.removesuffix(suffix)
    return stem.removesuffix("_0000") or stem
