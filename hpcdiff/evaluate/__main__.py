"""`python -m hpcdiff.evaluate CONFIG.yaml`: samples.h5 against maps.h5 -> metrics.json, figures/, report.html.

`python -m hpcdiff.evaluate --compare A B [--out DIR]` sets two evaluated runs side by side.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from hpcdiff.command import run_command
from hpcdiff.config import Config
from hpcdiff.launch import run_stage
from hpcdiff.leaving import leave
from hpcdiff.world import World, launched_rank


def outputs(config: Config) -> Iterable[Path]:
    """What `--overwrite` removes."""
    from hpcdiff.evaluate.stage import outputs

    return outputs(config)


def plan(config: Config) -> Iterable[str]:
    """Lines of `--dry-run`."""
    from hpcdiff.evaluate.stage import plan

    return plan(config)


def work(config: Config, world: World) -> str:
    """Measure, reduce, draw."""
    from hpcdiff.evaluate.stage import work

    return work(config, world)


def main(argv: list[str] | None = None) -> int:
    """Run the stage, or compare two runs; the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if any(word.split("=")[0] == "--compare" for word in argv):
        from hpcdiff.evaluate.compare import USAGE, compare

        if launched_rank("evaluate") != 0:
            return 0
        return run_command("evaluate", USAGE, compare, argv, "the same command starts it again")
    status = run_stage("evaluate", plan, work, outputs, argv)
    if {"-h", "--help"} & set(argv) and launched_rank("evaluate") == 0:
        print("usage: hpcdiff evaluate --compare A B [--out DIR]     two evaluated runs side by side")
    return status


if __name__ == "__main__":
    leave(main())
