"""Fine-tuning: a network begins with the weights of a model, as far as the two have something in common.

Weights are taken over by name and shape. Two kinds have an axis with a meaning: those that read the channels (the stem)
go by the channels' names, those that answer (the heads) by the structures' names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from medseg.errors import InputError, RunError
from medseg.files import read_record
from medseg.imaging.structures import alike
from medseg.inference.model import ModelCard, Origin, model_at, read_card, read_weights
from medseg.networks.table import build_network
from medseg.networks.topology import NetworkSettings
from medseg.planning.explain import counted, mm
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import Fold, Plan

INIT = "init"  # the folder of a run that holds the model its training begins with
BACKGROUND = "the background"
SHOWN = 3  # names of tensors that are listed

Names = Sequence[str]
Shapes = Mapping[str, torch.Size]


@dataclass(frozen=True)
class Transferred:
    """What a network took over from a model: names of weights that were loaded as they are, adapted, and left.

    told: lines for the user. warnings: what may make the model less useful than it could be.
    """

    loaded: tuple[str, ...]
    adapted: tuple[str, ...]
    left: tuple[str, ...]
    told: tuple[str, ...]
    warnings: tuple[str, ...]


def starting_model(run: Path, plan: Plan, given: Path | None = None) -> Path | None:
    """The folder of the model that training begins with: the one given, else the one the plan was made for, if any.

    Raises:
        InputError: there is no model at `given`.
        RunError: the model that the plan was made for is not in the run.
    """
    if given is not None:
        return model_at(given)
    if not plan.request.init:
        return None
    kept = run / INIT
    if not (kept / "model.json").is_file() or read_card(kept).weights_sha256 != plan.request.init:
        raise RunError("the model that training begins with is missing", kept, "run medseg plan again with --init")
    return kept


def origin_of(run: Path, cases: Fold, init: Path | None) -> Origin:
    """What a model trained on a fold's cases has seen, and what it began with; `init`: the folder of that model.

    Raises:
        InputError: the model is damaged.
    """
    card = None if init is None else read_card(init)
    seen = set() if card is None else set(card.origin.scans)
    of = scans_of(run)
    return Origin(
        scans=tuple(sorted(seen.union(*(of.get(case, ()) for case in cases.train)))),
        init_sha256="" if card is None else card.weights_sha256,
        known=sum(not seen.isdisjoint(of.get(case, ())) for case in cases.validation),
    )


def scans_of(run: Path) -> dict[str, frozenset[str]]:
    """For each case the digests of its channels' voxels; none where the run does not hold what it was planned from."""
    path = run / "fingerprint.json"
    looked = read_record(path, Fingerprint).cases if path.is_file() else ()
    return {case.case: frozenset(whole.digest for whole in case.whole) for case in looked}


@torch.no_grad()
def adapt(network: nn.Module, model: Path, plan: Plan, known: int | None = None) -> Transferred:
    """Give `network` (that of `plan.configuration`, on any device) the weights of the model in the folder `model`.

    Channels and structures are matched by name. A channel that the model does not know starts with weights of 0 where
    others are known, so that the network first answers as the model does; with none known, with the mean of the model's
    own (or, of as many, with theirs in order). A structure that the model does not know keeps its fresh weights.
    known: how many validation cases the model was trained on (`Origin.known`), which is warned of; None: not counted.

    Raises:
        InputError: the two have no layer in common, or the model is damaged.
    """
    card = read_card(model)
    source = read_weights(model)
    target = network.state_dict()
    settings, theirs = plan.configuration.network, card.plan.configuration.network
    stems, heads = _axes(network, settings, "in_channels"), _axes(network, settings, "classes")
    channels = _Matched(channels_of(plan), channels_of(card.plan), settings.in_channels, theirs.in_channels)
    outputs = _Matched(outputs_of(plan), outputs_of(card.plan), settings.classes, theirs.classes)

    loaded: list[str] = []
    adapted: list[str] = []
    left: list[str] = []
    body = taken = 0
    for name, tensor in target.items():
        found, plain = source.get(name), name not in stems and name not in heads
        if found is not None and not plain:
            found = _adapted(tensor, found, stems.get(name), heads.get(name), channels, outputs)
        if found is None or found.shape != tensor.shape:
            left.append(name)
            continue
        same = plain or torch.equal(found.cpu(), source[name])
        (loaded if same else adapted).append(name)
        body += plain and tensor.ndim > 1
        taken += _taken(tensor, channels if name in stems else None, outputs if name in heads else None)
        tensor.copy_(found)
    if not body:
        what = "has no layer in common with the planned network"
        raise InputError(what, model, "plan with --init, so that the plan takes the model's network")
    share = 1000 * taken // sum(tensor.numel() for tensor in target.values()) / 10
    read = any(name in stems for name in (*loaded, *adapted))
    told = (f"{share:.1f} % of the weights are the model's", *_told(adapted, left, channels, outputs, read))
    warnings = (*_seen(known, plan, card), *_unlike(plan, card.plan))
    return Transferred(tuple(loaded), tuple(adapted), tuple(left), told, warnings)


