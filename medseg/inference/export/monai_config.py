"""What a MONAI bundle says in JSON: the metadata, and the config that prepares, slides and writes as medseg does.

MONAI's own parts stand for medseg's, so both differ by interpolation and by where tiles lie, and the bundle's labels
by a small share of voxels.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from medseg.errors import InputError
from medseg.files import RESEARCH_USE
from medseg.inference.export.network import Exportable
from medseg.planning.plan import Plan
from medseg.preprocessing.settings import Normalisation, PreprocessingSettings

# Names the schema of metadata.json for whoever checks it; nothing here reads it.
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
VERSION = "1.0.0"
TILES = 2  # at a time
_INSTEAD = "export the model as ONNX: --onnx FILE"
Transform = dict[str, Any]


def inference_config(network: Exportable) -> dict[str, Any]:
    """`inference.json`: every `*_0000.nii.gz` of `dataset_dir`, with its further channels, to `output_dir`.

    Raises:
        InputError: the plan prepares scans in a way that MONAI's transforms cannot.
    """
    plan, channels = network.plan, len(network.plan.channels)
    files = f"[p[:-12] + '_%04d.nii.gz' % c for c in range({channels})]"
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/scans'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "datalist": "$sorted(glob.glob(os.path.join(@dataset_dir, '*_0000.nii.gz')))",
        "data": f"$[{{'image': {files}}} for p in @datalist]",
        "network_def": "$torch.jit.load(@bundle_root + '/models/model.ts', map_location=@device)",
        "network": "$@network_def.to(@device).eval()",
        "preprocessing": _compose(_preparing(plan.configuration.preprocessing)),
        "dataset": {"_target_": "Dataset", "data": "@data", "transform": "@preprocessing"},
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": _inferer(network),
        "postprocessing": _compose(_finishing(plan)),
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "amp": False,
        },
        "run": ["$@evaluator.run()"],
    }


def _compose(transforms: list[Transform]) -> Transform:
    return {"_target_": "Compose", "transforms": transforms}


def _preparing(settings: PreprocessingSettings) -> list[Transform]:
    """Turn, crop, normalise, resample: in medseg's order. The crop to a body only saves time, and is left out."""
    image: Transform = {"keys": "image"}
    found: list[Transform] = [
        {"_target_": "LoadImaged", **image, "reader": "NibabelReader"},
        {"_target_": "EnsureChannelFirstd", **image},
        {"_target_": "EnsureTyped", **image, "dtype": "$torch.float32"},
    ]
    if settings.orientation == "ras":
        found.append({"_target_": "Orientationd", **image, "axcodes": "RAS", "labels": None})
    if settings.crop == "nonzero":
        where = {"source_key": "image", "select_fn": "$lambda x: x != 0", "allow_smaller": True}
        found.append({"_target_": "CropForegroundd", **image, **where})
    found += _normalising(settings.channels)
    spacing = [-1.0 if one is None else one for one in settings.spacing_mm]  # at most 0: as it is
    order = {"mode": settings.resampling.order, "padding_mode": "nearest"}
    found.append({"_target_": "Spacingd", **image, "pixdim": spacing, **order})
    return found


def _normalising(channels: tuple[Normalisation, ...]) -> list[Transform]:
    how = channels[0]
    if any(other != how for other in channels):
        what = "its channels are normalised in different ways, which a MONAI bundle of medseg cannot hold"
        raise InputError(what, fix=_INSTEAD)
    match how.kind:
        case "ct":
            low, high = ((bound - how.mean) / how.sd for bound in (how.lower, how.upper))
            bounds = {"a_min": how.lower, "a_max": how.upper, "b_min": low, "b_max": high, "clip": True}
            return [{"_target_": "ScaleIntensityRanged", "keys": "image", **bounds}]
        case "zscore" if how.nonzero_only:  # MONAI takes in each channel what is not zero there
            what = "its scans are normalised within the outline of all channels, which a MONAI bundle cannot hold"
            raise InputError(what, fix=_INSTEAD)
        case "zscore":
            return [{"_target_": "NormalizeIntensityd", "keys": "image", "channel_wise": True}]
        case "minmax":
            return [{"_target_": "ScaleIntensityd", "keys": "image", "minv": 0.0, "maxv": 1.0, "channel_wise": True}]
        case "rgb":
            bounds = {"a_min": 0.0, "a_max": 255.0, "b_min": 0.0, "b_max": 1.0}
            return [{"_target_": "ScaleIntensityRanged", "keys": "image", **bounds}]
        case "none":
            return []


