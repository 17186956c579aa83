"""The check of a data set before any long work: what is wrong or odd with each case, how bad, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from medseg.errors import codes_in, without_codes
from medseg.imaging.finding import Code, Finding, HowBad
from medseg.planning.checks.duplicates import duplicates
from medseg.planning.checks.hounsfield import not_hounsfield
from medseg.planning.checks.laterality import swapped_sides
from medseg.planning.checks.outliers import by_value, size_outliers, spacing_outliers, stray_voxels
from medseg.planning.fingerprint import CaseFingerprint

__all__ = ["Finding", "check_cases", "failure", "told"]

MANY_EMPTY = 0.2  # with more empty label maps than this share, and than one, scans without structures are meant
MUCH_OUTSIDE = 0.01  # of the labelled voxels: the edge of a label may lie outside of the body
FEW_LACK = 10  # a structure that all cases but one hold is missed in that one, if they are as many
MOST_PATIENTS = 5  # with several cases that are listed one by one
ORDER: tuple[HowBad, ...] = ("unusable", "suspect", "note")

_FROM_ONE_SCAN = "export label and image from the same scan again"

# The stable code of an error on reading -> that of the finding, and what to do where the error does not say it.
ERRORS: Mapping[str, tuple[Code, str]] = {
    "TRUNCATED": ("truncated", "copy or export it again"),
    "DAMAGED": ("truncated", "copy or export it again"),
    "OTHER_SHAPE": ("shape", _FROM_ONE_SCAN),
    "OTHER_GRID": ("affine", _FROM_ONE_SCAN),
    "OFF_GRID": ("affine", _FROM_ONE_SCAN),
    "NO_OVERLAP": ("affine", _FROM_ONE_SCAN),
    "FRAME_OF_REFERENCE": ("affine", _FROM_ONE_SCAN),
    "UNKNOWN_VALUE": ("value", "name it in the dataset's labels, or mend the label"),
    "NOT_FOUND": ("missing", "put the file there, or leave the case out"),
}
UNREADABLE: tuple[Code, str] = ("unreadable", "export it again")


def check_cases(cases: Sequence[CaseFingerprint], names: Mapping[int, str]) -> list[Finding]:
    """All findings, the worst first; `names` are those of the structures by value. No case is looked at again."""
    found = [*_slices(cases), *_constant(cases), *_empty(cases, names)]
    gone = {finding.case for finding in found if finding.how_bad == "unusable"}
    used = [case for case in cases if case.case not in gone]
    if used:
        found += spacing_outliers(used)
        misread = {finding.case for finding in found if finding.code == "spacing"}
        found += size_outliers([case for case in used if case.case not in misread], names)
        found += stray_voxels(used, names)
        found += _outside(used)
        found += not_hounsfield(used)
        found += swapped_sides(used, names)
        found += duplicates(used)
        found += _patients(used)
    return sorted(found, key=lambda finding: (ORDER.index(finding.how_bad), finding.case))


def failure(case: str, said: str) -> Finding:
    """The finding for a case that could not be read: `said` is what went wrong, `; ` and what to do about it.

    The code in it, as in `[TRUNCATED] is cut short`, tells what kind of fault it is; the words are for people.
    """
    what, _, todo = said.rpartition("; ") if "; " in said else (said, "", "")
    found = [ERRORS[code] for code in codes_in(said) if code in ERRORS]
    code, default = found[0] if found else UNREADABLE
    what = without_codes(what) if found else what
    return Finding(case=case, code=code, what=what, how_bad="unusable", todo=todo or default)


def told(finding: Finding) -> str:
    """A finding in one line, without how bad it is."""
    return f"{finding.case or 'data set'}: {finding.what}; {finding.todo}"


def _slices(cases: Sequence[CaseFingerprint]) -> Iterator[Finding]:
    """Single slices among volumes, or the reverse."""
    flat = [min(case.shape) == 1 for case in cases]
    mostly_flat = sum(flat) > len(cases) / 2
    what, others = ("a volume", "single slices") if mostly_flat else ("a single slice", "volumes")
    for case, is_flat in zip(cases, flat, strict=True):
        if is_flat != mostly_flat:
            yield Finding(
                case=case.case,
                code="slice",
                what=f"is {what} ({' x '.join(map(str, case.shape))}) while the others are {others}",
                how_bad="unusable",
                todo="plan slices and volumes apart",
            )


def _constant(cases: Sequence[CaseFingerprint]) -> Iterator[Finding]:
    for case in cases:
        same = [k for k, whole in enumerate(case.whole) if whole.low == whole.high]
        if same:
            every = len(same) == len(case.whole)
            listed = ", ".join(case.modalities[k] if case.modalities else str(k) for k in same)
            yield Finding(
                case=case.case,
                code="constant",
                what=f"all voxels have the same value{'' if every else f' in channel {listed}'}",
                how_bad="unusable" if every else "suspect",
                todo="export it again, or leave it out",
            )


def _empty(cases: Sequence[CaseFingerprint], names: Mapping[int, str]) -> Iterator[Finding]:
    """Empty label maps, and structures that all cases but one hold."""
    empty = [case for case in cases if not case.structures]
    meant = len(empty) > max(1, MANY_EMPTY * len(cases))
    for case in empty:
        yield Finding(
            case=case.case,
            code="empty",
            what=f"its label map is empty, as are {len(empty)} of {len(cases)}" if meant else "its label map is empty",
            how_bad="note" if meant else "suspect",
            todo="it is used as a scan without structures; leave it out if labels are missing",
        )
    if len(cases) <= FEW_LACK:
        return
    holding = by_value(cases)
    lacks: dict[str, list[str]] = {}
    for value, name in names.items():
        if len(holding.get(value, ())) == len(cases) - 1:
            having = {case.case for case, _ in holding[value]}
            (lacking,) = (case for case in cases if case.case not in having)
            if lacking.structures:
                lacks.setdefault(lacking.case, []).append(name)
    for name_of_case, structures in lacks.items():
        yield Finding(
            case=name_of_case,
            code="empty",
            what=f"lacks {', '.join(structures)}, which all {len(cases) - 1} others have",
            how_bad="note",
            todo="label it if it is there",
        )


def _outside(cases: Sequence[CaseFingerprint]) -> Iterator[Finding]:
    """Labelled voxels where the scan shows nothing, which are cut away with it."""
    for case in cases:
        if case.outside:
            labelled = sum(s.voxels for s in case.structures)
            yield Finding(
                case=case.case,
                code="outside",
                what=f"{case.outside} of its {labelled} labelled voxels lie where the scan shows nothing",
                how_bad="suspect" if case.outside > MUCH_OUTSIDE * labelled else "note",
                todo="check that the label is that of this scan; they are cut away and not trained",
            )


def _patients(cases: Sequence[CaseFingerprint]) -> Iterator[Finding]:
    """Patients with several cases."""
    of_patient: dict[str, list[str]] = {}
    for case in cases:
        of_patient.setdefault(case.patient or case.case, []).append(case.case)
    several = [sorted(group) for group in of_patient.values() if len(group) > 1]
    todo = "nothing: all cases of a patient are in the same part of every fold"
    if len(several) > MOST_PATIENTS:
        most = max(map(len, several))
        what = f"{len(several)} of {len(of_patient)} patients have several cases, up to {most}"
        yield Finding(case="", code="patient", what=what, how_bad="note", todo=todo)
        return
    for first, *others in several:
        listed = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        what = f"is of the same patient as {listed}"
        yield Finding(case=first, code="patient", what=what, how_bad="note", todo=todo)
