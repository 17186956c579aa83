"""A MONAI bundle: the network as TorchScript, and how a scan is prepared, slid over and written, as MONAI's own config.

Source: the MONAI Bundle Specification (docs.monai.io/en/latest/mb_specification.html). The weights are TorchScript
alone (`model.ts`), which both carries networks that MONAI does not have and is read without running Python: a state
dictionary as `model.pt` would be a pickle.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medseg.errors import InputError, explained
from medseg.files import write_json, write_text, written_whole
from medseg.imaging.grid import Grid
from medseg.imaging.nifti import read_labels, write_volume
from medseg.imaging.volume import Volume
from medseg.inference.case import predict
from medseg.inference.export.monai_config import inference_config, metadata, readme
from medseg.inference.export.network import Batch, Exportable, compared, exportable, patches, refuse_different
from medseg.inference.export.summary import Difference
from medseg.inference.export.to_onnx import quiet
from medseg.inference.predictor import Predictor
from medseg.planning.plan import Plan
from medseg.preprocessing.prepare import prepare

CPU = torch.device("cpu")
CONFIG = Path("configs", "inference.json")
# Of a made-up scan, whose voxels differ more from place to place than those of real ones: below these the config is in
# error. MONAI's window also weighs tiles otherwise near the corners of a scan. Of labelled voxels bundles of MR and CT
# find 61 to 82 % alike, with classes that change places 0 to 4 %, of a scan that is not turned 5 to 56 %.
LEAST_LIKENESS, LEAST_AGREEMENT = 0.95, 0.3
FEWEST_LABELLED = 100  # voxels: what fewer say is chance


@dataclass(frozen=True)
class Bundle:
    """A bundle that was written and run: the networks in it, bytes, how far its network is from torch, and agreement
    (see `Written`).
    """

    networks: str
    bytes: int
    difference: Difference
    agreement: float | None


def write_bundle(folder: Path, predictor: Predictor, licence: str = "") -> Bundle:
    """Write the mean of a configuration's folds as a MONAI bundle, its network compared with torch, and its config run.

    Raises:
        InputError: several configurations predict, or in stages; the network or its preparation cannot be written so;
            the bundle computes something else.
        ResourceError: the disk is full or `folder` cannot be written to.
    """
    network = _network(predictor)
    config, told = inference_config(network), metadata(network, folder.name, licence)
    with TemporaryDirectory(prefix="medseg-") as scratch:
        made = Path(scratch, "bundle")
        (made / "models").mkdir(parents=True)
        save_torchscript(made / "models" / "model.ts", network)
        difference = compared(network, TorchScript(made / "models" / "model.ts"))
        refuse_different(difference, f"TorchScript of {network.words}")
        write_json(made / CONFIG, config)
        write_json(made / "configs" / "metadata.json", told)
        agreement = _agreement(made, network, predictor, Path(scratch))
        write_text(made / "docs" / "README.md", readme(network, folder.name, agreement))
        write_text(made / "docs" / "license.txt", licence or "The licence of the weights is not stated.\n")
        parts = [path.relative_to(made) for path in sorted(made.rglob("*")) if path.is_file()]
        with explained(folder / CONFIG):
            (folder / CONFIG).unlink(missing_ok=True)  # an older one would run the new network
        for part in sorted(parts, key=lambda part: part == CONFIG):  # what names all others comes last
            with written_whole(folder / part) as beside:
                shutil.copyfile(made / part, beside)
        return Bundle(network.words, sum((made / part).stat().st_size for part in parts), difference, agreement)


def _network(predictor: Predictor) -> Exportable:
    if len(predictor.models) > 1:
        told = f"{' and '.join(predictor.models)} predict together, and a MONAI bundle holds one configuration"
        raise InputError(told, fix="export the model as ONNX, or plan and train one configuration")
    ((_, models),) = predictor.models.items()
    return exportable(models, [model.card.fold for model in models])


def save_torchscript(path: Path, network: Exportable) -> None:
    """Write the network as TorchScript, traced for the plan's patch and a batch of any size.

    Raises:
        InputError: the network cannot be written so.
    """
    example = torch.zeros((2, network.channels, *network.patch))
    try:
        with quiet(), torch.no_grad():  # inference mode would bake in convolutions that a CPU alone has
            traced = torch.jit.trace(network.portable, (example,), check_trace=False)  # type: ignore[no-untyped-call]
            traced.save(str(path))
    except OSError:
        raise
    except Exception as error:  # tracing can fail in any way on a network that decides by values
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{network.words} cannot be written as TorchScript ({told})") from error


class TorchScript:
    """A TorchScript file, computed on the CPU."""

    def __init__(self, path: Path) -> None:
        with quiet():
            self._network = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]

    def __call__(self, batch: Batch) -> Batch:
        """(B, C, X, Y[, Z]) to logits (B, L, X, Y[, Z])."""
        with quiet(), torch.inference_mode():
            found: Batch = self._network(torch.from_numpy(batch)).numpy()
        return found


def _agreement(made: Path, network: Exportable, predictor: Predictor, scratch: Path) -> float | None:
    """The share of the voxels labelled in a made-up scan that the bundle and medseg find alike; None of few.

    Raises:
        InputError: the bundle's config cannot be run, prepares a scan otherwise, or finds something else.
    """
    scan, name = _made_up(network, scratch / "scans")
    try:
        with quiet():
            images = run_bundle(made, {"dataset_dir": str(scratch / "scans"), "output_dir": str(scratch / "found")})
    except (MemoryError, OSError):
        raise
    except Exception as error:  # MONAI's transforms raise whatever went wrong in them
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"the bundle of {network.words} cannot be run ({told})", fix="it is not written") from error
    prepared = prepare(scan, network.plan.configuration.preprocessing).image_CXYZ
    if images[0].shape != prepared.shape or np.corrcoef(images[0].ravel(), prepared.ravel())[0, 1] < LEAST_LIKENESS:
        raise InputError(f"the bundle of {network.words} prepares scans in another way", fix="it is not written")
    (path,) = (scratch / "found").rglob(f"{name}*_seg.nii.gz")
    found, wanted = read_labels(path).array, predict(_bare(predictor), scan, CPU).labels.array
    if found.shape != wanted.shape:
        raise InputError(f"the bundle of {network.words} labels another grid than the scan's", fix="it is not written")
    labelled = (found > 0) | (wanted > 0)
    if np.count_nonzero(labelled) < FEWEST_LABELLED:
        return None
    agreement = float((found == wanted)[labelled].mean())
    if agreement < LEAST_AGREEMENT:
        told = f"the bundle of {network.words} finds only {100 * agreement:.1f} % of labelled voxels as medseg does"
        raise InputError(told, fix="it is not written")
    return agreement


def _bare(predictor: Predictor) -> Predictor:
    """The same without what no bundle holds: mirroring and post-processing."""
    models = {
        name: [replace(one, card=one.card.model_copy(update={"plan": _not_mirrored(one.card.plan)})) for one in of]
        for name, of in predictor.models.items()
    }
    return replace(predictor, models=models, cleaning=())


def _not_mirrored(plan: Plan) -> Plan:
    made = plan.configuration
    made = made.model_copy(update={"window": made.window.model_copy(update={"mirror_axes": ()})})
    return plan.model_copy(update={"configurations": {**plan.configurations, made.name: made}})


def run_bundle(bundle: Path, changed: Mapping[str, Any]) -> list[Batch]:
    """Run a bundle's config over its scans, as `python -m monai.bundle run` does, without the engine that it needs.

    The scans as its network saw them, (C, X, Y, Z) each.
    """
    from monai.bundle.config_parser import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(bundle / CONFIG))
    parser.read_meta(str(bundle / "configs" / "metadata.json"))
    parser.update({"bundle_root": str(bundle), "device": "$torch.device('cpu')", **changed})
    network, inferer = parser.get_parsed_content("network"), parser.get_parsed_content("inferer")
    after, images = parser.get_parsed_content("postprocessing"), list[Batch]()
    for scan in parser.get_parsed_content("dataset"):
        images.append(scan["image"].numpy().copy())
        with torch.inference_mode():
            scan["pred"] = inferer(scan["image"][None], network)[0]
        after(scan)
    return images


def _made_up(network: Exportable, folder: Path) -> tuple[list[Volume], str]:
    """A scan of each channel that looks like one, written as files: a little larger than the patch, stored as LPS."""
    configuration = network.plan.configuration
    spacing = [1.1 * s if s is not None else 3.0 for s in configuration.preprocessing.spacing_mm]
    shape = [max(n + n // 3, 4) for n in configuration.patch]
    grid = Grid((shape[0], shape[1], shape[2]), np.diag([-spacing[0], -spacing[1], spacing[2], 1.0]))
    _, batch = patches(network.channels, tuple(shape), seed=1)
    volumes = []
    for channel, (image, how) in enumerate(zip(batch[0], configuration.preprocessing.channels, strict=True)):
        scaled: npt.NDArray[np.float32] = (image * how.sd + how.mean if how.kind == "ct" else 100 + 30 * image).astype(
            np.float32
        )
        volumes.append(Volume(scaled, grid))
        write_volume(folder / f"scan_{channel:04d}.nii.gz", volumes[-1])
    return volumes, "scan"
