"""A CT-like abdomen phantom: the generator of ``sample_data/``, and a source of scans for other tests.

Anatomy and grid are two values. The anatomy is a set of formulas in world space (RAS+ mm), drawn from a seed; the
grid says where it is sampled and in which axis order it is stored. So the same anatomy can be sampled straight, tilted
or stored sagittally, and the patient's liver stays on the patient's right.

    python tests/phantom.py OUT        writes all of sample_data/ into OUT
"""

from __future__ import annotations

import argparse
import gzip
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds
from scipy import ndimage
from scipy.spatial.transform import Rotation

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Layer = tuple[Mask, "Floats | float", int]
Case = tuple[NDArray[np.int16], NDArray[np.uint8], Floats]

LABELS = {"background": 0, "liver": 1, "kidney": 2, "lesion": 3}
LIVER, KIDNEY, LESION = LABELS["liver"], LABELS["kidney"], LABELS["lesion"]

TRAINING_SEEDS = tuple(range(1, 13))
TEST_SEEDS = tuple(range(13, 16))
DICOM_SEED = 16
DICOM_NAME = "subject_a"
DICOM_TILT_DEG = 11.0

AIR_HU = -1000.0
RESCALE_INTERCEPT_HU = -1024
SUBSAMPLES = (2, 2, 2)  # points per voxel along x, y, z: partial volume at every border
STORED_AS = ("PIR", "LPS", "RAS", "LPS", "LPS", "RAS", "LAS")  # indexed by seed; PIR is a sagittal stack
MIN_LESION_RADIUS_MM, MAX_LESION_RADIUS_MM = 10.0, 15.0


# --- the values -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Waves:
    """A smooth random field: a sum of cosines, mean 0 and standard deviation 1, defined everywhere in space."""

    vectors: Floats  # (K, 3) wave vectors, rad/mm
    phases: Floats  # (K,) rad

    def at(self, points: Floats) -> Floats:
        """Values at points (N, 3) in mm."""
        total = np.zeros(len(points))
        for vector, phase in zip(self.vectors, self.phases, strict=True):
            total += np.cos(points @ vector + phase)
        return total * np.sqrt(2.0 / len(self.phases))


@dataclass(frozen=True)
class Blob:
    """An ellipsoid filled with one intensity."""

    centre_mm: Floats
    radii_mm: Floats
    turn: Floats  # (3, 3), its own axes as columns
    hu: float

    def level(self, points: Floats, grow_mm: float = 0.0) -> Floats:
        """Squared normalised radius at points (N, 3): below 1 inside, 1 on the surface."""
        scaled = (points - self.centre_mm) @ (self.turn / (self.radii_mm + grow_mm))
        return np.einsum("ij,ij->i", scaled, scaled)


@dataclass(frozen=True)
class Body:
    """The trunk: an elliptic cylinder of skin, fat, muscle and a cavity."""

    centre_mm: Floats  # in the world
    pose: Floats  # (3, 3), patient axes as columns, in the world
    half_width_mm: float
    half_depth_mm: float
    fat_mm: float
    muscle_mm: float
    rib_gap_mm: float
    rib_phase: float
    spine_radius_mm: float


@dataclass(frozen=True)
class Anatomy:
    """All that is drawn once per patient; lengths in mm, intensities in HU, positions in the body's own axes."""

    body: Body
    lobes: tuple[Blob, ...]
    kidney: Blob
    hilum: Blob
    lesion: Blob
    gallbladder: Blob
    spleen: Blob
    stomach: Blob
    vessels: tuple[Blob, ...]
    veins: tuple[Blob, ...]
    loops: tuple[Blob, ...]
    gas: tuple[Blob, ...]
    shape: Waves  # bends the organ surfaces
    texture: Waves
    mottle: Waves
    muscle_hu: float
    noise_hu: float


@dataclass(frozen=True)
class Sampling:
    """Where the anatomy is sampled, before the axes are put into their stored order."""

    shape: tuple[int, int, int]
    affine: Floats  # voxel -> RAS+ mm, axes near R, A, S
    stored_as: str


# --- drawing a patient ----------------------------------------------------------------------------------------------


def _waves(rng: np.random.Generator, shortest_mm: float, longest_mm: float, count: int = 10) -> Waves:
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths_mm = rng.uniform(shortest_mm, longest_mm, size=(count, 1))
    return Waves(2 * np.pi * directions / lengths_mm, rng.uniform(0, 2 * np.pi, size=count))


