"""What a structure is, in codes that any system understands, and the colour it is shown in: both from its name."""

from __future__ import annotations

import colorsys
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import InputError
from medseg.imaging.writing import snomed
from medseg.imaging.writing.snomed import Triple

Words = frozenset[str]
Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Code:
    """What a structure is: category, type, modifiers (its side), and the region that an abnormality is in.

    Each is a triple of code value, coding scheme and meaning. Sides and positions are the region's, where there is one.
    """

    category: Triple
    type: Triple
    modifiers: tuple[Triple, ...] = ()
    region: Triple | None = None

    @property
    def of_type(self) -> tuple[Triple, ...]:
        """The modifiers that belong to the type."""
        return tuple(modifier for modifier in self.modifiers if modifier not in self.of_region)

    @property
    def of_region(self) -> tuple[Triple, ...]:
        """The modifiers that belong to the region: "kidney cyst left" is a cyst in the left kidney."""
        return tuple(modifier for modifier in self.modifiers if self.region and modifier in _SIDED.values())


UNKNOWN = Code(snomed.TISSUE, snomed.TISSUE)  # true of anything that can be segmented, but says nothing
_TABLES = (
    (snomed.ANATOMICAL_STRUCTURE, snomed.ANATOMY),
    (snomed.ABNORMAL_STRUCTURE, snomed.ABNORMAL),
    (snomed.TISSUE, snomed.TISSUES),
    (snomed.BODY_SUBSTANCE, snomed.SUBSTANCES),
    (snomed.PHYSICAL_OBJECT, snomed.OBJECTS),
    (snomed.RT_TARGET, snomed.TARGETS),
)
_ALSO = {  # other names; where no code of just this structure is at hand, a wider one that is still true
    "accumbens": "nucleus accumbens",
    "adrenal": "adrenal gland",
    "atrial appendage left": "left atrial appendage",
    "autochthon": "skeletal muscle",
    "bladder": "urinary bladder",
    "brain stem": "brainstem",
    "carpal": "bone",
    "caudate": "caudate nucleus",
    "clavicula": "clavicle",
    "csf": "cerebrospinal fluid",
    "enhancing neoplasm": "enhancing lesion",
    "enhancing neoplasm core": "enhancing lesion",
    "eyeball": "eye",
    "gall bladder": "gallbladder",
    "gluteus maximus": "skeletal muscle",
    "gluteus medius": "skeletal muscle",
    "gluteus minimus": "skeletal muscle",
    "heart atrium left": "left atrium",
    "heart atrium right": "right atrium",
    "heart myocardium": "cardiac muscle",
    "heart ventricle left": "left ventricle",
    "heart ventricle right": "right ventricle",
    "hepatic vessel": "blood vessel",
    "hippocampus body": "hippocampus",
    "hippocampus head": "hippocampus",
    "hippocampus tail": "hippocampus",
    "iliac vena": "iliac vein",
    "iliopsoas": "skeletal muscle",
    "left ventricle myocardium": "left ventricular myocardium",
    "metatarsal": "bone",
    "myocardium": "cardiac muscle",
    "necrotic neoplasm core": "necrosis",
    "neoplasm core": "neoplasm",
    "neoplasm whole": "neoplasm",
    "non enhancing neoplasm": "non enhancing lesion",
    "non enhancing neoplasm core": "non enhancing lesion",
    "pallidum": "globus pallidus",
    "pancreas body": "pancreas",
    "pancreas head": "pancreas",
    "pancreas tail": "pancreas",
    "parotid": "parotid gland",
    "peritumoral edema": "edema",
    "phalange foot": "bone",
    "phalange hand": "bone",
    "pituitary": "pituitary gland",
    "portal vein and splenic vein": "vein",
    "psoas": "skeletal muscle",
    "pulmonary vessel": "blood vessel",
    "radius": "bone",
    "s1 vertebra": "vertebra",
    "small bowel": "small intestine",
    "subcutaneous fat": "subcutaneous tissue",
    "submandibular": "submandibular gland",
    "suprarenal gland": "adrenal gland",
    "tarsal": "tarsus",
    "thyroid": "thyroid gland",
    "torso fat": "fat",
    "vessel": "blood vessel",
    "visceral fat": "fat",
}
_SAME_WORD = {
    "arteries": "artery",
    "bronchi": "bronchus",
    "chiasma": "chiasm",
    "feet": "foot",
    "femora": "femur",
    "femurs": "femur",
    "grey": "gray",
    "haemorrhage": "hemorrhage",
    "hippocampi": "hippocampus",
    "kidneys": "kidney",
    "l": "left",
    "lt": "left",
    "lymphnode": "lymph node",
    "metastases": "metastasis",
    "nonenhancing": "non enhancing",
    "oedema": "edema",
    "oesophagus": "esophagus",
    "peritumoural": "peritumoral",
    "r": "right",
    "rt": "right",
    "teeth": "tooth",
    "testes": "testis",
    "tumor": "neoplasm",
    "tumors": "neoplasm",
    "tumour": "neoplasm",
    "tumours": "neoplasm",
    "vertebrae": "vertebra",
}
_PLURALS = (
    "lung",
    "lesion",
    "nodule",
    "cyst",
    "muscle",
    "vessel",
    "vein",
    "node",
    "rib",
    "bone",
    "lobe",
    "gland",
    "eye",
)
_SAME_WORD |= {f"{word}s": word for word in (*_PLURALS, "ventricle", "nerve", "phalange", "breast", "cartilage")}
_SAID_BY_THE_WAY = {"of", "the", "in"}
_SIDES = {"left": snomed.LEFT, "right": snomed.RIGHT}
_SIDED = {**_SIDES, **snomed.POSITIONS}


