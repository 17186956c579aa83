"""How fast, and in how much memory, a CT series is read: medseg against SimpleITK (Linux).

    python -m tests.benchmarks.dicom_reading [--out FILE] [--slices 140] [--times 5]

A series is written to a temporary folder and read by fresh processes in turn, the best of several. Each reader ends
with one float32 volume, since that is what is computed with: `simpleitk` casts to it, `simpleitk stored` stays in
int16, `simpleitk metadata` also loads the header of every file, as a reader must that keeps the identity of slices or
checks them. Files lie in the page cache. Memory is the peak above interpreter and imports. Times are judged by ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian

ROOT = Path(__file__).parents[2]
SIZE, HEADERS, PREPARED_MIB = 512, 500, 1024


def build(folder: Path, slices: int, size: int) -> None:
    """An axial CT of a noisy cylinder, 12 bits in 16, with the header of a real CT (pydicom's CT_small.dcm)."""
    folder.mkdir()
    header = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    y, x = np.mgrid[:size, :size]
    body = np.where(np.hypot(x - size / 2, y - size / 2) < 0.4 * size, 1060, 24)
    noise = np.random.default_rng(0)
    header.Rows = header.Columns = size
    header.BitsStored, header.HighBit, header.PixelRepresentation = 12, 11, 0
    header.RescaleSlope, header.RescaleIntercept, header.PixelSpacing = "1", "-1024", ["0.7", "0.7"]
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if "PixelPaddingValue" in header:
        del header.PixelPaddingValue
    for z in range(slices):
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.8.498.1.{z + 1}"
        header.InstanceNumber, header.ImagePositionPatient = z + 1, [-179.2, -179.2, 1.25 * z]
        stored = (body + noise.normal(0, 20, body.shape)).clip(0, 4095).astype(np.uint16)
        header.PixelData = stored.tobytes()
        header["PixelData"].VR = "OW"
        header.save_as(folder / f"IM{slices - z:04d}", enforce_file_format=True)  # names do not tell the order


def with_medseg(folder: Path) -> Callable[[], np.ndarray[Any, Any]]:
    from medseg.imaging.dicom.reading import read_dicom
    from medseg.imaging.dicom.scanner import scan_dicom
    from medseg.imaging.source import ReadOptions

    def read() -> np.ndarray[Any, Any]:
        (volume,) = scan_dicom(sorted(folder.iterdir())).volumes
        array: np.ndarray[Any, Any] = read_dicom(volume, "case", ReadOptions()).volume.array
        return array

    return read


def with_medseg_checked(folder: Path) -> Callable[[], np.ndarray[Any, Any]]:
    """As every verb reads: SimpleITK and highdicom compute the geometry again."""
    import highdicom.spatial  # noqa: F401
    import SimpleITK  # noqa: F401  imported before the clock runs, as for the other readers

    from medseg.imaging.dicom.scanner import scan_dicom
    from medseg.imaging.reading import read_source
    from medseg.imaging.source import ReadOptions, Source

    def read() -> np.ndarray[Any, Any]:
        (volume,) = scan_dicom(sorted(folder.iterdir())).volumes
        source = Source("dicom", volume.paths, dicom=volume)
        array: np.ndarray[Any, Any] = read_source(source, "case", ReadOptions()).volume.array
        return array

    return read


def with_medseg_scan(folder: Path) -> Callable[[], np.ndarray[Any, Any]]:
    from medseg.imaging.dicom.scanner import scan_dicom

    return lambda: np.array([len(v.frames) for v in scan_dicom(sorted(folder.iterdir())).volumes])


def with_simpleitk(metadata: bool, cast: bool) -> Callable[[Path], Callable[[], np.ndarray[Any, Any]]]:
    def prepare(folder: Path) -> Callable[[], np.ndarray[Any, Any]]:
        import SimpleITK

        def read() -> np.ndarray[Any, Any]:
            reader = SimpleITK.ImageSeriesReader()
            reader.SetFileNames(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
            if metadata:
                reader.MetaDataDictionaryArrayUpdateOn()
            image = reader.Execute()
            if cast:
                image = SimpleITK.Cast(image, SimpleITK.sitkFloat32)
            read.image = image  # type: ignore[attr-defined]
            view: np.ndarray[Any, Any] = SimpleITK.GetArrayViewFromImage(image)
            return view.T

        return read

    return prepare


def with_simpleitk_headers(folder: Path) -> Callable[[], np.ndarray[Any, Any]]:
    import SimpleITK

    return lambda: np.array([len(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))])


READERS: dict[str, Callable[[Path], Callable[[], np.ndarray[Any, Any]]]] = {
    "medseg": with_medseg,
    "medseg checked": with_medseg_checked,
    "simpleitk": with_simpleitk(metadata=False, cast=True),
    "simpleitk metadata": with_simpleitk(metadata=True, cast=True),
    "simpleitk stored": with_simpleitk(metadata=False, cast=False),
}
SCANNERS: dict[str, Callable[[Path], Callable[[], np.ndarray[Any, Any]]]] = {
    "medseg scan": with_medseg_scan,
    "simpleitk names": with_simpleitk_headers,
}


def memory_mib(key: str) -> float:
    """VmRSS (now) or VmHWM (most so far) of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"the system tells no {key}")


def work(reader: str, folder: Path) -> dict[str, float]:
    """Read once in this process; times in seconds, memory in MiB, and a sum that tells volumes apart."""
    read = {**READERS, **SCANNERS}[reader](folder)
    np.ones(PREPARED_MIB << 20, np.uint8)  # pages that a virtual machine never used cost much at first, whoever asks
    before = memory_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak of the imports
    wall, cpu = time.perf_counter(), time.process_time()
    array = read()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = memory_mib("VmHWM") - before
    return {"wall_s": wall, "cpu_s": cpu, "peak_mib": peak, "sum": float(array.sum(dtype=np.float64))}


def measured(reader: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.dicom_reading", "--work", reader, str(folder)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def best_of(readers: list[str], folder: Path, times: int) -> dict[str, dict[str, float]]:
    """The best run of each reader, run in turn so that a busy machine is busy for all."""
    runs: dict[str, list[dict[str, float]]] = {reader: [] for reader in readers}
    for _ in range(times):
        for reader in readers:
            runs[reader].append(measured(reader, folder))
    return {reader: {key: min(run[key] for run in all_) for key in all_[0]} for reader, all_ in runs.items()}


def table(found: dict[str, dict[str, float]], volume_mib: float) -> str:
    lines = [f"{'':20} {'wall s':>8} {'cpu s':>8} {'peak MiB':>9} {'peak / volume':>14}"]
    for reader, best in found.items():
        share = f"{best['peak_mib'] / volume_mib:14.2f}" if reader in READERS else ""
        lines.append(f"{reader:20} {best['wall_s']:8.3f} {best['cpu_s']:8.3f} {best['peak_mib']:9.0f} {share}")
    return "\n".join(lines) + "\n"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path)
    options.add_argument("--slices", type=int, default=140)
    options.add_argument("--times", type=int, default=5)
    options.add_argument("--work", nargs=2, metavar=("READER", "FOLDER"), help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.work:
        sys.stdout.write(json.dumps(work(given.work[0], Path(given.work[1]))))
        return
    volume_mib = 4 * SIZE * SIZE * given.slices / 2**20
    with tempfile.TemporaryDirectory() as place:
        build(Path(place) / "series", given.slices, SIZE)
        build(Path(place) / "headers", HEADERS, 32)
        found = best_of(list(READERS), Path(place) / "series", given.times)
        sums = {best["sum"] for best in found.values()}
        if len(sums) != 1:
            raise RuntimeError(f"the readers do not agree on the values: {found}")
        found |= best_of(list(SCANNERS), Path(place) / "headers", given.times)
    sys.stdout.write(table(found, volume_mib))
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(record(given, found, volume_mib), indent=1) + "\n", encoding="utf-8")


def record(given: argparse.Namespace, found: dict[str, dict[str, float]], volume_mib: float) -> dict[str, Any]:
    medseg = found["medseg"]
    against = {name: best for name, best in found.items() if name in READERS and name != "medseg"}
    return {
        "what": f"{given.slices} slices of {SIZE}x{SIZE}, int16, uncompressed; best of {given.times}",
        "when": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("numpy", "pydicom", "SimpleITK")},
        "volume_mib": volume_mib,
        "readers": {name: {key: round(best[key], 4) for key in best if key != "sum"} for name, best in found.items()},
        "medseg_peak_over_volume": round(medseg["peak_mib"] / volume_mib, 3),
        "medseg_wall_over": {name: round(medseg["wall_s"] / best["wall_s"], 3) for name, best in against.items()},
        "medseg_cpu_over": {name: round(medseg["cpu_s"] / best["cpu_s"], 3) for name, best in against.items()},
        "headers": HEADERS,
    }


if __name__ == "__main__":
    main()
