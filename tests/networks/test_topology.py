from __future__ import annotations

import pytest
import torch

from medseg.errors import InputError
from medseg.files import read_record
from medseg.networks.table import NETWORKS, build_network
from medseg.networks.topology import NetworkSettings, stage_shapes
from tests.networks.build import LAYOUT_KEPT, PATCHES, SETTINGS


def test_shapes_are_those_of_the_encoder():
    for name, settings in SETTINGS.items():
        if settings.kind not in LAYOUT_KEPT:
            continue
        network, shapes = build_network(settings), []
        for stage in network.encoder:
            stage.register_forward_hook(lambda _, __, out, to=shapes: to.append(tuple(out.shape[2:])))
        for patch in PATCHES[name]:
            shapes.clear()
            with torch.no_grad():
                network.eval()(torch.zeros(1, settings.in_channels, *patch))
            assert stage_shapes(patch, settings.strides) == shapes, (name, patch)


def test_shapes_are_rounded_up():
    assert stage_shapes((9, 5), ((1, 1), (2, 1), (2, 2))) == [(9, 5), (5, 5), (3, 3)]


def test_the_table_names_what_settings_may_ask_for():
    assert {settings.kind for settings in SETTINGS.values()} == set(NETWORKS)


def test_deep_supervision_is_refused_where_there_is_none(tmp_path):
    settings = SETTINGS["fcn 3d"]
    (tmp_path / "fcn.json").write_text(settings.model_dump_json().replace("false", "true"))
    with pytest.raises(InputError, match="fcn has no deep supervision"):
        read_record(tmp_path / "fcn.json", NetworkSettings)
