"""Where the work per case of a verb is done: on this machine, on a Slurm cluster, or on a Dask cluster that runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from medseg.errors import InputError
from medseg.parallel import HERE, Here, Where

NEEDED = ("distributed", "dask_jobqueue", "cryptography")
MOST_JOBS = 10_000


@dataclass(frozen=True, slots=True)
class On:
    """What the user asked for, as it is typed.

    on: `local`, `slurm` or `dask:tls://host:port`. jobs: processes here, or worker jobs. slurm: options of sbatch.
    interface: the network on which all sockets are. tls: the folder of this machine's certificate. insecure: also an
    address that others can listen to.
    """

    on: str = "local"
    jobs: int | None = None
    slurm: str = ""
    interface: str = ""
    tls: Path | None = None
    insecure: bool = False

    @property
    def here(self) -> bool:
        """Whether no other machine is asked for."""
        return self.on == "local"

    def path(self, path: Path) -> Path:
        """The same path, as the processes that do the work know it."""
        return path if self == LOCAL else path.resolve()

    def check(self) -> On:
        """The same, if it can be done.

        Raises:
            InputError: it is no place, an option belongs to another one, or a package is missing.
        """
        kind = self.on.partition(":")[0]
        if kind not in ("local", "slurm", "dask") or (kind != "dask" and kind != self.on):
            raise InputError(f"--on {self.on} is no place", fix="give local, slurm or dask:tls://host:port")
        if self.jobs is not None and not 1 <= self.jobs <= MOST_JOBS:
            raise InputError(f"--jobs {self.jobs} cannot be used", fix=f"give 1 to {MOST_JOBS}")
        belongs = {
            "--jobs": (self.jobs is not None, ("local", "slurm")),
            "--slurm": (bool(self.slurm), ("slurm",)),
            "--interface": (bool(self.interface), ("slurm",)),
            "--tls": (self.tls is not None, ("dask",)),
            "--insecure": (self.insecure, ("dask",)),
        }
        for option, (given, kinds) in belongs.items():
            if given and kind not in kinds:
                raise InputError(
                    f"{option} says nothing to --on {self.on}", fix=f"it is for --on {' and '.join(kinds)}"
                )
        if kind != "local" and (missing := [name for name in NEEDED if find_spec(name) is None]):
            what = f"--on {self.on} needs {', '.join(missing)}, which is not installed"
            raise InputError(what, fix="pip install 'medseg[cluster]'")
        return self


LOCAL = On()


@contextmanager
def working(on: On, folder: Path, gpus: bool = False) -> Iterator[Where]:
    """The place of work; results, and what workers on other machines are told, go to `folder`, which all of them see.

    gpus: the work uses them; then processes of this machine share them in turn.

    Raises:
        InputError: what was asked for cannot be done.
        ResourceError: there is no cluster that lets us in.
    """
    on.check()
    with ExitStack() as until:
        if on.on.startswith("dask:"):
            from medseg.cluster.where import on_dask

            address = on.on.removeprefix("dask:")
            yield until.enter_context(on_dask(address, folder, on.tls, on.insecure))
        elif on.on == "slurm":
            from medseg.cluster.jobs import on_slurm

            yield until.enter_context(on_slurm(folder, on.jobs, on.slurm, on.interface))
        elif on.jobs is None:
            yield HERE
        else:
            yield Here(on.jobs, visible_gpus() if gpus else ())


def visible_gpus() -> tuple[str, ...]:
    """Numbers of the GPUs that this process may use."""
    import torch

    return tuple(str(k) for k in range(torch.cuda.device_count())) if torch.cuda.is_available() else ()
