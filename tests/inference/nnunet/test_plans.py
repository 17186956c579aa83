from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medseg.errors import InputError
from medseg.inference.nnunet.plans import plan_of
from medseg.planning.plan import Plan
from medseg.preprocessing.settings import Resampling
from tests.inference.nnunet.build import changed, copied, opened

Told = dict[str, Any]


def plan_after(model: Path, change: Callable[[Told], object], file: str = "plans.json") -> Plan:
    changed(model / file, change)
    return plan_of([opened(model)])


def fullres(told: Told) -> Told:
    own: Told = told["configurations"]["3d_fullres"]
    return own


def keys(told: Told) -> Told:
    own: Told = fullres(told)["architecture"]["arch_kwargs"]
    return own


def test_their_numbers_along_our_axes(tmp_path: Path) -> None:
    """Theirs are along z, y, x of the file: the kept model has patch 12, 12, 8, spacing 1.1, 0.9, 1.0."""
    plan = plan_of([opened(copied(tmp_path))])
    made = plan.configuration
    assert (plan.dataset, plan.chosen, plan.channels, plan.cases) == ("Dataset001_Made", "3d", ("MR",), 20)
    assert plan.names == {1: "liver", 2: "lesion"}
    assert made.patch == made.median_shape == (8, 12, 12)
    assert made.preprocessing.spacing_mm == (1.0, 0.9, 1.1)
    assert made.network.strides == ((1, 1, 1), (2, 2, 2), (1, 2, 2))
    assert made.network.convs_decoder == (2, 1)  # theirs, from the lowest stage up, is [1, 2]
    assert made.window.mirror_axes == made.schedule.mirror_axes == (0, 1, 2)
    assert (made.window.step, made.preprocessing.orientation, made.preprocessing.crop) == (0.5, "stored", "nonzero")
    assert made.preprocessing.resampling == Resampling(order=3, thick="nearest", float32_spacing=True)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_a_transposed_model(tmp_path: Path) -> None:
    """Transposed by (1, 2, 0) its axes are y, x, z of the file."""
    model = copied(tmp_path, "resenc")
    changed(model / "plans.json", lambda told: fullres(told).update(patch_size=[4, 8, 12], spacing=[1.0, 2.0, 3.0]))
    made = plan_of([opened(model)]).configuration
    assert made.patch == (8, 4, 12)
    assert made.preprocessing.spacing_mm == (2.0, 1.0, 3.0)
    assert made.network.kernels[0] == (3, 1, 3)
    assert made.network.strides[1] == (2, 1, 2)
    assert made.window.mirror_axes == (1, 2)  # theirs are 0 and 2
    assert made.network.kind == "resenc"
    assert [(how.kind, how.nonzero_only) for how in made.preprocessing.channels] == [("ct", False), ("zscore", True)]
    assert made.preprocessing.channels[0].upper == 190


def test_slices(tmp_path: Path) -> None:
    made = plan_of([opened(copied(tmp_path, "2d", "nnUNetTrainer__nnUNetPlans__2d"))]).configuration
    assert (made.name, made.slice_axis, made.patch) == ("2d", 1, (8, 1, 8))
    assert made.preprocessing.spacing_mm == (1.1, None, 1.1)
    assert made.window.mirror_axes == (0, 2)


def test_regions_and_their_order(tmp_path: Path) -> None:
    plan = plan_of([opened(copied(tmp_path, "regions"))])
    assert [(r.name, r.values, r.value) for r in plan.regions] == [
        ("whole", (1, 2, 3), 1),
        ("core", (2, 3), 2),
        ("spot", (3,), 3),
    ]
    assert plan.ignore == 4
    assert plan.configuration.network.classes == 3
    assert plan.configuration.preprocessing.orientation == "ras"
    assert plan.configuration.preprocessing.resampling == Resampling(order=1, thick="nearest", float32_spacing=True)


