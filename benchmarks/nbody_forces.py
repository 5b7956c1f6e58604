"""Forces of an evolved box: compiled loops, torch on the CPU and on a GPU, and pytreegrav's tree, in one run.

    python benchmarks/nbody_forces.py [--lattice 32] [--turns 5] [--threads 1 2] [--cache FOLDER] [--quick]

Writes benchmarks/results/nbody_forces.json, or nbody_forces_<GPU>.json where there is a GPU.

A cluster's box of 31.5 Mpc is evolved from the start with coarse steps, gas and dark matter on a lattice of `--lattice` points a side each.
Then all methods take turns; a time is the shortest of the turns, the median stands beside it. The first call, in which code is compiled, is
not timed. Tested are all pairs whose distance is calculated, of which those within reach of the short-range force count; both are given
over the time of the whole force, mesh and search included. The error is the difference to the
compiled loops' forces over their root mean square, the root mean square and the largest.

pytreegrav (numba, opening angle 0.7, its default) is installed in a folder of its own below --cache. It knows no periodic box: it has the same
particles alone in space, softened by a spline of 2.8 times our softening, and its error is that against its own direct sum, on 300
particles. Ours has 0.1 % against an Ewald sum (docs/simulation.md).
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import torch
from report import machine, table, write
from scipy.spatial import cKDTree

from hpcdiff.config import Config
from hpcdiff.network import cannot_compile
from hpcdiff.sections import Simulate
from hpcdiff.simulate.nbody import torch_pairs
from hpcdiff.simulate.nbody.coarse import PILOT_ACCURACY
from hpcdiff.simulate.nbody.compiled import compiled
from hpcdiff.simulate.nbody.evolve import evolve
from hpcdiff.simulate.nbody.gravity import Gravity
from hpcdiff.simulate.nbody.pairs import Pairs, over_slices
from hpcdiff.simulate.nbody.peak import start
from hpcdiff.simulate.nbody.plan import MESH, Plan
from hpcdiff.simulate.nbody.split import DEGREE
from hpcdiff.simulate.nbody.torch_gravity import TorchGravity

VERSION = "1.5.0"
"""Of pytreegrav."""
SPHERE = 4e14
"""Mass of the overdense sphere that the cluster is made from, Msun."""
SOFTENING = 1 / 22
"""Over the particles' spacing."""


def scene(lattice: int, until: float, threads: int) -> tuple[Plan, float, np.ndarray, np.ndarray]:
    """Plan, softening (Mpc), positions (n, 3) and masses (n,) of a box that was evolved coarsely to the scale factor `until`."""
    plan = Plan(Config(simulate=Simulate(engine="nbody", cell=31.5, mass_range=[1.5e14, 1.6e14], clusters=1)))
    softening = SOFTENING * plan.cell / lattice
    mass = np.repeat([plan.m_dm, plan.m_gas], lattice**3) * (plan.lattice / lattice) ** 3
    gravity = Gravity(plan.cell, MESH * lattice, softening, plan.background.Om0, threads)
    begin = start(plan, 0, SPHERE, lattice)
    return plan, softening, evolve(begin, mass, gravity, plan.background.Om0, softening, PILOT_ACCURACY, until, longest=0.05).x, mass


@compiled
def _length(x, y, z, m, b, px, py, pz, ball2, reach2, p):
    return (float(len(x)),)


def tested_by_loops(pairs: Pairs, x: np.ndarray) -> int:
    """Pairs of particles (n, 3) whose distance the compiled loops calculate."""
    return int(pairs.sums(over_slices(_length), x, np.ones(len(x)), np.zeros(DEGREE + 1, np.float32), 1).sum())


def tested_by_torch(pairs: torch_pairs.TorchPairs, x: np.ndarray) -> int:
    """Pairs whose distance torch calculates, those of padding included, without the rest of the last chunk."""
    tiles = torch_pairs.tiled(torch.from_numpy(x), *torch.ones(2, len(x)))
    return len(torch_pairs.near(tiles.boxes, pairs.images.cpu(), pairs.reach)[0]) * torch_pairs.TILE**2


def ours(plan: Plan, lattice: int, softening: float, x: np.ndarray, mass: np.ndarray, threads: list[int]) -> list[dict]:
    """Each way of ours: its name, the function that is timed, and the pairs that it tests."""
    box = (plan.cell, MESH * lattice, softening, plan.background.Om0)
    loops = Gravity(*box)
    n_loops, n_torch = tested_by_loops(loops.pairs, x), tested_by_torch(TorchGravity(*box).pairs, x)

    def on(gravity: Gravity, number: int) -> Callable[[], np.ndarray]:
        def forces() -> np.ndarray:
            gravity.threads = number
            torch.set_num_threads(number)  # numba's loops leave OpenMP's number of threads as large as their own
            return gravity.forces(x, mass)

        return forces

    rows = [{"name": f"compiled loops, {n} threads", "run": on(Gravity(*box), n), "tested": n_loops} for n in threads]
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for fused in (False, True) if cannot_compile(torch.device(device)) is None else (False,):
            for n in threads if device == "cpu" and not fused else threads[-1:]:
                name = f"torch, {device}{f', {n} threads' if device == 'cpu' else ''}, {'compiled' if fused else 'eager'}"
                rows.append({"name": name, "run": on(TorchGravity(*box, device, fused), n), "tested": n_torch})
    return rows


