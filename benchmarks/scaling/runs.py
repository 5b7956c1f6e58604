"""Runs of the projection on made snapshots: their times by part, on one, two and sixty-four ranks."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from scaling import snapshot
from scaling.sparse import maps

BENCHMARKS = Path(__file__).resolve().parent.parent
READ_BYTES = {"gas": 24 + 5 * 4, "dm": 24 + 2 * 4}
"""Bytes of the datasets that are read of a particle, in these snapshots."""
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0, "days": 86400.0}


class Bench:
    """A folder of snapshots and runs.

    Args:
        folder: for scratch; snapshots in it are used again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{BENCHMARKS.parent}:{BENCHMARKS}",
            "OMP_NUM_THREADS": "1",
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_mpi_yield_when_idle": "1",
        }
        self.warm = self.box(20_000, 4)

    def box(self, particles: int, halos: int) -> Path:
        """A snapshot with its catalogue, made if it is not there."""
        where = self.folder / f"box-{particles}-{halos}"
        if not (where / "made").exists():
            shutil.rmtree(where, ignore_errors=True)
            snapshot.write(where, particles, halos)
            (where / "made").touch()
        return where

    def config(self, name: str, box: Path, **keys: object) -> Path:
        """The config of a run that has not been."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return snapshot.write_config(self.folder / name / "config.yaml", box, **keys)

    def project(self, name: str, box: Path, ranks: int = 1, limit: float = 400, **keys: object) -> list[dict]:
        """One run, timed: what `timed.py` says of each rank.

        Raises:
            RuntimeError: it failed.
        """
        config, warm = self.config(name, box, **keys), self.config(f"{name}-warm", self.warm, npix=32)
        mpirun = ["mpirun", "--oversubscribe", "-n", str(ranks)] if ranks > 1 else []
        command = [*mpirun, sys.executable, BENCHMARKS / "scaling" / "timed.py", config.with_name("times.json"), warm, config]
        done = subprocess.run(list(map(str, command)), env=self.environment, capture_output=True, text=True, timeout=limit)
        if done.returncode:
            raise RuntimeError(f"{name}: exit {done.returncode}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
        out = [json.loads(config.with_name(f"times.json.{rank}").read_text()) for rank in range(ranks)]
        out[0]["load_average"] = os.getloadavg()[0]
        return out

    def forecast(self, box: Path, **keys: object) -> dict[str, float]:
        """What --dry-run says: particles in the views, seconds of reading and projecting."""
        command = [sys.executable, "-m", "hpcdiff.project", str(self.config("dry", box, **keys)), "--dry-run"]
        said = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=True).stdout
        pairs = float(re.search(r"([\d.e+]+) expected", said)[1])
        read, read_unit, made, made_unit = re.search(r"forecast: ([\d.e+-]+) (\w+) to read and ([\d.e+-]+) (\w+) to project", said).groups()
        return {"pairs": pairs, "reading": float(read) * UNITS[read_unit], "projecting": float(made) * UNITS[made_unit]}


def parts_of(runs: list[list[dict]]) -> dict:
    """Wall seconds of the slowest rank by part, in the fastest of several runs: reading, projecting (with the exchange), writing, all."""
    walls = [max(rank["wall"]["run"] for rank in run) for run in runs]
    run = runs[walls.index(min(walls))]
    wall = {name: max(rank["wall"][name] for rank in run) for name in run[0]["wall"]}
    return {
        "ranks": len(run),
        "all": max(rank["whole"] for rank in run),
        "run": wall["run"],
        "reading": wall["scan"],
        "exchange": wall["exchange"],
        "writing": wall["write"],
        "projecting": max(r["wall"]["run"] - sum(r["wall"][part] for part in ("scan", "plan", "write")) for r in run),
        "walls": walls,
        "cpu": sum(rank["cpu"]["run"] for rank in run),
        "load_average": [r[0]["load_average"] for r in runs],
    }


def drop_from_cache(folder: Path) -> None:
    """Ask the system to forget a snapshot's pages, so that the next read comes from the disk."""
    for path in (folder / "snapshot").iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def strong_and_weak(bench: Bench, particles: int = 8_000_000, halos: int = 96, repeats: int = 5) -> dict:
    """One and two ranks on the same snapshot, and one rank on half of it; one thread a rank.

    Two independent runs side by side, each of one rank, say what two cores of this machine can do at most at that time. The
    four are taken in turn, so that others' work on the machine meets all of them alike.
    """
    keys = {"views": {"sightlines": 3}}
    large, half = bench.box(particles, halos), bench.box(particles // 2, halos // 2)
    runs: dict[str, list] = {"one": [], "two": [], "half": [], "beside": [], "disk": []}
    for _ in range(repeats):
        for name, box, ranks in (("one", large, 1), ("two", large, 2), ("half", half, 1)):
            runs[name].append(bench.project(name, box, ranks, **keys))
        with ThreadPoolExecutor(2) as pool:
            both = list(pool.map(lambda k: bench.project(f"beside{k}", large, **keys), range(2)))
        runs["beside"].append([run[0] for run in both])
        drop_from_cache(large)
        runs["disk"].append(bench.project("disk", large, **keys))
    out = {name: parts_of(some) for name, some in runs.items()}
    tb = particles / 2 * sum(READ_BYTES.values()) / 1e12
    parts = ("run", "reading", "projecting", "all")
    out["strong"] = {part: out["one"][part] / out["two"][part] for part in parts}
    out["weak"] = {part: out["half"][part] / out["two"][part] for part in parts}
    out["possible"] = {part: 2 * out["one"][part] / out["beside"][part] for part in parts}
    out["seconds_per_tb"] = {
        "bytes_read": tb * 1e12,
        "one_rank": out["one"]["all"] / tb,
        "two_ranks": out["two"]["all"] / tb,
        "one_rank_reading": out["one"]["reading"] / tb,
        "two_ranks_reading": out["two"]["reading"] / tb,
        "one_rank_from_disk": out["disk"]["all"] / tb,
        "one_rank_reading_from_disk": out["disk"]["reading"] / tb,
    }
    about = runs["one"][0][0]
    return {**out, "particles": particles, "halos": halos, "views": about["views"], "pairs": about["pairs"]}


def many_ranks(bench: Bench) -> dict:
    """Many oversubscribed ranks with little memory against one rank with much: the same bytes, and how much each held.

    64 ranks of one pass; and 8 whose memory holds a part of the particles, so that there are several passes, blocks are read
    again in them, and the largest cluster is streamed. `again` compares the rank that reads most in each pass with the mean.
    """
    return {
        "64 ranks": _against_one(bench, 64, 2_000_000, 24, npix=128, memory_gb=0.03),
        "8 ranks, little memory": _against_one(bench, 8, 8_000_000, 96, npix=64, memory_gb=0.04),
    }


def _against_one(bench: Bench, ranks: int, particles: int, halos: int, npix: int, memory_gb: float) -> dict:
    box = bench.box(particles, halos)
    alone = bench.project("alone", box, npix=npix)[0]
    run = bench.project("many", box, ranks, npix=npix, memory_gb=memory_gb)
    one, many = (maps(bench.folder / name / "maps.h5") for name in ("alone", "many"))
    ledger = max(r["ledger_peak"] for r in run)
    again = list(zip(*(r["again"] for r in run), strict=True))  # by pass
    return {
        "ranks": ranks,
        "particles": particles,
        "halos": halos,
        "memory_gb": memory_gb,
        "passes": run[0]["passes"],
        "streamed": run[0]["streamed"],
        "views": run[0]["views"],
        "datasets": len(one),
        "bytes": sum(map(len, one.values())),
        "different": [k for k in one if one[k] != many.get(k)],
        "rss": _spread(r["rss_peak"] for r in run),
        "rss_more": _spread(r["rss_peak"] - r["rss_before"] for r in run),
        "rss_more_of_one": alone["rss_peak"] - alone["rss_before"],
        "ledger_max": ledger,
        "ledger_of_one": alone["ledger_peak"],
        "ledger_share": ledger / (memory_gb * 1e9),
        "wall": run[0]["whole"],
        "again_most": sum(map(max, again)),
        "again_mean": sum(map(sum, again)) / ranks,
    }


def _spread(values: Iterable[float]) -> list[float]:
    """Least, median and most."""
    values = list(values)
    return [float(of(values)) for of in (min, median, max)]
