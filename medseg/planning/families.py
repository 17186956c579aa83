"""The families of networks that a plan can choose from, and how much of each fits a memory.

Figures of nnU-Net v2 (Isensee et al., Nature Methods 2021; `nnU-Net Revisited`, 2024): a family states how many values
its convolutions may put out for a batch of a certain size on a GPU of a certain memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Family:
    """One size of one architecture; mappings are by dimensions, 2 or 3.

    reference: values that all convolutions put out for `reference_batch` patches on a GPU of `gb`.
    fewest: the batch for which the patch is made to fit (nnU-Net's plain network in 2D gives up batch for patch).
    dataset_share: of the data set's voxels, at most this share is seen in one batch.
    encoder, decoder: convolutions (`unet`) or residual blocks (`resenc`) of each stage; the last number goes on.
    """

    name: str
    kind: Literal["unet", "resenc"]
    gb: float
    reference: Mapping[int, float]
    reference_batch: Mapping[int, int]
    fewest: Mapping[int, int]
    dataset_share: float
    encoder: tuple[int, ...]
    decoder: tuple[int, ...]

    def limit(self, dims: int, memory_gb: float) -> float:
        """The most values that one patch may have, so that `memory_gb` holds the fewest patches of a batch."""
        return self.reference[dims] * (memory_gb / self.gb) * self.reference_batch[dims] / self.fewest[dims]


def _resenc(name: str, gb: float, activations_3d: float, activations_2d: float) -> Family:
    return Family(
        name=name,
        kind="resenc",
        gb=gb,
        reference={2: activations_2d, 3: activations_3d},
        reference_batch={2: 12, 3: 2},
        fewest={2: 12, 3: 2},
        dataset_share=1.0,
        encoder=(1, 3, 4, 6),
        decoder=(1,),
    )


UNET = Family(
    name="unet",
    kind="unet",
    gb=8.0,
    reference={2: 8.5e7, 3: 5.6e8},
    reference_batch={2: 12, 3: 2},
    fewest={2: 2, 3: 2},
    dataset_share=0.05,
    encoder=(2,),
    decoder=(2,),
)

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        UNET,
        _resenc("resenc-m", 8.0, 6.8e8, 1.35e8),
        _resenc("resenc-l", 24.0, 2.1e9, 3.8e8),
        _resenc("resenc-xl", 40.0, 3.6e9, 5.6e8),
    )
}
