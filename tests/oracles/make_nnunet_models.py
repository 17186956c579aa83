"""Let nnU-Net itself build small models of every kind that medseg imports, and predict with them; keep its answers.

Run by hand with a Python that has nnunetv2 and nibabel installed (medseg needs it nowhere):

    python tests/oracles/make_nnunet_models.py

Writes nnunet_models/<case>/ beside this file: a model folder as nnU-Net leaves it (plans.json, dataset.json,
fold_0/checkpoint_final.pth), a scan, and answers.npz with what nnU-Net made of it: `prepared` (the network's input),
`patch` (the network's answer to the first patch of it), `logits` (of the sliding window) and `labels` (on the scan's
own grid). Weights are drawn at random: the answers mean nothing, but they are another for every voxel. Arrays are
(z, y, x) of the file, those of the network transposed as the plans say.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "nnunet_models"
INSTANCE_NORM = "torch.nn.modules.instancenorm.InstanceNorm"
SPLINE = {"order_z": 0, "force_separate_z": None}
TORCH = {"is_seg": False, "force_separate_z": None, "memefficient_seg_resampling": False}

# file: shape, spacing (mm) and orientation of the scan as stored; what differs from the plain model
CASES: dict[str, dict[str, Any]] = {
    "plain": {"file": ((14, 22, 17), (1.0, 0.8, 1.3), "LPS")},
    "resenc": {
        "network": "ResidualEncoderUNet",
        "file": ((15, 18, 20), (1.1, 0.9, 1.0), "RAS"),
        "channels": {"0": "CT", "1": "T1"},
        "schemes": ["CTNormalization", "ZScoreNormalization"],
        "masks": [False, True],
        "kernels": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "transpose": [1, 2, 0],
        "mirror": (0, 2),
    },
    "thick_slices": {
        "file": ((20, 24, 9), (0.8, 0.7, 4.0), "LAS"),
        "spacing": [3.2, 0.9, 0.9],
        "patch": [6, 16, 16],
        "kernels": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "mirror": None,
    },
    "2d": {
        "dims": 2,
        "configuration": "2d",
        "file": ((13, 9, 15), (1.0, 4.0, 1.2), "PIR"),
        "spacing": [1.1, 1.1],
        "patch": [8, 8],
        "kernels": [[3, 3]] * 3,
        "strides": [[1, 1], [2, 2], [2, 2]],
        "transpose": [1, 0, 2],
        "mirror": (0, 1),
    },
    "regions": {
        "file": ((18, 14, 16), (1.0, 1.0, 1.0), "LPI"),
        "reader": "NibabelIOWithReorient",
        "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "spot": 3, "ignore": 4},
        "order": [1, 2, 3],
        "channels": {"0": "a", "1": "b", "2": "c"},
        "schemes": ["NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization"],
        "masks": [False, False, False],
        "spacing": [1.2, 1.2, 1.2],
        "torch": True,
    },
    "lowres": {
        "configuration": "3d_lowres",
        "file": ((14, 22, 17), (1.0, 0.8, 1.3), "LPS"),
        "spacing": [2.0, 1.6, 1.8],
        "patch": [8, 8, 8],
    },
    "cascade": {
        "configuration": "3d_cascade_fullres",
        "file": ((14, 22, 17), (1.0, 0.8, 1.3), "LPS"),
        "previous": "3d_lowres",
    },
}
PLAIN: dict[str, Any] = {
    "dims": 3,
    "configuration": "3d_fullres",
    "network": "PlainConvUNet",
    "reader": "SimpleITKIO",
    "labels": {"background": 0, "liver": 1, "lesion": 2},
    "order": None,
    "channels": {"0": "MR"},
    "schemes": ["ZScoreNormalization"],
    "masks": [False],
    "spacing": [1.1, 0.9, 1.0],
    "patch": [12, 12, 8],
    "kernels": [[3, 3, 3]] * 3,
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 1]],
    "transpose": [0, 1, 2],
    "mirror": (0, 1, 2),
    "previous": None,
    "torch": False,
}


def plans_of(told: dict[str, Any]) -> dict[str, Any]:
    """plans.json."""
    dims, residual = told["dims"], told["network"] == "ResidualEncoderUNet"
    name = "resample_torch_fornnunet" if told["torch"] else "resample_data_or_seg_to_shape"
    keys = {
        part: TORCH if told["torch"] else {"is_seg": part == "seg", "order": order, **SPLINE}
        for part, order in (("data", 3), ("seg", 1), ("probabilities", 1))
    }
    configuration = {
        "data_identifier": "made",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": told["patch"],
        "median_image_size_in_voxels": [float(n) for n in told["patch"]],
        "spacing": told["spacing"],
        "normalization_schemes": told["schemes"],
        "use_mask_for_norm": told["masks"],
        **{f"resampling_fn_{part}": name for part in keys},
        **{f"resampling_fn_{part}_kwargs": key for part, key in keys.items()},
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{told['network']}",
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": [3, 4, 5],
                "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
                "kernel_sizes": told["kernels"],
                "strides": told["strides"],
                "n_blocks_per_stage" if residual else "n_conv_per_stage": [1, 2, 2] if residual else [2, 2, 2],
                "n_conv_per_stage_decoder": [1, 2],
                "conv_bias": True,
                "norm_op": f"{INSTANCE_NORM}{dims}d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
    }
    if told["previous"]:
        configuration["previous_stage"] = told["previous"]
    seen = {"mean": 60.0, "median": 55.0, "std": 40.0, "min": 0.0, "max": 250.0}
    seen |= {"percentile_00_5": 5.0, "percentile_99_5": 190.0}
    return {
        "dataset_name": "Dataset001_Made",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [16, 20, 18],
        "image_reader_writer": told["reader"],
        "transpose_forward": told["transpose"],
        "transpose_backward": [told["transpose"].index(k) for k in range(3)],
        "configurations": {told["configuration"]: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": dict.fromkeys(told["channels"], seen),
    }


def dataset_of(told: dict[str, Any]) -> dict[str, Any]:
    """dataset.json."""
    order = {} if told["order"] is None else {"regions_class_order": told["order"]}
    head = {"channel_names": told["channels"], "labels": told["labels"], **order}
    return {**head, "numTraining": 20, "file_ending": ".nii.gz"}


def write_scan(folder: Path, told: dict[str, Any]) -> list[Path]:
    """Smooth blobs on noise from 0 to 250, a margin of zeros; a file a channel, stored in the case's orientation."""
    import nibabel
    import numpy as np
    from nibabel.orientations import axcodes2ornt
    from scipy.ndimage import gaussian_filter

    shape, spacing, orientation = told["file"]
    rng = np.random.default_rng(7)
    to_ras = axcodes2ornt(orientation)
    affine = np.eye(4)
    for stored, (world, sign) in enumerate(to_ras):
        affine[:3, stored] = 0
        affine[int(world), stored] = sign * spacing[stored]
    affine[:3, 3] = -10, 20, 5
    paths = []
    for channel in range(len(told["channels"])):
        array = gaussian_filter(rng.normal(size=shape), 1.5)
        array = (array - array.min()) / (array.max() - array.min()) * 230 + rng.uniform(0, 20, shape)
        array[:2], array[:, -1] = 0, 0
        image = nibabel.Nifti1Image(np.round(array).astype(np.uint8), affine)
        image.set_sform(affine, 1)
        image.set_qform(affine, 1)
        paths.append(folder / f"scan_{channel:04d}.nii.gz")
        nibabel.save(image, paths[-1])
    return paths


