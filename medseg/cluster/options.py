"""The options of sbatch that a user gives as one text, read as sbatch would read them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from medseg.errors import InputError

_LONG = {
    "-A": "account",
    "-a": "array",
    "-B": "extra-node-info",
    "-b": "begin",
    "-C": "constraint",
    "-c": "cpus-per-task",
    "-D": "chdir",
    "-d": "dependency",
    "-e": "error",
    "-F": "nodefile",
    "-G": "gpus",
    "-H": "hold",
    "-h": "help",
    "-i": "input",
    "-J": "job-name",
    "-k": "no-kill",
    "-L": "licenses",
    "-M": "clusters",
    "-m": "distribution",
    "-N": "nodes",
    "-n": "ntasks",
    "-O": "overcommit",
    "-o": "output",
    "-p": "partition",
    "-Q": "quiet",
    "-q": "qos",
    "-S": "core-spec",
    "-s": "oversubscribe",
    "-t": "time",
    "-V": "version",
    "-v": "verbose",
    "-W": "wait",
    "-w": "nodelist",
    "-x": "exclude",
}


@dataclass(frozen=True)
class SbatchOptions:
    """Options of sbatch: the long name of each, without dashes, and its value, empty where it has none."""

    given: tuple[tuple[str, str], ...] = ()

    @property
    def directives(self) -> tuple[str, ...]:
        """Each as it stands after `#SBATCH` in a script: `--time=2:00:00`."""
        return tuple(f"--{name}={shlex.quote(value)}" if value else f"--{name}" for name, value in self.given)

    def has(self, *names: str) -> bool:
        """Whether one of these was given, by its long or its short name: `time`, `--time` and `-t` are the same."""
        wanted = {_long(name) for name in names}
        return any(name in wanted for name, _ in self.given)

    def value(self, name: str) -> str | None:
        """What was given last for this one; None where it was not given."""
        wanted = _long(name)
        return next((value for found, value in reversed(self.given) if found == wanted), None)

    def without(self, *names: str) -> SbatchOptions:
        """All but these."""
        left_out = {_long(name) for name in names}
        return SbatchOptions(tuple((name, value) for name, value in self.given if name not in left_out))


def sbatch_options(text: str) -> SbatchOptions:
    """Read `--partition=gpu -t 8:00:00 --exclusive`.

    Raises:
        InputError: it holds something that is no option, or cannot be read.
    """
    if "\n" in text or "\r" in text:
        raise InputError("--slurm holds a line break", fix="give sbatch's options in one line")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InputError(f"--slurm cannot be read: {str(error).lower()}", fix="close every quote") from None
    found: list[tuple[str, str]] = []
    open_for_value = False  # the next word, if it is no option, is the value of the last one
    for word in words:
        if word.startswith("-") and len(word) > 1:
            found.append(_option(word))
            open_for_value = not found[-1][1]
        elif open_for_value:
            found[-1] = (found[-1][0], word)
            open_for_value = False
        else:
            raise InputError(f"--slurm: {word} is no option of sbatch", fix="give such as --partition=gpu -t 8:00:00")
    return SbatchOptions(tuple(found))


def _option(word: str) -> tuple[str, str]:
    """`--time=5`, `-t5` or `-t` as a long name and a value."""
    if word.startswith("--") and len(word) > 2:
        name, _, value = word[2:].partition("=")
        return name, value
    found = _LONG.get(word[:2])
    if found is None:
        raise InputError(f"--slurm: {word} is no option of sbatch", fix="see man sbatch")
    return found, word[2:]


def _long(name: str) -> str:
    return _LONG.get(name, name.lstrip("-"))
