"""The start of a box with a peak in its middle, and which of its halos the peak has become."""

from __future__ import annotations

import numpy as np

from hpcdiff.simulate.nbody.evolve import State
from hpcdiff.simulate.nbody.excursion import Excursion
from hpcdiff.simulate.nbody.halos import Halo, Matter
from hpcdiff.simulate.nbody.initial import Waves, coarser, displaced, power, white, with_peak
from hpcdiff.simulate.nbody.plan import COARSER, Plan
from hpcdiff.simulate.nbody.zoom import levels, radius_of

START = 0.04
"""Scale factor of the initial conditions."""


def start(plan: Plan, box: int, sphere: float, lattice: int, also_fine: np.ndarray | None = None, a: float = START) -> State:
    """A box at the scale factor a: dark matter on a lattice, gas on the one between, both moved by the same waves.

    Args:
        sphere: mass of the overdense sphere at the box's centre, Msun; of no account in the one box.
        lattice: particles of a type along a side.
        also_fine: coarse cells that hold fine particles beside those of the sphere's region, see `levels`.
    """
    waves, b = Waves(plan.period, lattice), plan.background
    spectrum = power(b, waves)
    modes = white(waves, plan.seed_of(box)) * np.sqrt(spectrum)
    if not plan.single:
        modes = with_peak(waves, modes, spectrum, Excursion(b).peak(radius_of(plan, sphere), *plan.quantiles[box]))
    of = levels(plan, sphere, lattice, also_fine)
    kinds = [[of.chosen(each) for each in displaced(waves, modes, b.Om0, a, offset)] for offset in (0.0, 0.5)]
    if of.inside is not None:  # a coarse particle stands in the centre of mass of the fine ones that it is instead of
        n, gas = lattice // COARSER, b.Ob0 / b.Om0
        middle = (0.5 * gas + 0.5 * (COARSER - 1)) / COARSER
        coarse = displaced(Waves(plan.period, n), coarser(modes, n), b.Om0, a, middle)
        kinds.insert(1, [each[~of.inside.ravel()] for each in coarse])
    return State(a, *(np.concatenate([kind[i] for kind in kinds]) for i in range(2)), sphere=sphere, also_fine=also_fine)


def central(halos: list[Halo], matter: Matter, sphere: np.ndarray) -> int | None:
    """Which of a box's halos is the cluster: the one with most of what began in the overdense sphere, particles of these numbers; None if all have nothing of it."""
    began = np.zeros(len(matter.x), bool)
    began[sphere] = True
    found = [int(began[matter.about(h.centre, h.radius_200m)[0]].sum()) for h in halos]
    return int(np.argmax(found)) if any(found) else None