def _turn(rng: np.random.Generator, max_deg: float) -> Floats:
    return Rotation.from_euler("xyz", rng.uniform(-max_deg, max_deg, size=3), degrees=True).as_matrix()


def _blob(
    rng: np.random.Generator,
    centre_mm: tuple[float, float, float],
    radii_mm: tuple[float, float, float],
    hu: float,
    *,
    shift_mm: float = 5.0,
    scale: float = 0.1,
    turn_deg: float = 12.0,
) -> Blob:
    """A blob near the given one: moved by up to ``shift_mm`` and scaled by up to ``scale`` along each axis."""
    return Blob(
        np.asarray(centre_mm) + rng.uniform(-shift_mm, shift_mm, size=3),
        np.asarray(radii_mm) * rng.uniform(1 - scale, 1 + scale, size=3),
        _turn(rng, turn_deg),
        hu,
    )


def _draw_body(rng: np.random.Generator) -> Body:
    return Body(
        centre_mm=np.array([rng.uniform(-20, 20), rng.uniform(-25, 25), rng.uniform(-420, -120)]),
        pose=_turn(rng, 6.0),
        half_width_mm=rng.uniform(88, 104),
        half_depth_mm=rng.uniform(66, 78),
        fat_mm=rng.uniform(4, 15),
        muscle_mm=rng.uniform(6, 9),
        rib_gap_mm=rng.uniform(23, 28),
        rib_phase=rng.uniform(0, 2 * np.pi),
        spine_radius_mm=rng.uniform(13, 16),
    )


def _draw_loops(rng: np.random.Generator, half_x: float, half_y: float) -> tuple[tuple[Blob, ...], tuple[Blob, ...]]:
    """Bowel loops, low in the belly and in front, and the gas that rises to the front of some."""
    loops, gas = [], []
    for _ in range(rng.integers(7, 11)):
        centre = (rng.uniform(-0.75, 0.5) * half_x, rng.uniform(-0.1, 0.75) * half_y, rng.uniform(-65, -8))
        radii = (rng.uniform(9, 20), rng.uniform(8, 13), rng.uniform(8, 14))
        loop = _blob(rng, centre, radii, rng.uniform(10, 130), shift_mm=0, turn_deg=40)
        loops.append(loop)
        if rng.uniform() < 0.5:
            lift = np.array([0.0, 0.35 * radii[1], 0.0])
            gas.append(Blob(loop.centre_mm + lift, loop.radii_mm * (0.65, 0.5, 0.65), loop.turn, -850.0))
    return tuple(loops), tuple(gas)


def _draw_veins(rng: np.random.Generator, lobe: Blob, hu: float) -> tuple[Blob, ...]:
    """Thin bright vessels through the right lobe."""
    return tuple(
        Blob(
            lobe.centre_mm + rng.uniform(-0.4, 0.4, size=3) * lobe.radii_mm,
            np.array([rng.uniform(18, 30), rng.uniform(2.5, 3.5), rng.uniform(2.5, 3.5)]),
            _turn(rng, 90.0),
            hu,
        )
        for _ in range(4)
    )


