"""Whether the power spectrum of clusters' cells depends on the length of the steps and on the softening, and what rounding does to it."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
from scipy import fft

from hpcdiff.simulate.nbody.box import SMALLEST, begun, in_cell
from hpcdiff.simulate.nbody.evolve import LONGEST, State, evolve
from hpcdiff.simulate.nbody.gravity import Gravity
from hpcdiff.simulate.nbody.halos import Matter
from hpcdiff.simulate.nbody.peak import central
from hpcdiff.simulate.nbody.plan import Plan
from hpcdiff.simulate.nbody.zoom import levels

CELLS = 192
"""Mesh cells along the side of a cluster's cell."""
BANDS = np.array([0.3, 1.0, 2.0, 4.0, 7.0, 10.0])
"""Edges of the bands of k, h/Mpc."""
CHANGES = {"steps": (0.5, 1.0, 0.0), "softening": (1.0, 0.5, 0.0), "rounding": (1.0, 1.0, 1e-9)}
"""By how much the length of the steps and the softening are multiplied, and how far the box is moved as a whole, Mpc: exactly, the last would change nothing."""


def changes(plan: Plan, snapshot: Path, kept: Path, boxes: int) -> dict[str, np.ndarray]:
    """Power of the dark matter in `BANDS`, over what it is with each of `CHANGES`.

    What rounding does to a cluster's core alone changes the power of one box by some per cent on small scales, hence several boxes. With half of the
    softening steps are shorter as well, by the square root of that.

    Args:
        snapshot: folder of the chunk files of this plan's run, one a box. kept: folder in which finished spectra are kept.
        boxes: how many, those with the least target masses.
    Returns:
        (boxes, bands) each.
    """
    lightest = np.argsort(plan.mass)[:boxes].tolist()
    chunks = sorted(snapshot.glob("*.hdf5"))
    as_they_are = np.array([_of_chunk(chunks[box], plan) for box in lightest])
    kept.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(max(len(os.sched_getaffinity(0)), 1), mp_context=get_context("spawn")) as pool:
        wanted = {(box, what): kept / f"{what} {box}.npy" for box in lightest for what in CHANGES}
        missing = sorted({box for (box, _), path in wanted.items() if not path.exists()})
        list(pool.map(_begin, [(plan, box, kept / f"{box}.npz") for box in missing]))
        found = list(pool.map(_changed, [(plan, kept / f"{box}.npz", what, path) for (box, what), path in wanted.items()]))
    return {what: as_they_are / np.array(found[i :: len(CHANGES)]) for i, what in enumerate(CHANGES)}


def _begin(task: tuple[Plan, int, Path]) -> None:
    plan, box, path = task
    if State.load(path) is None:
        begun(plan, box, 1).save(path)


def _changed(task: tuple[Plan, Path, str, Path]) -> np.ndarray:
    plan, at, what, path = task
    if not path.exists():
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, spectrum(plan, State.load(at), *CHANGES[what]))
        temporary.rename(path)  # whole or not at all
    return np.load(path)


def spectrum(plan: Plan, state: State, steps: float, softer: float, moved: float) -> np.ndarray:
    """Power of the dark matter in the cell of a box that has begun so, mean in each of `BANDS`.

    It is evolved with steps and softening so many times as long as the plan's, from positions that are moved by so many Mpc along each axis.
    """
    state = replace(state, x=(state.x + moved) % plan.period)
    b, softening = plan.background, softer * plan.softening
    of = levels(plan, state.sphere, plan.lattice, state.also_fine)
    gravity = Gravity(plan.period, plan.mesh, of.softened(softening), b.Om0)
    mass, accuracy = of.masses(plan), steps * plan.config.simulate.accuracy
    x = evolve(state, mass, gravity, b.Om0, softening, accuracy, longest=steps * LONGEST, fine=of.is_fine()).x
    matter = Matter(x, mass, gravity.potential(x, mass), plan.period, b)
    halos = matter.halos(SMALLEST * plan.m_dm, of.is_fine())
    cluster = halos[central(halos, matter, of.began_in(plan, state.sphere))]
    there, away = in_cell(plan, x[: of.n], cluster.centre)
    return power(away[there], of.masses_apart(plan)[there], plan.cell, b.h)


def _of_chunk(path: Path, plan: Plan) -> np.ndarray:
    with h5py.File(path) as f:
        x, mass = f["PartType1/Coordinates"][:] / (1e3 * plan.background.h), f["PartType1/Masses"][:].astype(float)
    return power(x, mass, plan.cell, plan.background.h)


def power(x: np.ndarray, mass: np.ndarray, side: float, h: float) -> np.ndarray:
    """Power spectrum of particles (n, 3) with masses (n,) in a cube (Mpc) as if it were periodic, Mpc^3, mean in each of `BANDS`, without their shot noise."""
    density = np.histogramdd(x % side, bins=CELLS, range=[(0, side)] * 3, weights=mass)[0]
    noise = side**3 * np.sum(mass**2) / mass.sum() ** 2
    modes = np.abs(fft.rfftn(density / density.mean() - 1)) ** 2 * side**3 / CELLS**6 - noise
    k = [2 * np.pi / h * f(CELLS, side / CELLS) for f in (fft.fftfreq, fft.fftfreq, fft.rfftfreq)]
    size = np.sqrt(k[0][:, None, None] ** 2 + k[1][:, None] ** 2 + k[2] ** 2)
    there = np.digitize(size.ravel(), BANDS)
    return np.bincount(there, modes.ravel(), len(BANDS) + 1)[1:-1] / np.bincount(there, minlength=len(BANDS) + 1)[1:-1]
