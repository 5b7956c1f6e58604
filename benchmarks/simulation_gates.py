"""What the embedded simulation must be like, measured in its particles and maps: a table of gates.

    python benchmarks/simulation_gates.py            # 216 clusters of the halo model, 2 minutes on 2 cores
    python benchmarks/simulation_gates.py --engine nbody --ranks 2 --folder runs/gates    # 28 evolved clusters and a periodic box: 3 core hours

Add --rockstar PATH where that halo finder has been built (benchmarks/gates/rockstar.py): the published numbers of subhalos are its.
Simulates and projects in a folder of its own (--folder); projects once more with gas that has no clumps.
Each row is a number, what it must be, and whether it is. Written to benchmarks/results/simulation_gates.json, or ..._nbody.json;
docs/simulation.md explains it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import report
from gates import clusters, evolved, figure, halos, inference, stripped, subhalos
from gates.table import HEADER, Table, cells, failing

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "quickstart.yaml"
CLUSTERS = {"halo_model": 216, "nbody": 28}
"""Of which the results are kept."""


def make(folder: Path, config: Path, more: list[str], stages: tuple[str, ...], ranks: int = 1) -> dict[str, list[float]]:
    """Run stages into `folder` unless it is all there; of each its seconds and its core seconds when it was first run to its end."""
    launcher = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
    kept = folder / "seconds.json"
    seconds = json.loads(kept.read_text()) if kept.exists() else {}
    for stage in stages:
        began, cores = time.perf_counter(), _core_seconds()
        command = [*launcher, sys.executable, "-m", f"hpcdiff.{stage}", str(config), f"run.dir={folder}", *more]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
        seconds.setdefault(stage, [round(time.perf_counter() - began, 1), round(_core_seconds() - cores, 1)])
        kept.write_text(json.dumps(seconds))
    return seconds


def _core_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def correlations(snapshot: halos.Snapshot, of: dict[str, np.ndarray]) -> tuple[list[str], np.ndarray]:
    """Correlation matrix of what is left of each measured quantity after its trend with mass, and of the formation time; `around`: in the outermost ring."""
    left = {"formation": snapshot.halos["formation_time"]}
    for key in ("c", "roundness", "offset", "f_gas", "y500", "l500", "t500"):
        left[key] = halos.relation(of["m500"], of[key])[2]
    left["around"] = halos.relation(of["m500"], of["projected"][:, -1])[2]
    return list(left), np.corrcoef(list(left.values()))


def halo_model(options: argparse.Namespace, make: Callable) -> tuple[dict, Callable[[Path], None]]:
    """Simulate, project and measure; what goes into the JSON file, and what draws the figure at a path."""
    more = [f"simulate.clusters={options.clusters}", "project.split={train: 0.6, val: 0.05, test: 0.35}"]
    seconds = make(options.folder / "as it is", CONFIG, more, ("simulate", "project"), options.ranks)
    bare = options.folder / "no clumps"
    stripped.strip(options.folder / "as it is", bare)
    make(bare, CONFIG, more, ("project",), options.ranks)
    snapshot = halos.Snapshot(options.folder / "as it is")
    of = halos.measure(snapshot)
    table = Table()
    table.gate("masses", "M200m in the particles over the drawn one, worst", np.abs(of["m200m_found"] / of["mass"] - 1).max(), 0, 0.03)
    clusters.gates(table, of, snapshot.background)
    subhalos.gates(table, subhalos.hosts(snapshot))
    maps = options.folder / "as it is" / "maps.h5"
    found = {
        "as it is": inference.coherence(maps, folds=inference.FOLDS),
        "other halos' inputs": inference.coherence(maps, shuffled=True, folds=inference.FOLDS),
        "gas without clumps": inference.coherence(bare / "maps.h5", folds=inference.FOLDS),
    }
    inference.gates(table, *found.values())
    names, matrix = correlations(snapshot, of)
    print("correlation of what is left after the trend with M500c")
    print(report.table(["", *names], [[n, *(f"{v:+.2f}" for v in line)] for n, line in zip(names, matrix, strict=True)]))
    content = {
        "seconds": seconds,
        "gates": table.rows,
        "correlations": {"names": names, "matrix": matrix.round(3).tolist()},
        "coherence": found,
    }
    return content, lambda path: figure.draw(of, snapshot.halos["formation_time"], snapshot.background, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("halo_model", "nbody"), default="halo_model")
    parser.add_argument("--clusters", type=int, help="default: 216, of nbody 28; the results of other numbers are printed, not kept")
    parser.add_argument("--ranks", type=int, default=1, help="MPI ranks that simulate and project (mpirun); default: 1")
    parser.add_argument("--folder", type=Path, help="kept, and taken up again; default: a temporary one")
    parser.add_argument(
        "--rockstar", type=Path, help="nbody: the program ROCKSTAR, which finds the subhalos then (default: the finder of the gates)"
    )
    parser.add_argument(
        "--no-box", dest="box", action="store_false", help="nbody: without the periodic box and its mass function, printed alone as well"
    )
    options = parser.parse_args()
    nbody = options.engine == "nbody"
    if options.rockstar and not (nbody and os.access(options.rockstar, os.X_OK)):
        parser.error(
            f"--rockstar: {'not a program: ' + str(options.rockstar) if nbody else 'its subhalos need velocities, give --engine nbody'}"
        )
    options.clusters = options.clusters or CLUSTERS[options.engine]
    with tempfile.TemporaryDirectory() as temporary:
        options.folder = options.folder or Path(temporary)
        content, draw = (evolved.run if nbody else halo_model)(options, make)
    print(report.table([f"gate ({options.engine})", *HEADER], cells(content["gates"])))
    print("does not hold:", ", ".join(failing(content["gates"])) or "nothing")
    if options.clusters != CLUSTERS[options.engine] or not options.box:
        return
    content = {"machine": report.machine("numpy", "colossus"), "clusters": options.clusters, **content}
    path = report.write("simulation_gates_nbody" if nbody else "simulation_gates", content)
    draw(path.with_suffix(".png"))


if __name__ == "__main__":
    main()
