"""Front door of `medseg export`: a trained run as one file, and its networks in the formats of other runtimes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from medseg.errors import InputError
from medseg.events import Advanced, Event, Note, Stage
from medseg.inference.export.model_file import check_model_file, write_model_file
from medseg.inference.export.network import Exportable, exportable
from medseg.inference.export.summary import Difference, ExportSummary, Written
from medseg.inference.export.to_monai import write_bundle
from medseg.inference.export.to_onnx import write_onnx
from medseg.inference.export.to_openvino import write_openvino
from medseg.inference.predictor import Predictor, load_predictor, read_selection, stale_choice
from medseg.planning.explain import counted
from medseg.planning.plan import Name

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Exported:
    """The end of an export."""

    summary: ExportSummary

    @property
    def failed(self) -> dict[str, str]:
        """Cases that failed: none."""
        return {}


@dataclass(frozen=True)
class Wish:
    """What is to be written: a model file, and of other runtimes' formats a file, a folder, a folder.

    folds: names of those that are taken, all unless given.
    """

    out: Path | None = None
    onnx: Path | None = None
    openvino: Path | None = None
    bundle: Path | None = None
    folds: tuple[str, ...] = ()
    licence: str = ""
    notes: str = ""


def export(source: Path, wish: Wish) -> Iterator[Event | Exported]:
    """Write a trained run, or of a model file its networks, in the forms that `wish` names.

    ONNX and OpenVINO hold a network a file: one for each fold of each configuration that predicts, named after both
    where there are several. A MONAI bundle holds the mean of the folds of one configuration. Each is computed again by
    its runtime and compared with torch before it appears.

    Raises:
        RunError: `source` is not a run, or a fold is not finished.
        InputError: nothing is asked for, a package is missing, a model is damaged, a network cannot be written so, or
            computes something else.
        ResourceError: the disk is full or cannot be written to.
    """
    written: list[Written] = []
    if not any((wish.out, wish.onnx, wish.openvino, wish.bundle)):
        raise InputError("nothing is asked for", fix="give -o MODEL.medseg, --onnx, --openvino or --monai-bundle")
    if wish.out is not None:
        if source.is_file():
            raise InputError("is a model file already", source, "copy it, or leave -o out")
        check_model_file(wish.out)
    if source.is_dir():
        yield from (Note(told, warning) for told, warning in stale_choice(source, read_selection(source)))
    if wish.out is not None:
        yield Stage("pack", 1, "weights, plan, codes, scores and hashes in one file")
        record = write_model_file(source, wish.out, wish.folds, wish.licence, wish.notes)
        told = counted(len(record.models), "network")
        written.append(Written(form="medseg", name=wish.out.name, networks=told, bytes=wish.out.stat().st_size))
        yield Advanced(1, wish.out.name)
        if not wish.licence:
            yield Note("no licence of the weights is stated; give --licence where others shall use them")
    if any((wish.onnx, wish.openvino, wish.bundle)):
        predictor = load_predictor(source, CPU, wish.folds or None)
        for event in _others(predictor, wish):
            if isinstance(event, Written):
                written.append(event)
            else:
                yield event
    yield Exported(ExportSummary(written=tuple(written)))


def _others(predictor: Predictor, wish: Wish) -> Iterator[Event | Written]:
    """Formats of other runtimes."""
    networks = _networks(predictor)
    jobs: list[tuple[str, Path, Exportable, Callable[[Path, Exportable], Difference]]] = []
    if wish.onnx is not None:
        jobs += [("onnx", path, one, write_onnx) for path, one in _named(wish.onnx, networks)]
    if wish.openvino is not None:
        folder = wish.openvino / "network.xml"
        jobs += [("openvino", path, one, write_openvino) for path, one in _named(folder, networks)]
    if jobs:
        yield Stage("convert", len(jobs), f"{counted(len(jobs), 'network')}, each compared with torch afterwards")
    for done, (form, path, network, write) in enumerate(jobs, 1):
        difference = write(path, network)
        yield Advanced(done, path.name)
        yield Note(f"{path.name} ({network.words}) {difference.words}")
        files = (path, path.with_suffix(".bin")) if form == "openvino" else (path,)
        size = sum(file.stat().st_size for file in files)
        yield Written(form=form, name=path.name, networks=network.words, bytes=size, difference=difference)
    if wish.bundle is not None:
        yield Stage("bundle", 1, "a MONAI bundle, run on a small made-up scan afterwards")
        bundle = write_bundle(wish.bundle, predictor, wish.licence)
        yield Advanced(1, wish.bundle.name)
        yield Note(f"{wish.bundle.name} ({bundle.networks}) {bundle.difference.words}")
        if bundle.agreement is None:
            yield Note("on a made-up scan it labels hardly a voxel: only its preparation and network were compared")
        else:
            told = f"{100 * bundle.agreement:.2f} % of the labelled voxels as medseg does"
            yield Note(f"on a made-up scan its own preparation and window find {told}")
        yield Written(
            form="monai",
            name=wish.bundle.name,
            networks=bundle.networks,
            bytes=bundle.bytes,
            difference=bundle.difference,
            agreement=bundle.agreement,
        )


def _networks(predictor: Predictor) -> list[tuple[Name, str, Exportable]]:
    return [
        (name, model.card.fold, exportable([model], [model.card.fold]))
        for name, models in predictor.models.items()
        for model in models
    ]


def _named(path: Path, networks: Sequence[tuple[Name, str, Exportable]]) -> list[tuple[Path, Exportable]]:
    """The one network as it was asked for; of several each after its configuration and fold."""
    if len(networks) == 1:
        return [(path, networks[0][2])]
    return [(path.with_stem(f"{path.stem}-{name}-{fold}"), one) for name, fold, one in networks]
