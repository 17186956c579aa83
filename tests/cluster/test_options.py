from __future__ import annotations

import pytest

from medseg.cluster.options import SbatchOptions, sbatch_options
from medseg.errors import InputError


def test_every_way_to_write_an_option() -> None:
    found = sbatch_options("--partition=gpu -t 8:00:00 -c4 --mem 16G --exclusive --comment='a b' --nice=-5")
    assert found.given == (
        ("partition", "gpu"),
        ("time", "8:00:00"),
        ("cpus-per-task", "4"),
        ("mem", "16G"),
        ("exclusive", ""),
        ("comment", "a b"),
        ("nice", "-5"),
    )
    assert found.directives == (
        "--partition=gpu",
        "--time=8:00:00",
        "--cpus-per-task=4",
        "--mem=16G",
        "--exclusive",
        "--comment='a b'",
        "--nice=-5",
    )


def test_what_was_given() -> None:
    found = sbatch_options("-t 1 --mem=2G --exclusive -t 5")
    assert all(found.has(name) for name in ("time", "--time", "-t"))
    assert found.has("gres", "mem")
    assert not found.has("gres", "-G")
    assert (found.value("-t"), found.value("exclusive"), found.value("gres")) == ("5", "", None)
    assert found.without("-t").directives == ("--mem=2G", "--exclusive")
    assert sbatch_options("") == sbatch_options("  ") == SbatchOptions()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("gpu", "gpu is no option of sbatch"),
        ("--mem=1G big", "big is no option of sbatch"),
        ("-?", "-[?] is no option of sbatch"),
        ("-", "- is no option of sbatch"),
        ("--comment='a", "cannot be read: no closing quotation; close every quote"),
        ("--mem=1G\nrm -rf x", "holds a line break"),
    ],
)
def test_what_is_no_option_is_refused(text: str, why: str) -> None:
    with pytest.raises(InputError, match=f"--slurm.* ?{why}"):
        sbatch_options(text)
