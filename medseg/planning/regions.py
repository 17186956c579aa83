"""Regions: structures made of several label values, which a network finds as wholes, one output for each."""

from __future__ import annotations

from collections.abc import Sequence

from medseg.errors import InputError
from medseg.imaging.dataset import Dataset
from medseg.planning.plan import Region


def regions_of(dataset: Dataset) -> tuple[Region, ...]:
    """The regions to train, in the order in which they are painted; none where the data set gives no such order.

    The rule is nnU-Net's: each region has a value, and a later one is painted over those before it.

    Raises:
        InputError: painted so, a region could not be told from the values any more.
    """
    if not dataset.region_order:
        return ()
    named = zip(dataset.regions.items(), dataset.region_order, strict=True)
    regions = tuple(Region(name=name, values=values, value=value) for (name, values), value in named)
    for value, name in dataset.labels.items():
        holding = [region for region in regions if value in region.values]
        painted = holding[-1].value if holding else 0
        for region in regions:
            if (value in region.values) != (painted in region.values):
                what = f"its regions_class_order paints {name} ({value}) as {painted}, "
                what += f"which is {'part' if painted in region.values else 'no part'} of {region.name}"
                fix = "name regions from the whole to its parts, and for each a value that is in no later one"
                raise InputError(what, dataset.root, fix)
    return regions


def left_out(dataset: Dataset, regions: Sequence[Region]) -> list[str]:
    """Names of the structures that are in none of the regions."""
    within = {value for region in regions for value in region.values}
    return [name for value, name in sorted(dataset.labels.items()) if regions and value not in within]
