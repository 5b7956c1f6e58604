"""The start of a box, and the size of the peak that makes a cluster of a given mass.

A sphere of linear overdensity 1.686 holds about the mass that falls together, but how much is within R200m today depends on what is around it:
half of it where two halos are still apart, more where a dense region goes on outside. So a box is first evolved coarsely, a few
times, and the sphere made larger or smaller until the coarse cluster has the mass that is wanted; then again with more particles, which know
better what merges by today. The waves stay the same.
"""

from __future__ import annotations

import math

import numpy as np

from hpcdiff.simulate.nbody.evolve import State, evolve
from hpcdiff.simulate.nbody.gravity import gravity_of
from hpcdiff.simulate.nbody.halos import Halo, Matter, wrapped
from hpcdiff.simulate.nbody.initial import Waves, coarser, displaced, power, white, with_peak
from hpcdiff.simulate.nbody.plan import COARSER, YIELD, Plan
from hpcdiff.simulate.nbody.zoom import levels

START = 0.04
"""Scale factor of the initial conditions."""
COLLAPSE = 1.686
"""Linear overdensity today of the sphere that a cluster is made from."""
WIDEST = 0.5
"""Largest radius of that sphere over the side of the box."""
PILOT_PARTICLES = 150
"""Dark-matter particles of a coarse cluster, at least."""
PILOT_LATTICE = 16
"""Particles of a type along the side of a coarse box, at least."""
PILOT_STEP, PILOT_ACCURACY = 0.04, 1.0
"""Longest step of a coarse box in ln a, and its accuracy."""
FINER = 1.5
"""Lattice of the second coarse boxes over that of the first."""
TRIES, FINER_TRIES = 5, 4
"""First and second coarse boxes at most."""
CLOSE = 0.05
"""A coarse cluster whose mass is within this of the wanted one, in ln, is taken."""


def start(plan: Plan, box: int, sphere: float, lattice: int) -> State:
    """A box at `START`: dark matter on a lattice, gas on the one between, both moved by the same waves.

    Args:
        sphere: mass of the overdense sphere at the box's centre, Msun; of no account in the one box.
        lattice: particles of a type along a side.
    """
    waves, b = Waves(plan.period, lattice), plan.background
    spectrum = power(b, waves)
    modes = white(waves, plan.seed_of(box)) * np.sqrt(spectrum)
    if not plan.single:
        radius = float(np.cbrt(3 * sphere / (4 * np.pi * b.rho_mean())))
        modes = with_peak(waves, modes, spectrum, radius, COLLAPSE)
    of = levels(plan, sphere, lattice)
    kinds = []
    for offset in (0.0, 0.5):
        fine, coarse = displaced(waves, modes, b.Om0, START, offset), (None, None)
        if of.inside is not None:  # a coarse particle stands in the middle of the fine ones that it is instead of
            n = lattice // COARSER
            middle = (offset + 0.5 * (COARSER - 1)) / COARSER
            coarse = displaced(Waves(plan.period, n), coarser(modes, n), b.Om0, START, middle)
        kinds.append([of.chosen(*both) for both in zip(fine, coarse, strict=True)])
    return State(START, *(np.concatenate([kind[i] for kind in kinds]) for i in range(2)), sphere=sphere)


def central(halos: list[Halo], side: float) -> int:
    """Which of a box's halos, sorted by falling mass, is the cluster: the heaviest near the peak."""
    near = [i for i, h in enumerate(halos) if np.linalg.norm(wrapped(h.centre - side / 2, side)) < 0.3 * side]
    return (near or [0])[0]


def pilot_lattice(plan: Plan, box: int) -> int:
    """Particles of a type along the side of a coarse box."""
    b = plan.background
    particle = b.rho_mean(component="dm") / b.rho_mean() * plan.mass[box] / PILOT_PARTICLES
    n = plan.whole(np.cbrt(b.rho_mean(component="dm") * plan.period**3 / particle), up=True)
    return min(max(n, PILOT_LATTICE), plan.lattice)


def coarse_mass(plan: Plan, box: int, sphere: float, threads: int, lattice: int) -> float:
    """M200m (Msun) of the cluster that a sphere of this mass (Msun) makes in a box evolved coarsely, on this lattice; 0 if there is none."""
    b, n = plan.background, lattice
    softening = plan.period / n / 16
    gravity = gravity_of(plan.period, plan.mesh_of(n), softening, b.Om0, threads, plan.device)
    of = levels(plan, sphere, n)
    mass = of.masses(plan)
    state = evolve(start(plan, box, sphere, n), mass, gravity, b.Om0, softening, PILOT_ACCURACY, longest=PILOT_STEP)
    matter = Matter(state.x, mass, gravity.potential(state.x, mass), plan.period, b, threads)
    halos = matter.halos(0.1 * plan.mass[box], of.is_fine())
    return halos[central(halos, plan.period)].mass_200m if halos else 0.0


def sphere_of(plan: Plan, box: int, threads: int) -> float:
    """Mass of the sphere, Msun, whose coarse cluster is nearest to the box's target; what it makes in the end is near to it (docs/simulation.md)."""
    n = pilot_lattice(plan, box)
    finer = min(plan.whole(FINER * n), plan.lattice)
    ln = _search(plan, box, math.log(float(plan.mass[box]) / YIELD), n, TRIES, threads)
    if finer > n:
        ln = _search(plan, box, ln, finer, FINER_TRIES, threads)
    return math.exp(ln)


def _search(plan: Plan, box: int, ln: float, lattice: int, tries: int, threads: int) -> float:
    """ln of the sphere, among so many, whose coarse cluster is nearest to the target, or the first that is near enough; from ln on."""
    target = float(plan.mass[box])
    largest = 4 * np.pi / 3 * (WIDEST * plan.period) ** 3 * plan.background.rho_mean()
    tried: list[tuple[float, float]] = []  # ln sphere, ln of the coarse mass over the target
    while len(tried) < tries:
        found = coarse_mass(plan, box, math.exp(ln), threads, lattice)
        tried.append((ln, math.log(max(found, 1e-3 * target) / target)))
        if abs(tried[-1][1]) < CLOSE:
            break
        ln = _next(tried, math.log(largest))
    return min(tried, key=lambda t: abs(t[1]))[0]


def _next(tried: list[tuple[float, float]], largest: float) -> float:
    """The sphere to try: between one that was too small and one too large, else as if the mass went with it."""
    low = [t for t in tried if t[1] < 0]
    high = [t for t in tried if t[1] >= 0]
    below, above = max(low, default=None), min(high, default=None)
    if below and above and below[0] < above[0]:
        share = -below[1] / (above[1] - below[1])
        return below[0] + min(max(share, 0.2), 0.8) * (above[0] - below[0])
    ln, off = min(tried, key=lambda t: abs(t[1]))
    return min(ln - min(max(off, -0.5), 0.5), largest)
