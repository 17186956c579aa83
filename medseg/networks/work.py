"""What a network costs, counted without torch from its layers: multiply-adds, values put out, weights.

Every kind of network lists its layers; the figures are sums over them. Norms, activations and interpolations are left
out: beside convolutions their work is small, and their values are in proportion to those of the convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from medseg.networks.topology import Kind, NetworkSettings, stage_shapes

VIT_LAYERS = 12  # of UNETR, whatever its width
VIT_PATCH = 16  # voxels a side that UNETR takes for one token
VIT_HEAD = 64  # features of a head of its attention
SWIN_WINDOW = 7  # voxels a side within which a Swin layer looks, unless its map is smaller
SWIN_HEAD = 16  # features of a head of its attention
DILATIONS = (2, 4, 6)  # of DeepLab's pyramid: a third of its authors', for patches a third as long


@dataclass(frozen=True)
class Layer:
    """A convolution, matrix product or attention for one patch."""

    macs: float
    values: float
    weights: int


Layers = Iterator[Layer]


def forward_macs(network: NetworkSettings, patch: tuple[int, ...]) -> float:
    """Multiply-adds of one forward pass of one patch: what its time is nearly proportional to."""
    return float(sum(layer.macs for layer in layers(network, patch)))


def activations(network: NetworkSettings, patch: tuple[int, ...]) -> float:
    """nnU-Net's proxy for memory: values that all layers put out for one patch (of coarser heads: none)."""
    return float(sum(layer.values for layer in layers(network, patch)))


def weights(network: NetworkSettings) -> int:
    """Weights of all layers: those of norms and biases are a hundredth of them."""
    patch = network.patch or tuple(math.prod(strides) for strides in zip(*network.strides, strict=True))
    return sum(layer.weights for layer in layers(network, patch))


def layers(network: NetworkSettings, patch: tuple[int, ...]) -> Layers:
    """Every layer that counts, for a patch of the network's dimensions."""
    return _LAYERS[network.kind](network, stage_shapes(patch, network.strides))


