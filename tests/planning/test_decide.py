from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from medseg.errors import InputError
from medseg.networks.topology import NetworkSettings
from medseg.networks.work import forward_macs
from medseg.planning import decide as module
from medseg.planning.architecture import divisors, padded, start_patch, topology
from medseg.planning.cost import PROCESS_BYTES, Machine, Measured, training_bytes
from medseg.planning.decide import Decided, decide
from medseg.planning.families import FAMILIES
from medseg.planning.fingerprint import CaseFingerprint, Fingerprint
from medseg.planning.fingerprint import Structure as Seen
from medseg.planning.plan import Budget, Reason, Region, Request, Structure
from tests.planning.build import alike, looked_at, sketch

LIVER = (Structure(value=1, name="liver"),)
HIPPOCAMPUS = (Structure(value=1, name="Anterior"), Structure(value=2, name="Posterior"))
CT = {"spacing": (0.75, 0.75, 1), "shape": (512, 512, 400)}


def nothing(*_: object) -> Measured:
    raise AssertionError("nothing is to be measured")


def no_memory() -> float:
    raise AssertionError("nobody is to look at the memory")


def told(seconds_a_mac: float = 1e-10, gb: float = 16.0) -> Machine:
    def measure(network: NetworkSettings, patch: tuple[int, ...], batch: int) -> Measured:
        return Measured(seconds_a_mac * batch * forward_macs(network, patch), 1e9)

    return Machine(measure, lambda: gb * 1e9)


def decided(
    request: Request | None = None,
    fingerprint: Fingerprint | None = None,
    structures: Sequence[Structure] = LIVER,
    channels: Sequence[str] = ("MR",),
    machine: Machine | None = None,
) -> Decided:
    return decide(fingerprint or alike(), structures, channels, request or Request(), machine or told())


def sized(*ml: float, n: int = 10, **what: object) -> Fingerprint:
    """Cases whose structure k + 1 has `ml[k]`."""
    seen = tuple(Seen(value=k + 1, voxels=9, volume_ml=v, centre=(0.5, 0.5, 0.5)) for k, v in enumerate(ml))
    return Fingerprint(cases=tuple(c.model_copy(update={"structures": seen}) for c in alike(n, **what).cases))


def every_reason(made: Decided) -> list[Reason]:
    return [*made.reasons, *(reason for c in made.configurations.values() for reason in c.reasons)]


def reason(made: Decided, topic: str) -> Reason:
    (found,) = [r for r in made.reasons if r.topic == topic]
    return found


@pytest.mark.parametrize(
    "request_",
    [
        Request(),
        Request(device="cuda"),
        Request(memory_gb=4, budget=Budget(steps=100)),
        Request(dims="2d", spacing="median", budget=Budget(seconds=600)),
        Request(spacing="2.5"),
        Request(network="resenc-l"),
    ],
)
def test_every_choice_has_a_reason(request_):
    made = decided(request_, channels=("CT", "MR"), fingerprint=alike(channels=(sketch(), sketch())))
    reasons = every_reason(made)
    assert all(part.strip() for r in reasons for part in (r.topic, r.choice, r.why))
    assert all(r.fields for r in reasons)
    assert all(math.isfinite(n) for r in reasons for n in r.numbers.values())
    topics = {r.topic for r in reasons}
    assert topics >= {"dimensions", "mirroring", "budget", "spacing", "patch", "network", "optimiser"}
    assert {"intensities of CT", "intensities of MR"} <= topics


def test_patch_and_network_fit_each_other():
    for name, configuration in decided(fingerprint=alike(**CT)).configurations.items():
        assert configuration.name == name
        network = configuration.network
        channels = 2 if name == "3d_cascade" else 1
        assert (network.dims, network.in_channels, network.classes) == (2 if name == "2d" else 3, channels, 2)
        axes = [a for a in range(3) if a != configuration.slice_axis]
        for axis, step in zip(axes, divisors(network.strides), strict=True):
            assert configuration.patch[axis] % step == 0


def some_fingerprint(rng: np.random.Generator) -> Fingerprint:
    spacing = rng.uniform(0.2, 3, 3) * rng.choice([1, 1, 5, 15], 3)
    shape = 2 ** rng.uniform(0, 9.3, 3)
    cases = []
    for k in range(int(rng.integers(1, 8))):
        x, y, z = (float(s) for s in spacing * rng.uniform(0.7, 1.4, 3))
        a, b, c = (max(1, int(n)) for n in shape * rng.uniform(0.6, 1.5, 3))
        cases.append(looked_at(f"case{k}", (x, y, z), (a, b, c)))
    return Fingerprint(cases=tuple(cases))


