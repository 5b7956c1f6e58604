"""How far a member is, read from its status files."""

from __future__ import annotations

from pathlib import Path

from hpcdiff import files
from hpcdiff.plain import read_json

DONE, FAILED, UNFINISHED, WAITING = "done", "failed", "unfinished", "not started"
PRODUCTS = {"train": "model", "sample": "samples.h5", "evaluate": "metrics.json"}


def state(folder: Path, stages: list[str]) -> tuple[str, str]:
    """(word, reason): done when every stage ended with 0 and what it makes is there; failed where one ended with 1 or 2.

    A stage without a status file is at work, was killed, or never began.
    """
    for n, stage in enumerate(stages):
        try:
            said = read_json((folder / f"{stage}.status.json").read_text())
            status, reason = int(said["exit"]), str(said["reason"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            begun = n > 0 or (folder / f".{stage}.lock").exists()
            return (UNFINISHED, f"{stage} is at work, or was killed") if begun else (WAITING, "")
        if status == 75:
            return UNFINISHED, f"{stage} stopped: {reason}"
        if status:
            return FAILED, f"{stage}: {reason}"
        if not (folder / PRODUCTS[stage]).exists():
            return UNFINISHED, f"{stage} ended, but {PRODUCTS[stage]} is gone"
    return DONE, ""


def forget_lost(folder: Path, stages: list[str]) -> None:
    """Remove what a stage said when it ended well, where what it made is gone since: jobs/sweep.sbatch passes over a stage that ended well."""
    for stage in stages:
        path = folder / f"{stage}.status.json"
        if path.exists() and state(folder, [stage])[0] == UNFINISHED and not (folder / PRODUCTS[stage]).exists():
            files.remove(path)
