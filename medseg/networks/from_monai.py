"""Networks of MONAI behind one adapter; MONAI is imported where one is built, and not before.

Three things are set right in each, so that they train as the others do. Norms over a batch or in a form that loses the
channels-last layout become this package's `InstanceNorm`. What has no effect is taken out: biases that a norm takes out
again, norms and heads that are never used; several processes can only train weights that all have a gradient. And
answers are given in one form.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from medseg.networks.topology import NetworkSettings
from medseg.networks.unet import InstanceNorm
from medseg.networks.work import SWIN_WINDOW, VIT_HEAD, swin_heads


class Adapted(nn.Module):
    """(B, C, X, Y[, Z]) to logits (B, L, X, Y[, Z]); in training with deep supervision a list, full resolution first.

    reverse: the network itself answers with full resolution last.
    """

    def __init__(self, network: nn.Module, deep_supervision: bool = False, reverse: bool = False) -> None:
        super().__init__()
        self.network, self.deep_supervision, self.reverse = network, deep_supervision, reverse
        _use_our_norms(network)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """See the class."""
        found = self.network(x)
        logits = [found] if isinstance(found, Tensor) else list(found)
        if self.reverse:
            logits.reverse()
        return logits if self.training and self.deep_supervision else logits[0]


def attention_unet(settings: NetworkSettings) -> Adapted:
    """Attention U-Net (Oktay et al. 2018): gates on the skips let through what the coarser level looks for."""
    from monai.networks.nets.attentionunet import AttentionUnet

    network = AttentionUnet(
        settings.dims,
        settings.in_channels,
        settings.classes,
        settings.features,
        settings.strides[1:],  # type: ignore[arg-type]  # an entry for each axis will do, too
    )
    _drop_biases(m for m in network.model[:2].modules() if hasattr(m, "kernel_size"))  # of all but the head
    return Adapted(network)


def unetpp(settings: NetworkSettings) -> Adapted:
    """U-Net++ (Zhou et al. 2018): skips of nested decoders, each of which answers at full resolution."""
    from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus

    deep = settings.deep_supervision
    network = BasicUNetPlusPlus(
        settings.dims,
        settings.in_channels,
        settings.classes,
        (*settings.features, settings.features[0]),
        deep_supervision=deep,
        bias=False,
    )
    if not deep:  # these heads are computed all the same
        network.final_conv_0_1 = network.final_conv_0_2 = network.final_conv_0_3 = nn.Identity()
    return Adapted(network, deep, reverse=True)


def segresnet(settings: NetworkSettings) -> Adapted:
    """SegResNet (Myronenko 2018), without the auto-encoder's branch."""
    from monai.networks.nets.segresnet import SegResNet

    network = SegResNet(
        settings.dims,
        settings.features[0],
        settings.in_channels,
        settings.classes,
        blocks_down=settings.convs_encoder,
        blocks_up=settings.convs_decoder[::-1],
    )
    return Adapted(network)


def unetr(settings: NetworkSettings) -> Adapted:
    """UNETR (Hatamizadeh et al. 2022): a vision transformer reads cubes of 16 voxels, convolutions bring them back."""
    from monai.networks.nets.unetr import UNETR

    width = settings.features[-1]
    network = UNETR(
        settings.in_channels,
        settings.classes,
        settings.patch,
        feature_size=settings.features[0],
        hidden_size=width,
        mlp_dim=4 * width,
        num_heads=width // VIT_HEAD,
        spatial_dims=settings.dims,
    )
    for block in network.vit.blocks:
        block.norm_cross_attn = nn.Identity()
    return Adapted(network)


def swin_unetr(settings: NetworkSettings) -> Adapted:
    """Swin UNETR (Hatamizadeh et al. 2022): attention within windows that shift, at five resolutions."""
    from monai.networks.nets.swin_unetr import SwinUNETR

    network = SwinUNETR(
        settings.in_channels,
        settings.classes,
        depths=settings.convs_encoder[1:-1],
        num_heads=swin_heads(settings),
        window_size=SWIN_WINDOW,
        feature_size=settings.features[0],
        spatial_dims=settings.dims,
    )
    return Adapted(network)


def mednext(settings: NetworkSettings) -> Adapted:
    """MedNeXt (Roy et al. 2023), its smaller sizes with kernels of 3: a U-Net of ConvNeXt blocks."""
    from monai.networks.blocks.mednext_block import MedNeXtBlock
    from monai.networks.nets.mednext import MedNeXt

    *down, bottom = settings.convs_encoder
    network = MedNeXt(
        settings.dims,
        settings.features[0],
        settings.in_channels,
        settings.classes,
        kernel_size=settings.kernels[0][0],
        deep_supervision=settings.deep_supervision,
        use_residual_connection=True,
        blocks_down=down,
        blocks_bottleneck=bottom,
        blocks_up=settings.convs_decoder[::-1],
    )
    _drop_biases(m.conv1 for m in network.modules() if isinstance(m, MedNeXtBlock))
    return Adapted(network, settings.deep_supervision)


def _drop_biases(convolutions: Iterable[nn.Module]) -> None:
    for convolution in convolutions:
        convolution.register_parameter("bias", None)


def _use_our_norms(network: nn.Module) -> None:
    """Norms over the batch and those of each channel of each sample alone; group norms of several channels stay."""
    for parent in list(network.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, (nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm2d, nn.InstanceNorm3d)):
                setattr(parent, name, InstanceNorm(norm.num_features))
            elif isinstance(norm, nn.GroupNorm) and norm.num_groups == norm.num_channels:
                setattr(parent, name, InstanceNorm(norm.num_channels))
