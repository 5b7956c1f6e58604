"""`hpcdiff STAGE CONFIG.yaml ...`, `hpcdiff maps ...`, `hpcdiff sweep ...`, `hpcdiff doctor ...`: the console script.

`python -m hpcdiff.STAGE ...` is the same; `torchrun -m hpcdiff doctor` and `srun python -m hpcdiff doctor` come here.
"""

from __future__ import annotations

import importlib
import sys

from hpcdiff.errors import nearest
from hpcdiff.leaving import leave
from hpcdiff.usage import CONSOLE
from hpcdiff.world import STAGES

COMMANDS = (*STAGES, "maps", "sweep", "doctor")


def main(argv: list[str] | None = None) -> int:
    """Run one stage, or a command about map files; returns its exit status (contract: 0, 1, 2 or 75)."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in ("-h", "--help"):
        print(CONSOLE)
        return 0
    if not argv or argv[0] not in COMMANDS:
        said = f"unknown stage {argv[0]!r}{nearest(argv[0], COMMANDS)}" if argv else "no stage given"
        print(f"hpcdiff: error: {said}, command line, see hpcdiff --help", file=sys.stderr)
        return 2
    return importlib.import_module(f"hpcdiff.{argv[0]}.__main__").main(argv[1:])


def console() -> None:
    """The console script `hpcdiff`."""
    leave(main())


if __name__ == "__main__":
    console()
