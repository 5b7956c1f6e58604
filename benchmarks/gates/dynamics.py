"""Whether gravity keeps momentum and energy: a small random box evolved from its waves to today."""

from __future__ import annotations

import numpy as np

from hpcdiff.cosmology import Background
from hpcdiff.simulate.nbody.evolve import State, energies, evolve
from hpcdiff.simulate.nbody.gravity import Gravity
from hpcdiff.simulate.nbody.initial import Waves, displaced, power, white

SIDE, LATTICE, SOFTENING, ACCURACY, START = 40.0, 16, 0.15, 0.3, 0.05
"""Of the box: Mpc, particles along a side, Mpc, the preset's accuracy, scale factor."""


def conserved(seed: int = 4) -> tuple[float, float]:
    """Error of the cosmic energy equation (Layzer-Irvine) over the potential energy; sum of all momenta over the sum of their sizes."""
    b = Background()
    waves = Waves(SIDE, LATTICE)
    x, p = displaced(waves, white(waves, seed) * np.sqrt(power(b, waves)), b.Om0, START)
    gravity, mass, history = Gravity(SIDE, 48, SOFTENING, b.Om0), np.ones(LATTICE**3), []
    done = evolve(
        State(START, x, p),
        mass,
        gravity,
        b.Om0,
        SOFTENING,
        ACCURACY,
        after=lambda state: history.append((state.a, *energies(state, mass, gravity))),
    )
    a, t, w = np.array(history).T
    work = -np.concatenate([[0], np.cumsum(0.5 * np.diff(np.log(a)) * ((2 * t + w)[1:] + (2 * t + w)[:-1]))])
    energy = np.abs(t + w - (t + w)[0] - work).max() / np.abs(w).max()
    return float(energy), float(np.linalg.norm(done.p.sum(axis=0)) / np.linalg.norm(done.p, axis=1).sum())
