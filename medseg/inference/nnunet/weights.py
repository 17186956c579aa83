"""Weights of nnU-Net's U-Nets under the names that ours have.

Every weight must find its place and every place its weight. Left out are only what a trained network never uses: the
same tensors under a second name, biases of convolutions whose norm takes them out again, and the lowest decoder
stage's answer, which is not supervised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from medseg.errors import InputError
from medseg.inference.nnunet.axes import Axes
from medseg.networks.table import build_network
from medseg.networks.topology import NetworkSettings

_TWICE = (".all_modules.", "decoder.encoder.")


def converted(theirs: Mapping[str, Tensor], settings: NetworkSettings, axes: Axes, where: Path) -> dict[str, Tensor]:
    """The state of the network that `settings` describe, float32.

    Raises:
        InputError: the weights are those of another network than the plans describe; the first such is named.
    """
    shapes = {name: tensor.shape for name, tensor in build_network(settings).state_dict().items()}
    names = dict(_names(settings))
    left = {name for name in theirs if not any(part in name for part in _TWICE)} - _unused(settings, names)
    if unknown := sorted(left - set(names.values())):
        raise InputError(f"holds weights of another network than its plans describe: {unknown[0]}", where)
    state = {}
    for name, shape in shapes.items():
        source = theirs.get(names[name])
        if source is None:
            raise InputError(f"lacks weights of the network that its plans describe: {names[name]}", where)
        tensor = axes.weight(source) if source.ndim == len(shape) else source
        if tensor.shape != shape:
            raise InputError(f"holds weights of another shape than its plans describe: {names[name]}", where)
        state[name] = tensor.to(torch.float32).contiguous()
    return state


def _names(settings: NetworkSettings) -> Iterator[tuple[str, str]]:
    """Our name of every weight, and theirs."""
    encoder = _residual if settings.kind == "resenc" else _plain
    yield from encoder(settings)
    stages = len(settings.convs_decoder)
    for s, convs in enumerate(settings.convs_decoder):
        low = stages - 1 - s  # theirs count from the lowest stage up
        yield f"up.{s}.weight", f"decoder.transpconvs.{low}.weight"
        if settings.up_bias:
            yield f"up.{s}.bias", f"decoder.transpconvs.{low}.bias"
        yield from _stacked(f"decoder.{s}", f"decoder.stages.{low}", convs)
        for part in ("weight", "bias"):
            yield f"heads.{s}.{part}", f"decoder.seg_layers.{low}.{part}"


def _plain(settings: NetworkSettings) -> Iterator[tuple[str, str]]:
    for s, convs in enumerate(settings.convs_encoder):
        yield from _stacked(f"encoder.{s}", f"encoder.stages.{s}.0", convs)


def _residual(settings: NetworkSettings) -> Iterator[tuple[str, str]]:
    yield from _stacked("encoder.0.0", "encoder.stem", 1)
    before = settings.features[0]
    for s, blocks in enumerate(settings.convs_encoder):
        for b in range(blocks):
            ours, theirs = f"encoder.{s}.{b + (s == 0)}", f"encoder.stages.{s}.blocks.{b}"
            yield from _normed(f"{ours}.convs", 0, f"{theirs}.conv1")
            yield from _normed(f"{ours}.convs", 3, f"{theirs}.conv2")
            if before != settings.features[s]:
                pooled = int(b == 0 and max(settings.strides[s]) > 1)  # the means that come before the projection
                yield from _normed(f"{ours}.skip", pooled, f"{theirs}.skip.{pooled}")
            before = settings.features[s]


def _stacked(ours: str, theirs: str, convs: int) -> Iterator[tuple[str, str]]:
    """Convolutions in a row: ours are a convolution, a norm and an activation each."""
    for k in range(convs):
        yield from _normed(ours, 3 * k, f"{theirs}.convs.{k}")


def _normed(ours: str, at: int, theirs: str) -> Iterator[tuple[str, str]]:
    yield f"{ours}.{at}.weight", f"{theirs}.conv.weight"
    yield f"{ours}.{at + 1}.weight", f"{theirs}.norm.weight"
    yield f"{ours}.{at + 1}.bias", f"{theirs}.norm.bias"


def _unused(settings: NetworkSettings, names: Mapping[str, str]) -> set[str]:
    """Their names of weights that a trained network does not need."""
    biases = {name.removesuffix("weight") + "bias" for name in names.values() if name.endswith(".conv.weight")}
    lowest = {f"decoder.seg_layers.0.{part}" for part in ("weight", "bias")} if len(settings.features) > 2 else set()
    return biases | lowest
