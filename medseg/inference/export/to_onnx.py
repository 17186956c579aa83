"""Networks as ONNX, written by torch's exporter and computed again by ONNX Runtime before a file appears."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from medseg.errors import InputError, MedsegError
from medseg.files import RESEARCH_USE, written_whole
from medseg.inference.export.network import Batch, Exportable, compared, need, refuse_different
from medseg.inference.export.summary import Difference

MOST_BYTES = 2_000_000_000  # a protobuf holds no more
IMAGE, LOGITS = "image", "logits"


def write_onnx(path: Path, network: Exportable) -> Difference:
    """Write a network as one ONNX file, for a batch of any size and the plan's patch; how far it is from torch.

    What it reads must be prepared as medseg does (see its metadata), and its answers are logits.

    Raises:
        InputError: a package is missing, the network cannot be written so, or it computes something else.
        ResourceError: the disk is full or the folder cannot be written to.
    """
    need("--onnx", "onnx", "onnx", "onnxscript", "onnxruntime")
    with written_whole(path) as beside:
        save_onnx(beside, network)
        difference = compared(network, OnnxRuntime(beside))
        refuse_different(difference, f"ONNX of {network.words}")
    return difference


def save_onnx(path: Path, network: Exportable) -> None:
    """Write the file, unchecked.

    Raises:
        InputError: the network cannot be written so.
    """
    if sum(p.numel() * p.element_size() for p in network.portable.state_dict().values()) > MOST_BYTES:
        what = f"{network.words} is larger than the 2 GB that an ONNX file holds"
        raise InputError(what, fix="export the model as a MONAI bundle: --monai-bundle DIR")
    example = torch.zeros((2, network.channels, *network.patch))  # of 2: a batch of 1 would be taken for the only size
    try:
        with quiet():
            program = torch.onnx.export(
                network.portable,
                (example,),
                input_names=[IMAGE],
                output_names=[LOGITS],
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
            if program is None:
                raise InputError(f"{network.words} cannot be written as ONNX")
            program.model.metadata_props.update(described(network))
            program.save(str(path), external_data=False)
    except (MedsegError, OSError):
        raise
    except Exception as error:  # the exporter can fail in any way on an operation that it does not know
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{network.words} ({_kind(network)}) cannot be written as ONNX ({told})") from error


def described(network: Exportable) -> dict[str, str]:
    """What a user of the file must know, as ONNX keeps it: names and JSON."""
    configuration = network.plan.configuration
    settings = configuration.preprocessing
    return {
        "notice": RESEARCH_USE,
        "medseg": network.plan.medseg,
        "configuration": network.name,
        "folds": json.dumps(network.folds),
        "channels": json.dumps(network.plan.channels),
        "outputs": json.dumps(network.outputs),
        "label_values": json.dumps({s.name: s.value for s in network.plan.structures}),
        "answers": "logits of regions, found where above 0" if network.plan.regions else "logits of classes",
        "patch": json.dumps(network.patch),
        "slice_axis": json.dumps(configuration.slice_axis),
        "spacing_mm": json.dumps(settings.spacing_mm),
        "preprocessing": settings.model_dump_json(),
    }


class OnnxRuntime:
    """An ONNX file, computed on the CPU by ONNX Runtime."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        onnxruntime.disable_telemetry_events()  # on Windows it would report its use
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def __call__(self, batch: Batch) -> Batch:
        """(B, C, X, Y[, Z]) to logits (B, L, X, Y[, Z])."""
        (logits,) = self._session.run([LOGITS], {IMAGE: batch})
        found: Batch = logits
        return found


@contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters say of themselves: deprecations within them, packages that they could also use."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "monai")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _kind(network: Exportable) -> str:
    return network.plan.configuration.network.kind
