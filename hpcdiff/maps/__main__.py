"""`python -m hpcdiff.maps {info,verify,clear,import} ...`: looking after map files."""

from __future__ import annotations

import sys

from hpcdiff.command import run_command
from hpcdiff.maps.verbs import run_verb

USAGE = """usage: python -m hpcdiff.maps info FILE           what is in a map file
       python -m hpcdiff.maps verify FILE         are its maps as they were written? names the damaged views
       python -m hpcdiff.maps clear FILE [--rows 5,17] [--halos 12,13]
                                                  marks the damaged (or the named) views; the next project computes them again
       python -m hpcdiff.maps import IMPORT.yaml [key=value ...] [--dry-run] [--overwrite]
                                                  a map file from .npy or FITS images and a catalogue (docs/maps.md)"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 done, 2 the input or the file is at fault, 75 stopped, 1 a fault of ours."""
    return run_command("maps", USAGE, run_verb, argv, "what is whole is kept; run the same command again")


if __name__ == "__main__":
    sys.exit(main())
