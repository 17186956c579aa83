"""Fixtures of the tests of inference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread_of_torch() -> Iterator[None]:
    """Small tests are slower on several threads, by far where other processes are busy too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
