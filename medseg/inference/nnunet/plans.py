"""nnU-Net's plans and data set as our `Plan`: the same numbers along X, Y and Z of the file.

What cannot be said so exactly that both predict the same is refused, and named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from medseg.errors import InputError
from medseg.imaging.structures import Structures, read_structures
from medseg.inference.nnunet.axes import Axes, axes_of
from medseg.inference.nnunet.checkpoint import Checkpoint
from medseg.inference.nnunet.theirs import (
    Intensities,
    NetworkKeys,
    TheirConfiguration,
    TheirPlans,
    read_dataset,
    read_json,
    read_plans,
)
from medseg.networks.topology import NetworkSettings
from medseg.networks.unet import EPSILON, NEGATIVE_SLOPE
from medseg.planning.cost import GB, training_bytes
from medseg.planning.plan import Budget, Configuration, Cost, Name, Plan, Reason, Region, Request, Schedule, Window
from medseg.planning.plan import Structure as Found
from medseg.preprocessing.settings import Normalisation, Orientation, PreprocessingSettings, Resampling

READERS: dict[str, Orientation] = {
    "SimpleITKIO": "stored",
    "NibabelIO": "stored",
    "SimpleITKIOWithReorient": "ras",
    "NibabelIOWithReorient": "ras",
}
KINDS: dict[str, Literal["unet", "resenc"]] = {"PlainConvUNet": "unet", "ResidualEncoderUNet": "resenc"}
SCHEMES: dict[str, Literal["ct", "zscore", "minmax", "rgb", "none"]] = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "RescaleTo01Normalization": "minmax",
    "RGBTo01Normalization": "rgb",
    "NoNormalization": "none",
}
LINEAR_FUNCTION = "resample_torch_fornnunet"
SPLINE_FUNCTION = "resample_data_or_seg_to_shape"
IMPORTED = "its nnU-Net plans say so"


@dataclass(frozen=True, eq=False)
class Told:
    """What a model folder tells: its files, and what it finds. name: of the configuration, as nnU-Net calls it."""

    folder: Path
    name: str
    plans: TheirPlans
    theirs: TheirConfiguration
    channels: tuple[str, ...]
    cases: int
    structures: Structures
    axes: Axes

    @property
    def ours(self) -> Name:
        """What the configuration is called here."""
        if self.axes.dims == 2:
            return "2d"
        if self.theirs.previous_stage is not None:
            return "3d_cascade"
        return "3d_lowres" if "lowres" in self.name else "3d"

    @property
    def outputs(self) -> int:
        """Of the network: one a region, or one a structure and the background."""
        regions = self.structures.regions
        return len(regions) if regions else 1 + len(self.structures.labels)


def told_by(folder: Path, name: str) -> Told:
    """Read the files of a model folder; `name` is the configuration that its checkpoints were trained for.

    Raises:
        InputError: one is missing, or says what medseg cannot do as nnU-Net does.
    """
    plans, dataset = read_plans(folder / "plans.json"), read_dataset(folder / "dataset.json")
    if plans.label_manager != "LabelManager":
        raise InputError(f"numbers labels by {plans.label_manager}, which medseg does not know", folder)
    theirs = plans.configuration(name, folder / "plans.json")
    dims = len(theirs.patch_size)
    if dims not in (2, 3) or sorted(plans.transpose_forward) != [0, 1, 2]:
        raise InputError("plans of neither two nor three dimensions", folder)
    structures = read_structures(read_json(folder / "dataset.json"), folder / "dataset.json")
    _check_labels(structures, folder)
    channels = tuple(name for _, name in sorted(dataset.channels.items()))
    return Told(
        folder, name, plans, theirs, channels, dataset.training, structures, axes_of(plans.transpose_forward, dims)
    )


def _check_labels(structures: Structures, folder: Path) -> None:
    """nnU-Net answers by the number of an output: labels must be counted without a gap, and regions ordered."""
    if structures.regions:
        if unknown := set(structures.region_order) - set(structures.labels):
            raise InputError(f"paints regions as {min(unknown)}, which is none of its labels", folder / "dataset.json")
        if not structures.region_order:
            raise InputError("has regions without an order (regions_class_order)", folder / "dataset.json")
    elif sorted(structures.labels) != list(range(1, 1 + len(structures.labels))):
        raise InputError("its labels are not numbered 1, 2, 3 and so on", folder / "dataset.json")


def plan_of(stages: Sequence[tuple[Told, Checkpoint]]) -> Plan:
    """The plan of a model, of a cascade of both its stages; the last is the one that predicts.

    Raises:
        InputError: something of it medseg cannot do as nnU-Net does.
    """
    told, checkpoint = stages[-1]
    configurations = {stage.ours: _configuration(stage, trained) for stage, trained in stages}
    chosen = configurations[told.ours]
    reason = Reason(
        topic="origin",
        choice=f"{told.plans.dataset_name}: {checkpoint.trainer}, {told.plans.plans_name}, {told.name}",
        why="trained by nnU-Net and taken over; every number is that of its plans",
        fields=("channels", "structures", "regions", "ignore", "configurations", "chosen"),
    )
    regions = told.structures.regions.items()
    return Plan(
        medseg=version("medseg"),
        dataset=told.plans.dataset_name,
        channels=told.channels,
        structures=tuple(Found(value=value, name=name) for value, name in sorted(told.structures.labels.items())),
        regions=tuple(
            Region(name=name, values=values, value=painted)
            for (name, values), painted in zip(regions, told.structures.region_order, strict=True)
        ),
        ignore=told.structures.ignore,
        cases=told.cases,
        fingerprint="",
        request=Request(spacing="median", network="unet" if chosen.network.kind == "unet" else "resenc-m"),
        budget=Budget(steps=checkpoint.steps),
        configurations=configurations,
        chosen=told.ours,
        reasons=(reason,),
    )


def _configuration(told: Told, checkpoint: Checkpoint) -> Configuration:
    theirs, axes = told.theirs, told.axes
    network, mirrored = _network(told), axes.mirrored(checkpoint.mirror_axes)
    patch = axes.volume(theirs.patch_size, 1)
    within = tuple(n for axis, n in enumerate(patch) if axis != axes.slice_axis)
    sizes = axes.volume(theirs.median_image_size_in_voxels, told.plans.original_median_shape_after_transp[0])
    x, y, z = (round(n) for n in sizes)
    schedule = Schedule(
        batch=theirs.batch_size,
        optimiser="sgd",
        learning_rate=0.01,
        weight_decay=3e-5,
        warm_up_share=0.0,
        foreground_share=1 / 3,
        batch_dice=theirs.batch_dice,
        mirror_axes=mirrored,
    )
    return Configuration(
        name=told.ours,
        slice_axis=axes.slice_axis,
        preprocessing=_preprocessing(told),
        patch=patch,
        network=network,
        schedule=schedule,
        window=Window(step=0.5, mirror_axes=mirrored, centre="upper"),
        median_shape=(x, y, z),
        previous=None if theirs.previous_stage is None else "3d_lowres",
        cost=_cost(network, within, theirs.batch_size, checkpoint.steps),
        reasons=(Reason(topic="configuration", choice=told.name, why=IMPORTED),),
    )


def _cost(network: NetworkSettings, patch: tuple[int, ...], batch: int, steps: int) -> Cost:
    """What it took to train is not known here but for the steps; memory is what training it on a CPU would need."""
    return Cost(
        hours=None,
        steps=steps,
        step_s=None,
        training_gb=training_bytes(network, patch, batch) / GB,
        preparing_gb=0.0,
        inference_s=None,
        cache_gb=0.0,
        measured=False,
    )


def _preprocessing(told: Told) -> PreprocessingSettings:
    theirs = told.theirs
    orientation = READERS.get(told.plans.image_reader_writer)
    if orientation is None:
        what = f"reads images by {told.plans.image_reader_writer}, and medseg knows no such scans"
        raise InputError(what, told.folder, f"models of {', '.join(READERS)} can be imported")
    if theirs.preprocessor_name != "DefaultPreprocessor":
        raise InputError(f"prepares scans by {theirs.preprocessor_name}, which medseg does not know", told.folder)
    if not len(theirs.normalization_schemes) == len(theirs.use_mask_for_norm) == len(told.channels):
        raise InputError("names not one normalisation a channel", told.folder)
    schemes = zip(theirs.normalization_schemes, theirs.use_mask_for_norm, strict=True)
    return PreprocessingSettings(
        spacing_mm=told.axes.volume(theirs.spacing, None),
        channels=tuple(
            _normalisation(scheme, masked, told.plans.intensities, k, told.folder)
            for k, (scheme, masked) in enumerate(schemes)
        ),
        crop="nonzero",
        orientation=orientation,
        resampling=_resampling(theirs, told.folder),
    )


def _normalisation(
    scheme: str, masked: bool, intensities: Mapping[str, Intensities], channel: int, folder: Path
) -> Normalisation:
    kind = SCHEMES.get(scheme)
    if kind is None:
        raise InputError(f"normalises channel {channel} by {scheme}, which medseg does not know", folder)
    if kind != "ct":
        return Normalisation(kind=kind, nonzero_only=masked and kind == "zscore")
    seen = intensities.get(str(channel))
    if seen is None:
        raise InputError(f"its plans hold no intensities of channel {channel}", folder)
    return Normalisation(kind="ct", lower=seen.percentile_00_5, upper=seen.percentile_99_5, mean=seen.mean, sd=seen.std)


def _resampling(theirs: TheirConfiguration, folder: Path) -> Resampling:
    """Scans by cubic or linear splines, answers linearly, both by the same rule for thick slices."""
    image, answers = theirs.resampling_fn_data_kwargs, theirs.resampling_fn_probabilities_kwargs
    functions = {theirs.resampling_fn_data, theirs.resampling_fn_probabilities}
    linear = functions == {LINEAR_FUNCTION}
    order = 1 if linear else image.order
    known = linear or (functions == {SPLINE_FUNCTION} and answers.order == 1)
    unless_told = None if linear else False  # as the functions have it
    forced, answers_forced = (
        keys.force_separate_z if "force_separate_z" in keys.model_fields_set else unless_told
        for keys in (image, answers)
    )
    alike = forced == answers_forced and forced is not True
    if not known or order not in (1, 3) or not alike or not (image.usual and answers.usual):
        told = ", ".join(
            f"{f} {k.model_dump(exclude_unset=True)}"
            for f, k in ((theirs.resampling_fn_data, image), (theirs.resampling_fn_probabilities, answers))
        )
        raise InputError(f"resamples in a way that medseg does not know ({told})", folder)
    thick: Literal["nearest", "alike"] = "nearest" if forced is None else "alike"
    return Resampling(order=1 if order == 1 else 3, thick=thick, float32_spacing=True)


def _network(told: Told) -> NetworkSettings:
    architecture = told.theirs.architecture
    name, keys = architecture.network_class_name.rpartition(".")[2], architecture.arch_kwargs
    kind, folder = KINDS.get(name), told.folder
    if kind is None:
        raise InputError(f"its network is {name}; only {' and '.join(KINDS)} can be imported", folder)
    encoder = keys.n_conv_per_stage if kind == "unet" else keys.n_blocks_per_stage
    _check_layers(keys, encoder, told)
    labels = len(told.structures.labels) if told.theirs.previous_stage is not None else 0
    return NetworkSettings(
        kind=kind,
        dims=3 if told.axes.dims == 3 else 2,
        in_channels=len(told.channels) + labels,
        classes=told.outputs,
        features=keys.features_per_stage,
        kernels=tuple(told.axes.stage(kernel) for kernel in keys.kernel_sizes),
        strides=tuple(told.axes.stage(stride) for stride in keys.strides),
        convs_encoder=encoder or (),
        convs_decoder=keys.n_conv_per_stage_decoder[::-1],
        up_bias=keys.conv_bias,
    )


def _check_layers(keys: NetworkKeys, encoder: tuple[int, ...] | None, told: Told) -> None:
    """Refuse what our networks do otherwise.

    Raises:
        InputError: the layers are others than convolution, instance norm, leaky ReLU; or a list is too short.
    """
    dims, folder = told.axes.dims, told.folder
    lists = keys.features_per_stage, keys.kernel_sizes, keys.strides, encoder or ()
    if any(len(one) != keys.n_stages for one in lists) or len(keys.n_conv_per_stage_decoder) != keys.n_stages - 1:
        raise InputError("its network's stages are not told one by one", folder)
    if any(len(one) != dims for one in (*keys.kernel_sizes, *keys.strides)) or not keys.conv_op.endswith(
        f"Conv{dims}d"
    ):
        raise InputError("its network has other dimensions than its patch", folder)
    if max(keys.strides[0]) > 1 or any(k % 2 == 0 for kernel in keys.kernel_sizes for k in kernel):
        raise InputError("its network halves the scan at once, or has kernels of even size", folder)
    norm = {"eps": 1e-5, "affine": False, **(keys.norm_op_kwargs or {})}
    if not (keys.norm_op or "").endswith(f"InstanceNorm{dims}d") or norm != {"eps": EPSILON, "affine": True}:
        raise InputError(
            f"its network normalises by {keys.norm_op} {keys.norm_op_kwargs}, ours by instance norm", folder
        )
    slope = {"negative_slope": 0.01, **(keys.nonlin_kwargs or {})}["negative_slope"]
    if not (keys.nonlin or "").endswith(".LeakyReLU") or slope != NEGATIVE_SLOPE:
        raise InputError(f"its network has {keys.nonlin} {keys.nonlin_kwargs}, ours leaky ReLU", folder)