def test_any_data_set_gets_a_plan_whose_patch_fits():
    rng = np.random.default_rng(0)
    for _ in range(100):
        seen = some_fingerprint(rng)
        spacing, device = str(rng.choice(["isotropic", "median", "1.5"])), rng.choice(["cpu", "cuda"])
        memory = float(rng.choice([1, 4, 24])) if rng.random() < 0.5 else None
        made = decided(Request(spacing=spacing, device=device, memory_gb=memory), seen)
        assert made.chosen in made.configurations
        for configuration in made.configurations.values():
            axes = [a for a in range(3) if a != configuration.slice_axis]
            mm = [configuration.preprocessing.spacing_mm[a] for a in axes]
            patch = [configuration.patch[a] for a in axes]
            shape = [configuration.median_shape[a] for a in axes]
            by = divisors(configuration.network.strides)
            assert all(p % d == 0 for p, d in zip(patch, by, strict=True)), (seen, patch)
            widest = divisors(topology(mm, start_patch(mm, shape))[1])
            whole = padded([n + 1 for n in shape], widest)  # the exact median may end in a half
            assert all(p <= n for p, n in zip(patch, whole, strict=True)), (seen, patch)
            assert configuration.schedule.batch >= 2


# --- beside nnU-Net --------------------------------------------------------------------------------------------------

ORACLE = json.loads((Path(__file__).parents[1] / "oracles" / "nnunet_plans" / "plans.json").read_text())
PLANNERS = [(name, p) for name, data in ORACLE["datasets"].items() for p in data["plans"]]


def stored(data: dict[str, object]) -> list[CaseFingerprint]:
    cases = [(spacing[::-1], shape[::-1]) for n, spacing, shape in data["cases"] for _ in range(n)]  # type: ignore[attr-defined]
    channels = (sketch(),) * data["channels"]  # type: ignore[operator]
    return [looked_at(f"case{k:04d}", *case, channels=channels) for k, case in enumerate(cases)]


@pytest.mark.parametrize(("name", "planner"), PLANNERS)
def test_the_whole_plan_with_median_spacing_is_that_of_nnunet(name, planner):
    data, theirs = ORACLE["datasets"][name], {"3d_fullres": "3d", "3d_lowres": "3d_lowres", "2d": "2d"}
    plan, gb = data["plans"][planner], ORACLE["planners"][planner]["gb"]
    structures = [Structure(value=k, name=f"s{k}") for k in range(1, data["labels"])]
    channels = tuple("MR" for _ in range(data["channels"]))
    request = Request(spacing="median", memory_gb=gb, device="cuda", network=planner.split(" ")[0])
    made = decide(Fingerprint(cases=tuple(stored(data))), structures, channels, request, Machine(nothing, no_memory))
    for key, told in plan["configurations"].items():
        ours = made.configurations[theirs[key]]
        axes = [a for a in (2, 1, 0) if a != ours.slice_axis]
        if len(axes) == 3:  # nnU-Net puts the coarsest axis first
            axes = [2 - plan["first_axis"], *(a for a in axes if a != 2 - plan["first_axis"])]
        assert [ours.patch[a] for a in axes] == told["patch"], key
        assert ours.schedule.batch == told["batch"], key
        assert list(ours.network.features) == told["features"], key


# --- dimensions ------------------------------------------------------------------------------------------------------


def test_a_2d_plan_leaves_the_slice_axis_alone():
    thick = alike(spacing=(0.7, 5, 0.7), shape=(300, 30, 300), channels=())
    configuration = decided(Request(dims="2d"), thick).configurations["2d"]
    assert configuration.slice_axis == 1
    assert configuration.preprocessing.spacing_mm == (0.7, None, 0.7)
    assert configuration.patch[1] == 1
    assert configuration.median_shape == (300, 30, 300)
    assert configuration.schedule.mirror_axes == (0, 2)


@pytest.mark.parametrize(
    ("shape", "spacing", "dims", "chosen"),
    [
        ((40, 40, 40), (1, 1, 1), "auto", "3d"),
        ((40, 40, 7), (1, 1, 1), "auto", "2d"),
        ((40, 40, 8), (1, 1, 1), "auto", "3d"),
        ((200, 200, 7), (0.5, 0.5, 8), "auto", "2d"),  # resampled to many, but only seven were measured
        ((40, 40, 7), (1, 1, 1), "3d", "3d"),
        ((40, 40, 40), (1, 1, 1), "2d", "2d"),
    ],
)
def test_dimensions(shape, spacing, dims, chosen):
    made = decided(Request(dims=dims), alike(shape=shape, spacing=spacing))
    assert made.chosen == chosen
    assert reason(made, "dimensions").numbers["slices of the median scan"] == shape[2]
    assert reason(made, "dimensions").fields == ("chosen",)