def channels_of(plan: Plan) -> Names:
    """What the network of the chosen configuration reads, in order."""
    previous = [f"{s.name} at low resolution" for s in plan.structures] if plan.configuration.previous else []
    return (*plan.channels, *previous)


def outputs_of(plan: Plan) -> Names:
    """What its network answers for, in order."""
    if plan.regions:
        return tuple(region.name for region in plan.regions)
    return (BACKGROUND, *(structure.name for structure in plan.structures))


@dataclass(frozen=True)
class _Matched:
    """Names on both sides of an axis, and how many entries each side has."""

    ours: Names
    theirs: Names
    n_ours: int
    n_theirs: int

    @property
    def known(self) -> list[int | None]:
        """For each of ours the place of the one of theirs with that name."""
        places = {alike(name): place for place, name in enumerate(self.theirs)}
        return [places.get(alike(name)) for name in self.ours]

    @property
    def equal(self) -> bool:
        """True if both sides name the same in the same order."""
        return list(map(alike, self.ours)) == list(map(alike, self.theirs))

    @property
    def strange(self) -> bool:
        """True if no name is on both sides."""
        return all(place is None for place in self.known)

    @property
    def new(self) -> list[str]:
        """Names that only our side has."""
        return [name for name, place in zip(self.ours, self.known, strict=True) if place is None]

    @property
    def gone(self) -> list[str]:
        """Names that only their side has."""
        ours = set(map(alike, self.ours))
        return [name for name in self.theirs if alike(name) not in ours]


def _axes(network: nn.Module, settings: NetworkSettings, field: str) -> dict[str, int]:
    """The weights whose shape follows the number in `settings.<field>`, and their axis that does: found by building the
    same network for one and two more (a residual block of MONAI has a weight less where its two sides are alike).
    """
    wider: dict[str, Tensor] = {}
    for more in (1, 2):
        wider |= build_network(settings.model_copy(update={field: getattr(settings, field) + more})).state_dict()
    found = {}
    for name, tensor in network.state_dict().items():
        longer = [a for a, (n, m) in enumerate(zip(tensor.shape, wider[name].shape, strict=True)) if n != m]
        if longer:
            found[name] = longer[0]
    return found


def _adapted(
    ours: Tensor, theirs: Tensor, stem: int | None, head: int | None, channels: _Matched, outputs: _Matched
) -> Tensor | None:
    """Weights of a stem or head for our channels and structures; None where that cannot be told."""
    read = theirs.to(ours) if stem is None else _read(theirs.to(ours), stem, channels)
    return read if head is None or read is None else _answered(ours, read, head, outputs)


def _read(theirs: Tensor, axis: int, names: _Matched) -> Tensor | None:
    """Weights that read our channels along `axis`."""
    if names.equal or (names.n_ours == names.n_theirs and names.strange):
        return theirs
    if theirs.shape[axis] != names.n_theirs:
        return None  # several weights a channel, in an order that only the network knows
    if names.strange:
        share = names.n_theirs / names.n_ours  # so that the sum over channels is of the same size
        return theirs.mean(axis, keepdim=True).mul(share).repeat_interleave(names.n_ours, axis)
    nothing = torch.zeros_like(theirs.select(axis, 0))
    return torch.stack([nothing if k is None else theirs.select(axis, k) for k in names.known], axis)