def write_checkpoint(path: Path, told: dict[str, Any], network: Any) -> None:
    """As nnU-Net's trainer writes it, curves of numpy numbers included, but without the optimiser's state."""
    import numpy as np
    import torch

    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    path.parent.mkdir(exist_ok=True)
    checkpoint = {
        "network_weights": network.state_dict(),
        "optimizer_state": {},
        "grad_scaler_state": None,
        "logging": {
            "mean_fg_dice": [np.float32(0.5), np.float64(0.6)],
            "dice_per_class_or_region": [[np.float32(0.4), np.float32(0.6)]],
            "lrs": [0.01],
            "epoch_start_timestamps": [100.0, 110.0],
            "epoch_end_timestamps": [109.5, 121.0],
        },
        "_best_ema": np.float64(0.6),
        "current_epoch": 2,
        "init_args": {"configuration": told["configuration"], "fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": told["mirror"],
    }
    torch.save(checkpoint, path)


def answers(model: Path, scans: list[Path], told: dict[str, Any], previous: Path | None) -> dict[str, Any]:
    """What nnU-Net makes of the scan, step by step, with its own functions."""
    import numpy as np
    import torch
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot

    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), ("0",), "checkpoint_final.pth")
    plans, configuration, labels = predictor.plans_manager, predictor.configuration_manager, predictor.label_manager
    data, seg, properties = DefaultPreprocessor(verbose=False).run_case(
        list(map(str, scans)), None if previous is None else str(previous), plans, configuration, predictor.dataset_json
    )
    if previous is not None:
        data = np.vstack([data, convert_labelmap_to_one_hot(seg[0], labels.foreground_labels, data.dtype)])
    data = np.ascontiguousarray(data, dtype=np.float32)
    first = data[:, 0] if told["dims"] == 2 else data
    first = first[(slice(None), *(slice(0, n) for n in told["patch"]))]
    first = np.pad(first, [(0, 0), *((0, p - n) for p, n in zip(told["patch"], first.shape[1:], strict=True))])
    with torch.inference_mode():
        predictor.network.load_state_dict(predictor.list_of_parameters[0])
        patch = predictor.network.eval()(torch.from_numpy(np.ascontiguousarray(first))[None])[0].numpy()
    logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data))
    found = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits, plans, configuration, labels, dict(properties)
    )
    writer = plans.image_reader_writer_class()
    out = scans[0].with_name("labels.nii.gz")
    writer.write_seg(np.asarray(found), str(out), properties)
    return {"prepared": data, "patch": patch, "logits": logits.numpy(), "labels": out}


