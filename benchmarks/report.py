"""What benchmarks share: a plain table, a JSON file, and the machine that it was measured on."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"


def machine(*packages: str) -> dict:
    """Processor, cores of this process, load average over 1, 5 and 15 minutes (others' work included), versions of packages."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": [round(n, 2) for n in os.getloadavg()],
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns of text, the first to the left and the others to the right."""
    width = [max(len(row[n]) for row in [header, *rows]) for n in range(len(header))]
    lines = ["  ".join(cell.rjust(w) if n else cell.ljust(w) for n, (cell, w) in enumerate(zip(row, width, strict=True))) for row in rows]
    first = "  ".join(cell.rjust(w) if n else cell.ljust(w) for n, (cell, w) in enumerate(zip(header, width, strict=True)))
    return "\n".join([first, "-" * len(first), *lines])


def write(name: str, content: dict) -> Path:
    """Write benchmarks/results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path
