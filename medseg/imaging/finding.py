"""What is wrong or odd with a case of a data set, as `medseg inspect` and `medseg plan` tell it."""

from __future__ import annotations

from typing import Literal

from medseg.files import Record

HowBad = Literal["unusable", "suspect", "note"]

Code = Literal[
    "truncated",  # a file of it is cut short or damaged
    "missing",  # a file of it is not there
    "unreadable",  # it cannot be read for another reason
    "shape",  # label and image differ in shape
    "affine",  # label and image lie in different places
    "value",  # its label holds a value that the data set does not name
    "slice",  # a single slice among volumes, or the reverse
    "constant",  # all voxels of a channel have the same value
    "empty",  # nothing is labelled, or not a structure that all others have
    "duplicate",  # the voxels, or the label, of another case
    "patient",  # further cases are of the same patient
    "stray",  # labelled voxels far from the rest of their structure
    "outside",  # labelled voxels where the scan shows nothing
    "side",  # left and right are swapped
    "hu",  # its values are no HU: an offset or a slope was left out
    "spacing",  # its voxels are of another size than those of the others
    "size",  # the scan or a structure is much larger or smaller than the others
]


class Finding(Record):
    """What was found in a case (of the whole data set where `case` is empty), with its numbers, and what to do.

    how_bad: `unusable` cases are set aside, `suspect` ones are used and should be looked at, a `note` is good to know.
    """

    case: str
    code: Code
    what: str
    how_bad: HowBad
    todo: str
