"""torchrun on one node, its sockets on one network interface: `python -m medseg.pipeline.node INTERFACE ...`.

Each node has an address of its own there, which only the node itself can tell.
"""

from __future__ import annotations

import os
import sys

from medseg.training.nodes import address_of


def main(interface: str, arguments: list[str]) -> None:
    """Become torchrun."""
    run = (sys.executable, "-m", "torch.distributed.run", "--local-addr", address_of(interface), *arguments)
    os.execv(sys.executable, run)  # noqa: S606 - this very Python


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