def _answered(ours: Tensor, theirs: Tensor, axis: int, names: _Matched) -> Tensor | None:
    """Weights that answer for our structures along `axis`; fresh ones for structures that the model does not know."""
    if names.equal:
        return theirs
    others = [n for a, n in enumerate(ours.shape) if a != axis] == [n for a, n in enumerate(theirs.shape) if a != axis]
    if not others or theirs.shape[axis] != names.n_theirs or ours.shape[axis] != names.n_ours:
        return None
    if names.strange:
        return None
    rows = [(ours, place) if k is None else (theirs, k) for place, k in enumerate(names.known)]
    return torch.stack([of.select(axis, k) for of, k in rows], axis)


def _taken(tensor: Tensor, channels: _Matched | None, outputs: _Matched | None) -> int:
    """How many of a tensor's weights are the model's; channels and outputs: where it has an axis of them."""
    n = tensor.numel()
    if channels is not None and not channels.strange:
        n -= n * len(channels.new) // channels.n_ours
    if outputs is not None:
        n -= n * len(outputs.new) // outputs.n_ours
    return n


def _told(adapted: Names, left: Names, channels: _Matched, outputs: _Matched, read: bool) -> tuple[str, ...]:
    """What was and was not loaded, in words; read: whether the weights that read the channels were."""
    lines = []
    if adapted:
        lines.append(f"adapted: {_listed(adapted)}")
    if left:
        lines.append(f"not in the model, so they start fresh: {_listed(left)}")
    for names, what, how in ((channels, "channel", "new"), (outputs, "structure", "new, starts fresh")):
        if names is channels and names.strange and read:
            lines += _of_others(names)
            continue
        if names.new:
            lines.append(f"{what} {', '.join(names.new)}: {how}")
        if names.gone:
            lines.append(f"{what} {', '.join(names.gone)}: of the model alone, left out")
    return tuple(lines)


def _of_others(channels: _Matched) -> list[str]:
    """Whose weights the channels begin with where none has the name of one of the model's."""
    if channels.n_ours == channels.n_theirs:
        pairs = zip(channels.ours, channels.theirs, strict=True)
        return [f"channel {ours}: begins with the weights of {theirs}" for ours, theirs in pairs]
    what = "the weights" if channels.n_theirs == 1 else "the mean of the weights"
    return [f"channel {', '.join(channels.ours)}: begins with {what} of {', '.join(channels.theirs)}"]


def _listed(names: Names) -> str:
    more = f" and {counted(len(names) - SHOWN, 'other')}" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _seen(known: int | None, plan: Plan, card: ModelCard) -> list[str]:
    """That scores will be too good, of cases that the model was trained on."""
    if known:
        what = counted(known, "validation case")
        return [f"the model was trained on {what} of this fold: scores of cases that it knows will be too good"]
    uncounted = known is None or not card.origin.scans  # an older model does not tell its cases
    if uncounted and plan.fingerprint == card.plan.fingerprint:
        return ["the model was trained on these very cases: scores of cases that it knows will be too good"]
    return []


def _unlike(ours: Plan, theirs: Plan) -> list[str]:
    """In what our network will see scans otherwise than the model did."""
    fix = "plan with --init to see scans as it did"
    mine, other = (plan.configuration.preprocessing for plan in (ours, theirs))
    found = []
    if mine.spacing_mm != other.spacing_mm:
        spacings = (mm([s for s in of.spacing_mm if s is not None]) for of in (mine, other))
        found.append("voxels of {} where the model saw {}; {}".format(*spacings, fix))
    norms = dict(zip(theirs.channels, other.channels, strict=True))
    changed = [n for n, how in zip(ours.channels, mine.channels, strict=True) if n in norms and norms[n] != how]
    if changed:
        found.append(f"intensities of {', '.join(changed)} are scaled otherwise than for the model; {fix}")
    return found
