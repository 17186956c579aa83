"""A network made ready for other runtimes, and the check that what they compute is what it computes."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor, nn

from medseg.errors import InputError
from medseg.inference.export.summary import Difference
from medseg.inference.model import Model
from medseg.networks.unet import EPSILON, InstanceNorm
from medseg.planning.plan import Name, Plan

_NORMS: dict[int, Callable[..., nn.Module]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}

Batch = npt.NDArray[np.float32]
Runtime = Callable[[Batch], Batch]


@dataclass(frozen=True, eq=False)
class Exportable:
    """Networks of a configuration whose mean is exported: plan, names of folds, as one module that batches in any
    runtime; `patch` counts voxels along the network's axes.
    """

    plan: Plan
    folds: tuple[str, ...]
    own: nn.Module
    portable: nn.Module
    patch: tuple[int, ...]

    @property
    def name(self) -> Name:
        """The configuration."""
        return self.plan.chosen

    @property
    def channels(self) -> int:
        """What the network reads: the scan's channels, and in the second stage of a cascade a class each."""
        return self.plan.configuration.network.in_channels

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the network's outputs stand for, in order."""
        if self.plan.regions:
            return tuple(region.name for region in self.plan.regions)
        return ("background", *(structure.name for structure in self.plan.structures))

    @property
    def words(self) -> str:
        """`3d, fold 0` or `3d, mean of folds 0, 1`."""
        return f"{self.name}, {'mean of folds' if len(self.folds) > 1 else 'fold'} {', '.join(self.folds)}"


class Mean(nn.Module):
    """The mean of several networks' logits; (B, C, X, Y[, Z]) to (B, L, X, Y[, Z])."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        answers: list[Tensor] = [network(image) for network in self.networks]
        total = answers[0]
        for answer in answers[1:]:
            total = total + answer
        return total / len(answers)


def exportable(models: Sequence[Model], folds: Sequence[str]) -> Exportable:
    """The mean of models of one configuration, on the CPU, with norms that other runtimes know."""
    plan = models[0].card.plan
    configuration = plan.configuration
    axis = configuration.slice_axis
    networks = [model.network for model in models]
    own = networks[0] if len(networks) == 1 else Mean(networks)
    patch = tuple(n for k, n in enumerate(configuration.patch) if k != axis)
    return Exportable(plan, tuple(folds), own.eval(), portable(own, len(patch)).eval(), patch)


def portable(network: nn.Module, dims: int) -> nn.Module:
    """A copy in contiguous layout whose instance norms are torch's own.

    The package's own form of them takes a batch apart, which an exported graph would hold for one size of batch alone.
    """
    copied: nn.Module = copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    for parent in list(copied.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, InstanceNorm):
                features = norm.weight.numel()
                known = _NORMS[dims](features, eps=EPSILON, affine=True)
                known.load_state_dict(norm.state_dict())
                setattr(parent, name, known)
    return copied


def compared(network: Exportable, runtime: Runtime, seed: int = 0) -> Difference:
    """How far a runtime is from torch on patches of noise and on such that look like scans, alone and in a batch."""
    largest = logit = 0.0
    voxels = differing = 0
    for batch in patches(network.channels, network.patch, seed):
        with torch.inference_mode():
            wanted = network.own(torch.from_numpy(batch)).numpy()
        found = runtime(batch)
        if found.shape != wanted.shape or not np.isfinite(found).all():
            raise InputError(f"answers {found.shape} numbers, torch {wanted.shape}, or what is no number")
        largest, logit = max(largest, float(np.abs(found - wanted).max())), max(logit, float(np.abs(wanted).max()))
        other = _otherwise(found, wanted, network.plan)
        voxels, differing = voxels + other.size, differing + int(other.sum())
    return Difference(largest=largest, logit=logit, voxels=voxels, differing=differing)


def refuse_different(difference: Difference, what: str) -> None:
    """Make sure that a runtime computes what torch does.

    Raises:
        InputError: it does not.
    """
    if not difference.small:
        raise InputError(f"{what} {difference.words}, which is more than rounding", fix="it is not written")


def _otherwise(found_BL: Batch, wanted_BL: Batch, plan: Plan) -> npt.NDArray[np.bool_]:
    """Where the class differs; of a plan with regions, where one is found in one answer alone."""
    if plan.regions:
        return np.asarray(((found_BL > 0) != (wanted_BL > 0)).any(1))
    return np.asarray(found_BL.argmax(1) != wanted_BL.argmax(1))


def patches(channels: int, patch: tuple[int, ...], seed: int) -> Iterator[Batch]:
    """Batches (B, C, X, Y[, Z]): one patch of noise, and two that look like scans: a body with organs, in air."""
    rng = np.random.default_rng(seed)
    yield rng.standard_normal((1, channels, *patch), np.float32)
    yield np.stack([np.stack([_like_a_scan(rng, patch) for _ in range(channels)]) for _ in range(2)])


def _like_a_scan(rng: np.random.Generator, patch: tuple[int, ...]) -> Batch:
    """Mean 0, SD 1, as normalised scans have."""
    smooth = ndimage.gaussian_filter(rng.standard_normal(patch), [n / 8 for n in patch], mode="nearest")
    organs = np.digitize(smooth, np.quantile(smooth, (0.5, 0.8, 0.95))) + 0.1 * rng.standard_normal(patch)
    places = np.meshgrid(*(np.linspace(-1, 1, n) for n in patch), indexing="ij", sparse=True)
    image = np.where(sum(place**2 for place in places) < 1.2, organs, -2.0)
    scaled: Batch = ((image - image.mean()) / max(float(image.std()), 1e-6)).astype(np.float32)
    return scaled


def need(option: str, extra: str, *packages: str) -> None:
    """Make sure that optional packages are there.

    Raises:
        InputError: one is not; what to install.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        what = f"{option} needs {', '.join(missing)}, not installed here"
        raise InputError(what, fix=f"install with pip install 'medseg[{extra}]'")
