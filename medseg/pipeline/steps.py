"""One function a verb: its front door, called by the command line and by recipes alike.

Each is a generator of events that ends in the verb's summary record. Torch is imported by those that compute, and what
reads scans by those that read any: training runs from the cache alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.errors import InputError
from medseg.events import Event, Note
from medseg.files import read_record
from medseg.imaging.source import ReadOptions
from medseg.imaging.structures import alike
from medseg.parallel import Where
from medseg.parts import Part, part_from
from medseg.pipeline.failures import note_failures
from medseg.pipeline.machine import kind_of, machine, may_have_gpu, resampler
from medseg.pipeline.reports import evaluation_report, inference_report, with_training_reports
from medseg.pipeline.where import LOCAL, On, working
from medseg.planning.cost import Machine
from medseg.planning.decide import family_named
from medseg.planning.plan import Budget, Name, Plan, Request, budget_from
from medseg.planning.weights import check_weights, loss_named
from medseg.preprocessing.resample import ON_CPU, Resampler

if TYPE_CHECKING:
    from medseg.evaluation.comparison import Comparison
    from medseg.evaluation.folders import Evaluation
    from medseg.evaluation.settings import Settings
    from medseg.imaging.convert import Converted
    from medseg.imaging.inspect import Inspected
    from medseg.inference.export.exporting import Exported
    from medseg.inference.folder import Inferred
    from medseg.inference.nnunet.importing import Imported
    from medseg.kept import PartDone
    from medseg.planning.dataset import Planned
    from medseg.training.run import Trained
    from medseg.training.select import Selected


def plan(
    data: Path,
    run: Path,
    spacing: str = "isotropic",
    dims: str = "auto",
    memory_gb: float | None = None,
    budget: str | None = None,
    seed: int = 0,
    device: str = "auto",
    series: Sequence[str] = (),
    options: ReadOptions | None = None,
    labels: Sequence[str] = (),
    network: str = "unet",
    splits: Path | None = None,
    also: Sequence[str] = (),
    init: Path | None = None,
    loss: str = "dice_ce",
    class_weights: str = "even",
    on: On = LOCAL,
    part: str = "0/1",
) -> Iterator[Event | Planned]:
    """Look at the labelled scans in `data`, decide, and prepare them in `run`.

    labels: names of the structures wanted. network: a family of networks. splits: a file of folds as nnU-Net's.
    also: configurations that are prepared besides the chosen one. init: a model that training shall begin with; its
    network and how it sees scans are taken over, and it is copied into the run. loss: what training makes small.
    class_weights: `even`, `volume`, or names with numbers, `liver=1,tumour=4`. on: where the work per case is done.
    part: `I/N`, of N parts of the cases that are looked at and prepared by as many commands.
    """
    from medseg.planning.dataset import Planned, plan_dataset

    if dims not in ("auto", "2d", "3d", "lowres", "cascade"):
        raise InputError(f"--dims {dims} is no choice", fix="give auto, 2d, 3d, lowres or cascade")
    if memory_gb is not None and not 1 <= memory_gb <= 1000:
        raise InputError(f"--memory {memory_gb:g} GB cannot be planned for", fix="give 1 to 1000")
    if not 0 <= seed < 2**32:
        raise InputError(f"--seed {seed} cannot be used", fix="give 0 to 4294967295")
    kind = kind_of(device, memory_gb)
    request = Request(
        spacing=spacing,
        dims=dims,
        network=family_named(network).name,
        memory_gb=memory_gb,
        budget=budget_from(budget) if budget is not None else Budget(),
        device=kind,
        seed=seed,
        series=tuple(series),
        options=options or ReadOptions(),
        labels=tuple(labels),
        also=_configurations(also),
        loss=loss_named(loss),
        class_weights=check_weights(class_weights),
    )
    if kind == "cuda" and not may_have_gpu():
        yield Note("there is no GPU here: the plan is for one of another machine")
    share, sampler = part_from(part), resampler(kind) if on == LOCAL else ON_CPU
    with working(on, run) as where:
        data, run = on.path(data), on.path(run)
        asked = (data, run, request, machine(kind), splits, sampler)
        events = (
            plan_dataset(*asked, where=where, part=share) if init is None else _plan_for(init, *asked, where, share)
        )
        for event in events:
            if isinstance(event, Planned):
                note_failures(run, "plan", event.failed, share)
            yield event


def _plan_for(
    init: Path,
    data: Path,
    run: Path,
    request: Request,
    machine: Machine,
    splits: Path | None,
    sampler: Resampler,
    where: Where,
    part: Part,
) -> Iterator[Event | Planned]:
    """Plan to fine-tune a model, and keep a copy of it in the run."""
    from medseg.inference.model import copy_model, model_at, read_card
    from medseg.planning.dataset import Planned, plan_dataset
    from medseg.training.transfer import INIT

    if (request.dims, request.spacing, request.network, request.memory_gb) != ("auto", "isotropic", "unet", None):
        what = "--init takes dimensions, spacing, network and patch from the model"
        raise InputError(what, fix="leave out --dims, --spacing, --network and --memory")
    folder = model_at(init)
    card = read_card(folder)
    asked = {"init": card.weights_sha256, "network": card.plan.request.network}
    yield Note(f"training will begin with the model of {card.plan.dataset}, fold {card.fold}: {_scores(card.dice)}")
    request = request.model_copy(update=asked)
    for event in plan_dataset(data, run, request, machine, splits, sampler, card.plan, where, part):
        if isinstance(event, Planned):
            copy_model(folder, run / INIT)
        yield event


def _scores(dice: dict[str, float]) -> str:
    told = ", ".join(f"{name} {value:.2f}" for name, value in dice.items())
    return f"Dice {told} in validation" if told else "it was not validated"


def _configurations(named: Sequence[str], option: str = "--also") -> tuple[Name, ...]:
    """What an option names."""
    words: dict[str, Name] = {"2d": "2d", "3d": "3d", "lowres": "3d_lowres", "cascade": "3d_cascade"}
    words |= {name: name for name in words.values()}
    if unknown := [name for name in named if name not in words]:
        raise InputError(f"{option} {unknown[0]} is no configuration", fix="choose from 2d, 3d, lowres, cascade")
    return tuple(words[name] for name in named)


def read_plan(path: Path) -> Plan:
    """A plan to compare with: a `plan.json`, or the run that holds it.

    Raises:
        InputError: there is none, or it is of another version.
    """
    return read_record(path / "plan.json" if path.is_dir() else path, Plan)


def train(
    run: Path,
    fold: str | None = None,
    folds: int | None = None,
    budget: str | None = None,
    steps: int | None = None,
    device: str = "auto",
    started: float | None = None,
    configuration: str | None = None,
    init: Path | None = None,
    deterministic: bool = False,
    gpus: int | None = None,
    tensorboard: bool = False,
    nodes: int = 1,
    job: str | None = None,
    interface: str | None = None,
) -> Iterator[Event | Trained]:
    """Train fold `fold` (0 unless given, or `all`), or all of `folds` folds; `started` is when the command began.

    configuration: another prepared one than the plan's choice. init: a model whose weights are the start. gpus: how
    many GPUs, or processes on a CPU, train; several folds side by side, one fold together. nodes: of the Slurm job
    with the id `job`, in which this runs; they talk over the network `interface`.
    """
    from medseg.compute import choose_device
    from medseg.report.training import draw_curves
    from medseg.training import run as training
    from medseg.training.journal import check_tensorboard
    from medseg.training.nodes import nodes_of

    began = time.monotonic() if started is None else started
    allowed = amount(fold, folds, budget, steps)
    other = configuration_named(configuration)
    where = choose_device(device)
    training.check_gpus(gpus, where)
    together = nodes_of(nodes, gpus or 1, job, interface)
    if gpus is not None and gpus > 1 and where.type != "cuda" and device != "cpu":
        fix = f"give --device cpu to train in {gpus} processes on the CPU"
        raise InputError(f"--gpus {gpus}: torch sees no GPU here", fix=fix)
    if tensorboard:
        check_tensorboard()
    if folds is not None and (told := training.use_folds(run, folds)):
        yield Note(told)
    wanted = ["0" if fold is None else fold] if folds is None else [str(k) for k in range(folds)]
    how = training.How(deterministic, init, tensorboard, draw_curves)
    events = training.train(run, wanted, allowed, where, time.monotonic, began, other, how, gpus or 1, together)
    yield from with_training_reports(events, run, other)


def amount(fold: str | None, folds: int | None, budget: str | None, steps: int | None) -> Budget | None:
    """The budget that the options of a training give, None where the plan's holds.

    Raises:
        InputError: two of them contradict each other, or one is no amount.
    """
    if fold is not None and folds is not None:
        raise InputError("--fold and --folds cannot both be given", fix="--fold trains one, --folds N all of N")
    if budget is not None and steps is not None:
        raise InputError("--budget and --steps cannot both be given", fix="give one of them")
    if steps is not None and steps < 1:
        raise InputError(f"--steps {steps} trains nothing", fix="give at least 1")
    return Budget(steps=steps) if steps else budget_from(budget) if budget is not None else None


def configuration_named(text: str | None) -> Name | None:
    """What --configuration names.

    Raises:
        InputError: it is no configuration.
    """
    return None if text is None else _configurations([text], "--configuration")[0]


def select(run: Path, device: str = "auto") -> Iterator[Event | Selected]:
    """Choose the best of all trained configurations of `run` and their pairs, and the post-processing that helps it."""
    from medseg.compute import choose_device
    from medseg.training.select import select as chosen

    yield from chosen(run, choose_device(device))


def infer(
    run: Path,
    scans: Path,
    out: Path,
    device: str = "auto",
    formats: Sequence[str] = (),
    series: Sequence[str] = (),
    codes: Path | None = None,
    options: ReadOptions | None = None,
    overwrite: bool = False,
    part: str = "0/1",
    quality: str = "standard",
    structures: Sequence[str] = (),
    split: bool = False,
    instances: Sequence[str] = (),
    probabilities: bool = False,
    uncertainty: bool = False,
    min_volume: Sequence[str] = (),
    largest: Sequence[str] = (),
    fill: Sequence[str] = (),
    report: bool = True,
    on: On = LOCAL,
) -> Iterator[Event | Inferred]:
    """Predict every scan under `scans` with the model `run`; results in `formats`.

    overwrite: cases that are done already are done again. part: `I/N`, of N parts that share `out`. quality: `fast`,
    `standard` or `max`. structures: all others are left out; none means that all are kept. split: NIfTI has a file a
    structure. instances: structures whose separate parts are numbered. min_volume, largest, fill:
    post-processing in place of what training chose, as `inference.overrides` reads it. report: whether `report.html` is
    written once all parts are done. on: where the work per case is done.
    """
    from medseg.compute import choose_device
    from medseg.imaging.writing.codes import read_codes
    from medseg.inference.asked import Asked, quality_from
    from medseg.inference.folder import Inferred, infer_folder

    asked = Asked(
        formats=tuple(formats),
        series=tuple(series),
        codes=read_codes(codes) if codes is not None else {},
        options=options or ReadOptions(),
        overwrite=overwrite,
        part=part_from(part),
        quality=quality_from(quality),
        structures=tuple(structures),
        split=split,
        instances=tuple(instances),
        probabilities=probabilities,
        uncertainty=uncertainty,
        min_volume=tuple(min_volume),
        largest=tuple(largest),
        fill=tuple(fill),
    )
    here = choose_device(device if on.here else "cpu")  # elsewhere the workers choose theirs
    with working(on, out, gpus=here.type == "cuda") as where:
        run, scans, out = on.path(run), on.path(scans), on.path(out)
        for event in infer_folder(run, scans, out, here, asked, where, device):
            if isinstance(event, Inferred):
                note_failures(out, "infer", event.failed, asked.part)
                if report:
                    yield from inference_report(event, asked.options)
            yield event


def export(
    source: Path,
    out: Path | None = None,
    onnx: Path | None = None,
    openvino: Path | None = None,
    bundle: Path | None = None,
    folds: Sequence[str] = (),
    licence: str = "",
    notes: str = "",
) -> Iterator[Event | Exported]:
    """Write a trained run as one file, and its networks, or those of a model file, for other runtimes."""
    from medseg.inference.export.exporting import Wish
    from medseg.inference.export.exporting import export as exported

    yield from exported(source, Wish(out, onnx, openvino, bundle, tuple(folds), licence, notes))


def import_nnunet(
    source: Path,
    out: Path,
    folds: Sequence[str] = (),
    checkpoint: str = "final",
    configuration: str = "",
    licence: str = "",
) -> Iterator[Event | Imported]:
    """Write a model that nnU-Net v2 trained as one file, by way of a run folder that does not stay."""
    from tempfile import TemporaryDirectory

    from medseg.inference.export.model_file import check_model_file, write_model_file
    from medseg.inference.nnunet.importing import import_nnunet as imported

    check_model_file(out)
    with TemporaryDirectory(prefix="medseg-") as scratch:
        run = Path(scratch) / "run"
        yield from imported(source, run, folds, checkpoint, configuration)
        write_model_file(run, out, licence=licence)


def read_options(allow_gaps: bool = False, suv: bool = False, prefer: str = "") -> ReadOptions:
    """How scans are read, from what was typed.

    Raises:
        InputError: `prefer` is neither sform nor qform.
    """
    if prefer not in ("", "sform", "qform"):
        raise InputError(f"--prefer {prefer} is no choice", fix="give sform or qform")
    return ReadOptions(allow_gaps=allow_gaps, suv=suv, prefer=prefer)


def evaluate(
    predictions: Path,
    references: Path,
    out: Path,
    settings: Settings | None = None,
    options: ReadOptions | None = None,
    metadata: Path | None = None,
    by: Sequence[str] = (),
    scans: Path | None = None,
    report: bool = True,
    all_viewers: bool = False,
    on: On = LOCAL,
    part: str = "0/1",
) -> Iterator[Event | Evaluation | PartDone]:
    """Score predictions against references, paired by case name, and show them in a report.

    metadata, by: a CSV of the cases, and the columns by which scores are broken down. scans: the folder of the scans,
    which the report shows beneath the labels. all_viewers: each case gets a page too. on: where cases are scored. part:
    `I/N`, of N parts that share `out`; the last of them writes scores and report.
    """
    from medseg.evaluation.folders import Evaluation, evaluate_folders
    from medseg.evaluation.settings import DEFAULT
    from medseg.kept import PartDone

    settings, prefer = settings or DEFAULT, (options or ReadOptions()).prefer
    if scans is not None and not scans.exists():  # said before the scoring, which may take long
        raise InputError("there is no such file or folder", scans, "give the folder of the scans")
    predictions, references, out = on.path(predictions), on.path(references), on.path(out)
    share = part_from(part)
    with working(on, out) as where:
        asked = (settings, None, prefer, metadata, by, where, share)
        for event in evaluate_folders(predictions, references, out, *asked):
            if isinstance(event, Evaluation | PartDone):
                note_failures(out, "evaluate", event.failed, share)
            if isinstance(event, Evaluation) and report:
                yield from evaluation_report(event, predictions, out, scans, prefer, all_viewers)
            yield event


def compare(
    scores: Sequence[Path], out: Path, metric: str = "dice,nsd", names: str = ""
) -> Iterator[Event | Comparison]:
    """Compare evaluations of the same cases by these metrics; `names`: what they are called, with commas between."""
    from medseg.evaluation.compare import compare as compared

    yield from compared(scores, out, _words(metric), _words(names))


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def convert(
    source: Path,
    target: Path,
    to: str = "",
    like: Path | None = None,
    names: str = "",
    modality: str = "",
    series: str = "",
    options: ReadOptions | None = None,
    on: On = LOCAL,
    part: str = "0/1",
) -> Iterator[Event | Converted | PartDone]:
    """Convert a scan, labels or a data set; what is written is read back.

    on: where the scans of a data set are converted. part: `I/N`, of N parts that share them; with the last of them
    `target` appears.
    """
    from medseg.imaging.convert import Wish
    from medseg.imaging.convert import convert as converted

    wish = Wish(to, like, _names(names), modality.upper(), series, options or ReadOptions())
    source, target = on.path(source), on.path(target)
    with working(on, target.parent) as where:
        yield from converted(source, target, wish, where, part_from(part))


def _names(text: str) -> dict[int, str]:
    """`1=liver, 2=kidney` as values and names."""
    named: dict[int, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        value, equals, name = (word.strip() for word in part.partition("="))
        if not (equals and name and value.isdecimal() and int(value) > 0) or int(value) in named:
            raise InputError(f"--names {text} cannot be used", fix="write it as '1=liver, 2=kidney'")
        if alike(name) in map(alike, named.values()):
            raise InputError(f"--names {text} calls two values {name}", fix="give each its own name")
        named[int(value)] = name
    return named


def inspect(
    path: Path,
    options: ReadOptions | None = None,
    headers: bool = False,
    out: Path | None = None,
    on: On = LOCAL,
    part: str = "0/1",
) -> Iterator[Event | Inspected | PartDone]:
    """Look at everything at `path`: cases or scans, their geometry, and what is wrong with them.

    The labelled cases of a data set are checked, unless `headers` alone are read. out: the file that all of it is
    written to; beside it goes a private map of where each DICOM volume lies. on: where they are looked at. part: `I/N`,
    of N parts that share `out`, which the last of them writes.
    """
    from medseg.pipeline.inspecting import inspect as inspected

    if not on.here and out is None:
        raise InputError(f"--on {on.on} needs a folder that all machines see", fix="name a file there with -o FILE")
    path, out = on.path(path), on.path(out) if out is not None else None
    with working(on, out.parent if out is not None else Path()) as where:
        yield from inspected(path, options or ReadOptions(), headers, out, where, part_from(part))