def _inferer(network: Exportable) -> Transform:
    configuration = network.plan.configuration
    common: Transform = {
        "roi_size": list(network.patch),
        "sw_batch_size": TILES,
        "overlap": 1 - configuration.window.step,
        "mode": "gaussian",
        "sigma_scale": 0.125,
        "padding_mode": "constant",
    }
    if configuration.slice_axis is None:
        return {"_target_": "SlidingWindowInferer", **common}
    return {"_target_": "SliceInferer", "spatial_dim": configuration.slice_axis, **common}


def _finishing(plan: Plan) -> list[Transform]:
    """Bring logits back to the scan's own grid, take the class, give it its value, write."""
    largest = max([*plan.values, *(region.value for region in plan.regions)])
    kind = "uint8" if largest <= 255 else "uint16"
    back: Transform = {"transform": "@preprocessing", "orig_keys": "image", "nearest_interp": False, "to_tensor": True}
    saved: Transform = {"output_dir": "@output_dir", "output_postfix": "seg", "output_dtype": f"$np.{kind}"}
    saved |= {"resample": False, "print_log": False}
    return [
        {"_target_": "Invertd", "keys": "pred", **back},
        *_deciding(plan),
        {"_target_": "SaveImaged", "keys": "pred", **saved},
    ]


def _deciding(plan: Plan) -> list[Transform]:
    if plan.regions:
        painted = "torch.zeros_like(x[:1])"
        for k, region in enumerate(plan.regions):
            painted = f"torch.where(x[{k}:{k + 1}] > 0, torch.full_like(x[:1], {region.value}), {painted})"
        return [{"_target_": "Lambdad", "keys": "pred", "func": f"$lambda x: {painted}"}]
    found: list[Transform] = [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}]
    classes = list(range(len(plan.values) + 1))
    if classes != [0, *plan.values]:
        values = {"orig_labels": classes, "target_labels": [0, *plan.values]}
        found.append({"_target_": "MapLabelValued", "keys": "pred", **values})
    return found


def metadata(network: Exportable, name: str, licence: str) -> dict[str, Any]:
    """`metadata.json`: what the specification demands, and what the outputs mean."""
    plan = network.plan
    shape, modality = list(network.patch), "/".join(plan.channels)
    structures = ", ".join(structure.name for structure in plan.structures)
    versions = {package: version(package) for package in ("nibabel", "scipy")} | {"pytorch-ignite": "0.5"}
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: f"exported by medseg {plan.medseg}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": versions,
        "name": name,
        "task": f"segmentation of {structures} in {modality}",
        "description": f"{plan.configuration.network.kind} of medseg, {network.words}, trained on {plan.cases} cases",
        "authors": "not stated",
        "copyright": licence or "not stated",
        "intended_use": RESEARCH_USE,
        "network_data_format": {
            "inputs": {
                "image": _tensor(network.channels, shape, modality, dict(enumerate(plan.channels)), "magnitude")
            },
            "outputs": {
                "pred": _tensor(len(network.outputs), shape, modality, dict(enumerate(network.outputs)), "labels")
            },
        },
    }


def _tensor(channels: int, shape: list[int], modality: str, told: dict[int, str], form: str) -> dict[str, Any]:
    return {
        "type": "image",
        "format": form,
        "modality": modality,
        "num_channels": channels,
        "spatial_shape": shape,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(k): name for k, name in told.items()},
    }


def readme(network: Exportable, name: str, agreement: float | None) -> str:
    """`README.md`: what it is, how to run it, and where it differs from medseg; agreement: see `Written`."""
    plan = network.plan
    if agreement is None:
        compared = "both label hardly a voxel: only the preparation and the network were compared with medseg's."
    else:
        compared = f"{100 * agreement:.2f} % of the voxels that either labels were as medseg finds them."
    values = "\n".join(f"- {structure.value}: {structure.name}" for structure in plan.structures)
    return f"""# {name}

{network.words} of a medseg model of {plan.dataset}. {RESEARCH_USE}

Labels in the files that it writes:

{values}

Run it (needs `pytorch-ignite`) on scans named `<case>_0000.nii.gz`, further channels `_0001` and so on:

    python -m monai.bundle run --config_file configs/inference.json --meta_file configs/metadata.json \\
        --bundle_root . --dataset_dir SCANS --output_dir OUT

`models/model.ts` computes what medseg's network computes. Scans are prepared and slid over by MONAI's transforms, which
interpolate a little differently and weigh tiles otherwise near a scan's corners; mirroring and post-processing are not
part of the bundle. On a made-up scan, without these,
{compared}
"""
