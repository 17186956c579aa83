"""The table of architectures: the plan names one, and a new entry is tested by existing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from medseg.networks import from_monai
from medseg.networks.deeplab import DeepLab
from medseg.networks.fcn import Fcn
from medseg.networks.resenc import residual_encoder_unet
from medseg.networks.topology import Kind, NetworkSettings
from medseg.networks.unet import plain_unet

NETWORKS: dict[Kind, Callable[[NetworkSettings], nn.Module]] = {
    "unet": plain_unet,
    "resenc": residual_encoder_unet,
    "deeplab": DeepLab,
    "fcn": Fcn,
    "attention_unet": from_monai.attention_unet,
    "unetpp": from_monai.unetpp,
    "segresnet": from_monai.segresnet,
    "unetr": from_monai.unetr,
    "swin_unetr": from_monai.swin_unetr,
    "mednext": from_monai.mednext,
}


def build_network(settings: NetworkSettings, seed: int = 0) -> nn.Module:
    """The network that `settings` describe, its weights drawn by `seed`, in channels-last layout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = NETWORKS[settings.kind](settings)
    layout = torch.channels_last_3d if settings.dims == 3 else torch.channels_last
    return network.to(memory_format=layout)  # type: ignore[call-overload, no-any-return]
