"""Networks as OpenVINO's own files, made from ONNX and computed again by OpenVINO before they appear.

OpenVINO's converter of Python would report its use over the internet, so its reader of ONNX is used, which does not.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from medseg.errors import explained
from medseg.files import written_whole
from medseg.inference.export.network import Batch, Exportable, compared, need, refuse_different
from medseg.inference.export.summary import Difference
from medseg.inference.export.to_onnx import IMAGE, quiet, save_onnx


def write_openvino(path: Path, network: Exportable) -> Difference:
    """Write a network as `path` (.xml) and its weights beside it (.bin), in single precision; how far it is from torch.

    It is compared in single precision: a processor with half-precision units rounds more unless it is told otherwise
    (INFERENCE_PRECISION_HINT f32).

    Raises:
        InputError: a package is missing, the network cannot be written so, or it computes something else.
        ResourceError: the disk is full or the folder cannot be written to.
    """
    need("--openvino", "openvino", "openvino", "onnx", "onnxscript")
    import openvino

    with TemporaryDirectory(prefix="medseg-") as scratch:
        onnx, made = Path(scratch, "network.onnx"), Path(scratch, path.name)
        save_onnx(onnx, network)
        with quiet():
            model = openvino.Core().read_model(onnx)
            openvino.save_model(model, made, compress_to_fp16=False)
        difference = compared(network, OpenVino(made))
        refuse_different(difference, f"OpenVINO of {network.words}")
        with explained(path):
            path.unlink(missing_ok=True)  # an older one would name weights that are not its own
        for suffix in (".bin", ".xml"):  # what names the weights comes last
            with written_whole(path.with_suffix(suffix)) as beside:
                shutil.copyfile(made.with_suffix(suffix), beside)
    return difference


class OpenVino:
    """An OpenVINO file, computed on the CPU in single precision."""

    def __init__(self, path: Path) -> None:
        import openvino

        core = openvino.Core()
        self._compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def __call__(self, batch: Batch) -> Batch:
        """(B, C, X, Y[, Z]) to logits (B, L, X, Y[, Z])."""
        found: Batch = self._compiled({IMAGE: batch})[0]
        return found