def swin_heads(network: NetworkSettings) -> tuple[int, ...]:
    """Heads of the attention at each of Swin UNETR's four stages, whose features double."""
    return tuple(max(1, network.features[1] * 2**s // SWIN_HEAD) for s in range(4))


# --- layers ----------------------------------------------------------------------------------------------------------


def _conv(voxels: int, kernel: int, inputs: int, outputs: int) -> Layer:
    """`voxels`: those put out. A matrix product is a convolution with a kernel of 1, a depthwise one has 1 input."""
    return Layer(voxels * kernel * inputs * outputs, voxels * outputs, kernel * inputs * outputs)


def _up(voxels: int, into: int, kernel: int, inputs: int, outputs: int) -> Layer:
    """A transposed convolution from `voxels` into more of them."""
    return Layer(voxels * kernel * inputs * outputs, into * outputs, kernel * inputs * outputs)


def _attention(tokens: int, context: int, width: int, heads: int) -> Layer:
    """Each token looks at `context` others: two products of matrices, and the map of each head."""
    return Layer(2 * tokens * context * width, tokens * context * heads, 0)


def _transformer(tokens: int, inside: int, context: int, width: int, heads: int) -> Layers:
    """Attention of `inside` tokens (padding included) and a perceptron four times as wide of `tokens`."""
    yield _conv(inside, 1, width, 3 * width)
    yield _attention(inside, context, width, heads)
    yield _conv(inside, 1, width, width)
    yield _conv(tokens, 1, width, 4 * width)
    yield _conv(tokens, 1, 4 * width, width)


def _residual(voxels: int, kernel: int, inputs: int, outputs: int) -> Layers:
    """MONAI's block: two convolutions, and one more on the skip where features change."""
    yield _conv(voxels, kernel, inputs, outputs)
    yield _conv(voxels, kernel, outputs, outputs)
    if inputs != outputs:
        yield _conv(voxels, 1, inputs, outputs)


# --- networks --------------------------------------------------------------------------------------------------------

Shapes = list[tuple[int, ...]]


def _plain_encoder(network: NetworkSettings, shapes: Shapes) -> Layers:
    f = network.features
    for s, shape in enumerate(shapes):
        v, k = math.prod(shape), math.prod(network.kernels[s])
        yield _conv(v, k, network.in_channels if s == 0 else f[s - 1], f[s])
        for _ in range(network.convs_encoder[s] - 1):
            yield _conv(v, k, f[s], f[s])


def _residual_encoder(network: NetworkSettings, shapes: Shapes) -> Layers:
    """Where a stage's first block changes its input, nnU-Net counts the skip's values though it may only average."""
    f = network.features
    for s, shape in enumerate(shapes):
        v, k = math.prod(shape), math.prod(network.kernels[s])
        before = f[max(0, s - 1)]
        if s == 0:
            yield _conv(v, k, network.in_channels, before)
        elif before != f[s]:
            yield _conv(v, 1, before, f[s])
        else:
            yield Layer(0, v * f[s], 0)
        yield _conv(v, k, before, f[s])
        for _ in range(2 * network.convs_encoder[s] - 1):
            yield _conv(v, k, f[s], f[s])


def _u(encoder: Callable[[NetworkSettings, Shapes], Layers]) -> Callable[[NetworkSettings, Shapes], Layers]:
    def made(network: NetworkSettings, shapes: Shapes) -> Layers:
        yield from encoder(network, shapes)
        f, v = network.features, list(map(math.prod, shapes))
        for s, n in enumerate(network.convs_decoder):
            k = math.prod(network.kernels[s])
            yield _up(v[s + 1], v[s], math.prod(network.strides[s + 1]), f[s + 1], f[s])
            yield _conv(v[s], k, 2 * f[s], f[s])
            for _ in range(n - 1):
                yield _conv(v[s], k, f[s], f[s])
        yield _conv(v[0], 1, f[0], network.classes)

    return made


def _deeplab(network: NetworkSettings, shapes: Shapes) -> Layers:
    yield from _residual_encoder(network, shapes)
    f, v = network.features, list(map(math.prod, shapes))
    low, width = min(1, len(f) - 1), f[-1] // 2
    yield _conv(v[-1], 1, f[-1], width)
    for _ in DILATIONS:
        yield _conv(v[-1], math.prod(network.kernels[-1]), f[-1], width)
    yield _conv(1, 1, f[-1], width)
    yield _conv(v[-1], 1, (2 + len(DILATIONS)) * width, width)
    yield _conv(v[low], 1, f[low], f[low] // 2)
    k = math.prod(network.kernels[low])
    yield _conv(v[low], k, width + f[low] // 2, f[low])
    yield _conv(v[low], k, f[low], f[low])
    yield _conv(v[low], 1, f[low], network.classes)


def _fcn(network: NetworkSettings, shapes: Shapes) -> Layers:
    yield from _plain_encoder(network, shapes)
    for features, shape in list(zip(network.features, shapes, strict=True))[-3:]:
        yield _conv(math.prod(shape), 1, features, network.classes)


def _attention_unet(network: NetworkSettings, shapes: Shapes) -> Layers:
    yield from _plain_encoder(network, shapes)
    f, v = network.features, list(map(math.prod, shapes))
    for s in range(len(f) - 1):
        k = math.prod(network.kernels[s])
        yield _up(v[s + 1], v[s], k, f[s + 1], f[s])
        yield _conv(v[s], 1, f[s], f[s] // 2)
        yield _conv(v[s], 1, f[s], f[s] // 2)
        yield _conv(v[s], 1, f[s] // 2, 1)
        yield _conv(v[s], k, 2 * f[s], f[s])
    yield _conv(v[0], 1, f[0], network.classes)


def _unetpp(network: NetworkSettings, shapes: Shapes) -> Layers:
    """Node j of a level sees the level's nodes before it and, raised, node j - 1 of the level below."""
    yield from _plain_encoder(network, shapes)
    f, v, cells = network.features, list(map(math.prod, shapes)), 2**network.dims
    for s in range(len(f) - 1):
        k = math.prod(network.kernels[s])
        raised = f[s + 1] if s == 0 else f[s + 1] // 2
        for j in range(1, len(f) - s):
            yield _up(v[s + 1], v[s], cells, f[s + 1], raised)
            yield _conv(v[s], k, j * f[s] + raised, f[s])
            yield _conv(v[s], k, f[s], f[s])
    for _ in range(len(f) - 1):
        yield _conv(v[0], 1, f[0], network.classes)


def _segresnet(network: NetworkSettings, shapes: Shapes) -> Layers:
    f, v = network.features, list(map(math.prod, shapes))
    for s, blocks in enumerate(network.convs_encoder):
        k = math.prod(network.kernels[s])
        yield _conv(v[s], k, network.in_channels if s == 0 else f[s - 1], f[s])
        for _ in range(2 * blocks):
            yield _conv(v[s], k, f[s], f[s])
    for s, blocks in enumerate(network.convs_decoder):
        yield _conv(v[s + 1], 1, f[s + 1], f[s])
        for _ in range(2 * blocks):
            yield _conv(v[s], math.prod(network.kernels[s]), f[s], f[s])
    yield _conv(v[0], 1, f[0], network.classes)


def _mednext(network: NetworkSettings, shapes: Shapes) -> Layers:
    """Every block: a depthwise convolution, twice the features, and back; such a block also halves and doubles."""
    f, v = network.features, list(map(math.prod, shapes))
    less = [math.prod(n - 1 for n in shape) for shape in shapes]  # a transposed convolution of stride 2 ends one short
    k = math.prod(network.kernels[0])

    def block(voxels: int, inputs: int, outputs: int) -> Layers:
        yield _conv(voxels, 1, inputs, 2 * inputs)
        yield _conv(voxels, 1, 2 * inputs, outputs)

    yield _conv(v[0], 1, network.in_channels, f[0])
    for s, blocks in enumerate(network.convs_encoder):
        for _ in range(blocks + (network.convs_decoder[s] if s < len(f) - 1 else 0)):
            yield _conv(v[s], k, 1, f[s])
            yield from block(v[s], f[s], f[s])
    for s in range(len(f) - 1):
        yield _conv(v[s + 1], k, 1, f[s])
        yield from block(v[s + 1], f[s], f[s + 1])
        yield _conv(v[s + 1], 1, f[s], f[s + 1])
        yield _up(v[s + 1], less[s], k, 1, f[s + 1])
        yield from block(less[s], f[s + 1], f[s])
        yield _up(v[s + 1], v[s], 1, f[s + 1], f[s])
    for s in range(len(f) if network.deep_supervision else 1):
        yield _conv(v[s], 1, f[s], network.classes)


def _raised(network: NetworkSettings, v: list[int], s: int) -> Layers:
    """A stage of UNETR's decoder: from the one below, joined with the encoder's."""
    f = network.features
    yield _up(v[s + 1], v[s], 2**network.dims, f[s + 1], f[s])
    yield from _residual(v[s], math.prod(network.kernels[s]), 2 * f[s], f[s])


def _unetr(network: NetworkSettings, shapes: Shapes) -> Layers:
    f, v, cells = network.features, list(map(math.prod, shapes)), 2**network.dims
    tokens, width = v[-1], f[-1]
    yield _conv(tokens, VIT_PATCH**network.dims, network.in_channels, width)
    yield Layer(0, 0, tokens * width)  # the embedding of positions
    for _ in range(VIT_LAYERS):
        yield from _transformer(tokens, tokens, tokens, width, width // VIT_HEAD)
    yield from _residual(v[0], math.prod(network.kernels[0]), network.in_channels, f[0])
    for s in range(1, len(f) - 1):
        inputs = width
        for finer in reversed(range(s, len(f) - 1)):
            yield _up(v[finer + 1], v[finer], cells, inputs, f[s])
            if inputs == f[s]:
                yield from _residual(v[finer], math.prod(network.kernels[s]), f[s], f[s])
            inputs = f[s]
    for s in range(len(f) - 1):
        yield from _raised(network, v, s)
    yield _conv(v[0], 1, f[0], network.classes)


def _swin_unetr(network: NetworkSettings, shapes: Shapes) -> Layers:
    f, v, cells = network.features, list(map(math.prod, shapes)), 2**network.dims
    yield _conv(v[1], cells, network.in_channels, f[1])
    for s, heads in enumerate(swin_heads(network), start=1):
        width = f[1] * 2 ** (s - 1)
        window = [min(SWIN_WINDOW, n) for n in shapes[s]]
        inside = math.prod(math.ceil(n / w) * w for n, w in zip(shapes[s], window, strict=True))
        for _ in range(network.convs_encoder[s]):
            yield from _transformer(v[s], inside, math.prod(window), width, heads)
            yield Layer(0, 0, (2 * SWIN_WINDOW - 1) ** network.dims * heads)  # what distances count
        yield _conv(v[s + 1], 1, cells * width, 2 * width)
    for s, inputs in enumerate((network.in_channels, *f[1:])):
        if s != len(f) - 2:  # the last but one joins the decoder as it is
            yield from _residual(v[s], math.prod(network.kernels[s]), inputs, f[s])
    for s in range(len(f) - 1):
        yield from _raised(network, v, s)
    yield _conv(v[0], 1, f[0], network.classes)


_LAYERS: Mapping[Kind, Callable[[NetworkSettings, Shapes], Layers]] = {
    "unet": _u(_plain_encoder),
    "resenc": _u(_residual_encoder),
    "deeplab": _deeplab,
    "fcn": _fcn,
    "attention_unet": _attention_unet,
    "unetpp": _unetpp,
    "segresnet": _segresnet,
    "unetr": _unetr,
    "swin_unetr": _swin_unetr,
    "mednext": _mednext,
}
