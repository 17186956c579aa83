"""What a model file says of itself: `model.json` in it, without torch.

The training data are there as a whole: ranges and pooled intensities, no name, no picture. But the cards of the
models hold a digest of each training scan's voxels (`Origin.scans`): it says nothing of the scan, yet whoever has the
very same scan can tell by it that the model was trained on it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from medseg.evaluation.records import StructureSummary
from medseg.files import RESEARCH_USE, Record
from medseg.imaging.writing.codes import code_of
from medseg.imaging.writing.snomed import Triple
from medseg.inference.card import ModelCard, fold_order
from medseg.inference.records import Selection
from medseg.inference.trust.familiar import Familiar
from medseg.inference.trust.records import Trust
from medseg.planning.fingerprint import Fingerprint, pooled
from medseg.planning.plan import Name, Plan
from medseg.planning.scan_values import Sketch, short

VERSION = 1
_FOLD = re.compile(r"all|\d{1,3}")


class CodedStructure(Record):
    """A structure that the model finds, in codes that any system understands: value, scheme and meaning.

    `region` is what an abnormality is in, `modifiers` the side; a structure without a known code is a tissue.
    """

    value: int
    name: str
    category: Triple
    type: Triple
    modifiers: tuple[Triple, ...] = ()
    region: Triple | None = None


class Spread(Record):
    """The lowest, the middle and the highest of some numbers."""

    low: float
    median: float
    high: float


class StructureData(Record):
    """A structure in the training data: the cases that hold it, and its volume in ml in these."""

    name: str
    cases: int
    volume_ml: Spread | None


class TrainingData(Record):
    """The data that were planned for, as a whole; axes are R, A, S. channels: labelled voxels' intensities, pooled."""

    cases: int
    patients: int
    orientations: dict[str, int]
    spacing_mm: tuple[Spread, Spread, Spread]
    extent_mm: tuple[Spread, Spread, Spread]
    channels: tuple[Sketch, ...]
    structures: tuple[StructureData, ...]


class ConfigurationScores(Record):
    """Scores of a configuration's folds on the cases that each held out, by structure; no case is named."""

    configuration: Name
    folds: tuple[str, ...]
    cases: int
    structures: tuple[StructureSummary, ...]


class FoldModel(Record):
    """One trained network of the file; its weights are the file's member of this name, of the card's SHA-256."""

    configuration: Name
    fold: str
    card: ModelCard

    @field_validator("fold")
    @classmethod
    def _is_a_fold(cls, fold: str) -> str:
        if not _FOLD.fullmatch(fold):
            raise PydanticCustomError("fold", "{fold} is no fold", {"fold": repr(fold)})
        return fold

    @property
    def member(self) -> str:
        """Where its weights lie in the file."""
        return f"{self.configuration}/{self.fold}.safetensors"


class ModelFile(Record):
    """`model.json` of a model file.

    selection: what `medseg select` chose, with the post-processing; None where it was not run. scores, trust, familiar
    (what held-out cases taught of the first configuration, and how the training scans look), data: empty or None where
    the run did not hold them. licence: of the weights, empty where it is not stated. environment: the
    versions of what wrote the file.
    """

    version: int = VERSION
    notice: str = RESEARCH_USE
    licence: str = ""
    notes: str = ""
    plan: Plan
    selection: Selection | None = None
    structures: tuple[CodedStructure, ...]
    scores: tuple[ConfigurationScores, ...] = ()
    trust: Trust | None = None
    familiar: Familiar | None = None
    data: TrainingData | None = None
    models: tuple[FoldModel, ...] = Field(min_length=1)
    environment: dict[str, str]

    @field_validator("version")
    @classmethod
    def _readable(cls, version: int) -> int:
        if version != VERSION:
            told = f"it is of version {version}, this medseg reads version {VERSION}"
            raise PydanticCustomError("version", "{told}", {"told": told})
        return version

    @property
    def members(self) -> tuple[Name, ...]:
        """The configurations whose answers are averaged."""
        return self.selection.members if self.selection else (self.plan.chosen,)

    @property
    def first(self) -> FoldModel:
        """The one network that stands for all: of the first configuration, trained on all cases if there is such."""
        of_it = [one for one in self.models if one.configuration == self.members[0]]
        return min(of_it or self.models, key=lambda one: fold_order(one.fold))


def coded(plan: Plan) -> tuple[CodedStructure, ...]:
    """The structures of a plan with their codes, by their names."""
    found = []
    for structure in plan.structures:
        code, _ = code_of(structure.name, {})
        found.append(
            CodedStructure(
                value=structure.value,
                name=structure.name,
                category=code.category,
                type=code.type,
                modifiers=code.modifiers,
                region=code.region,
            )
        )
    return tuple(found)


def data_of(fingerprint: Fingerprint, plan: Plan) -> TrainingData:
    """The whole of a data set without its cases."""
    cases = fingerprint.cases
    orientations: dict[str, int] = {}
    for case in cases:
        orientations[case.orientation] = orientations.get(case.orientation, 0) + 1
    volumes = {
        name: [s.volume_ml for case in cases for s in case.structures if s.value == value]
        for value, name in plan.names.items()
    }
    spacing = [[case.spacing_mm[axis] for case in cases] for axis in range(3)]
    extent = [[case.spacing_mm[axis] * case.shape[axis] for case in cases] for axis in range(3)]
    return TrainingData(
        cases=len(cases),
        patients=len({case.patient or case.case for case in cases}),
        orientations=dict(sorted(orientations.items())),
        spacing_mm=(_spread(spacing[0]), _spread(spacing[1]), _spread(spacing[2])),
        extent_mm=(_spread(extent[0]), _spread(extent[1]), _spread(extent[2])),
        channels=tuple(pooled(fingerprint, channel) for channel in range(len(plan.channels))),
        structures=tuple(
            StructureData(name=name, cases=len(found), volume_ml=_spread(found) if found else None)
            for name, found in volumes.items()
        ),
    )


def _spread(values: Sequence[float]) -> Spread:
    low, median, high = (short(float(v)) for v in np.quantile(np.array(values), (0.0, 0.5, 1.0)))
    return Spread(low=low, median=median, high=high)
