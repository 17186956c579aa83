"""From the stored values of one frame to the units that its header states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import HTJ2K, JPEG2000, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from medseg.imaging.dicom.codecs import contained
from medseg.imaging.dicom.headers import numbers, text
from medseg.imaging.dicom.stored import Layout, PixelError, Stored, Values, tags_of

Floats = npt.NDArray[np.float32]

TAGS = tags_of(
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "RealWorldValueMappingSequence"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "LossyImageCompression"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
TISSUE_HU = (-1000.0, 3071.0)  # a padding value within is mistaken: believed, it would punch holes into the patient
_EXACT_BELOW = float(2**24)  # whole numbers up to here are exact in float32
_LARGEST = float(np.finfo(np.float32).max)
_LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless)


@dataclass(frozen=True, slots=True)
class Rescale:
    """The line from stored values to those of `unit` (empty where none is named); `stated` if a header gives it."""

    slope: float
    intercept: float
    stated: bool
    unit: str

    def __call__(self, stored: float) -> float:
        """The value that stands for a stored one."""
        return stored * self.slope + self.intercept


@dataclass(frozen=True, slots=True)
class Conversion:
    """How one frame's stored values become values, and what is worth a note about that.

    `padding`: the stored values between which pixels are padding, both included, and whether that is believed.
    `table`: a header whose lookup table takes the place of the line. `remarks`: 1 for each of "lossy", "mapped" (by a
    real-world value map), "no unit" and "other unit" (than Hounsfield, in a CT) that holds.
    """

    rescale: Rescale
    bits: int
    padding: tuple[int, int] | None
    believed: bool
    table: Dataset | None
    remarks: Mapping[str, int]


def conversion_of(stored: Stored, index: int, ct: bool) -> Conversion:
    """Read from the header how frame `index` is converted.

    Raises:
        PixelError: NOT_FINITE or DAMAGED where the header's rescale values make no sense.
    """
    try:
        return _conversion(stored, index, ct)
    except PixelError:
        raise
    except Exception as error:  # pydicom parses a value when it is asked for, and can fail in any way
        raise PixelError("DAMAGED", f"has a header that cannot be read ({type(error).__name__})") from None


def _conversion(stored: Stored, index: int, ct: bool) -> Conversion:
    header = stored.header
    rescale = rescale_of(header, index)
    padding = _padding(header, stored.layout)
    hounsfield = ct and rescale.stated and rescale.unit in ("", "HU")
    remarks = {
        "lossy": int(_is_lossy(stored)),
        "mapped": int(_group(header, index, "RealWorldValueMappingSequence") is not None),
        "no unit": int(ct and not rescale.stated),
        "other unit": int(ct and rescale.unit not in ("", "HU")),
    }
    believed = padding is not None and not (hounsfield and _among_tissue(padding, rescale))
    table = header if "ModalityLUTSequence" in header else None
    return Conversion(rescale, stored.layout.bits, padding, believed, table, remarks)


def convert_into(out: Floats, values: Values, how: Conversion) -> Counter[str]:
    """Bring stored values (rows, columns) into `out`, rounded once; padding becomes NaN.

    Returns the remarks, the number of pixels of "padding", and 1 for "tissue" if there is padding not believed.

    Raises:
        PixelError: NOT_FINITE, or DAMAGED where a lookup table cannot be used.
    """
    if how.table is not None:
        out[...] = _looked_up(values, how.table)
    else:
        _on_the_line(out, values, how.rescale, how.bits)
    seen = Counter(how.remarks)
    if how.padding is not None:
        is_padding = _is_padding(values, how.padding)
        found = int(np.count_nonzero(is_padding))
        if found and how.believed:
            out[is_padding] = np.nan
        seen["padding" if how.believed else "tissue"] += found if how.believed else int(found > 0)
    return seen


def rescale_of(header: Dataset, index: int) -> Rescale:
    """The rescale values of one frame: its own, those that all frames of its file share, or those of the image.

    Raises:
        PixelError: they are no numbers, or the slope is 0.
    """
    group = _group(header, index, "PixelValueTransformationSequence")
    said = header if group is None else group
    slope, intercept = _number(said, "RescaleSlope", 1.0), _number(said, "RescaleIntercept", 0.0)
    if slope == 0:
        raise PixelError("DAMAGED", "has a rescale slope of 0")
    if "ModalityLUTSequence" in header:
        return Rescale(1.0, 0.0, True, text(header["ModalityLUTSequence"].value[0], "ModalityLUTType") or "US")
    return Rescale(slope, intercept, bool(text(said, "RescaleIntercept")), text(said, "RescaleType"))


def _group(header: Dataset, index: int, keyword: str) -> Dataset | None:
    """The first item of a sequence, which may belong to the frame, to all frames, or to a single-frame image."""
    frames, shared = header.get("PerFrameFunctionalGroupsSequence"), header.get("SharedFunctionalGroupsSequence")
    places: list[Dataset] = [frames[index]] if frames and index < len(frames) else []
    places += [shared[0]] if shared else []
    for place in (*places, header):
        if items := place.get(keyword):
            first: Dataset = items[0]
            return first
    return None


def _number(header: Dataset, keyword: str, default: float) -> float:
    said = text(header, keyword)
    if not said:
        return default
    found = numbers(header, keyword)
    if len(found) != 1:
        raise PixelError("NOT_FINITE", "has a rescale slope or intercept that is no finite number")
    return found[0]


def _on_the_line(out: Floats, values: Values, rescale: Rescale, bits: int) -> None:
    whole = rescale.slope.is_integer() and rescale.intercept.is_integer() and values.dtype.kind in "iu"
    bound = 2.0**bits * abs(rescale.slope) + abs(rescale.intercept)
    if whole and bound < _EXACT_BELOW:  # every step is exact in float32, which is several times faster
        out[...] = values
        if rescale.slope != 1:
            out *= np.float32(rescale.slope)
        if rescale.intercept != 0:
            out += np.float32(rescale.intercept)
        return
    with np.errstate(over="ignore", invalid="ignore"):
        exact = np.multiply(values, rescale.slope, dtype=np.float64)
        exact += rescale.intercept
        out[...] = exact
    if (values.dtype.kind == "f" or bound > _LARGEST) and not np.isfinite(out).all():
        raise PixelError("NOT_FINITE", "holds values that are no finite numbers")


def _looked_up(values: Values, header: Dataset) -> npt.NDArray[Any]:
    try:
        found: npt.NDArray[Any] = apply_modality_lut(values, header)
    except Exception as error:  # a table can be wrong in any way
        raise PixelError("DAMAGED", f"has a table of values that cannot be used ({type(error).__name__})") from None
    return found


def _padding(header: Dataset, layout: Layout) -> tuple[int, int] | None:
    """The stored values between which pixels are padding, both included."""
    said = numbers(header, "PixelPaddingValue")
    if not said:
        return None
    ends = [int(said[0]), *(int(limit) for limit in numbers(header, "PixelPaddingRangeLimit"))]
    kept = np.dtype(f"{'i' if layout.signed else 'u'}{layout.allocated // 8}")
    # a signed -2000 is often written as 63536
    raw = np.array([end % 2**layout.allocated for end in ends], f"u{kept.itemsize}").view(kept)
    ends = [int(end) for end in contained(raw, layout.bits)]
    return min(ends), max(ends)


def _is_padding(values: Values, padding: tuple[int, int]) -> npt.NDArray[np.bool_]:
    low, high = padding
    found: npt.NDArray[np.bool_] = values == low if low == high else (values >= low) & (values <= high)
    return found


def _among_tissue(padding: tuple[int, int], rescale: Rescale) -> bool:
    ends = sorted(map(rescale, padding))
    return ends[0] < TISSUE_HU[1] and ends[1] > TISSUE_HU[0]


def _is_lossy(stored: Stored) -> bool:
    said = text(stored.header, "LossyImageCompression")
    return said == "01" or stored.syntax in _LOSSY or (said != "00" and stored.syntax in (JPEG2000, HTJ2K))
