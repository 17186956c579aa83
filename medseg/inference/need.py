"""What predicting one scan takes, told from its header: tiles of the sliding window, memory and disk.

Closed formulas of shapes, no measurement. They are upper bounds in one respect: how much a crop will leave of a scan is
not known before its voxels are read, so the whole of it counts.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from medseg.imaging.grid import Grid, closest_axes
from medseg.inference.tiles import grouped, slab_axis, tile_count, tile_starts, tiles_a_forward
from medseg.networks.work import activations
from medseg.planning.plan import Configuration, Name
from medseg.preprocessing.axis import Shape
from medseg.preprocessing.cache import predicted_bytes
from medseg.preprocessing.orientation import turn_to, turned_numbers
from medseg.preprocessing.prepare import resampled_shape

FLOAT = 4.0  # bytes
FORWARD_BYTES_A_VALUE = 4.0  # a forward pass holds about what its layers put out, once (2.1 to 5.4 measured on a CPU)
FORWARD_BASE_BYTES = 5e7  # what kernels take for themselves
LABEL_COPIES = 3  # of a label map while it is cleaned or written: itself, one to work on, and what is read back
WRITING_BYTES = 3e7  # a writer's own: codecs, DICOM headers
DISK_A_VOXEL = {"nifti": 0.04, "nrrd": 0.04, "labelmap": 0.05, "rtstruct": 0.1, "sr": 0.0}  # of labels as they are met
SEG_FILLED = 0.25  # of the slices of a SEG that hold a structure; empty ones are left out, each voxel is a bit


@dataclass(frozen=True, slots=True)
class Need:
    """What one scan takes at most.

    slices: head to foot. tiles: by configuration. load_bytes, compute_bytes, write_bytes: memory of each stage, what is
    handed on included, without the network's own and without sums. image_bytes: of what a network reads, which a GPU
    holds. sums_bytes: of the logits that are not finished. scratch_bytes: of what lies on disk meanwhile. disk_bytes:
    of results.
    """

    voxels: int
    slices: int
    tiles: Mapping[Name, int]
    load_bytes: float
    compute_bytes: float
    write_bytes: float
    image_bytes: float
    sums_bytes: float
    scratch_bytes: float
    disk_bytes: float

    @property
    def peak_bytes(self) -> float:
        """Memory in the stage that takes most."""
        return max(self.load_bytes, self.compute_bytes + self.sums_bytes, self.write_bytes)

    @property
    def least_bytes(self) -> float:
        """The same with sums on disk, which is slow, but no reason to refuse a scan."""
        return max(self.load_bytes, self.compute_bytes, self.write_bytes)


def need_of(
    grid: Grid,
    configurations: Mapping[Name, Configuration],
    values: Sequence[int],
    formats: Sequence[str],
    kind: str,
    spooled: Collection[Name] = (),
) -> Need:
    """What a scan on `grid` takes of all `configurations` that predict it.

    values: of the labels. formats: of the results. kind: cpu or cuda. spooled: configurations whose logits are needed
    whole, since they are averaged or mapped.
    """
    voxels = math.prod(grid.shape)
    shapes = {name: prepared_shape(grid, one) for name, one in configurations.items()}
    channels = max(len(one.preprocessing.channels) for one in configurations.values())
    largest = max(configurations, key=lambda name: math.prod(shapes[name]))
    masked = any(how.nonzero_only for one in configurations.values() for how in one.preprocessing.channels)
    images = {n: FLOAT * one.network.in_channels * math.prod(shapes[n]) for n, one in configurations.items()}
    stacked = max((images[n] for n, one in configurations.items() if one.previous is not None), default=0.0)
    read = FLOAT * channels * voxels
    alike = {one.preprocessing.model_dump_json(): name for name, one in configurations.items()}  # they share one copy
    prepared = {name: FLOAT * channels * math.prod(shapes[name]) for name in alike.values()}
    others = sum(prepared.values()) - prepared[alike[configurations[largest].preprocessing.model_dump_json()]]
    labels = voxels * (1 if max(values, default=0) <= 255 else 2)
    return Need(
        voxels=voxels,
        slices=next(n for n, (world, _) in zip(grid.shape, closest_axes(grid.affine), strict=True) if world == 2),
        tiles={name: tile_count(shapes[name], one) for name, one in configurations.items()},
        load_bytes=predicted_bytes(grid.shape, shapes[largest], channels, masked) + others,
        compute_bytes=read + sum(prepared.values()) + stacked + LABEL_COPIES * labels,
        write_bytes=read + LABEL_COPIES * labels + WRITING_BYTES,
        image_bytes=max(images.values()),
        sums_bytes=max(sums_bytes(shapes[name], one, kind) for name, one in configurations.items()),
        scratch_bytes=sum(FLOAT * configurations[n].network.classes * math.prod(shapes[n]) for n in spooled),
        disk_bytes=sum(disk_bytes(name, voxels, len(values)) for name in {*formats, *_with(formats)}),
    )


def _with(formats: Sequence[str]) -> tuple[str, ...]:
    """A report refers to a SEG, which is written with it."""
    return ("seg",) if "sr" in formats else ()


def prepared_shape(grid: Grid, configuration: Configuration) -> Shape:
    """Shape of a scan on the network's grid, if nothing of it is cropped away."""
    settings = configuration.preprocessing
    turn = turn_to(settings.orientation, grid)
    shape = tuple(round(n) for n in turned_numbers(grid.shape, turn))
    return resampled_shape(shape, turned_numbers(grid.spacing_mm, turn), settings.spacing_mm)


def sums_bytes(shape: Shape, configuration: Configuration, kind: str) -> float:
    """Sums of logits held at a time: a tile's depth along the slab axis, or that of the tiles that go together."""
    patch, step, axis = configuration.patch, configuration.window.step, slab_axis(shape, configuration)
    starts = [tile_starts(n, p, step) for n, p in zip(shape, patch, strict=True)]
    groups = grouped(starts, axis, tiles_a_forward(patch, kind))
    depth = max(min(group[-1] + patch[axis], shape[axis]) - group[0] for group in groups)
    return FLOAT * configuration.network.classes * depth * math.prod(shape) / shape[axis]


def tile_shape(configuration: Configuration) -> tuple[int, ...]:
    """A tile as the network takes it: of a 2D network without the axis of its slices."""
    return tuple(n for axis, n in enumerate(configuration.patch) if axis != configuration.slice_axis)


def forward_bytes(configuration: Configuration, kind: str) -> float:
    """Memory of one forward pass of the tiles that go together, without the weights."""
    values = activations(configuration.network, tile_shape(configuration))
    return FORWARD_BASE_BYTES + FORWARD_BYTES_A_VALUE * tiles_a_forward(configuration.patch, kind) * values


def disk_bytes(form: str, voxels: int, structures: int) -> float:
    """Size of the labels of one scan in a format of results, as it is on the average."""
    return voxels * (structures * SEG_FILLED / 8 if form == "seg" else DISK_A_VOXEL[form])
