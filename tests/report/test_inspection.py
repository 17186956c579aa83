from __future__ import annotations

from medseg.imaging.case import Left
from medseg.imaging.finding import Finding
from medseg.imaging.inspect import Inspection, Look
from medseg.report.inspection import findings_table, inspection_table


def finding(case: str, how_bad: str = "suspect", code: str = "hu") -> Finding:
    return Finding.model_validate({"case": case, "code": code, "what": "is odd", "how_bad": how_bad, "todo": "mend it"})


def inspection(*findings: Finding, checked: bool = True) -> Inspection:
    looks = tuple(Look(name=name, kind="nifti", source=f"{name}.nii.gz", notes=("a note",)) for name in "abc")
    return Inspection(
        name="d", layout="folders", labels={1: "liver"}, cases=looks, left=(), checked=checked, findings=findings
    )


def test_findings_are_told_in_a_table_of_their_own_and_named_in_the_first() -> None:
    found = inspection(
        finding("a", "unusable", "truncated"), finding("b"), finding("b", "note", "patient"), finding("")
    )
    first, second = inspection_table(found), findings_table(found)
    assert [row[-1] for row in first.rows] == ["truncated; a note", "hu; patient; a note", "a note"]
    assert first.remarks == ("check of the data set: 1 unusable, 2 suspect, 1 note", "3 cases, 2 with problems")
    assert second is not None
    assert second.rows[0] == ("a", "unusable", "truncated", "is odd", "mend it")
    assert [row[0] for row in second.rows] == ["a", "b", "b", "data set"]
    assert not found.is_fine


def test_nothing_found_notes_alone_and_not_checked() -> None:
    assert inspection().is_fine
    assert findings_table(inspection()) is None
    assert inspection_table(inspection()).remarks[0] == "check of the data set: nothing found"
    assert inspection(finding("a", "note")).is_fine
    assert inspection_table(inspection(checked=False)).remarks[0].startswith("not checked")


def test_scans_without_labels_are_not_checked_and_nothing_is_said_of_it() -> None:
    scans = Inspection(name="d", cases=(Look(name="a", kind="nifti", source="a.nii.gz"),), left=())
    assert inspection_table(scans).remarks == ("1 scans, 0 with problems",)
    left = scans.model_copy(update={"left": (Left("b", "is cut", broken=True),)})
    assert not left.is_fine