@pytest.mark.parametrize("shape", [(90, 80, 1), (1, 90, 80), (7, 6, 5), (3, 3, 3)])
def test_scans_of_one_slice_or_few_voxels_get_a_plan(shape):
    made = decided(fingerprint=alike(shape=shape))
    assert made.chosen == "2d"
    configuration = made.configurations["2d"]
    assert configuration.patch[configuration.slice_axis] == 1
    if 1 in shape:
        assert shape[configuration.slice_axis] == 1


def test_the_2d_batch_counts_all_slices_of_the_data_set():
    hippocampus = alike(260, shape=(35, 50, 36))
    made = decided(Request(memory_gb=8), hippocampus, HIPPOCAMPUS)
    two, three = made.configurations["2d"], made.configurations["3d"]
    assert (three.patch, three.schedule.batch) == ((40, 56, 40), 9)
    assert (two.patch, two.schedule.batch) == ((40, 56, 1), 366)


# --- low resolution and cascade --------------------------------------------------------------------------------------


def test_large_scans_have_a_low_resolution_and_a_cascade_that_is_chosen_where_asked_for():
    made = decided(Request(device="cuda", memory_gb=8), alike(**CT))
    assert set(made.configurations) == {"2d", "3d", "3d_lowres", "3d_cascade"}
    assert made.chosen == "3d"
    full, low, cascade = (made.configurations[name] for name in ("3d", "3d_lowres", "3d_cascade"))
    assert math.prod(low.patch) / math.prod(low.median_shape) >= 0.24
    assert all(c > f for c, f in zip(low.preprocessing.spacing_mm, full.preprocessing.spacing_mm, strict=True))
    assert (low.previous, full.previous, cascade.previous) == (None, None, "3d_lowres")
    assert cascade.patch == full.patch
    assert cascade.network == full.network.model_copy(update={"in_channels": 2})
    assert cascade.preprocessing == full.preprocessing
    (told_of,) = [a for a in made.alternatives if a.what == "--dims cascade"]
    assert told_of.why_not.startswith("it learns from held-out predictions at low resolution")
    asked = decided(Request(device="cuda", memory_gb=8, dims="cascade"), alike(**CT))
    assert asked.chosen == "3d_cascade"
    assert asked.configurations == made.configurations
    assert {a.what for a in asked.alternatives} == {"--dims 2d", "--dims 3d", "--dims lowres"}


@pytest.mark.parametrize(
    ("dims", "why"), [("cascade", "the cascade was"), ("lowres", "low resolution was"), ("2d", "2D was")]
)
def test_what_was_asked_for_is_why_not_the_full_resolution(dims, why):
    made = decided(Request(device="cuda", memory_gb=8, dims=dims), alike(**CT))
    (full,) = [a for a in made.alternatives if a.what == "--dims 3d"]
    assert full.why_not == f"{why} asked for"


def test_regions_have_an_output_each_and_a_cascade_reads_the_structures():
    structures = tuple(Structure(value=v, name=f"s{v}") for v in (1, 2, 3))
    regions = (Region(name="all", values=(1, 2, 3), value=1), Region(name="one", values=(3,), value=3))
    asked = Request(device="cuda", memory_gb=8, class_weights="one=2", loss="iou")
    made = decide(alike(**CT), structures, ("CT",), asked, told(), regions, ignore=9)
    assert {one.network.classes for one in made.configurations.values()} == {2}
    assert {one.schedule.class_weights for one in made.configurations.values()} == {(1.0, 2.0)}
    full, cascade = (made.configurations[name].network for name in ("3d", "3d_cascade"))
    assert cascade == full.model_copy(update={"in_channels": 1 + 3})
    (loss,) = [r for r in made.configurations["3d"].reasons if r.topic == "loss"]
    assert loss.choice == "intersection over union of the whole batch + cross-entropy; weights all 1, one 2"


def test_small_scans_have_none():
    assert set(decided(Request(memory_gb=8)).configurations) == {"2d", "3d"}
    with pytest.raises(InputError, match=r"--dims lowres has no use: a patch holds 100 % of the median scan"):
        decided(Request(memory_gb=8, dims="lowres"))
    with pytest.raises(InputError, match=r"--dims cascade has no use: .*; give 3d or auto"):
        decided(Request(memory_gb=8, dims="cascade"))


