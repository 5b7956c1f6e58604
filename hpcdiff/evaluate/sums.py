"""`evaluate.sha256`: what the stage has written, in the format of sha256sum, so that a digit that flips later is noticed.

A rerun holds its outputs against it; `cd RUN_DIR && sha256sum -c evaluate.sha256` does the same without hpcdiff.
"""

from __future__ import annotations

from pathlib import Path

from hpcdiff import files

NAME = "evaluate.sha256"


def write_sums(folder: Path, metrics: str) -> None:
    """Hash the figures and the report of a run, which are there, and its `metrics.json`, whose text is about to be written."""
    paths = [*sorted((folder / "figures").rglob("*")), folder / "report.html"]
    sums = {path.relative_to(folder).as_posix(): files.sha256_file(path) for path in paths if path.is_file()}
    sums["metrics.json"] = files.sha256_text(metrics)
    files.write_atomic(folder / NAME, "".join(f"{value}  {name}\n" for name, value in sums.items()))


def damaged_outputs(folder: Path) -> list[str]:
    """Names of the outputs that are gone or are not what was written; none where an older version has left no `evaluate.sha256`."""
    try:
        lines = (folder / NAME).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        value, _, name = line.decode(errors="replace").partition("  ")
        try:
            whole = (folder / name).is_file() and files.sha256_file(folder / name) == value
        except ValueError:  # no name at all
            whole = False
        if not whole:
            found.append(name)
    return found
