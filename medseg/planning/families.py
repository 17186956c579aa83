"""The families of networks that a plan can choose from, and how much of each fits a memory.

A family states how many values its layers may put out for a batch of a certain size on a GPU of a certain memory. Those
of its own are nnU-Net v2's (Isensee et al., Nature Methods 2021; `nnU-Net Revisited`, 2024); for the others its plain
network's stand, until a step on the GPU is measured. Widths and depths are those that the authors published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from medseg.networks.topology import SUPERVISED, Kind


@dataclass(frozen=True)
class Family:
    """One size of one architecture; mappings are by dimensions, 2 or 3.

    reference: values that all convolutions put out for `reference_batch` patches on a GPU of `gb`.
    fewest: the batch for which the patch is made to fit (nnU-Net's plain network in 2D gives up batch for patch).
    dataset_share: of the data set's voxels, at most this share is seen in one batch.
    encoder, decoder: convolutions or blocks of each stage; the last number goes on.
    widths: features of each level in multiples of the first's base, where every axis is halved from level to level;
    none where the spacing decides on the halving of each axis, and features double. deepest: the most levels then.
    """

    name: str
    title: str
    kind: Kind
    gb: float
    reference: Mapping[int, float]
    reference_batch: Mapping[int, int]
    fewest: Mapping[int, int]
    dataset_share: float
    encoder: tuple[int, ...]
    decoder: tuple[int, ...]
    widths: tuple[float, ...] = ()
    deepest: int | None = None

    @property
    def deep_supervision(self) -> bool:
        """True if coarser levels answer too in training."""
        return self.kind in SUPERVISED

    def limit(self, dims: int, memory_gb: float) -> float:
        """The most values that one patch may have, so that `memory_gb` holds the fewest patches of a batch."""
        return self.reference[dims] * (memory_gb / self.gb) * self.reference_batch[dims] / self.fewest[dims]


def _resenc(name: str, gb: float, activations_3d: float, activations_2d: float) -> Family:
    return Family(
        name=name,
        title=f"U-Net with residual encoder ({name})",
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
    title="plain U-Net",
    kind="unet",
    gb=8.0,
    reference={2: 8.5e7, 3: 5.6e8},
    reference_batch={2: 12, 3: 2},
    fewest={2: 2, 3: 2},
    dataset_share=0.05,
    encoder=(2,),
    decoder=(2,),
)


def _other(
    name: str,
    title: str,
    kind: Kind,
    widths: tuple[float, ...],
    encoder: tuple[int, ...],
    decoder: tuple[int, ...],
    deepest: int | None = None,
) -> Family:
    """A network that nnU-Net does not know: it gets the memory that nnU-Net gives the plain one."""
    return replace(
        UNET, name=name, title=title, kind=kind, widths=widths, encoder=encoder, decoder=decoder, deepest=deepest
    )


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        UNET,
        _resenc("resenc-m", 8.0, 6.8e8, 1.35e8),
        _resenc("resenc-l", 24.0, 2.1e9, 3.8e8),
        _resenc("resenc-xl", 40.0, 3.6e9, 5.6e8),
        _other("attention-unet", "Attention U-Net", "attention_unet", (1, 2, 4, 8, 16), (2,), (1,)),
        _other("unet++", "U-Net++", "unetpp", (1, 1, 2, 4, 8), (2,), (2,)),
        _other("segresnet", "SegResNet", "segresnet", (1, 2, 4, 8), (1, 2, 2, 4), (1,)),
        _other("unetr", "UNETR", "unetr", (0.5, 1, 2, 4, 24), (1,), (1,)),
        _other("swin-unetr", "Swin UNETR", "swin_unetr", (1.5, 1.5, 3, 6, 12, 24), (1, 2, 2, 2, 2, 1), (1,)),
        _other("mednext", "MedNeXt", "mednext", (1, 2, 4, 8, 16), (2,), (2,)),
        _other("deeplab", "DeepLabV3+", "deeplab", (), (1, 3, 4, 6), (2,), deepest=4),
        _other("fcn", "FCN", "fcn", (), (2,), (0,)),
    )
}