def test_low_resolution_may_be_asked_for():
    made = decided(Request(memory_gb=8, device="cuda", dims="lowres"), alike(**CT))
    assert made.chosen == "3d_lowres"
    assert reason(made, "dimensions").why == "as asked"


def test_on_a_gpu_what_will_be_trained_is_what_is_measured():
    for dims, name in (("auto", "3d"), ("lowres", "3d_lowres"), ("2d", "2d")):
        made = decided(Request(device="cuda", dims=dims), alike(**CT), machine=told(1e-14, gb=12))
        assert made.chosen == name
        assert [n for n, c in made.configurations.items() if c.cost.measured] == [name]
        low = made.configurations["3d_lowres"]
        spacing = next(r for r in low.reasons if r.topic == "spacing")
        share = math.prod(low.patch) / math.prod(low.median_shape)
        assert spacing.numbers["share of the scan in a patch"] == pytest.approx(share, rel=0.02)


def test_nnunets_way_of_counting_dice_follows_the_low_resolution():
    large, small = decided(Request(memory_gb=8, device="cuda"), alike(**CT)), decided(Request(device="cuda"))
    pooled = {name: c.schedule.batch_dice for name, c in large.configurations.items()}
    assert pooled == {"2d": True, "3d": True, "3d_lowres": False, "3d_cascade": True}
    assert not small.configurations["3d"].schedule.batch_dice


@pytest.mark.parametrize(
    ("ml", "device", "chosen"),
    [
        ((1500, 60), "cpu", "3d_lowres"),  # a patch of 30 mm sees a fifth of the liver
        ((1500, 2), "cpu", "3d"),  # a small lesion would be lost
        ((30, 20), "cpu", "3d"),  # what is small is seen whole at full resolution
        ((1500, 60), "cuda", "3d"),
    ],
)
def test_a_cpu_looks_coarsely_at_what_is_larger_than_its_patch(ml, device, chosen):
    structures = (*LIVER, Structure(value=2, name="lesion"))
    made = decided(Request(device=device, budget=Budget(seconds=3600)), sized(*ml, **CT), structures)
    assert made.chosen == chosen
    if chosen == "3d_lowres":
        why = reason(made, "dimensions")
        assert why.numbers["mm across liver"] == pytest.approx(142, abs=1)
        assert why.numbers["mm in a patch"] == pytest.approx(30)
        assert why.numbers["voxels of lesion at low resolution"] > module.SMALLEST_VOXELS
        assert "sees only part of liver (about 142 mm)" in why.why


@pytest.mark.parametrize(("asked", "mm"), [({"memory_gb": 8}, 0.75), ({"spacing": "1.5"}, 1.5)])
def test_a_memory_or_spacing_that_was_asked_for_is_kept_at_full_resolution_on_a_cpu(asked, mm):
    structures = (*LIVER, Structure(value=2, name="lesion"))
    made = decided(Request(**asked, budget=Budget(seconds=3600)), sized(1500, 60, **CT), structures)
    assert "3d_lowres" in made.configurations
    assert made.chosen == "3d"
    assert made.configurations["3d"].preprocessing.spacing_mm == pytest.approx((mm, mm, mm), abs=0.01)


# --- what else -------------------------------------------------------------------------------------------------------


def test_memory_asked_for_decides_instead_of_the_processor():
    machine = Machine(nothing, no_memory)
    made = decided(Request(memory_gb=8), alike(shape=(200, 200, 200)), machine=machine)
    assert made.configurations["3d"].network.features[0] == 32
    larger = decided(Request(memory_gb=40), alike(shape=(200, 200, 200)), machine=machine)
    assert sum(larger.configurations["3d"].patch) > sum(made.configurations["3d"].patch)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_family_of_networks_is_taken(family):
    made = decided(Request(network=family, memory_gb=8), alike(shape=(200, 200, 200)))
    network = made.configurations["3d"].network
    assert network.kind == FAMILIES[family].kind
    assert network.convs_encoder[:2] == (FAMILIES[family].encoder * 2)[:2]


def test_other_families_are_refused_by_name():
    with pytest.raises(InputError, match="--network vnet is no family of networks; give one of unet, resenc-m"):
        decided(Request(network="vnet"))


