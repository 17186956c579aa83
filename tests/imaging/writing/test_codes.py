"""Codes of structures: every one is in DICOM's own dictionaries, names find theirs, and none is guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.sr._concepts_dict import concepts

from medseg.errors import InputError
from medseg.imaging.writing import snomed
from medseg.imaging.writing.codes import _ALSO, UNKNOWN, Code, code_of, colour_of, read_codes, words_of

TABLES = (
    snomed.POSITIONS,
    snomed.ANATOMY,
    snomed.ABNORMAL,
    snomed.TISSUES,
    snomed.SUBSTANCES,
    snomed.OBJECTS,
    snomed.TARGETS,
)
ALONE = (
    snomed.LEFT,
    snomed.RIGHT,
    snomed.ANATOMICAL_STRUCTURE,
    snomed.ABNORMAL_STRUCTURE,
    snomed.TISSUE,
    snomed.BODY_SUBSTANCE,
    snomed.PHYSICAL_OBJECT,
    snomed.RT_TARGET,
)
MANY_ORGANS = [
    "adrenal_gland_left",
    "aorta",
    "autochthon_left",
    "brain",
    "clavicula_left",
    "colon",
    "duodenum",
    "esophagus",
    "face",
    "femur_left",
    "gallbladder",
    "gluteus_maximus_left",
    "gluteus_medius_left",
    "heart_atrium_left",
    "heart_atrium_right",
    "heart_myocardium",
    "heart_ventricle_left",
    "heart_ventricle_right",
    "hip_left",
    "humerus_left",
    "iliac_artery_left",
    "iliac_vena_right",
    "iliopsoas_left",
    "inferior_vena_cava",
    "kidney_left",
    "kidney_right",
    "liver",
    "lung_lower_lobe_left",
    "lung_middle_lobe_right",
    "lung_upper_lobe_right",
    "pancreas",
    "portal_vein_and_splenic_vein",
    "pulmonary_artery",
    "rib_left_1",
    "rib_left_2",
    "rib_right_12",
    "sacrum",
    "scapula_left",
    "small_bowel",
    "spleen",
    "stomach",
    "trachea",
    "urinary_bladder",
    "vertebrae_S1",
    "vertebrae_C1",
    "vertebrae_T12",
    "vertebrae_L5",
    "heart",
    "pulmonary_vein",
    "brachiocephalic_trunk",
    "subclavian_artery_right",
    "common_carotid_artery_left",
    "brachiocephalic_vein_left",
    "atrial_appendage_left",
    "superior_vena_cava",
    "kidney_cyst_left",
    "prostate",
    "spinal_cord",
    "skull",
    "sternum",
    "costal_cartilages",
    "thyroid_gland",
    "skeletal_muscle",
    "subcutaneous_fat",
    "torso_fat",
]


@pytest.mark.parametrize("triple", [t for table in TABLES for t in table.values()] + list(ALONE), ids=str)
def test_every_code_stands_in_the_dictionary_with_this_meaning(triple: tuple[str, str, str]) -> None:
    value, scheme, meaning = triple
    meanings = {entry[value][0] for entry in concepts[scheme].values() if value in entry}
    assert meaning in meanings


@pytest.mark.parametrize(("name", "term"), sorted(snomed.ANATOMY.items()))
def test_a_name_in_the_table_is_a_name_of_its_code(name: str, term: tuple[str, str, str]) -> None:
    """The words of our name are those of one of the dictionary's meanings, or are among the few told here."""
    other = {
        "adrenal gland": "Adrenal gland",
        "airway": "Airway structure",
        "anterior fibromuscular stroma": "Anterior fibromuscular stroma of prostate",
        "brainstem": "Brain Stem",
        "celiac artery": "Structure of celiac artery (body structure)",
        "left atrial appendage": "Left auricular appendage",
        "left ventricular myocardium": "Left Ventricle Myocardium",
        "pituitary gland": "Pituitary",
        "right atrial appendage": "Right auricular appendage",
        "thyroid gland": "Thyroid",
        "urinary bladder": "Urinary bladder structure (body structure)",
        **{
            f"liver segment {i}": f"Couinaud hepatic segment {r}"
            for i, r in enumerate(("I", "II", "III", "IV", "V", "VI", "VII", "VIII"), 1)
        },
    }
    meanings = {entry[term[0]][0] for entry in concepts[term[1]].values() if term[0] in entry}
    said = {words_of(meaning) for meaning in meanings}
    assert words_of(name) in said or other.get(name) in meanings


@pytest.mark.parametrize(
    ("name", "meaning", "modifiers"),
    [
        ("liver", "Liver", []),
        ("kidney_left", "Kidney", ["Left"]),
        ("left kidney", "Kidney", ["Left"]),
        ("Left Kidney", "Kidney", ["Left"]),
        ("KIDNEY (RIGHT)", "Kidney", ["Right"]),
        ("Lung_L", "Lung", ["Left"]),
        ("leftLung", "Lung", ["Left"]),
        ("lung_middle_lobe_right", "Middle lobe of right lung", []),
        ("lung_upper_lobe_left", "Upper lobe of lung", ["Left"]),
        ("heart_atrium_left", "Left atrium", []),
        ("vertebrae_L5", "L5 vertebra", []),
        ("rib_right_7", "Rib", ["Right"]),
        ("inferior vena cava", "Inferior vena cava", []),
        ("anterior hippocampus", "Hippocampus", ["Anterior"]),
        ("left posterior hippocampus", "Hippocampus", ["Left", "Posterior"]),
        ("hippocampus head", "Hippocampus", []),
        ("Oesophagus", "Esophagus", []),
        ("enhancing tumour", "Enhancing Lesion", []),
        ("tumor", "Neoplasm", []),
        ("edema", "Edema", []),
        ("GTV", "GTV", []),
        ("GTV-2", "GTV", []),
        ("prostate peripheral zone", "Peripheral zone of the prostate", []),
        ("gluteus_maximus_left", "Skeletal muscle", ["Left"]),
    ],
)
def test_names_find_their_code(name: str, meaning: str, modifiers: list[str]) -> None:
    code, warning = code_of(name)
    assert (code.type[2], [modifier[2] for modifier in code.modifiers], warning) == (meaning, modifiers, "")