def draw_anatomy(seed: int) -> Anatomy:
    """The patient that belongs to a seed; the same on every grid."""
    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    body = _draw_body(rng)
    inset = body.fat_mm + body.muscle_mm
    hx, hy = body.half_width_mm - inset, body.half_depth_mm - inset
    height = rng.uniform(0.7, 1.1)
    rise = rng.uniform(-18, 14)  # how high all upper organs stand in the field of view
    liver_hu, noise_hu = rng.uniform(75, 125), rng.uniform(12, 15)
    lobes = (
        _blob(
            rng, (0.46 * hx, 0.08 * hy, 10 + rise), (0.50 * hx, 0.72 * hy, 44 * height), liver_hu, shift_mm=8, scale=0.2
        ),
        _blob(
            rng,
            (-0.08 * hx, 0.48 * hy, 22 + rise),
            (0.48 * hx, 0.34 * hy, 25 * height),
            liver_hu,
            shift_mm=8,
            scale=0.3,
        ),
    )
    side = rng.uniform(-0.12, 0.12) * hx
    kidney = _blob(
        rng,
        (0.50 * hx + side, -0.50 * hy, -18 + rise + rng.uniform(-10, 10)),
        (18, 17, 33),
        rng.uniform(95, 165),
        shift_mm=6,
        scale=0.22,
        turn_deg=25,
    )
    hilum = Blob(
        kidney.centre_mm + kidney.turn @ (kidney.radii_mm * (-1.0, 0.35, rng.uniform(-0.15, 0.15))),
        kidney.radii_mm * (0.75, 0.55, 0.38),
        kidney.turn,
        -70.0,
    )
    loops, gas = _draw_loops(rng, hx, hy)
    stomach_hu = rng.uniform(5, 120)
    stomach = _blob(rng, (-0.52 * hx, 0.38 * hy, 14 + rise), (0.34 * hx, 0.42 * hy, 30), stomach_hu, shift_mm=6)
    bubble = Blob(
        stomach.centre_mm + np.array([0.0, 10.0, 4.0]), stomach.radii_mm * (0.7, 0.45, 0.7), stomach.turn, -900.0
    )
    blood_hu = rng.uniform(80, 190)
    spine_y = -0.55 * hy
    vessels = (
        _blob(rng, (-9, spine_y + 24, 0), (8.5, 8.5, 900), blood_hu, shift_mm=2, turn_deg=1.5),
        _blob(rng, (15, spine_y + 23, 0), (10, 8, 900), 0.6 * blood_hu + 25, shift_mm=2, turn_deg=1.5),
    )
    spleen_hu = liver_hu + rng.uniform(-20, 35)
    spleen = _blob(rng, (-0.66 * hx, -0.36 * hy, 12 + rise), (15, 25, 32), spleen_hu, shift_mm=6, scale=0.2)
    gallbladder = _blob(rng, (0.28 * hx, 0.36 * hy, -26 + rise), (10, 12, 15), rng.uniform(5, 30), scale=0.2)
    contrast_hu = noise_hu * rng.uniform(2.8, 3.5)
    anatomy = Anatomy(
        body=body,
        lobes=lobes,
        kidney=kidney,
        hilum=hilum,
        lesion=Blob(lobes[0].centre_mm, np.full(3, MIN_LESION_RADIUS_MM), np.eye(3), liver_hu - contrast_hu),
        gallbladder=gallbladder,
        spleen=spleen,
        stomach=stomach,
        vessels=vessels,
        veins=_draw_veins(rng, lobes[0], liver_hu + rng.uniform(12, 35)),
        loops=loops,
        gas=(*gas, bubble),
        shape=_waves(rng, 45, 110),
        texture=_waves(rng, 14, 40),
        mottle=_waves(rng, 30, 70),
        muscle_hu=rng.uniform(48, 66),
        noise_hu=noise_hu,
    )
    return _with_lesion(rng, anatomy)