def words_of(name: str) -> Words:
    """The words of a structure's name, in one spelling: `Kidney_L`, `leftKidney`, `kidney (left)` are the same."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = re.findall(r"[^\W_]+", spaced.lower())
    same = " ".join(_SAME_WORD.get(word, word) for word in words).split()
    return frozenset(word for word in same if word not in _SAID_BY_THE_WAY)


def _index() -> dict[Words, Code]:
    known = {words_of(name): Code(category, term) for category, table in _TABLES for name, term in table.items()}
    return known | {words_of(name): known[words_of(of)] for name, of in _ALSO.items()}


_KNOWN = _index()
_ABNORMAL = {words_of(name) for name in snomed.ABNORMAL}


def code_of(name: str, own: Mapping[str, Code] | None = None) -> tuple[Code, str]:
    """What the structure of this name is, by the user's own codes first; and a warning where it is not known, or "".

    A name that is not known gets the code Tissue, which is true but says nothing, rather than a guess.
    """
    words = words_of(name)
    for theirs, code in (own or {}).items():
        if theirs == name or words_of(theirs) == words:
            return code, ""
    unnumbered = frozenset(word for word in words if not word.isdigit())  # "rib 3", "lesion 2"
    found = _known(words) or _abnormal(words) or _known(unnumbered) or _abnormal(unnumbered)
    if found:
        return found, ""
    return UNKNOWN, f"structure {name!r} has no code: it is written as Tissue; give it one in a file of codes"


def _known(words: Words) -> Code | None:
    """The code of these words; or of fewer, where the words left over are one side, or one side and positions."""
    if words in _KNOWN:
        return _KNOWN[words]
    sides = words & set(_SIDES)
    if len(sides) > 1:
        return None
    for apart in (sides, sides | (words & set(snomed.POSITIONS))):  # the "inferior" of a vein is part of its name
        if words - apart in _KNOWN:
            found = _KNOWN[words - apart]
            return Code(found.category, found.type, tuple(_SIDED[word] for word in sorted(apart)))
    return None


def _abnormal(words: Words) -> Code | None:
    """An abnormality with the structure that it lies in: `kidney cyst left`, `liver tumour`."""
    for what in sorted(_ABNORMAL, key=lambda w: (-len(w), sorted(w))):
        region = _known(words - what) if what < words else None
        if region and region.category == snomed.ANATOMICAL_STRUCTURE:
            return Code(snomed.ABNORMAL_STRUCTURE, _KNOWN[what].type, region.modifiers, region.type)
    return None


def read_codes(path: Path) -> dict[str, Code]:
    """The user's own codes by structure name, from JSON or TOML (by the suffix `.toml`).

    Each structure is a table with `type`, and where wanted `category` (else Anatomical Structure), `modifiers` (a list)
    and `region`; each code is a list of value, scheme and meaning: `type = ["10200004", "SCT", "Liver"]`.

    Raises:
        InputError: it cannot be read, or does not hold such codes.
    """
    try:
        text = path.read_text(encoding="utf-8")
        said: Any = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except OSError as error:
        raise InputError("[CODES] the file of codes cannot be read", fix="check its path") from error
    except ValueError as error:  # bad UTF-8, JSON or TOML
        raise InputError(f"[CODES] the file of codes is not valid ({error})", fix="mend it") from error
    if not isinstance(said, dict):
        raise _bad("the file", "is no table of structures")
    return {name: _own(name, entry) for name, entry in said.items()}


def _bad(where: str, what: str) -> InputError:
    fix = 'write for example: [liver] type = ["10200004", "SCT", "Liver"]'
    return InputError(f"[CODES] in the file of codes, {where} {what}", fix=fix)


def _own(name: str, entry: object) -> Code:
    if not isinstance(entry, dict):
        raise _bad(f"structure {name!r}", "is no table")
    if more := set(entry) - {"category", "type", "modifiers", "region"}:
        raise _bad(f"structure {name!r}", f"has the unknown key {min(more)!r}")
    if "type" not in entry:
        raise _bad(f"structure {name!r}", "has no type")
    category = _triple(name, "category", entry["category"]) if "category" in entry else snomed.ANATOMICAL_STRUCTURE
    modifiers = entry.get("modifiers", [])
    if not isinstance(modifiers, list):
        raise _bad(f"structure {name!r}", "has modifiers that are no list of codes")
    region = _triple(name, "region", entry["region"]) if "region" in entry else None
    return Code(
        category, _triple(name, "type", entry["type"]), tuple(_triple(name, "modifiers", m) for m in modifiers), region
    )


def _triple(name: str, key: str, said: object) -> Triple:
    """A code as DICOM can hold it: at most 16 characters of value and scheme, 64 of meaning."""
    if not isinstance(said, list) or len(said) != 3 or not all(isinstance(part, str) and part.strip() for part in said):
        raise _bad(f"structure {name!r}", f"has a {key} that is not a list of value, scheme and meaning")
    value, scheme, meaning = (part.strip() for part in said)
    if len(value) > 16 or len(scheme) > 16 or len(meaning) > 64 or "\\" in value + scheme + meaning:
        raise _bad(f"structure {name!r}", f"has a {key} that is too long for DICOM, or holds a backslash")
    return value, scheme, meaning


_SHADES: tuple[tuple[tuple[str, ...], tuple[float, float, float]], ...] = (  # words -> hue, lightness, saturation
    (("neoplasm", "lesion", "metastasis", "nodule", "mass", "gtv", "necrosis"), (0.15, 0.52, 0.85)),
    (("cyst", "edema", "effusion", "fluid"), (0.55, 0.65, 0.70)),
    (("artery", "aorta", "trunk", "blood"), (0.00, 0.48, 0.85)),
    (("vein", "vena", "cava"), (0.60, 0.50, 0.75)),
    (("heart", "atrium", "myocardium", "ventricle"), (0.97, 0.45, 0.65)),
    (("liver",), (0.04, 0.42, 0.60)),
    (("spleen",), (0.93, 0.40, 0.45)),
    (("kidney", "renal"), (0.03, 0.55, 0.60)),
    (("pancreas",), (0.10, 0.68, 0.60)),
    (("gallbladder", "bile"), (0.30, 0.45, 0.55)),
    (("bladder", "ureter", "urethra"), (0.13, 0.62, 0.75)),
    (("stomach", "duodenum", "bowel", "intestine", "colon", "esophagus", "rectum"), (0.07, 0.68, 0.55)),
    (("lung", "trachea", "bronchus", "airway"), (0.52, 0.62, 0.50)),
    (
        ("brain", "hippocampus", "amygdala", "thalamus", "putamen", "caudate", "matter", "cerebellum"),
        (0.85, 0.66, 0.45),
    ),
    (("nerve", "cord", "chiasm"), (0.16, 0.60, 0.75)),
    (("muscle", "gluteus", "iliopsoas", "autochthon", "psoas"), (0.02, 0.46, 0.40)),
    (("fat", "subcutaneous", "skin"), (0.13, 0.75, 0.60)),
    (
        ("vertebra", "rib", "bone", "femur", "hip", "sacrum", "scapula", "clavicle", "clavicula", "humerus", "skull"),
        (0.12, 0.78, 0.50),
    ),
    (("gland", "prostate", "uterus", "testis", "ovary", "thyroid", "adrenal"), (0.08, 0.55, 0.65)),
)
_GOLDEN, _SILVER = 0.6180339887, 0.7548776662  # steps that fill a range evenly, however many are taken


def colour_of(name: str, index: int) -> Rgb:
    """The colour of the structure at `index` of its label map: near what anatomy books use, and each its own."""
    words = words_of(name)
    turn, lift = (index * _GOLDEN) % 1.0, (index * _SILVER) % 1.0
    shade = next((shade for keys, shade in _SHADES if words & set(keys)), None)
    if shade is None:
        hue, light, full = turn, 0.40 + 0.25 * lift, 0.70
    else:
        hue, light, full = (shade[0] + 0.06 * (turn - 0.5)) % 1.0, shade[1] + 0.22 * (lift - 0.5), shade[2]
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue, light, full))
    return red, green, blue
