from __future__ import annotations

import pytest
import torch

from medseg.planning.cost import Measured
from medseg.training.learning import measure
from medseg.training.learning.measure import measure_step
from tests.tiny import CPU, configuration

NETWORK = configuration().network


def test_a_step_takes_time_and_on_a_processor_nothing_tells_its_memory():
    found = measure_step(NETWORK, (8, 8, 8), 2, CPU)
    assert isinstance(found, Measured)
    assert 0 < found.seconds < 10
    assert found.memory_bytes is None


def test_2d_and_larger_steps_are_measured():
    small = measure_step(NETWORK, (8, 8, 8), 2, CPU)
    large = measure_step(NETWORK, (32, 32, 32), 2, CPU)
    assert small is not None
    assert large is not None
    assert large.seconds > small.seconds
    assert measure_step(configuration(dims=2).network, (16, 16), 2, CPU) is not None


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 12 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_step_that_does_not_fit_is_no_error(monkeypatch, error):
    def full(*_: object) -> float:
        raise error

    monkeypatch.setattr(measure, "_steps", full)
    assert measure_step(NETWORK, (8, 8, 8), 2, CPU) is None


def test_other_errors_are_not_taken_for_it(monkeypatch):
    def broken(*_: object) -> float:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(measure, "_steps", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        measure_step(NETWORK, (8, 8, 8), 2, CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_memory_on_a_gpu_is_that_of_training():
    device = torch.device("cuda")
    found, twice = (measure_step(NETWORK, (32, 32, 32), batch, device) for batch in (2, 32))
    assert found is not None
    assert twice is not None
    assert (found.memory_bytes or 0) < (twice.memory_bytes or 0)