def test_an_abnormality_names_the_structure_it_is_in() -> None:
    code, _ = code_of("kidney_cyst_left")
    assert code == Code(
        snomed.ABNORMAL_STRUCTURE, snomed.ABNORMAL["cyst"], (snomed.LEFT,), region=snomed.ANATOMY["kidney"]
    )
    assert code_of("liver metastases")[0].region == snomed.ANATOMY["liver"]
    assert code_of("lesion 3")[0].region is None


@pytest.mark.parametrize(
    "name",
    ["", "42", "Anterior", "left", "no tumor", "liver and tumor", "not liver", "left right lung", "Läsion", "cruciate",
     "peritumoral", "T1", "background", "ventricle", "tumor bed", "pelvis", "liver vein thing"],
)  # fmt: skip
def test_what_is_not_known_gets_no_code_but_a_warning(name: str) -> None:
    code, warning = code_of(name)
    assert code == UNKNOWN
    assert repr(name) in warning


def test_the_common_names_of_organs_are_all_known() -> None:
    assert [name for name in MANY_ORGANS if code_of(name)[1]] == []


def test_every_other_name_is_needed_and_leads_to_a_code() -> None:
    assert [name for name in _ALSO if code_of(name)[1]] == []
    tables = set().union(*TABLES[1:])
    assert [name for name in _ALSO if name in tables] == []


@given(st.text(max_size=30))
def test_any_text_has_a_code_and_a_colour(name: str) -> None:
    code, warning = code_of(name)
    assert (code == UNKNOWN) == bool(warning)
    assert all(0 <= part <= 255 for part in colour_of(name, len(name)))


def test_colours_are_always_the_same_and_each_its_own() -> None:
    colours = [colour_of(name, i) for i, name in enumerate(MANY_ORGANS, start=1)]
    assert colours == [colour_of(name, i) for i, name in enumerate(MANY_ORGANS, start=1)]
    assert len(set(colours)) == len(colours)
    unknown = [colour_of("", i) for i in range(1, 256)]
    assert len(set(unknown)) == len(unknown)


def test_colours_are_those_of_anatomy_books() -> None:
    red, green, blue = colour_of("aorta", 3)
    assert red > 2 * max(green, blue)
    red, green, blue = colour_of("portal vein", 3)
    assert blue > 1.5 * red
    assert min(colour_of("vertebrae_L1", 3)) > 100


def test_the_users_own_codes_come_first(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(
        '["My Liver"]\ntype = ["1", "99LOCAL", "Our liver"]\n'
        '[liver]\ncategory = ["91720002", "SCT", "Body Substance"]\ntype = ["2", "99LOCAL", "Other"]\n'
        'modifiers = [["7771000", "SCT", "Left"]]\nregion = ["3", "99LOCAL", "There"]\n',
        encoding="utf-8",
    )
    codes = read_codes(own)
    assert code_of("my_liver", codes) == (Code(snomed.ANATOMICAL_STRUCTURE, ("1", "99LOCAL", "Our liver")), "")
    liver, _ = code_of("liver", codes)
    assert liver == Code(
        snomed.BODY_SUBSTANCE, ("2", "99LOCAL", "Other"), (snomed.LEFT,), region=("3", "99LOCAL", "There")
    )
    same = tmp_path / "own.json"
    same.write_text(json.dumps({"liver": {"type": ["2", "99LOCAL", "Other"]}}), encoding="utf-8")
    assert read_codes(same)["liver"].type == ("2", "99LOCAL", "Other")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid"),
        ("[1]", "no table of structures"),
        ('{"liver": 3}', "'liver' is no table"),
        ('{"liver": {}}', "no type"),
        ('{"liver": {"type": ["1", "SCT"]}}', "type that is not a list"),
        ('{"liver": {"type": ["1", "SCT", ""]}}', "type that is not a list"),
        ('{"liver": {"type": ["1", "SCT", 5]}}', "type that is not a list"),
        ('{"liver": {"type": ["12345678901234567", "SCT", "x"]}}', "too long"),
        ('{"liver": {"type": ["1", "SCT", "a\\\\b"]}}', "backslash"),
        ('{"liver": {"type": ["1", "SCT", "x"], "modifiers": "left"}}', "no list of codes"),
        ('{"liver": {"type": ["1", "SCT", "x"], "kind": 1}}', "unknown key 'kind'"),
    ],
)
def test_bad_files_of_codes_are_refused_in_words(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "Mueller.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="CODES") as caught:
        read_codes(path)
    assert said in str(caught.value)
    assert "Mueller" not in str(caught.value)


def test_a_file_of_codes_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_codes(tmp_path / "none.toml")