def main() -> None:
    """Make every case anew."""
    os.environ.update({f"nnUNet_{part}": "/nowhere" for part in ("raw", "preprocessed", "results")})
    import nibabel
    import numpy as np
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    shutil.rmtree(HERE, ignore_errors=True)
    for seed, (name, own) in enumerate(CASES.items()):
        told = {**PLAIN, **own}
        torch.manual_seed(seed)
        folder = HERE / ("cascade" if name == "lowres" else name)
        model = folder / f"nnUNetTrainer__nnUNetPlans__{told['configuration']}"
        model.mkdir(parents=True)
        plans, dataset = plans_of(told), dataset_of(told)
        for file, content in (("plans.json", plans), ("dataset.json", dataset)):
            (model / file).write_text(json.dumps(content))
        manager = PlansManager(plans)
        configuration = manager.get_configuration(told["configuration"])
        inputs = determine_num_input_channels(manager, configuration, dataset)
        outputs = manager.get_label_manager(dataset).num_segmentation_heads
        network = nnUNetTrainer.build_network_architecture(manager, configuration, inputs, outputs, True)
        write_checkpoint(model / "fold_0" / "checkpoint_final.pth", told, network)
        scans = write_scan(folder, told)
        previous = folder / "first.nii.gz" if told["previous"] else None
        kept = answers(model, scans, told, previous)
        labels = kept.pop("labels")
        kept["labels"] = np.asarray(nibabel.load(labels).dataobj).astype(np.uint8)
        if name == "lowres":
            labels.rename(folder / "first.nii.gz")
            continue
        labels.unlink()
        np.savez_compressed(folder / "answers.npz", **kept)
        print(name, {key: value.shape for key, value in kept.items()}, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
