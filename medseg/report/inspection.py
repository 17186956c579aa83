"""What was found at a path, as tables: a row a case or scan, and a row for each finding of the check."""

from __future__ import annotations

from collections import Counter

from medseg.imaging.finding import Finding
from medseg.imaging.inspect import Inspection, Look
from medseg.report.table import Table

UNCHECKED = "not checked for duplicates, swapped sides, outliers and the like: that takes more than headers"


def inspection_table(found: Inspection) -> Table:
    """Geometry, labels, verdicts and problems of each case or volume; findings by their code alone."""
    labelled, judged = bool(found.labels), any(look.verdict for look in found.cases)
    columns = (
        "case" if found.layout else "scan",
        "what",
        *(("verdict",) if judged else ()),
        "shape",
        "spacing mm",
        "axes",
        *(("labels",) if labelled else ()),
        "look at",
    )
    remarks = [f"region {name}: {', '.join(map(str, values))}" for name, values in found.regions.items()]
    remarks += [f"ignored label: {found.ignore}"] if found.ignore is not None else []
    # what was meant to be used and cannot be is among the findings of a check
    remarks += [f"not used: {one.where}: {one.reason}" for one in found.left if not (found.checked and one.broken)]
    remarks += [_checked(found)] if labelled else []
    of_cases = _by_case(found.findings)
    bad = {finding.case for finding in found.findings if finding.how_bad != "note"}
    wrong = sum(bool(look.problems) or look.name in bad for look in found.cases)
    remarks.append(f"{len(found.cases)} {'cases' if found.layout else 'scans'}, {wrong} with problems")
    channels = ", ".join(found.channels)
    title = f"{found.name}: {found.layout} data set, channels {channels}" if found.layout else found.name
    rows = tuple(_row(look, of_cases.get(look.name, ()), labelled, judged) for look in found.cases)
    return Table(title, columns, rows, tuple(remarks))


def findings_table(found: Inspection) -> Table | None:
    """What the check of the data set found, the worst first; None if there is nothing to tell."""
    if not found.findings:
        return None
    rows = tuple((f.case or "data set", f.how_bad, f.code, f.what, f.todo) for f in found.findings)
    return Table("Check of the data set", ("case", "how bad", "about", "what", "what to do"), rows)


def _checked(found: Inspection) -> str:
    if not found.checked:
        return UNCHECKED
    counts = Counter(finding.how_bad for finding in found.findings)
    told = ", ".join(f"{n} {how_bad}" for how_bad in ("unusable", "suspect", "note") if (n := counts[how_bad]))
    return f"check of the data set: {told or 'nothing found'}"


def _by_case(findings: tuple[Finding, ...]) -> dict[str, tuple[str, ...]]:
    codes: dict[str, tuple[str, ...]] = {}
    for finding in findings:
        codes[finding.case] = tuple(dict.fromkeys((*codes.get(finding.case, ()), finding.code)))
    return codes


def _row(look: Look, codes: tuple[str, ...], labelled: bool, judged: bool) -> tuple[str, ...]:
    shape, spacing = " x ".join(map(str, look.shape)), " x ".join(f"{s:.3g}" for s in look.spacing_mm)
    verdict = (look.verdict,) if judged else ()
    labels = (", ".join(look.labels),) if labelled else ()
    remarks = "; ".join((*(codes or look.problems), *look.notes))
    return look.name, look.source, *verdict, shape, spacing, look.orientation, *labels, remarks
