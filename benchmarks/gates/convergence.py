"""Whether the power spectrum of a cluster's box depends on the length of the steps and on the softening."""

from __future__ import annotations

import numpy as np
from scipy import fft

from hpcdiff.simulate.nbody.evolve import evolve
from hpcdiff.simulate.nbody.gravity import Gravity
from hpcdiff.simulate.nbody.peak import start
from hpcdiff.simulate.nbody.plan import YIELD, Plan

CELLS = 192
"""Mesh cells along the side of the box."""
BANDS = np.array([0.3, 1.0, 2.0, 4.0, 7.0, 10.0])
"""Edges of the bands of k, h/Mpc."""


def changes(plan: Plan, box: int) -> dict[str, np.ndarray]:
    """Power of the dark matter in `BANDS`, over what it is with half of the steps' length (`steps`) and with half of the softening (`softening`)."""
    accuracy, softening = plan.config.simulate.accuracy, plan.softening
    as_it_is = _evolved(plan, box, accuracy, softening)
    return {
        "steps": as_it_is / _evolved(plan, box, accuracy / 2, softening, 0.01),
        "softening": as_it_is / _evolved(plan, box, accuracy, softening / 2),
    }


def _evolved(plan: Plan, box: int, accuracy: float, softening: float, longest: float = 0.02) -> np.ndarray:
    b = plan.background
    mass = np.repeat([plan.m_dm, plan.m_gas], plan.n_box)
    gravity = Gravity(plan.cell, plan.mesh, softening, b.Om0)
    state = start(plan, box, float(plan.mass[box]) / YIELD, plan.lattice)
    done = evolve(state, mass, gravity, b.Om0, softening, accuracy, longest=longest)
    return power(done.x[: plan.n_box], plan.cell, b.h)


def power(x: np.ndarray, side: float, h: float) -> np.ndarray:
    """Power spectrum of particles (n, 3) in a periodic box (Mpc), Mpc^3, mean in each of `BANDS`, without their shot noise."""
    counts = np.histogramdd(x % side, bins=CELLS, range=[(0, side)] * 3)[0]
    modes = np.abs(fft.rfftn(counts / counts.mean() - 1)) ** 2 * side**3 / CELLS**6 - side**3 / len(x)
    k = [2 * np.pi / h * f(CELLS, side / CELLS) for f in (fft.fftfreq, fft.fftfreq, fft.rfftfreq)]
    size = np.sqrt(k[0][:, None, None] ** 2 + k[1][:, None] ** 2 + k[2] ** 2)
    there = np.digitize(size.ravel(), BANDS)
    return np.bincount(there, modes.ravel(), len(BANDS) + 1)[1:-1] / np.bincount(there, minlength=len(BANDS) + 1)[1:-1]