def test_a_configuration_inherits(tmp_path: Path) -> None:
    def inherit(told: Told) -> None:
        whole = told["configurations"].pop("3d_fullres")
        told["configurations"] |= {"base": whole, "3d_fullres": {"inherits_from": "base", "batch_size": 7}}

    assert plan_after(copied(tmp_path), inherit).configuration.schedule.batch == 7


def older(told: Told) -> None:
    """As before version 2.4: the network by keys of their own, and intensities under an older name."""
    network = fullres(told).pop("architecture")["arch_kwargs"]
    fullres(told).update(
        UNet_class_name="PlainConvUNet",
        UNet_base_num_features=3,
        unet_max_num_features=5,
        n_conv_per_stage_encoder=network["n_conv_per_stage"],
        n_conv_per_stage_decoder=network["n_conv_per_stage_decoder"],
        conv_kernel_sizes=network["kernel_sizes"],
        pool_op_kernel_sizes=network["strides"],
    )
    told["foreground_intensity_properties_by_modality"] = told.pop("foreground_intensity_properties_per_channel")


def test_plans_before_version_2_4(tmp_path: Path) -> None:
    model = copied(tmp_path)
    now = plan_of([opened(model)])
    found = plan_after(model, older).configuration.network
    assert found == now.configuration.network.model_copy(update={"features": (3, 5, 5)})


@pytest.mark.parametrize(
    "damage",
    [
        lambda own: own.pop("n_conv_per_stage_encoder"),
        lambda own: own.pop("conv_kernel_sizes"),
        lambda own: own.update(n_conv_per_stage_encoder=3),
        lambda own: own.update(UNet_base_num_features=None),
        lambda own: own.update(patch_size=None),
    ],
)
def test_plans_before_version_2_4_that_are_damaged(tmp_path: Path, damage: Callable[[Told], object]) -> None:
    def damaged(told: Told) -> None:
        older(told)
        damage(fullres(told))

    with pytest.raises(InputError, match=r"configuration 3d_fullres is not as nnU-Net before version 2\.4 writes it"):
        plan_after(copied(tmp_path), damaged)


def resampled(told: Told, **keys: object) -> None:
    for part in ("data", "probabilities"):
        fullres(told)[f"resampling_fn_{part}_kwargs"].update(keys)


def left_out(told: Told, key: str) -> None:
    for part in ("data", "probabilities"):
        fullres(told)[f"resampling_fn_{part}_kwargs"].pop(key)


def test_resampling_as_the_functions_have_it_unless_told(tmp_path: Path) -> None:
    """nnU-Net's splines take thick slices as all others unless told, its interpolation by torch one by one."""
    spline = plan_after(copied(tmp_path / "a"), lambda told: left_out(told, "force_separate_z"))
    assert spline.configuration.preprocessing.resampling == Resampling(order=3, thick="alike", float32_spacing=True)
    linear = plan_after(copied(tmp_path / "b", "regions"), lambda told: left_out(told, "force_separate_z"))
    assert linear.configuration.preprocessing.resampling.thick == "nearest"
    cubic = plan_after(copied(tmp_path / "c"), lambda told: fullres(told)["resampling_fn_data_kwargs"].pop("order"))
    assert cubic.configuration.preprocessing.resampling.order == 3


def test_what_does_not_change_a_scan_is_passed_over(tmp_path: Path) -> None:
    how = {"num_threads": 8, "device": "cpu", "memefficient_seg_resampling": True, "separate_z_anisotropy_threshold": 3}
    plan = plan_after(copied(tmp_path), lambda told: resampled(told, **how))
    assert plan.configuration.preprocessing.resampling == Resampling(order=3, thick="nearest", float32_spacing=True)


