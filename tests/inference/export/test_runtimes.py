from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medseg.errors import InputError
from medseg.files import RESEARCH_USE
from medseg.inference.export import to_monai, to_onnx, to_openvino
from medseg.inference.export.exporting import Exported, Wish, export
from medseg.inference.export.monai_config import inference_config, metadata
from medseg.inference.export.network import Exportable, exportable
from medseg.inference.export.to_monai import TorchScript, save_torchscript, write_bundle
from medseg.inference.export.to_onnx import OnnxRuntime, described, save_onnx, write_onnx
from medseg.inference.export.to_openvino import write_openvino
from medseg.inference.model import Model
from medseg.inference.predictor import load_predictor
from medseg.inference.records import Cleaning
from medseg.networks.table import build_network
from medseg.planning.plan import Plan, Region, Structure
from medseg.preprocessing.settings import Normalisation, PreprocessingSettings
from tests.inference.export.test_network import EVERY, tiny
from tests.networks.build import FEW, PATCHES
from tests.tiny import CPU, card_of, configuration, last, plan_of, untrained_run
from tests.training.several import run_of, train_fold

MANDATORY = {  # of the MONAI Bundle Specification
    *("version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"),
    *("task", "description", "authors", "copyright", "network_data_format"),
}
OF_A_TENSOR = {
    *("type", "format", "modality", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data"),
    "channel_def",
}


def of_kind(name: str) -> Exportable:
    settings, patch = FEW[name], PATCHES[name][0]
    made = configuration(dims=settings.dims, patch=(*patch, 1)[:3], channels=2)  # type: ignore[arg-type]
    plan = plan_of(made.model_copy(update={"network": settings}))
    return exportable([Model(build_network(settings).eval(), card_of(plan))], ["0"])


def prepared_by(plan: Plan, **changes: Any) -> Plan:
    made = plan.configuration
    settings = PreprocessingSettings(**{**made.preprocessing.model_dump(), **changes})
    made = made.model_copy(update={"preprocessing": settings})
    return plan.model_copy(update={"configurations": {made.name: made}})


def test_onnx_is_written_checked_and_takes_any_batch(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    network = tiny(dims=2)
    difference = write_onnx(tmp_path / "m.onnx", network)
    assert difference.small
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    batch = np.random.default_rng(0).standard_normal((5, 1, 8, 8)).astype(np.float32)
    with torch.inference_mode():
        wanted = network.own(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(OnnxRuntime(tmp_path / "m.onnx")(batch), wanted, atol=1e-4)
    told = {one.key: one.value for one in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert told == described(network)
    assert json.loads(told["outputs"]) == ["background", "blob1", "blob2"]
    assert told["notice"] == RESEARCH_USE


def test_onnx_that_computes_something_else_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(to_onnx, "need", lambda *_: None)
    monkeypatch.setattr(to_onnx, "save_onnx", lambda path, _: path.write_bytes(b"made"))

    class Other:
        def __init__(self, path: Path) -> None:
            assert path.read_bytes() == b"made"

        def __call__(self, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            return np.ones((len(batch), 3, *batch.shape[2:]), np.float32)

    monkeypatch.setattr(to_onnx, "OnnxRuntime", Other)
    with pytest.raises(InputError, match=r"ONNX of 3d, fold 0 differs from torch .*; it is not written"):
        write_onnx(tmp_path / "m.onnx", tiny())
    assert list(tmp_path.iterdir()) == []


def test_a_network_too_large_for_onnx_is_pointed_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_onnx, "MOST_BYTES", 1)
    with pytest.raises(InputError, match=r"larger than the 2 GB that an ONNX file holds; .* --monai-bundle DIR"):
        save_onnx(tmp_path / "m.onnx", tiny())


def test_openvinos_weights_never_stand_beside_an_older_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def saved(_: object, path: Path, **__: object) -> None:
        for suffix in (".xml", ".bin"):
            path.with_suffix(suffix).write_text("new")

    core = SimpleNamespace(read_model=lambda _: None)
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=lambda: core, save_model=saved))
    for name, made in (("need", None), ("save_onnx", None), ("OpenVino", None), ("compared", tiny_difference())):
        monkeypatch.setattr(to_openvino, name, lambda *_, made=made: made)
    write_openvino(tmp_path / "m.xml", tiny())
    (tmp_path / "m.xml").write_text("old")
    monkeypatch.setattr(shutil, "copyfile", killed_at(".xml"))
    with pytest.raises(KeyboardInterrupt):
        write_openvino(tmp_path / "m.xml", tiny())
    assert [path.name for path in tmp_path.iterdir()] == ["m.bin"]


def killed_at(suffix: str) -> Callable[[Path, Path], None]:
    def copy(source: Path, target: Path) -> None:
        if target.suffix == suffix:
            raise KeyboardInterrupt
        target.write_bytes(source.read_bytes())

    return copy


def test_a_network_that_cannot_be_written_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no such\noperation")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(InputError, match=r"3d, fold 0 \(unet\) cannot be written as ONNX \(no such operation\)"):
        save_onnx(tmp_path / "m.onnx", tiny())


@pytest.mark.slow
@pytest.mark.parametrize("name", list(FEW))
def test_every_family_as_onnx(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    assert write_onnx(tmp_path / "m.onnx", of_kind(name)).small


@pytest.mark.slow
def test_the_front_door_names_a_file_for_every_fold(tmp_path: Path) -> None:
    for package in ("onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    run = run_of(tmp_path, ["3d"])
    for fold in range(2):
        train_fold(run, "3d", fold)
    wish = Wish(onnx=tmp_path / "m.onnx", openvino=tmp_path / "ov", folds=("0",))
    done = last(export(run, wish))
    assert isinstance(done, Exported)
    assert [(one.form, one.name) for one in done.summary.written] == [("onnx", "m.onnx"), ("openvino", "network.xml")]
    assert {p.name for p in (tmp_path / "ov").iterdir()} == {"network.xml", "network.bin"}
    for one in done.summary.written:
        assert one.difference is not None
        assert one.difference.small
        assert one.bytes > 1000


def test_files_of_several_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medseg.inference.export import exporting

    run, difference = untrained_run(tmp_path), tiny_difference()
    first = run / "folds" / "3d" / "0"
    card = json.loads((first / "model.json").read_text())
    second = run / "folds" / "3d" / "1"
    second.mkdir()
    (second / "model.json").write_text(json.dumps(card | {"fold": "1"}))
    (second / "model.safetensors").write_bytes((first / "model.safetensors").read_bytes())
    written: list[Path] = []

    def wrote(path: Path, _: Exportable) -> Any:
        path.write_bytes(b"x")
        written.append(path)
        return difference

    monkeypatch.setattr(exporting, "write_onnx", wrote)
    (tmp_path / "m-3d-0.old.onnx").write_bytes(b"of another export")
    done = last(export(run, Wish(onnx=tmp_path / "m.onnx")))
    assert [path.name for path in written] == ["m-3d-0.onnx", "m-3d-1.onnx"]
    assert [one.bytes for one in done.summary.written] == [1, 1]
    written.clear()
    done = last(export(run, Wish(onnx=tmp_path / "m.net", folds=("1",))))
    assert [path.name for path in written] == ["m.net"]
    assert [one.bytes for one in done.summary.written] == [1]


def tiny_difference() -> Any:
    from medseg.inference.export.summary import Difference

    return Difference(largest=0.0, logit=1.0, voxels=1, differing=0)


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    run = untrained_run(tmp_path)
    with pytest.raises(InputError, match="nothing is asked for; give -o"):
        last(export(run, Wish()))
    last(export(run, Wish(out=tmp_path / "m.medseg")))
    with pytest.raises(InputError, match="is a model file already"):
        last(export(tmp_path / "m.medseg", Wish(out=tmp_path / "n.medseg")))


@pytest.mark.parametrize("dims", [2, 3])
def test_torchscript_takes_any_batch(tmp_path: Path, dims: int) -> None:
    network = tiny(dims, folds=2)
    save_torchscript(tmp_path / "m.ts", network)
    batch = np.random.default_rng(0).standard_normal((3, 1, *(8,) * dims)).astype(np.float32)
    with torch.inference_mode():
        wanted = network.own(torch.from_numpy(batch)).numpy()
    np.testing.assert_allclose(TorchScript(tmp_path / "m.ts")(batch), wanted, atol=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_torchscript_holds_nothing_that_a_cpu_alone_has(tmp_path: Path, name: str) -> None:
    save_torchscript(tmp_path / "m.ts", of_kind(name))
    with to_onnx.quiet():
        graph = str(torch.jit.load(str(tmp_path / "m.ts")).inlined_graph)  # type: ignore[no-untyped-call]
    assert "aten::_convolution" in graph
    assert "mkldnn" not in graph


def test_a_bundles_network_never_stands_beside_an_older_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, folder = load_predictor(untrained_run(tmp_path), CPU), tmp_path / "b"
    monkeypatch.setattr(to_monai, "_agreement", lambda *_: None)
    write_bundle(folder, predictor)
    assert (folder / "configs" / "inference.json").is_file()
    monkeypatch.setattr(shutil, "copyfile", killed_at(".txt"))
    with pytest.raises(KeyboardInterrupt):
        write_bundle(folder, predictor)
    assert (folder / "models" / "model.ts").is_file()
    assert not (folder / "configs" / "inference.json").exists()


@pytest.mark.slow
def test_a_bundle_is_compared_without_what_it_does_not_hold(tmp_path: Path) -> None:
    run = untrained_run(tmp_path, configuration(window_mirror=(0, 1, 2)))
    removing = Cleaning(kind="at_least", values=(1, 2), what="all structures together", ml=1e6)
    bundle = write_bundle(tmp_path / "b", replace(load_predictor(run, CPU), cleaning=(removing,)))
    assert bundle.agreement is not None
    assert bundle.agreement > 0.7


@pytest.mark.slow
def test_a_bundle_that_labels_nothing_says_what_was_compared(tmp_path: Path) -> None:
    predictor = load_predictor(untrained_run(tmp_path), CPU)
    (model,) = predictor.models["3d"]
    with torch.no_grad():
        model.network.heads[0].bias[0] += 1e3  # type: ignore[index, union-attr]
    assert write_bundle(tmp_path / "b", predictor).agreement is None
    said = (tmp_path / "b" / "docs" / "README.md").read_text()
    assert "both label hardly a voxel: only the preparation and the network were compared" in said


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_a_bundle_runs_and_finds_what_medseg_finds(tmp_path: Path, dims: int) -> None:
    run = untrained_run(tmp_path, configuration(dims=dims), seed=1)
    bundle = write_bundle(tmp_path / "blobs", load_predictor(run, CPU), "CC-BY-4.0")
    assert bundle.difference.small
    assert bundle.agreement is not None
    assert bundle.agreement > 0.7
    assert {str(p.relative_to(tmp_path / "blobs")) for p in (tmp_path / "blobs").rglob("*") if p.is_file()} == {
        "configs/inference.json",
        "configs/metadata.json",
        "docs/README.md",
        "docs/license.txt",
        "models/model.ts",
    }
    assert str(tmp_path) not in (tmp_path / "blobs" / "configs" / "inference.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("bound", "said"), [("LEAST_LIKENESS", "prepares scans"), ("LEAST_AGREEMENT", "finds only")])
def test_a_bundle_that_is_unlike_medseg_is_not_written(
    tmp_path: Path, bound: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_monai, bound, 2.0)
    with pytest.raises(InputError, match=f"the bundle of 3d, fold 0 {said}.*; it is not written"):
        write_bundle(tmp_path / "b", load_predictor(untrained_run(tmp_path), CPU))
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_a_bundle_whose_classes_change_places_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changing(network: Exportable) -> dict[str, Any]:
        config = inference_config(network)
        places = {"orig_labels": [0, 1, 2], "target_labels": [0, 2, 1]}
        config["postprocessing"]["transforms"].insert(-1, {"_target_": "MapLabelValued", "keys": "pred", **places})
        return config

    monkeypatch.setattr(to_monai, "inference_config", changing)
    with pytest.raises(InputError, match="of labelled voxels as medseg does; it is not written"):
        write_bundle(tmp_path / "b", load_predictor(untrained_run(tmp_path, seed=1), CPU))


@pytest.mark.slow
def test_a_bundle_of_regions_paints_them(tmp_path: Path) -> None:
    made = configuration(classes=2)
    plan = plan_of(made)
    of = (Region(name="all", values=(1, 2), value=2), Region(name="core", values=(2,), value=1))
    two = (Structure(value=1, name="a"), Structure(value=2, name="b"))
    plan = plan.model_copy(update={"regions": of, "structures": two})
    run = untrained_run(tmp_path, made)
    card = json.loads((run / "folds/3d/0/model.json").read_text())
    (run / "folds/3d/0/model.json").write_text(json.dumps(card | {"plan": plan.model_dump(mode="json")}))
    (run / "plan.json").write_text(plan.model_dump_json())
    agreement = write_bundle(tmp_path / "b", load_predictor(run, CPU)).agreement
    assert agreement is not None
    assert agreement > 0.7


def test_metadata_holds_what_the_specification_demands() -> None:
    told = json.loads(json.dumps(metadata(tiny(), "blobs", "")))
    assert MANDATORY - set(told) == set()
    formats = told["network_data_format"]
    for tensor, channels in ((formats["inputs"]["image"], 1), (formats["outputs"]["pred"], 3)):
        assert OF_A_TENSOR - set(tensor) == set()
        assert (tensor["num_channels"], tensor["spatial_shape"]) == (channels, [8, 8, 8])
    assert told["intended_use"] == RESEARCH_USE


def test_the_config_prepares_as_the_plan_says() -> None:
    ct = Normalisation(kind="ct", lower=-100, upper=300, mean=50, sd=25)
    plan = prepared_by(plan_of(configuration()), channels=(ct,), spacing_mm=(1.5, None, 3.0))
    network = exportable([Model(build_network(plan.configuration.network), card_of(plan))], ["0"])
    steps = {one["_target_"]: one for one in inference_config(network)["preprocessing"]["transforms"]}
    scaled = steps["ScaleIntensityRanged"]
    assert (scaled["b_min"], scaled["b_max"], scaled["clip"]) == (-6.0, 10.0, True)
    assert steps["Spacingd"]["pixdim"] == [1.5, -1.0, 3.0]
    assert "CropForegroundd" in steps


def test_what_no_bundle_holds(tmp_path: Path) -> None:
    ways = (Normalisation(kind="zscore"), Normalisation(kind="ct"))
    plan = prepared_by(plan_of(configuration(channels=2)), channels=ways)
    network = exportable([Model(build_network(plan.configuration.network), card_of(plan))], ["0"])
    with pytest.raises(InputError, match="normalised in different ways"):
        inference_config(network)
    plan = prepared_by(plan_of(configuration()), channels=(Normalisation(kind="zscore", nonzero_only=True),))
    network = exportable([Model(build_network(plan.configuration.network), card_of(plan))], ["0"])
    with pytest.raises(InputError, match=r"within the outline of all channels.*; .* ONNX: --onnx FILE"):
        inference_config(network)
    run = run_of(tmp_path, ["3d_lowres", "3d_cascade"], chosen="3d_cascade")
    for name in ("3d_lowres", "3d_cascade"):
        train_fold(run, name, 0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="3d_lowres and 3d_cascade predict together"):
        write_bundle(tmp_path / "bundle", load_predictor(run, CPU))
    assert not (tmp_path / "bundle").exists()
