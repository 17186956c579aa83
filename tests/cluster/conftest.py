"""A Dask cluster that the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.running import Running, running


@pytest.fixture(scope="module")
def dask_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    with running(tmp_path_factory.mktemp("dask")) as cluster:
        yield cluster