REFUSED: dict[str, tuple[Callable[[Told], object], str]] = {
    "another network": (
        lambda told: fullres(told)["architecture"].update(network_class_name="x.PrimusM"),
        "its network is PrimusM; only PlainConvUNet and ResidualEncoderUNet can be imported",
    ),
    "an unknown key": (lambda told: keys(told).update(squeeze_excitation=True), "arch_kwargs.squeeze_excitation"),
    "another norm": (
        lambda told: keys(told).update(norm_op="torch.nn.BatchNorm3d"),
        "normalises by torch.nn.BatchNorm3d",
    ),
    "another epsilon": (lambda told: keys(told).update(norm_op_kwargs={"eps": 1e-3, "affine": True}), "0.001"),
    "another activation": (lambda told: keys(told).update(nonlin="torch.nn.ReLU"), "its network has torch.nn.ReLU"),
    "another slope": (lambda told: keys(told).update(nonlin_kwargs={"negative_slope": 0.2}), "negative_slope"),
    "even kernels": (lambda told: keys(told).update(kernel_sizes=[[2, 3, 3]] * 3), "kernels of even size"),
    "too few stages": (lambda told: keys(told).update(features_per_stage=[3, 4]), "stages are not told one by one"),
    "a reader": (lambda told: told.update(image_reader_writer="NaturalImage2DIO"), "reads images by NaturalImage2DIO"),
    "a preprocessor": (lambda told: fullres(told).update(preprocessor_name="Mine"), "prepares scans by Mine"),
    "a normalisation": (
        lambda told: fullres(told).update(normalization_schemes=["MyNorm"]),
        "normalises channel 0 by MyNorm",
    ),
    "a resampling": (lambda told: fullres(told).update(resampling_fn_data="no_resampling_hack"), "no_resampling_hack"),
    "an order": (lambda told: fullres(told)["resampling_fn_data_kwargs"].update(order=2), "resamples in a way"),
    "forced slices": (
        lambda told: fullres(told)["resampling_fn_data_kwargs"].update(force_separate_z=True),
        "resamples in a way",
    ),
    "slices forced for scans alone": (
        lambda told: fullres(told)["resampling_fn_data_kwargs"].pop("force_separate_z"),
        "resamples in a way",
    ),
    "another bound of thick slices": (
        lambda told: resampled(told, separate_z_anisotropy_threshold=2),
        r"resamples in a way .*'separate_z_anisotropy_threshold': 2",
    ),
    "another mode": (lambda told: resampled(told, mode="nearest"), "resamples in a way .*'mode': 'nearest'"),
    "another mode of thick slices": (lambda told: resampled(told, aniso_axis_mode="linear"), "'aniso_axis_mode'"),
    "scans resampled as labels": (lambda told: resampled(told, is_seg=True), r"resampling_fn_data_kwargs\.is_seg"),
    "an unknown key of resampling": (
        lambda told: resampled(told, antialias=True),
        r"resampling_fn_data_kwargs\.antialias: extra inputs are not permitted",
    ),
    "what inherits from no name": (
        lambda told: fullres(told).update(inherits_from=["3d_lowres"]),
        "no whole configuration 3d_fullres",
    ),
    "label numbers": (lambda told: told.update(label_manager="Mine"), "numbers labels by Mine"),
    "no transposition": (lambda told: told.update(transpose_forward=[0, 0, 1]), "neither two nor three dimensions"),
    "a missing key": (lambda told: fullres(told).pop("spacing"), r"configuration 3d_fullres cannot .*spacing"),
    "no such configuration": (lambda told: told.update(configurations={}), "no whole configuration 3d_fullres"),
    "a circle": (lambda told: fullres(told).update(inherits_from="3d_fullres"), "no whole configuration"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_done_as_nnunet_does_is_refused_and_named(tmp_path: Path, what: str) -> None:
    change, said = REFUSED[what]
    with pytest.raises(InputError, match=said) as caught:
        plan_after(copied(tmp_path), change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "order", "said"),
    [
        ({"background": 0, "a": 1, "b": 3}, None, "not numbered 1, 2, 3"),
        ({"background": 0, "a": [1, 2], "b": 2}, None, "without an order"),
        ({"background": 0, "a": [1, 2], "b": 2}, [1, 7], "paints regions as 7"),
    ],
)
def test_labels_that_would_be_painted_otherwise_are_refused(
    tmp_path: Path, labels: Told, order: list[int] | None, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        plan_after(copied(tmp_path), lambda told: told.update(labels=labels, regions_class_order=order), "dataset.json")
