"""What an export says of itself: records without torch, so that reports read them in no time."""

from __future__ import annotations

from medseg.files import RESEARCH_USE, Record

TOLERANCE = 1e-3  # of the largest logit: by so much may a logit differ
DIFFERING = 1e-4  # of the voxels may be decided otherwise


class Difference(Record):
    """How far a runtime's logits are from torch's: the largest difference, the largest logit, and of how many voxels
    how many are decided otherwise.
    """

    largest: float
    logit: float
    voxels: int
    differing: int

    @property
    def words(self) -> str:
        """`differs from torch by at most 2e-06 in logits of up to 7.1; 0 of 1536 voxels are decided otherwise`."""
        return (
            f"differs from torch by at most {self.largest:.2g} in logits of up to {self.logit:.3g}; "
            f"{self.differing} of {self.voxels} voxels are decided otherwise"
        )

    @property
    def small(self) -> bool:
        """True if it is no more than rounding, by which a voxel between two classes may go to either."""
        return self.largest <= TOLERANCE * self.logit and self.differing <= max(1, DIFFERING * self.voxels)


class Written(Record):
    """One thing that was written: its name, the networks in it, its bytes, and how far it is from torch.

    difference: None of a model file, which holds the very weights. agreement: of a MONAI bundle, and of the voxels that
    it or medseg labels in a small made-up scan, the share that its own preparation and window and medseg's, without
    mirroring and post-processing, find alike; None of so few that they tell nothing.
    """

    form: str
    name: str
    networks: str
    bytes: int
    difference: Difference | None = None
    agreement: float | None = None


class ExportSummary(Record):
    """What `medseg export` wrote."""

    written: tuple[Written, ...]
    notice: str = RESEARCH_USE
