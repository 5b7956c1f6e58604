"""Whether the power spectrum of clusters' boxes depends on the length of the steps and on the softening."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
from scipy import fft

from hpcdiff.simulate.nbody.evolve import LONGEST, evolve
from hpcdiff.simulate.nbody.gravity import Gravity
from hpcdiff.simulate.nbody.peak import sphere_of, start
from hpcdiff.simulate.nbody.plan import Plan
from hpcdiff.simulate.nbody.zoom import levels

CELLS = 192
"""Mesh cells along the side of the box."""
BANDS = np.array([0.3, 1.0, 2.0, 4.0, 7.0, 10.0])
"""Edges of the bands of k, h/Mpc."""
HALVED = ("steps", "softening")


def changes(plan: Plan, snapshot: Path, kept: Path, boxes: int) -> dict[str, np.ndarray]:
    """Power of the dark matter in `BANDS`, over what it is with half of the steps' length (`steps`) and with half of the softening (`softening`).

    What rounding does to a cluster's core alone changes the power of one box by some per cent on small scales, hence several boxes.

    Args:
        snapshot: folder of the chunk files of this plan's run, in the order of the boxes. kept: folder in which finished spectra are kept.
    Returns:
        (boxes, bands) each.
    """
    chunks = sorted(snapshot.glob("*.hdf5"))[:boxes]
    as_they_are = np.array([_of_chunk(path, plan) for path in chunks])
    kept.mkdir(parents=True, exist_ok=True)
    tasks = [(plan, box, what, kept / f"{what} {box}.npy") for box in range(len(chunks)) for what in HALVED]
    with ProcessPoolExecutor(max(len(os.sched_getaffinity(0)), 1), mp_context=get_context("spawn")) as pool:
        found = list(pool.map(_halved, tasks))
    return {what: as_they_are / np.array(found[i :: len(HALVED)]) for i, what in enumerate(HALVED)}


def _halved(task: tuple[Plan, int, str, Path]) -> np.ndarray:
    plan, box, what, path = task
    if not path.exists():
        b, accuracy, longest, softening = plan.background, plan.config.simulate.accuracy, LONGEST, plan.softening
        if what == "steps":
            accuracy, longest = accuracy / 2, longest / 2
        else:
            softening /= 2
        gravity = Gravity(plan.period, plan.mesh, softening, b.Om0)
        state = start(plan, box, sphere_of(plan, box, 1), plan.lattice)
        mass = levels(plan, state.sphere, plan.lattice).masses(plan)
        done = evolve(state, mass, gravity, b.Om0, softening, accuracy, longest=longest)
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, power(done.x[: plan.n_box], plan.cell, b.h))
        temporary.rename(path)  # whole or not at all
    return np.load(path)


def _of_chunk(path: Path, plan: Plan) -> np.ndarray:
    with h5py.File(path) as f:
        x = f["PartType1/Coordinates"][:] / (1e3 * plan.background.h)
    return power(x % plan.cell, plan.cell, plan.background.h)


def power(x: np.ndarray, side: float, h: float) -> np.ndarray:
    """Power spectrum of particles (n, 3) in a periodic box (Mpc), Mpc^3, mean in each of `BANDS`, without their shot noise."""
    counts = np.histogramdd(x % side, bins=CELLS, range=[(0, side)] * 3)[0]
    modes = np.abs(fft.rfftn(counts / counts.mean() - 1)) ** 2 * side**3 / CELLS**6 - side**3 / len(x)
    k = [2 * np.pi / h * f(CELLS, side / CELLS) for f in (fft.fftfreq, fft.fftfreq, fft.rfftfreq)]
    size = np.sqrt(k[0][:, None, None] ** 2 + k[1][:, None] ** 2 + k[2] ** 2)
    there = np.digitize(size.ravel(), BANDS)
    return np.bincount(there, modes.ravel(), len(BANDS) + 1)[1:-1] / np.bincount(there, minlength=len(BANDS) + 1)[1:-1]