def test_a_batch_below_what_a_gpu_holds_is_explained():
    request, few = Request(device="cuda", network="resenc-m"), alike(260, spacing=(1, 1, 1), shape=(36, 50, 35))
    made = decided(request, few, machine=told(1e-16, gb=140))
    (why,) = [r.why for r in made.configurations["3d"].reasons if r.topic == "batch"]
    assert why == "nnU-Net's own, or at most 5 % of all voxels in a step, though the GPU holds more"


def test_ram_counts_the_program_itself_and_gpu_memory_does_not():
    there = {device: decided(Request(memory_gb=8, device=device)).configurations["3d"] for device in ("cpu", "cuda")}
    step = training_bytes(there["cpu"].network, there["cpu"].patch, there["cpu"].schedule.batch)
    assert there["cpu"].cost.training_gb == pytest.approx((step + PROCESS_BYTES) / 1e9)
    assert there["cuda"].cost.training_gb < 0.5 * there["cpu"].cost.training_gb


def test_a_budget_of_steps_needs_no_measuring():
    made = decided(Request(budget=Budget(steps=500)), machine=Machine(nothing, lambda: 16e9))
    assert made.budget == Budget(steps=500)
    assert made.configurations["3d"].network.features[0] == 16


def test_the_default_budget_is_told():
    assert decided().budget.seconds == module.DEFAULT_BUDGET_S["cpu"]
    made = decided(Request(device="cuda"))
    assert made.budget.seconds == module.DEFAULT_BUDGET_S["cuda"]
    assert reason(made, "budget").choice == "8 h"
    assert made.configurations["3d"].schedule.optimiser == "sgd"


def test_thick_slices_are_told_of_with_what_nnunets_spacing_would_cost():
    prostate = alike(spacing=(0.62, 0.62, 3.6), shape=(320, 320, 20))
    made = decided(Request(memory_gb=8), prostate)
    (other,) = [a for a in made.alternatives if a.what.startswith("--spacing")]
    assert other.what == "--spacing median"
    assert other.cost.startswith("0.62 x 0.62 x 3.6 mm, nnU-Net's rule: 320 x 320 x 20 voxels a scan instead of 283 x ")
    assert other.cost.endswith(", 0.25 times the work")
    (other,) = [
        a for a in decided(Request(memory_gb=8, spacing="median"), prostate).alternatives if "--spacing" in a.what
    ]
    assert (other.what, other.cost[:9]) == ("--spacing isotropic", "0.702 mm:")
    assert not [a for a in decided().alternatives if "--spacing" in a.what]


def test_another_spacing_is_no_alternative_to_slices_as_stored():
    prostate = alike(spacing=(0.62, 0.62, 3.6), shape=(320, 320, 20))
    made = decided(Request(memory_gb=8, dims="2d"), prostate)
    assert [a.what for a in made.alternatives] == ["--dims 3d"]


def test_many_times_the_work_are_told_in_plain_numbers():
    made = decided(
        Request(memory_gb=8, dims="lowres", device="cuda"), alike(spacing=(0.2, 0.2, 0.2), shape=(2000,) * 3)
    )
    (full,) = [a for a in made.alternatives if a.what == "--dims 3d"]
    assert re.search(r": \d{3,} times the work for each scan", full.cost), full.cost


def test_what_is_not_chosen_is_told_with_its_cost():
    made = decided(Request(budget=Budget(seconds=600)), alike(**CT))
    by_what = {a.what: a for a in made.alternatives}
    assert set(by_what) == {"--dims lowres", "--dims cascade", "--dims 2d"}
    assert by_what["--dims 2d"].cost.endswith(" times the work for each scan, 0.57 GB to train")
    assert by_what["--dims cascade"].cost.startswith("3D cascade, 0.75 mm: as much work for each scan")
    assert "liver would have" in by_what["--dims lowres"].why_not


def test_more_structures_than_a_byte_holds_are_fine_up_to_two_bytes():
    made = decided(structures=tuple(Structure(value=v, name=f"s{v}") for v in range(1, 257)))
    assert made.configurations["3d"].network.classes == 257
    many = tuple(Structure(value=v, name=f"s{v}") for v in range(1, 65_537))
    with pytest.raises(InputError, match="65536 structures"):
        decided(structures=many)


def test_ct_is_cropped_to_the_body_all_else_to_what_is_not_zero():
    assert decided(channels=("CT",)).configurations["3d"].preprocessing.crop == "body"
    made = decided(channels=("MR",), fingerprint=alike(shape=(40, 40, 40), cropped=(40, 40, 20)))
    assert made.configurations["3d"].preprocessing.crop == "nonzero"
    assert reason(made, "crop").numbers == {"share of the median scan": 0.5}
