"""Our rules beside the answers of nnU-Net's own planners, kept by make_nnunet_plans.py."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from medseg.networks.topology import NetworkSettings
from medseg.planning.architecture import Fitted, fit, low_resolution
from medseg.planning.cost import Machine
from medseg.planning.decide import decide
from medseg.planning.families import FAMILIES
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import Configuration, Request, Structure
from medseg.planning.spacing import coarsest_axis, exact_median_shape, median_shape, target_spacing
from tests.planning.build import looked_at, sketch

ORACLE = json.loads((Path(__file__).parent / "nnunet_plans" / "plans.json").read_text())
EVERY = [(name, planner) for name, data in ORACLE["datasets"].items() for planner in data["plans"]]


def fingerprint_of(data: dict[str, Any]) -> Fingerprint:
    cases = [(spacing[::-1], shape[::-1]) for n, spacing, shape in data["cases"] for _ in range(n)]
    any_values = (sketch(),)
    made = [looked_at(f"case{k}", *case, channels=any_values) for k, case in enumerate(cases)]
    return Fingerprint(cases=tuple(made))


def in_their_order(numbers: Sequence[Any], first: int) -> list[Any]:
    """R, A, S to z, y, x, then the first axis in front; a slice's axes to y, x or what is left."""
    backwards = list(numbers)[::-1]
    return [backwards[first], *backwards[:first], *backwards[first + 1 :]] if len(backwards) == 3 else backwards


def decided(fitted: Fitted, spacing: Sequence[float], shape: Sequence[float], first: int) -> dict[str, Any]:
    return {
        "spacing": in_their_order(spacing, first),
        "median_shape": in_their_order(shape, first),
        "patch": in_their_order(fitted.patch, first),
        "batch": fitted.batch,
        **built(fitted.network, first),
    }


def built(network: NetworkSettings, first: int) -> dict[str, Any]:
    return {
        "features": list(network.features),
        "strides": [in_their_order(s, first) for s in network.strides],
        "kernels": [in_their_order(k, first) for k in network.kernels],
        "encoder": list(network.convs_encoder),
        "decoder": list(network.convs_decoder),
    }


@pytest.mark.parametrize(("name", "planner"), EVERY)
def test_our_plans_are_those_of_nnunet(name, planner):
    data = ORACLE["datasets"][name]
    told, gb = data["plans"][planner], ORACLE["planners"][planner]["gb"]
    family, first = FAMILIES[planner.split(" ")[0]], told["first_axis"]
    seen = fingerprint_of(data)
    spacing, _ = target_spacing(seen, "median")
    shape = exact_median_shape(seen, spacing)
    cases, made = len(seen.cases), {}

    def fitted(spacing: Sequence[float], shape: Sequence[float], voxels: float) -> Fitted:
        return fit(spacing, shape, data["channels"], data["labels"], cases * voxels, gb, family)

    if told["configurations"].get("3d_fullres"):
        full = fitted(spacing, shape, math.prod(shape))
        made["3d_fullres"] = decided(full, spacing, shape, first)
        low = low_resolution(spacing, shape, full, fitted)
        if low:
            made["3d_lowres"] = decided(low.fitted, low.spacing, low.shape, first)
    slices = coarsest_axis(seen)
    plane = [a for a in range(3) if a != slices]
    within, across = [spacing[a] for a in plane], [shape[a] for a in plane]
    made["2d"] = decided(fitted(within, across, math.prod(shape)), within, across, first)
    assert slices == 2 - first
    for key, configuration in told["configurations"].items():
        for what, answer in configuration.items():
            exact = what != "spacing"
            assert made[key][what] == (answer if exact else pytest.approx(answer, rel=1e-12)), (key, what)
    assert made.keys() == told["configurations"].keys()


def not_to_be_asked(*_: object) -> Any:
    raise AssertionError("nnU-Net's rule measures nothing")


def planned(configuration: Configuration, first: int) -> dict[str, Any]:
    """What a plan says that nnU-Net says too; of a 2D patch the two axes of a slice."""
    patch = [n for axis, n in enumerate(configuration.patch) if axis != configuration.slice_axis]
    return {
        "patch": in_their_order(patch, first),
        "batch": configuration.schedule.batch,
        **built(configuration.network, first),
    }


@pytest.mark.parametrize(("name", "planner"), EVERY)
def test_whole_plans_by_nnunets_rules_are_its_own(name, planner):
    """As `medseg plan --spacing median --memory GB` puts the rules together."""
    data = ORACLE["datasets"][name]
    told, gb = data["plans"][planner], ORACLE["planners"][planner]["gb"]
    request = Request(spacing="median", memory_gb=gb, network=planner.split(" ")[0], dims="2d")
    structures = [Structure(value=k, name=f"structure {k}") for k in range(1, data["labels"])]
    machine = Machine(not_to_be_asked, not_to_be_asked)
    made = decide(fingerprint_of(data), structures, ["MR"] * data["channels"], request, machine).configurations
    for theirs, ours in (("2d", "2d"), ("3d_fullres", "3d"), ("3d_lowres", "3d_lowres")):
        answer = told["configurations"].get(theirs)
        if answer:
            found = planned(made[ours], told["first_axis"])
            assert found == {what: answer[what] for what in found}
        elif ours == "3d_lowres":
            assert ours not in made


def test_three_dimensions_are_left_out_for_single_slices_alone():
    for data in ORACLE["datasets"].values():
        seen = fingerprint_of(data)
        flat = 1 in median_shape(seen, target_spacing(seen, "median")[0])
        for plan in data["plans"].values():
            assert ("3d_fullres" in plan["configurations"]) != flat


def test_the_oracle_asks_hard_questions():
    """Low resolutions, thick slices along every axis, sharing memory and the data set: each occurs and is answered."""
    every = [(n, p, d["plans"][p]) for n, d in ORACLE["datasets"].items() for p in d["plans"]]
    assert len(ORACLE["datasets"]) == 27
    assert sum("3d_lowres" in plan["configurations"] for _, _, plan in every) >= 10
    assert {plan["first_axis"] for _, _, plan in every} == {0, 1, 2}
    batches = {c["batch"] for _, _, plan in every for c in plan["configurations"].values()}
    assert min(batches) == 2
    assert max(batches) > 100
    halves = [
        n for d in ORACLE["datasets"].values() for n in d["plans"]["unet"]["configurations"]["2d"]["median_shape"]
    ]
    assert any(n % 1 for n in halves)