def _with_lesion(rng: np.random.Generator, anatomy: Anatomy) -> Anatomy:
    """The same patient with the lesion put at a random place that lies wholly inside the liver."""
    hu = anatomy.lesion.hu
    sphere = rng.normal(size=(200, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    largest_mm = MAX_LESION_RADIUS_MM
    for attempt in range(2000):
        radii = rng.uniform(MIN_LESION_RADIUS_MM, largest_mm, size=3)
        lobe = anatomy.lobes[rng.integers(2)]
        centre = lobe.centre_mm + lobe.radii_mm * rng.uniform(-1, 1, size=3)
        turn = _turn(rng, 90.0)
        border = centre + ((radii + 1.5) * sphere) @ turn.T
        if np.abs(border[:, 2]).max() < 42 and np.all(
            _is_liver(anatomy, _place(anatomy, border, _depth_mm(anatomy.body, border)))
        ):
            return Anatomy(**{**vars(anatomy), "lesion": Blob(centre, radii, turn, hu)})
        if attempt % 100 == 99:
            largest_mm = max(largest_mm - 0.5, MIN_LESION_RADIUS_MM)
    raise ValueError("no place for the lesion in this liver: change the seed")


# --- painting -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Points in the body's own axes, and what every painter asks about them, worked out once."""

    points: Floats  # (N, 3) mm
    depth_mm: Floats  # under the skin
    under_wall_mm: Floats  # inside the muscles of the wall
    from_spine_mm: Floats  # from the axis of the vertebrae
    shape: Floats
    texture: Floats


def _depth_mm(body: Body, points: Floats) -> Floats:
    """Depth under the skin in mm (negative outside), to first order."""
    scaled = np.abs(points[:, :2]) / (body.half_width_mm, body.half_depth_mm)
    radius = (scaled**2.3).sum(axis=1) ** (1 / 2.3)
    reach = np.hypot(points[:, 0], points[:, 1]) / np.maximum(radius, 1e-6)
    return (1 - radius) * reach


def _spine_y_mm(body: Body) -> float:
    return -0.55 * (body.half_depth_mm - body.fat_mm - body.muscle_mm)


def _place(anatomy: Anatomy, points: Floats, depth_mm: Floats) -> Place:
    body = anatomy.body
    return Place(
        points=points,
        depth_mm=depth_mm,
        under_wall_mm=depth_mm - body.fat_mm - body.muscle_mm,
        from_spine_mm=np.hypot(points[:, 0], points[:, 1] - _spine_y_mm(body)),
        shape=anatomy.shape.at(points),
        texture=anatomy.texture.at(points),
    )


def _is_liver(anatomy: Anatomy, at: Place) -> Mask:
    """Two lobes run together, bent by the shape field, kept off the wall, the kidney's fat and the gallbladder."""
    together = sum(np.exp(-1.6 * lobe.level(at.points)) for lobe in anatomy.lobes)
    inside = together > np.exp(-1.6 + 0.28 * at.shape)
    clear = (anatomy.kidney.level(at.points, grow_mm=4) > 1) & (anatomy.gallbladder.level(at.points, grow_mm=2) > 1)
    return inside & clear & (at.under_wall_mm > 1.5) & (at.from_spine_mm > anatomy.body.spine_radius_mm + 8)


def _wall_layers(anatomy: Anatomy, at: Place) -> Iterator[Layer]:
    body, points = anatomy.body, at.points
    yield at.depth_mm > 0, 20.0, 0
    yield at.depth_mm > 2, -102 + 7 * at.texture, 0
    yield at.depth_mm > body.fat_mm, anatomy.muscle_hu + 6 * at.texture, 0
    mesentery = np.where(anatomy.mottle.at(points) > 0.75, 38.0, -88.0)
    yield at.under_wall_mm > 0, mesentery + 9 * at.texture, 0
    angle = np.arctan2(points[:, 1], np.abs(points[:, 0]))
    wave = np.cos(2 * np.pi * (points[:, 2] + 22 * angle) / body.rib_gap_mm + body.rib_phase)
    in_ring = np.abs(at.under_wall_mm + 0.4 * body.muscle_mm) < 3.2
    yield in_ring & (wave > 0.55) & (angle < 1.0) & (points[:, 2] > -25), 330.0, 0


def _spine_layers(anatomy: Anatomy, at: Place) -> Iterator[Layer]:
    body, radius = anatomy.body, anatomy.body.spine_radius_mm
    x, z, behind = np.abs(at.points[:, 0]), at.points[:, 2], at.points[:, 1] - _spine_y_mm(body)
    in_wall = at.depth_mm > body.fat_mm
    back = ((x - 23) / 19) ** 2 + ((behind + 19) / 13) ** 2 < 1
    psoas = ((x - radius - 8) / 9) ** 2 + ((behind - 1) / 12) ** 2 < 1
    yield in_wall & (back | (psoas & (z < 15))), anatomy.muscle_hu + 6 * at.texture, 0
    disc = np.cos(2 * np.pi * z / 31 + body.rib_phase) > 0.78
    inner = at.from_spine_mm < radius - 2.5
    yield at.from_spine_mm < radius, np.where(disc, 85.0, np.where(inner, 210 + 12 * at.texture, 420.0)), 0
    arch_mm = np.hypot(x, behind + radius + 5)
    yield (arch_mm < 10.5) & ~disc, 380.0, 0
    yield arch_mm < 7.5, 25.0, 0
    yield in_wall & (x < 3.2) & (behind < -radius - 13) & (behind > -radius - 30) & ~disc, 360.0, 0


def _belly_layers(anatomy: Anatomy, at: Place) -> Iterator[Layer]:
    """Bowel, stomach, spleen and great vessels: unlabelled, and of the same intensities as what is labelled."""
    in_cavity, bend = at.under_wall_mm > 1.5, 1 + 0.12 * at.shape
    for loop in anatomy.loops:
        yield in_cavity & (loop.level(at.points) < bend), 40.0, 0
        yield in_cavity & (loop.level(at.points, grow_mm=-2.5) < bend), loop.hu + 5 * at.texture, 0
    yield in_cavity & (anatomy.stomach.level(at.points, grow_mm=3) < bend), 45.0, 0
    yield in_cavity & (anatomy.stomach.level(at.points) < bend), anatomy.stomach.hu + 4 * at.texture, 0
    for bubble in anatomy.gas:
        yield in_cavity & (bubble.level(at.points) < 1), bubble.hu, 0
    yield in_cavity & (anatomy.spleen.level(at.points) < bend), anatomy.spleen.hu + 4 * at.texture, 0
    for vessel in anatomy.vessels:
        yield vessel.level(at.points) < 1, vessel.hu, 0


def _organ_layers(anatomy: Anatomy, at: Place) -> Iterator[Layer]:
    liver = _is_liver(anatomy, at)
    yield liver, anatomy.lobes[0].hu + 5 * at.texture, LIVER
    for vein in anatomy.veins:
        yield liver & (vein.level(at.points) < 1), vein.hu, LIVER
    yield anatomy.gallbladder.level(at.points) < 1, anatomy.gallbladder.hu, 0
    kidney, depth = anatomy.kidney, anatomy.kidney.level(at.points)
    around = (kidney.level(at.points, grow_mm=4) < 1) & (at.from_spine_mm > 22) & (at.under_wall_mm > 0)
    yield around, -95 + 5 * at.texture, 0
    bean = (depth < 1 + 0.07 * at.shape) & (anatomy.hilum.level(at.points) > 1)
    yield bean, np.where(depth < 0.45, kidney.hu - 18, kidney.hu) + 5 * at.texture, KIDNEY
    yield anatomy.lesion.level(at.points) < 1, anatomy.lesion.hu + 4 * at.texture, LESION


def paint(anatomy: Anatomy, world_mm: Floats) -> tuple[Floats, NDArray[np.uint8]]:
    """Intensity in HU and label at world points (N, 3), without noise; a later layer covers an earlier one."""
    points = (world_mm - anatomy.body.centre_mm) @ anatomy.body.pose
    depth_mm = _depth_mm(anatomy.body, points)
    inside = depth_mm > 0
    at = _place(anatomy, points[inside], depth_mm[inside])
    hu, labels = np.full(len(at.points), AIR_HU), np.zeros(len(at.points), np.uint8)
    for layers in (_wall_layers, _belly_layers, _spine_layers, _organ_layers):
        for mask, value, label in layers(anatomy, at):
            hu[mask] = value[mask] if isinstance(value, np.ndarray) else value
            labels[mask] = label
    all_hu, all_labels = np.full(len(points), AIR_HU), np.zeros(len(points), np.uint8)
    all_hu[inside], all_labels[inside] = hu, labels
    return all_hu, all_labels


# --- sampling -------------------------------------------------------------------------------------------------------


def draw_sampling(seed: int, stored_as: str | None = None, tilt_deg: float | None = None) -> Sampling:
    """The grid that belongs to a seed: anisotropic, a third of them tilted by 6 to 15 degrees."""
    rng = np.random.Generator(np.random.PCG64([seed, 2]))
    body = draw_anatomy(seed).body
    in_plane, slices = rng.uniform(3.3, 3.9), rng.uniform(5.0, 6.0)
    spacing = np.round([in_plane, in_plane, slices], 2)
    extent = np.array([2.14 * body.half_width_mm, 2.2 * body.half_depth_mm, rng.uniform(112, 128)])
    nx, ny, nz = (int(n) for n in np.clip(np.round(extent / spacing), (48, 40, 16), (64, 56, 24)))
    axis = rng.normal(size=3)
    drawn_deg = rng.uniform(6, 15) if seed % 3 == 0 else 0.0
    angle = np.deg2rad(drawn_deg if tilt_deg is None else tilt_deg)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix() * spacing
    middle = (np.array([nx, ny, nz]) - 1) / 2
    affine[:3, 3] = body.centre_mm + rng.uniform(-4, 4, size=3) - affine[:3, :3] @ middle
    return Sampling((nx, ny, nz), affine, stored_as or STORED_AS[seed % len(STORED_AS)])


def _points_mm(sampling: Sampling, offset: tuple[float, ...]) -> Floats:
    """World points (N, 3), one for each voxel, moved from its centre by a fraction of the voxel."""
    index = np.indices(sampling.shape).reshape(3, -1).T + np.asarray(offset)
    return index @ sampling.affine[:3, :3].T + sampling.affine[:3, 3]


def sample(anatomy: Anatomy, sampling: Sampling, seed: int) -> Case:
    """Image (X, Y, Z) int16 in HU, labels uint8 and affine (voxel -> RAS+ mm), in the stored axis order.

    A voxel is the mean of its points and carries the label of most of them; the noise, slightly correlated in the
    plane, depends on the seed only.
    """
    offsets = list(product(*((np.arange(n) + 0.5) / n - 0.5 for n in SUBSAMPLES)))
    hu, votes = np.zeros(np.prod(sampling.shape)), np.zeros((len(LABELS), np.prod(sampling.shape)), np.uint8)
    for offset in offsets:
        value, label = paint(anatomy, _points_mm(sampling, offset))
        hu += value / len(offsets)
        votes[label, np.arange(label.size)] += 1
    labels = votes.argmax(axis=0).astype(np.uint8).reshape(sampling.shape)
    rng = np.random.Generator(np.random.PCG64([seed, 3]))
    noise = ndimage.gaussian_filter(rng.normal(size=sampling.shape), (0.5, 0.5, 0.0))
    noisy = hu.reshape(sampling.shape) + noise * (anatomy.noise_hu / noise.std())
    image = np.clip(np.round(noisy), RESCALE_INTERCEPT_HU, 3071).astype(np.int16)
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(sampling.stored_as))
    affine = sampling.affine @ inv_ornt_aff(turn, sampling.shape)
    return (
        np.ascontiguousarray(apply_orientation(image, turn)),
        np.ascontiguousarray(apply_orientation(labels, turn)),
        affine,
    )


def make_case(seed: int, *, stored_as: str | None = None, tilt_deg: float | None = None) -> Case:
    """One phantom: image (X, Y, Z) int16 in HU, labels (X, Y, Z) uint8, affine 4x4 (voxel -> RAS+ mm).

    ``stored_as`` (three axis codes such as ``"LPS"``) and ``tilt_deg`` replace what the seed would give; the patient
    stays the same.
    """
    return sample(draw_anatomy(seed), draw_sampling(seed, stored_as, tilt_deg), seed)


# --- writing --------------------------------------------------------------------------------------------------------


def write_nifti(path: Path, array: NDArray[np.int16] | NDArray[np.uint8], affine: Floats) -> None:
    """NIfTI-1, sform and qform set, gzip without a time stamp; the folder is made."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(image.to_bytes(), 9, mtime=0))


def _uid(*parts: object) -> UID:
    name = "/".join(["medseg", "phantom", *map(str, parts)])
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, name).int}")


def _ds(values: Floats) -> list[str]:
    return [format_number_as_ds(float(value)) for value in values]


def _common_attributes(name: str) -> Dataset:
    """What all slices of the series share: patient, study, series, frame of reference, equipment."""
    common = Dataset()
    common.SpecificCharacterSet = "ISO_IR 100"
    common.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    common.SOPClassUID = CTImageStorage
    common.Modality = "CT"
    common.PatientName, common.PatientID = "Phantom^Sample", "PHANTOM"
    common.PatientBirthDate = common.PatientSex = common.ReferringPhysicianName = common.AccessionNumber = ""
    common.StudyDate = common.SeriesDate = common.AcquisitionDate = common.ContentDate = "20000101"
    common.StudyTime = common.SeriesTime = common.AcquisitionTime = common.ContentTime = "120000"
    common.StudyID, common.StudyDescription = "1", "Synthetic abdomen"
    common.SeriesNumber, common.SeriesDescription, common.AcquisitionNumber = 1, "Phantom", 1
    common.Manufacturer, common.ManufacturerModelName = "medseg", "phantom"
    common.DeviceSerialNumber, common.SoftwareVersions = "0", "1"
    common.BodyPartExamined, common.PatientPosition, common.KVP = "ABDOMEN", "HFS", "120"
    common.StudyInstanceUID, common.SeriesInstanceUID = _uid(name, "study"), _uid(name, "series")
    common.FrameOfReferenceUID, common.PositionReferenceIndicator = _uid(name, "frame"), ""
    common.SamplesPerPixel, common.PhotometricInterpretation = 1, "MONOCHROME2"
    common.BitsAllocated = common.BitsStored = 16
    common.HighBit, common.PixelRepresentation = 15, 1
    common.RescaleIntercept, common.RescaleSlope, common.RescaleType = str(RESCALE_INTERCEPT_HU), "1", "HU"
    common.WindowCenter, common.WindowWidth = "50", "400"
    common.BurnedInAnnotation = "NO"
    return common


def write_dicom_series(folder: Path, image: NDArray[np.int16], affine: Floats, name: str = DICOM_NAME) -> None:
    """One CT Image Storage file a slice; identifiers follow from ``name``, file names tell nothing of the order.

    ``image`` (X, Y, Z) int16 in HU: X is the column index, Y the row index, and Z rises along cross(row, column).
    ``affine`` is voxel -> RAS+ mm. Raises ValueError where its axes are not such a right-handed, square grid.
    """
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing_mm = np.linalg.norm(lps[:3, :3], axis=0)
    axes = lps[:3, :3] / spacing_mm
    if not np.allclose(np.cross(axes[:, 0], axes[:, 1]), axes[:, 2], atol=1e-5):
        raise ValueError("the axes of a DICOM series are perpendicular and right-handed: store the case as LPS")
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(image.shape[2]):
        data = FileDataset("", _common_attributes(name), preamble=b"\0" * 128, file_meta=FileMetaDataset())
        data.SOPInstanceUID, data.InstanceNumber = _uid(name, "slice", index), index + 1
        data.ImagePositionPatient = _ds((lps @ [0, 0, index, 1])[:3])
        data.ImageOrientationPatient = _ds(axes[:, :2].T.ravel())
        data.PixelSpacing = _ds(spacing_mm[[1, 0]])  # between rows, then between columns
        data.SliceThickness = data.SpacingBetweenSlices = format_number_as_ds(float(spacing_mm[2]))
        data.Columns, data.Rows = image.shape[:2]
        stored = image[:, :, index].T.astype(np.int32) - RESCALE_INTERCEPT_HU
        data.PixelData = stored.astype("<i2").tobytes()
        data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file_name = uuid.uuid5(uuid.NAMESPACE_URL, f"medseg/phantom/{name}/file/{index}").hex[:8]
        data.save_as(folder / f"{file_name}.dcm", enforce_file_format=True)


def dataset_json() -> dict[str, object]:
    """``dataset.json`` of the training folder, in the form of the Medical Segmentation Decathlon."""
    names = [f"phantom_{seed:02d}.nii.gz" for seed in TRAINING_SEEDS]
    return {
        "name": "Phantom",
        "description": "Synthetic CT-like abdomen: liver, kidney and one lesion in the liver. No patient data.",
        "reference": "medseg, tests/phantom.py",
        "licence": "CC0-1.0",
        "release": "1.0",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {str(value): name for name, value in LABELS.items()},
        "numTraining": len(names),
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
        "test": [],
    }


def write_sample_data(folder: Path) -> None:
    """Everything in ``sample_data/`` but its README.md."""
    train, test = folder / "train", folder / "test"
    homes = [(seed, train / "imagesTr", train / "labelsTr") for seed in TRAINING_SEEDS]
    homes += [(seed, test / "images", test / "labels") for seed in TEST_SEEDS]
    for seed, images, labels_home in homes:
        image, labels, affine = make_case(seed)
        write_nifti(images / f"phantom_{seed:02d}.nii.gz", image, affine)
        write_nifti(labels_home / f"phantom_{seed:02d}.nii.gz", labels, affine)
    (train / "dataset.json").write_text(json.dumps(dataset_json(), indent=2) + "\n", encoding="utf-8")
    image, labels, affine = make_case(DICOM_SEED, stored_as="LPS", tilt_deg=DICOM_TILT_DEG)
    write_dicom_series(folder / "dicom" / DICOM_NAME, image, affine)
    write_nifti(folder / "dicom_labels" / f"{DICOM_NAME}.nii.gz", labels, affine)


def main() -> None:
    """Write ``sample_data/`` into the folder named on the command line."""
    parser = argparse.ArgumentParser(description=write_sample_data.__doc__)
    parser.add_argument("out", type=Path, metavar="OUT")
    write_sample_data(parser.parse_args().out)


if __name__ == "__main__":
    main()
