"""The benchmark of gravity's forces: that it runs, and what it counts as tested pairs."""

import subprocess
import sys

import numpy as np
from conftest import ROOT, environment

sys.path.insert(0, str(ROOT / "benchmarks"))

import nbody_forces

from hpcdiff.simulate.nbody.gravity import Gravity
from hpcdiff.simulate.nbody.torch_gravity import TorchGravity

SIDE = 10.0


def test_tested_pairs_are_those_of_the_columns_and_tiles_within_reach():
    """On a lattice of 20^3 tiles are cubes of 4^3: of a reach below their side each meets itself and the 26 about it."""
    x = (np.stack(np.meshgrid(*[np.arange(20)] * 3, indexing="ij"), -1).reshape(-1, 3) + 0.5) * SIDE / 20
    loops, tiles = Gravity(SIDE, 32, 0.05, 0.3).pairs, TorchGravity(SIDE, 32, 0.05, 0.3).pairs
    assert nbody_forces.tested_by_torch(tiles, x) == len(x) * 27 * 64
    sphere, columns = 4 / 3 * np.pi * loops.reach**3, (3 * SIDE / loops.n) ** 2 * (2 * loops.reach + 2 * SIDE / loops.deep)
    assert sphere < nbody_forces.tested_by_loops(loops, x) / len(x) ** 2 * SIDE**3 < columns


def test_it_runs():
    command = [sys.executable, "benchmarks/nbody_forces.py", "--quick", "--no-peer", "--threads", "1"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(("compiled loops", "torch"))]
    assert len(rows) >= 2 and all(float(row.split()[-1]) < 1e-5 for row in rows)
