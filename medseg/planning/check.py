"""What is odd about a case beside the others: found before any long work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.planning.fingerprint import CaseFingerprint


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found in a case; `bad` if it cannot be used."""

    case: str
    what: str
    bad: bool


def odd_cases(cases: Sequence[CaseFingerprint]) -> list[Finding]:
    """Single slices among volumes (or the reverse), which are bad, and empty label maps, which may be meant."""
    findings: list[Finding] = []
    if not cases:
        return findings
    flat = [min(c.shape) == 1 for c in cases]
    mostly_flat = float(np.mean(flat)) > 0.5
    for case, is_flat in zip(cases, flat, strict=True):
        if is_flat != mostly_flat:
            what, others = ("a single slice", "volumes") if is_flat else ("a volume", "single slices")
            size = " x ".join(map(str, case.shape))
            findings.append(Finding(case.case, f"is {what} ({size}) while the others are {others}", bad=True))
        elif not case.structures:
            what = "its label map is empty; it is used as a scan without structures, remove it if labels are missing"
            findings.append(Finding(case.case, what, bad=False))
    return findings
