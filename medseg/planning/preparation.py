"""The cases of a plan, prepared where they do not stand already: by processes on a CPU, by threads around a GPU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from medseg.errors import InputError
from medseg.events import Advanced, Event, Note, Stage
from medseg.imaging.dataset import Dataset
from medseg.parallel import HERE, MEMORY_SHARE, Done, Where, Workers, among, over_cases
from medseg.planning.cost import GB, preparing_bytes
from medseg.planning.explain import counted, duration, size
from medseg.planning.fingerprint import Fingerprint
from medseg.planning.plan import Configuration, Plan
from medseg.preprocessing.cache import CacheJob, cache_key, prepare_case, standing
from medseg.preprocessing.prepare import resampled_shape
from medseg.preprocessing.resample import ON_CPU, Resampler
from medseg.resources import available_memory_bytes

SECONDS_A_VOXEL = 1.2e-7  # of a scan and of what is made of it, one core
GPU_READERS = 4  # cases that are read and written at once while a GPU resamples


def to_prepare(plan: Plan) -> tuple[Configuration, ...]:
    """The chosen configuration, those asked for besides, and those that they build on; one for each cache.

    Raises:
        InputError: one that was asked for is not in the plan.
    """
    if missing := [name for name in plan.request.also if name not in plan.configurations]:
        what = f"--also {missing[0]}: there is no such configuration for these scans"
        raise InputError(what, fix=f"the plan has {', '.join(plan.configurations)}")
    wanted = [plan.configurations[name] for name in (plan.chosen, *plan.request.also)]
    before = [plan.configurations[one.previous] for one in wanted if one.previous is not None]
    return tuple({one.cache: one for one in (*before, *wanted)}.values())


def prepare_cases(
    dataset: Dataset,
    run: Path,
    fingerprint: Fingerprint,
    plan: Plan,
    failed: dict[str, str],
    resampler: Resampler,
    where: Where = HERE,
) -> Iterator[Event]:
    """Prepare the cases that do not stand prepared yet for every configuration that needs it; into `failed` those that
    cannot be.
    """
    for configuration in to_prepare(plan):
        looked = Fingerprint(cases=tuple(c for c in fingerprint.cases if c.case not in failed))
        yield from _prepare(dataset, run, looked, configuration, failed, resampler, where)


def _prepare(
    dataset: Dataset,
    run: Path,
    fingerprint: Fingerprint,
    configuration: Configuration,
    failed: dict[str, str],
    resampler: Resampler,
    where: Where,
) -> Iterator[Event]:
    """For one configuration, the largest case first."""
    settings, folder = configuration.preprocessing, run / "cache" / configuration.cache
    looked = {c.case: c for c in fingerprint.cases}
    bare = replace(dataset, cases=(), left=())
    every = [
        CacheJob(case, bare, settings, folder, looked[case.name].key, resampler)
        for case in dataset.cases
        if case.name in looked
    ]
    todo = [job for job in every if not _stands(job)]
    todo.sort(key=lambda job: -math.prod(looked[job.case.name].shape))
    if len(todo) < len(every):
        stand = f"{len(every) - len(todo)} of {counted(len(every), 'case')}"
        yield Note(f"prepared for {configuration.cache} already: {stand}")
    left = Fingerprint(cases=tuple(looked[job.case.name] for job in todo))
    channels, target = len(settings.channels), settings.spacing_mm
    voxels = sum(math.prod(c.shape) + math.prod(resampled_shape(c.cropped, c.spacing_mm, target)) for c in left.cases)
    seconds = voxels * channels * SECONDS_A_VOXEL
    case_bytes = preparing_bytes(left, target, channels)
    disk = configuration.cost.cache_gb * len(todo) / max(len(every), 1)
    expect = (
        f"about {duration(max(seconds, 1))} on one core, {size(case_bytes / GB)} of RAM a case, {size(disk)} on disk"
    )
    yield Stage("prepare", len(todo), f"for {configuration.cache}: {expect}" if todo else "nothing to do")
    workers = _workers(len(todo), seconds, case_bytes, resampler, where)
    yield from map(Note, workers.told)
    for done, result in enumerate(over_cases(prepare_case, todo, workers.executor, workers.in_flight), 1):
        name = result.case.case.name
        if not isinstance(result, Done):
            failed[name] = result.reason
            yield set_aside(name, result.reason)
        yield Advanced(done, among(name, workers.status()))


def _stands(job: CacheJob) -> bool:
    stands = standing(job.folder, job.case.name)
    return stands is not None and stands.key == cache_key(job)


def _workers(n: int, seconds: float, case_bytes: float, resampler: Resampler, where: Where) -> Workers:
    """Processes for a CPU. A GPU is held by this process: then threads read and write around it."""
    if resampler is ON_CPU:
        return where.workers(n, seconds, case_bytes)
    readers = max(1, min(n, GPU_READERS, int(MEMORY_SHARE * available_memory_bytes() / max(case_bytes, 1.0))))
    return Workers(ThreadPoolExecutor(readers), readers)


def set_aside(case: str, reason: str) -> Note:
    """That a case is not used, and why."""
    return Note(f"set aside: {reason if case in reason else f'{case}: {reason}'}", warning=True)
