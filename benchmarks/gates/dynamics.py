"""Whether gravity keeps momentum and energy: one box with a cluster, fine and coarse particles, evolved from its waves to today."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from hpcdiff import files
from hpcdiff.simulate.nbody.evolve import State, energies, evolve
from hpcdiff.simulate.nbody.gravity import Gravity
from hpcdiff.simulate.nbody.peak import start
from hpcdiff.simulate.nbody.plan import YIELD, Plan
from hpcdiff.simulate.nbody.zoom import levels

ONE = ("simulate.clusters=1", "simulate.mass_range=[4.2e14, 4.3e14]")
"""What the run has other than the preset's."""


def conserved(plan: Plan, kept: Path) -> tuple[float, float]:
    """Error of the cosmic energy equation (Layzer-Irvine) over the potential energy, and what gravity adds to the sum of all momenta over the sum of their sizes, in the first box of the plan.

    Its peak is that of the target mass, without the coarse boxes that would correct it. kept: file in which the numbers are kept.
    """
    if kept.exists():
        return tuple(json.loads(kept.read_text()))
    b, history, sphere = plan.background, [], float(plan.mass[0]) / YIELD
    of = levels(plan, sphere, plan.lattice)
    gravity, mass = Gravity(plan.period, plan.mesh, of.softened(plan.softening), b.Om0), of.masses(plan)

    def look(state: State) -> None:
        history.append((state.a, *energies(state, mass, gravity)))

    begin, accuracy = start(plan, 0, sphere, plan.lattice), plan.config.simulate.accuracy
    done = evolve(begin, mass, gravity, b.Om0, plan.softening, accuracy, after=look, fine=of.is_fine())
    a, t, w = np.array(history).T
    work = -np.concatenate([[0], np.cumsum(0.5 * np.diff(np.log(a)) * ((2 * t + w)[1:] + (2 * t + w)[:-1]))])
    energy = np.abs(t + w - (t + w)[0] - work).max() / np.abs(w).max()
    p, gained = mass[:, None] * done.p, mass @ (done.p - begin.p)
    found = float(energy), float(np.linalg.norm(gained) / np.linalg.norm(p, axis=1).sum())
    files.write_json(kept, found)
    return found
