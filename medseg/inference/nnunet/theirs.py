"""What is read of nnU-Net's own files: dataset.json, plans.json and summary.json, checked before anything rests on it.

Keys that are not named here say nothing about prediction and are passed over; of the keys of an architecture and of
resampling none may be unknown, since each changes the network or what it sees.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from medseg.errors import InputError

FEATURES_3D, FEATURES_2D = 320, 512
ANISOTROPIC = 3  # times the finest spacing


class _Theirs(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Intensities(_Theirs):
    """Of one channel's labelled voxels, in the whole data set."""

    mean: float
    std: float
    percentile_00_5: float
    percentile_99_5: float


class NetworkKeys(BaseModel):
    """`arch_kwargs`: lists run from full resolution down, but those of the decoder from its lowest stage up."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_stages: int
    features_per_stage: tuple[int, ...]
    conv_op: str
    kernel_sizes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    n_conv_per_stage: tuple[int, ...] | None = None
    n_blocks_per_stage: tuple[int, ...] | None = None
    n_conv_per_stage_decoder: tuple[int, ...]
    conv_bias: bool = False
    norm_op: str | None = None
    norm_op_kwargs: dict[str, Any] | None = None
    dropout_op: str | None = None  # a trained network drops nothing
    dropout_op_kwargs: dict[str, Any] | None = None
    nonlin: str | None = None
    nonlin_kwargs: dict[str, Any] | None = None
    deep_supervision: bool = True


class Architecture(_Theirs):
    """Which network, and what it is told."""

    network_class_name: str
    arch_kwargs: NetworkKeys


class ResamplingKeys(BaseModel):
    """What a resampling function is told; where nothing else stands here, what it takes unless told.

    force_separate_z: unless told one function takes None and the other False. The last three say how labels are
    resampled, and where.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    order: int = 3
    order_z: int = 0
    force_separate_z: bool | None = None
    separate_z_anisotropy_threshold: float = ANISOTROPIC
    mode: str = "linear"
    aniso_axis_mode: str = "nearest-exact"
    is_seg: Literal[False] = False
    memefficient_seg_resampling: Any = None
    num_threads: Any = None
    device: Any = None

    @property
    def usual(self) -> bool:
        """True if thick slices are those that nnU-Net calls so, and are resampled as it does unless told."""
        thick = self.order_z, self.separate_z_anisotropy_threshold, self.mode, self.aniso_axis_mode
        return thick == (0, ANISOTROPIC, "linear", "nearest-exact")


class TheirConfiguration(_Theirs):
    """One configuration, axes as nnU-Net has them after its transposition; of 2D ones the two of a slice."""

    preprocessor_name: str = "DefaultPreprocessor"
    batch_size: int
    patch_size: tuple[int, ...]
    spacing: tuple[float, ...]
    median_image_size_in_voxels: tuple[float, ...]
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    resampling_fn_data: str
    resampling_fn_data_kwargs: ResamplingKeys
    resampling_fn_probabilities: str
    resampling_fn_probabilities_kwargs: ResamplingKeys
    architecture: Architecture
    batch_dice: bool = False
    previous_stage: str | None = None


class TheirPlans(_Theirs):
    """plans.json; configurations are kept as they stand, as one may inherit from another."""

    dataset_name: str
    plans_name: str
    image_reader_writer: str
    transpose_forward: tuple[int, int, int]
    original_median_shape_after_transp: tuple[float, float, float]
    label_manager: str = "LabelManager"
    intensities: dict[str, Intensities] = Field(
        validation_alias=AliasChoices(
            "foreground_intensity_properties_per_channel", "foreground_intensity_properties_by_modality"
        )
    )
    configurations: dict[str, dict[str, Any]]

    def configuration(self, name: str, where: Path) -> TheirConfiguration:
        """One configuration with all that it inherits.

        Raises:
            InputError: there is none of this name, or it is not as nnU-Net writes it.
        """
        told: dict[str, Any] = {}
        visited: list[str] = []
        here: Any = name
        while here is not None:
            if not isinstance(here, str) or here not in self.configurations or here in visited:
                raise InputError(f"its plans hold no whole configuration {name}", where)
            visited.append(here)
            own = self.configurations[here]
            told = {**own, **told}
            here = own.get("inherits_from")
        try:
            told = _with_architecture(told)
        except (KeyError, TypeError) as error:
            what = f"its configuration {name} is not as nnU-Net before version 2.4 writes it ({error})"
            raise InputError(what, where) from error
        return _checked(TheirConfiguration, told, where, f"configuration {name}")


class TheirDataset(_Theirs):
    """dataset.json without its labels, which `imaging.structures` reads."""

    channels: dict[int, str] = Field(validation_alias=AliasChoices("channel_names", "modality"))
    training: int = Field(0, alias="numTraining")


T = TypeVar("T", bound=BaseModel)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        InputError: it is missing or holds anything else.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"holds no {path.name}, which every model of nnU-Net has", path.parent) from None
    except (OSError, ValueError) as error:
        raise InputError("cannot be read as JSON", path) from error
    if not isinstance(told, dict):
        raise InputError("is not as nnU-Net writes it", path)
    return told


def read_plans(path: Path) -> TheirPlans:
    """plans.json.

    Raises:
        InputError: it is missing, or not as nnU-Net v2 writes it.
    """
    return _checked(TheirPlans, read_json(path), path, "plans")


def read_dataset(path: Path) -> TheirDataset:
    """dataset.json.

    Raises:
        InputError: it is missing, or not as nnU-Net v2 writes it.
    """
    return _checked(TheirDataset, read_json(path), path, "dataset")


def _checked(kind: type[T], told: Mapping[str, Any], where: Path, what: str) -> T:
    try:
        return kind.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(f"its {what} cannot be taken over ({key}: {first['msg'].lower()})", where) from error


def _with_architecture(told: dict[str, Any]) -> dict[str, Any]:
    """The same in today's form: plans before nnU-Net 2.4 tell the network by keys of their own."""
    if "architecture" in told or "UNet_class_name" not in told:
        return told
    stages = told["n_conv_per_stage_encoder"]
    dims = len(told["patch_size"])
    widest = told.get("unet_max_num_features", FEATURES_3D if dims == 3 else FEATURES_2D)
    blocks = "n_conv_per_stage" if told["UNet_class_name"] == "PlainConvUNet" else "n_blocks_per_stage"
    keys = {
        "n_stages": len(stages),
        "features_per_stage": [min(told["UNet_base_num_features"] * 2**s, widest) for s in range(len(stages))],
        "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "kernel_sizes": told["conv_kernel_sizes"],
        "strides": told["pool_op_kernel_sizes"],
        blocks: stages,
        "n_conv_per_stage_decoder": told["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {**told, "architecture": {"network_class_name": told["UNet_class_name"], "arch_kwargs": keys}}