def peer(cache: Path, x: np.ndarray, mass: np.ndarray, softening: float, threads: list[int]) -> list[dict]:
    """pytreegrav's tree, installed below `cache` unless it is there; its error on 300 particles."""
    folder = cache / f"pytreegrav-{VERSION}"
    if not (folder / "pytreegrav").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, f"pytreegrav=={VERSION}"]
        subprocess.run(command, check=True)
    sys.path.append(str(folder))
    from pytreegrav import Accel, AccelTarget

    m, h = mass / mass.sum(), np.full(len(x), 2.8 * softening)

    def tree(number: int) -> Callable[[], np.ndarray]:
        def forces() -> np.ndarray:
            numba.set_num_threads(min(number, numba.config.NUMBA_NUM_THREADS))
            return Accel(x, m, h, theta=0.7, parallel=number > 1, method="tree")

        return forces

    some = np.random.default_rng(0).choice(len(x), 300, replace=False)
    exact = AccelTarget(x[some], x, m, softening_target=h[some], softening_source=h, method="bruteforce")
    error = np.linalg.norm(tree(1)()[some] - exact, axis=1) / np.sqrt(np.mean(np.sum(exact**2, axis=1)))
    found = {"error_rms": float(np.sqrt(np.mean(error**2))), "error_largest": float(error.max())}
    return [{"name": f"pytreegrav {VERSION}, {n} threads", "run": tree(n), **found} for n in threads]


def timed(rows: list[dict], turns: int) -> None:
    """Put the seconds of each turn into the rows, and ours' errors against the first row; `run` is taken out."""
    first = [row["run"]() for row in rows]  # compiles
    scale = np.sqrt(np.mean(np.sum(first[0] ** 2, axis=1)))
    for row, force in zip(rows, first, strict=True):
        off = np.linalg.norm(force - first[0], axis=1) / scale
        row["seconds"] = []
        row.setdefault("error_rms", float(np.sqrt(np.mean(off**2))))
        row.setdefault("error_largest", float(off.max()))
    for _ in range(turns):
        for row in rows:
            if row["name"].startswith("torch, cuda"):
                torch.cuda.synchronize()
            begin = time.perf_counter()
            row["run"]()
            row["seconds"].append(time.perf_counter() - begin)
    for row in rows:
        del row["run"]


def show(rows: list[dict], within: int) -> str:
    """The table; pairs within reach: of both sums."""
    lines = []
    for row in rows:
        best, tested = min(row["seconds"]), row.get("tested")
        rates = [f"{tested / best / 1e6:.0f}", f"{within / best / 1e6:.0f}"] if tested else ["", ""]
        lines.append(
            [row["name"], f"{best:.3g}", f"{statistics.median(row['seconds']):.3g}", *rates]
            + [f"{row['error_rms']:.1e}", f"{row['error_largest']:.1e}"]
        )
    return table(["", "s", "median", "10^6 tested/s", "10^6 within reach/s", "error, rms", "largest"], lines)


def main() -> None:
    """Evolve, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lattice", type=int, help="particles of a type along the side; default 32")
    parser.add_argument("--turns", type=int, help="default 5")
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1 and all cores of this process")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "hpcdiff-benchmarks", help="where pytreegrav is installed")
    parser.add_argument("--no-peer", action="store_true", help="without pytreegrav")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs; nothing is written")
    options = parser.parse_args()
    lattice, turns = options.lattice or (8 if options.quick else 32), options.turns or (1 if options.quick else 5)
    threads = options.threads or sorted({1, len(os.sched_getaffinity(0))})
    plan, softening, x, mass = scene(lattice, 0.2 if options.quick else 1.0, max(threads))
    rows = ours(plan, lattice, softening, x, mass, threads)
    if not options.no_peer:
        rows += peer(options.cache, x, mass, softening, threads)
    timed(rows, turns)
    tree = cKDTree(x, boxsize=plan.cell)
    within = int(tree.count_neighbors(tree, Pairs(plan.cell, 1.25 * plan.cell / (MESH * lattice), softening).reach))
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    about = machine("torch", "numba", "numpy") | {"gpu": gpu or None}
    print(f"{len(x)} particles, mesh {MESH * lattice}^3, {within / 1e6:.4g}e6 pairs within reach, load average {about['load_average']}")
    print(f"{gpu or about['processor']}, torch {about['torch']}\n\n{show(rows, within)}")
    if not options.quick:
        content = {"machine": about, "particles": len(x), "mesh": MESH * lattice, "within_reach": within, "rows": rows}
        print(f"\nwritten: {write('nbody_forces' + re.sub(r'[^A-Za-z0-9]+', '_', f'_{gpu}' if gpu else ''), content)}")


if __name__ == "__main__":
    main()
