"""Devices: which one to use, how precisely to compute on it, and how to keep its memory from churning."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from medseg.errors import InputError
from medseg.resources import M_MMAP_MAX, M_TRIM_THRESHOLD, available_cores, told_to_malloc

Asked = Literal["auto", "cpu", "cuda"]

_USERS_OWN = frozenset({"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"})
_NEVER = 2**31 - 1


def choose_device(asked: str) -> torch.device:
    """The device for `auto`, `cpu` or `cuda`; on a CPU, as many threads as this process has cores.

    Raises:
        InputError: `asked` is none of these, or CUDA is asked for where torch sees no GPU.
    """
    if asked not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {asked} is no device", fix="give auto, cpu or cuda")
    gpu = torch.cuda.is_available()
    if asked == "cuda" and not gpu:
        raise InputError("torch sees no GPU here", fix="use --device cpu, or run medseg doctor to see why")
    if gpu and asked != "cpu":
        torch.backends.cudnn.benchmark = True  # patch shapes are fixed
        return torch.device("cuda")
    torch.set_num_threads(available_cores())
    return torch.device("cpu")


def device_kind(asked: str) -> Literal["cpu", "cuda"]:
    """The same choice as a word for records."""
    return "cuda" if choose_device(asked).type == "cuda" else "cpu"


def describe(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {precision(device)}"
    n = torch.get_num_threads()
    return f"CPU, {n} thread{'' if n == 1 else 's'}, {precision(device)}"


def precision(device: torch.device) -> Literal["bf16", "fp32"]:
    """bf16 where the hardware computes in it; emulated bf16 is slower than fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if _cpu_has_bf16() else "fp32"


def _cpu_has_bf16() -> bool:
    found = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # torch has no public question for this
    return bool(found and found())


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """The context in which a network computes on `device`."""
    if precision(device) == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def keep_freed_memory() -> bool:
    """Tell glibc to keep what torch frees on a CPU: else every activation is mapped and page-faulted anew each step.

    True if done; other C libraries are left as they are.
    """
    return told_to_malloc({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: _NEVER})


def grow_freed_memory(device: torch.device) -> bool:
    """Tell torch's allocator on a GPU to let blocks grow: else memory that was freed in pieces cannot be used whole.

    True if done; only NVIDIA's driver under Linux has it. Settings that the user gave torch itself are left alone, as
    telling it would reset them all.
    """
    tell = getattr(torch._C, "_accelerator_setAllocatorSettings", None)  # noqa: SLF001 - torch names no other way
    if device.type != "cuda" or sys.platform != "linux" or tell is None or not _USERS_OWN.isdisjoint(os.environ):
        return False
    tell("expandable_segments:True")
    return True


def free_gpu_bytes(device: torch.device) -> float:
    """What torch may still take of a GPU's memory."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return float(torch.cuda.mem_get_info(device)[0] + unused)


def release_memory(device: torch.device) -> None:
    """Give back a GPU's memory that nothing refers to any more, what lies in reference cycles too."""
    if device.type == "cuda":
        gc.collect()  # a captured graph is part of one
        torch.cuda.empty_cache()


def compute_reproducibly(device: torch.device) -> None:
    """The same numbers give the same result to the last bit on a CPU, and as nearly as torch can on a GPU.

    The order of sums depends on the number of threads too: it is kept with a checkpoint.
    """
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    torch.backends.cudnn.benchmark = False


def memory_gave_out(error: RuntimeError) -> bool:
    """torch has an error of its own for its allocator; libraries below it, and the CPU's allocator, tell by words."""
    words = "out of memory", "ALLOC_FAILED", "can't allocate memory", "to find an engine", "a valid cuDNN algorithm"
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)
