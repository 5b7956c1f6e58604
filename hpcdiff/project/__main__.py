"""`python -m hpcdiff.project CONFIG.yaml`: particles to maps."""

from __future__ import annotations

from hpcdiff.launch import run_stage
from hpcdiff.leaving import leave
from hpcdiff.project.check import check
from hpcdiff.project.stage import outputs, plan, work


def main(argv: list[str] | None = None) -> int:
    """Run the stage; returns the exit status."""
    return run_stage("project", plan, work, outputs, argv, check)


if __name__ == "__main__":
    leave(main())
