"""The whole projection of a sparse snapshot of 5x10^9 rows of each kind against the same particles in a small one."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from hpcdiff.cosmology import Background
from hpcdiff.project.balance import Budget
from hpcdiff.project.cutout import Reach
from hpcdiff.project.source import BLOCK, Ledger, Source
from hpcdiff.project.views import frames
from hpcdiff.sections import Project
from hpcdiff.snapshot import open_snapshot
from hpcdiff.world import World
from scaling import sparse
from scaling.runs import Bench

CASES = ((1, True, 1, 1.0), (1, False, 1, 1.0), (3, True, 2, 0.003), (3, False, 3, 0.003))
"""Files, in chunks or with holes, ranks, memory in GB."""


def run(bench: Bench, scanned: int = 4_000_000) -> dict:
    """Every layout by members and by cells; and what a full scan would take, from a part of it around 2^32."""
    folder, written = bench.folder / "sparse", len(sparse.STARTS) * sparse.MEMBERS
    shutil.rmtree(folder, ignore_errors=True)
    sparse.write(folder / "small", written)
    expected, out = _project(bench, folder / "small", "all", 1, 1.0)[0], []
    for n, (files, chunked, ranks, memory) in enumerate(CASES):
        where = folder / str(n)
        disk = sparse.write(where, sparse.ROWS, files, chunked, cells=True)
        apparent = sum(path.stat().st_size for path in where.iterdir())
        for particles in ("members", "all"):
            found, seconds = _project(bench, where, particles, ranks, memory)
            different = [name for name in expected if found.get(name) != expected[name]]
            out.append(
                {
                    "files": files,
                    "chunked": chunked,
                    "ranks": ranks,
                    "memory_gb": memory,
                    "particles": particles,
                    "disk_bytes": disk,
                    "apparent_bytes": apparent,
                    "seconds": seconds,
                    "different": different,
                }
            )
    rate = _scan_rate(folder / "0", scanned)
    shutil.rmtree(folder)
    return {
        "rows_a_kind": sparse.ROWS,
        "written_a_kind": written,
        "runs": out,
        "scanned": scanned,
        "scan_seconds_per_row": rate,
        "full_scan_hours": rate * 2 * sparse.ROWS / 3600,
    }


def _project(bench: Bench, snapshot: Path, particles: str, ranks: int, memory: float) -> tuple[dict[str, bytes], float]:
    work = snapshot.with_name(f"run-{snapshot.name}-{particles}")
    config = sparse.write_config(work / "config.yaml", snapshot, particles, memory)
    mpirun = ["mpirun", "--oversubscribe", "-n", str(ranks)] if ranks > 1 else []
    started = time.perf_counter()
    subprocess.run(
        [*mpirun, sys.executable, "-m", "hpcdiff.project", config], env=bench.environment, capture_output=True, timeout=300, check=True
    )
    return sparse.maps(work / "maps.h5"), time.perf_counter() - started


def _scan_rate(where: Path, rows: int) -> float:
    """CPU seconds a row of gas that a full scan takes around row 2^32, fill values included."""
    snapshot, centre = open_snapshot(str(where / "s.*.hdf5"), Background()), sparse.clusters()[1]
    n = len(centre)
    eye = frames(np.tile([0.0, 0, 1], (n, 1)), np.full(n, 2))
    reach = Reach.of_views(centre, eye, np.full(n, 4.5), np.full(n, 4.5), np.arange(n), sparse.BOX)
    source = Source(snapshot, reach, Project(), World(), 1, {}, np.full(n, 0.1), 48, centre, np.zeros((n, 0)), Budget.of(1.0), Ledger())
    first = 2**32 - rows // 2
    source.read("gas", first, first + BLOCK, reach)
    started = time.process_time()
    for start in range(first, first + rows, BLOCK):
        source.read("gas", start, min(start + BLOCK, first + rows), reach)
    return (time.process_time() - started) / rows
