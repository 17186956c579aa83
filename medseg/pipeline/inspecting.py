"""Inspecting a path from end to end: looked at, checked, and written where that is asked; by all who share the work.

OUT                     all that was found
<stem>.case_map.json    mode 0600: where each DICOM volume lies
<stem>.cases/           while parts, or other machines, work on it: what they saw, and the secret of the names
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from medseg.errors import InputError
from medseg.events import Event
from medseg.files import output_folder, write_record
from medseg.imaging.inspect import RECORDS, Inspected, Shared
from medseg.imaging.inspect import inspect as look
from medseg.imaging.source import ReadOptions
from medseg.kept import PartDone, shared_key
from medseg.parallel import HERE, Where
from medseg.parts import WHOLE, Part, claimed, put_away
from medseg.planning.checks.check import check_cases, failure
from medseg.planning.fingerprint import CaseFingerprint, fingerprint_of


def inspect(
    path: Path,
    options: ReadOptions,
    headers: bool = False,
    out: Path | None = None,
    where: Where = HERE,
    part: Part = WHOLE,
) -> Iterator[Event | Inspected | PartDone]:
    """Look at everything at `path`; what is found is written to `out`, if that is given.

    Raises:
        InputError: there is nothing at `path`; or parts, or other machines, have no place to share.
        ResourceError: `out` cannot be written to.
    """
    examine = None if headers else fingerprint_of
    if part == WHOLE and where.here:
        for event in look(path, secrets.token_hex(16), options, headers, examine, where):
            yield _finished(event, headers, out) if isinstance(event, Inspected) else event
        return
    if out is None:
        raise InputError("parts and other machines need a file that the result is for", fix="name it with -o FILE")
    folder = out.with_name(f"{out.stem}.cases")
    try:
        output_folder(out.parent)
        with claimed(folder, part, "."):
            yield from _shared(path, options, headers, out, where, Shared(folder, part))
    finally:
        if not (folder / RECORDS).is_dir():  # nothing was seen yet, or all is written
            put_away(folder)


def _shared(
    path: Path, options: ReadOptions, headers: bool, out: Path, where: Where, shared: Shared
) -> Iterator[Event | Inspected | PartDone]:
    examine, end = None if headers else fingerprint_of, None
    for event in look(path, shared_key(shared.folder), options, headers, examine, where, shared):
        if isinstance(event, Inspected):  # written before what is kept goes away
            end = _finished(event, headers, out)
        else:
            yield event
    if end is not None:
        yield end


def _finished(inspected: Inspected, headers: bool, out: Path | None) -> Inspected:
    if inspected.labelled and not headers:
        inspected = _checked(inspected, [CaseFingerprint.model_validate(value) for value in inspected.values])
    if out is not None:
        write_record(out, inspected.inspection)
        write_record(out.with_name(f"{out.stem}.case_map.json"), inspected.case_map, private=True)
    return inspected


def _checked(inspected: Inspected, looked: Sequence[CaseFingerprint]) -> Inspected:
    """The same with all findings: of cases that could not be read, and of the others beside each other."""
    found, seen = inspected.inspection, {case.case for case in looked}
    unread = [one for one in found.cases if one.name in inspected.labelled and one.name not in seen]
    failures = [failure(one.name, problem) for one in unread for problem in one.problems]
    failures += [failure(left.where, left.reason) for left in found.left if left.broken]
    findings = (*failures, *check_cases(looked, found.labels))
    return replace(inspected, inspection=found.model_copy(update={"checked": True, "findings": findings}))
