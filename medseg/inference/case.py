"""One scan from channels to labels on its own grid, and what can be said of how far they are to be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any
from weakref import finalize

import numpy as np
import numpy.typing as npt
import torch

from medseg.imaging.volume import LabelMap, Volume
from medseg.inference.averaging import Answer, averaged, spooled
from medseg.inference.maps import Maps, draw_maps
from medseg.inference.postprocess import cleaned, mask_of
from medseg.inference.predictor import Predictor, with_stages
from medseg.inference.quality import Quality, with_quality
from medseg.inference.restoring import restored
from medseg.inference.trust.disagreement import Disagreement
from medseg.inference.trust.records import CaseTrust, Oddity
from medseg.inference.trust.sums import TrustSums
from medseg.inference.trust.unfamiliar import unfamiliar
from medseg.inference.window import SlidingWindow, network_input
from medseg.planning.plan import Configuration, Name, Plan
from medseg.preprocessing.prepare import Prepared, prepare, prepare_labels

Ready = Mapping[Name, Prepared]  # a scan as each configuration sees it


@dataclass(frozen=True, slots=True)
class Look:
    """How thoroughly to look at a scan, and what is wanted of it besides labels."""

    quality: Quality = "standard"
    probabilities: bool = False
    uncertainty: bool = False


@dataclass(frozen=True, eq=False)
class CasePrediction:
    """What was found in one scan.

    labels: on its own grid. trust: sums of the first configuration's answer; agreement: mean Dice of its folds and
    mirrored looks among themselves, by structure, empty where there is one alone. odd: what is unlike the training
    scans. told: what the user should know of how it was computed. maps: what was asked for; they live as long as this
    value.
    """

    labels: LabelMap
    trust: CaseTrust
    agreement: dict[str, float]
    odd: tuple[Oddity, ...] = ()
    told: tuple[str, ...] = ()
    maps: Maps | None = None


class Segmenter:
    """A predictor at work on scan after scan, on one device.

    The logits of a configuration are the mean over its folds; those of several become mean probabilities.
    """

    def __init__(self, predictor: Predictor, device: torch.device, look: Look | None = None) -> None:
        self.predictor, self.device, self.look = predictor, device, look or Look()
        self._windows: dict[Name, SlidingWindow] = {}

    def ready(self, channels: Sequence[Volume]) -> Ready:
        """The scan as the networks see it; configurations that see it alike share one copy.

        Raises:
            GeometryError: the channels are not the plan's, or not on one grid.
        """
        found: dict[Name, Prepared] = {}
        for name in self._stages():
            settings = self.configuration(name).preprocessing
            alike = [n for n in found if self.configuration(n).preprocessing == settings]
            found[name] = found[alike[0]] if alike else prepare(channels, settings)
        return found

    def predict(self, ready: Ready) -> CasePrediction:
        """Slide, restore, clean: labels on the scan's own grid.

        Raises:
            InputError: the network's answer is no number.
            MemoryError: the scan does not fit, not even with what can be done without.
        """
        scratch = Path(mkdtemp(prefix="medseg-"))
        try:
            found = self._found(ready, scratch)
        except BaseException:
            rmtree(scratch, ignore_errors=True)  # Windows keeps files that the traceback still maps
            raise
        if found.maps is None:
            rmtree(scratch)
        else:  # maps lie there
            finalize(found, rmtree, scratch, ignore_errors=True)
        return found

    def _found(self, ready: Ready, scratch: Path) -> CasePrediction:
        """The prediction; what it needs on disk goes to `scratch`."""
        found = _Found(scratch)
        for window in self._windows.values():
            window.told.clear()  # what was told of a scan that failed
        for name in self._stages():
            self._predict(name, ready, found)
        members, plan = self.predictor.members, self.predictor.plan
        answers = [found.answers[name] for name in members if name in found.answers]
        labels = averaged(answers, plan) if len(members) > 1 else found.labels[members[0]]
        told = [line for window in self._windows.values() for line in window.told]
        look, familiar = self.look, self.predictor.familiar
        maps = None
        if self._maps_wanted:
            maps = draw_maps(answers, plan, self.temperature, scratch, look.probabilities, look.uncertainty)
        return CasePrediction(
            labels=cleaned(labels, self.predictor.cleaning),
            trust=found.trust[members[0]],
            agreement=found.agreement,
            odd=() if familiar is None else unfamiliar(familiar, ready[members[0]]),
            told=tuple(dict.fromkeys(told)),
            maps=maps,
        )

    @property
    def temperature(self) -> float:
        """By which logits are divided, so that probabilities are calibrated; 1 where no held-out case tells."""
        return self.predictor.trust.temperature if self.predictor.trust else 1.0

    def configuration(self, name: Name) -> Configuration:
        """A configuration, its window as the quality has it."""
        return with_quality(self._plan(name).configuration, self.look.quality)

    def _predict(self, name: Name, ready: Ready, found: _Found) -> None:
        """What one configuration finds, into `found`."""
        plan, undo, members = self._plan(name), ready[name].undo, self.predictor.members
        window = self._window(name, found.scratch)
        first = name == members[0]
        made = self.configuration(name)
        window.watch = Disagreement(plan, made.patch, made.window.centre) if first else None
        sums = TrustSums(plan, self.temperature)
        slabs = window.slabs(self._input(name, ready[name], found.labels))
        if first:
            slabs = sums.taking(slabs)
        if name in members and (len(members) > 1 or self._maps_wanted):
            logits = spooled(slabs, undo.prepared_shape, found.scratch / f"{name}.logits")
            found.answers[name] = Answer(logits, undo)
            if len(members) == 1 or any(self.configuration(other).previous == name for other in ready):
                found.labels[name] = restored(found.answers[name].slabs(), undo, plan)
        else:
            found.labels[name] = restored(slabs, undo, plan)
        if first:
            found.trust[name] = sums.finished()
            found.agreement = window.watch.finished() if window.watch else {}

    def _input(self, name: Name, prepared: Prepared, found: Mapping[Name, LabelMap]) -> npt.NDArray[Any]:
        """What the networks of a configuration read; the second stage of a cascade also what its first stage found."""
        configuration, previous = self.configuration(name), None
        if configuration.previous is not None:
            previous = prepare_labels(found[configuration.previous], prepared.undo, self._plan(name).values)
        return network_input(prepared.image_CXYZ, previous, configuration.network.in_channels)

    def _window(self, name: Name, scratch: Path) -> SlidingWindow:
        if name not in self._windows:
            networks = [model.network for model in self.predictor.models[name]]
            self._windows[name] = SlidingWindow(networks, self.configuration(name), self.device)
        self._windows[name].scratch = scratch
        return self._windows[name]

    @property
    def _maps_wanted(self) -> bool:
        return self.look.probabilities or self.look.uncertainty

    def _stages(self) -> tuple[Name, ...]:
        return with_stages(self.predictor.members, self.predictor.plan)

    def _plan(self, name: Name) -> Plan:
        return self.predictor.models[name][0].card.plan


@dataclass(eq=False)
class _Found:
    """What the configurations have found in a scan so far."""

    scratch: Path
    labels: dict[Name, LabelMap] = field(default_factory=dict)
    answers: dict[Name, Answer] = field(default_factory=dict)
    trust: dict[Name, CaseTrust] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)


def predict(predictor: Predictor, channels: Sequence[Volume], device: torch.device) -> CasePrediction:
    """Prepare, slide, restore and clean one scan; see `Segmenter`, which serves several."""
    segmenter = Segmenter(predictor, device)
    return segmenter.predict(segmenter.ready(channels))


def volumes_ml(labels: LabelMap, plan: Plan) -> dict[str, float]:
    """Volume in ml, by name, of each structure, or of each region where the plan has regions."""
    values = {region.name: region.values for region in plan.regions} or {n: (v,) for v, n in labels.names.items()}
    return {
        name: round(float(np.count_nonzero(mask_of(labels.array, of))) * labels.grid.voxel_ml, 6)
        for name, of in values.items()
    }
