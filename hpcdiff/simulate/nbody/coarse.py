"""The size of the peak that makes a cluster of a given mass, and what falls into it, from boxes that are evolved coarsely.

A sphere of linear overdensity 1.686 holds about the mass that falls together, but how much is within R200m today depends on what is around it:
half of it where two halos are still apart, more where a dense region goes on outside. So a box is first evolved coarsely, a few
times, and the sphere made larger or smaller until the coarse cluster has the mass that is wanted; then twice again with more particles, which know
better what merges by today. The waves stay the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage

from hpcdiff import files
from hpcdiff.simulate.nbody.evolve import FORMAT, State, evolve
from hpcdiff.simulate.nbody.gravity import gravity_of
from hpcdiff.simulate.nbody.halos import Halo, Matter
from hpcdiff.simulate.nbody.peak import central, start
from hpcdiff.simulate.nbody.plan import YIELD, Plan
from hpcdiff.simulate.nbody.zoom import Levels, levels

WIDEST = 0.5
"""Largest radius of the overdense sphere over the side of the box."""
PILOT_PARTICLES = 150
"""Dark-matter particles of a coarse cluster, at least."""
PILOT_LATTICE = 16
"""Particles of a type along the side of a coarse box, at least."""
PILOT_START, PILOT_STEP, PILOT_ACCURACY = 0.1, 0.04, 0.6
"""Scale factor that a coarse box begins with, its longest step in ln a, and its accuracy."""
FINER = (1.0, 1.5, 3.0)
"""Lattice of the first, second and third coarse boxes over that of the first; none is finer than the box itself."""
TRIES = (5, 4, 3)
"""Of each at most."""
GATHERED = 1.5
"""What a coarse cluster has within this many R200m is made of fine particles."""
CLOSE = 0.05
"""A coarse cluster whose mass is within this of the wanted one, in ln, is taken."""


class CoarseBoxes:
    """The coarse boxes of one cluster. What masses they gave is kept in a file, so that a run that goes on does not evolve them again.

    Args:
        threads: of the forces.
        after: called after each step of each of them; what it raises ends the search.
        kept: the file; None: nothing is kept.
    """

    def __init__(self, plan: Plan, box: int, threads: int = 1, after: Callable[[State], None] | None = None, kept: Path | None = None):
        self.plan, self.box, self.threads, self.after, self.kept = plan, box, threads, after, kept
        self.masses = self._read()
        self._last: tuple = (None, None)

    def mass(self, sphere: float, lattice: int) -> float:
        """M200m (Msun) of the cluster that a sphere of this mass (Msun) makes on this lattice; 0 if there is none."""
        key = f"{lattice} {sphere!r}"
        if key not in self.masses:
            _, _, cluster = self.evolved(sphere, lattice)
            self.masses[key] = cluster.mass_200m if cluster else 0.0
            if self.kept:
                files.write_json(self.kept, {"format": FORMAT, "masses": self.masses})
        return self.masses[key]

    def evolved(self, sphere: float, lattice: int) -> tuple[Levels, Matter, Halo | None]:
        """The particles today, and the cluster if there is one."""
        if self._last[0] != (sphere, lattice):
            self._last = (None, None)  # not two of them in memory
            self._last = (sphere, lattice), self._evolve(sphere, lattice)
        return self._last[1]

    def _evolve(self, sphere: float, lattice: int) -> tuple[Levels, Matter, Halo | None]:
        plan, b = self.plan, self.plan.background
        softening = plan.period / lattice / 16
        of = levels(plan, sphere, lattice)
        gravity = gravity_of(plan.period, plan.mesh_of(lattice), of.softened(softening), b.Om0, self.threads, plan.device)
        mass, fine, begin = of.masses(plan), of.is_fine(), start(plan, self.box, sphere, lattice, a=PILOT_START)
        state = evolve(begin, mass, gravity, b.Om0, softening, PILOT_ACCURACY, after=self.after, longest=PILOT_STEP, fine=fine)
        matter = Matter(state.x, mass, gravity.potential(state.x, mass), plan.period, b, self.threads)
        halos = matter.halos(0.1 * plan.mass[self.box], fine)
        which = central(halos, matter, of.began_in(plan, sphere))
        return of, matter, None if which is None else halos[which]

    def _read(self) -> dict[str, float]:
        try:
            found = json.loads(self.kept.read_text()) if self.kept else {}
            return {str(k): float(m) for k, m in found["masses"].items()} if found.get("format") == FORMAT else {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):  # none, or damaged
            return {}


def pilot_lattice(plan: Plan, box: int) -> int:
    """Particles of a type along the side of the first coarse boxes."""
    b = plan.background
    particle = b.rho_mean(component="dm") / b.rho_mean() * plan.mass[box] / PILOT_PARTICLES
    n = plan.whole(np.cbrt(b.rho_mean(component="dm") * plan.period**3 / particle), up=True)
    return min(max(n, PILOT_LATTICE), plan.lattice)


def lattices(plan: Plan, box: int) -> list[int]:
    """Particles of a type along the side of the coarse boxes, from few to many."""
    first = pilot_lattice(plan, box)
    return sorted({min(plan.whole(finer * first), plan.lattice) for finer in FINER})


def sphere_of(coarse: CoarseBoxes) -> float:
    """Mass of the sphere, Msun, whose coarse cluster is nearest to the box's target; what it makes in the end is near to it (docs/simulation.md)."""
    ln = math.log(float(coarse.plan.mass[coarse.box]) / YIELD)
    for n, tries in zip(lattices(coarse.plan, coarse.box), TRIES, strict=False):
        ln = _search(coarse, ln, n, tries)
    return math.exp(ln)


def also_fine(coarse: CoarseBoxes, sphere: float) -> np.ndarray | None:
    """Coarse cells that hold fine particles beside those of the sphere's region, as what is there falls into the cluster (`levels`); None if there are none."""
    plan = coarse.plan
    if not plan.zoomed:
        return None
    of, matter, cluster = coarse.evolved(sphere, lattices(plan, coarse.box)[-1])
    if cluster is None:
        return None
    near, _ = matter.about(cluster.centre, GATHERED * cluster.radius_200m)
    inside = levels(plan, sphere, plan.lattice).inside
    added = of.cells_of(near, len(inside)) & ~inside
    added = ndimage.maximum_filter(added, 3, mode="wrap") & ~inside  # with their neighbours
    return added if added.any() else None


def _search(coarse: CoarseBoxes, ln: float, lattice: int, tries: int) -> float:
    """ln of the sphere, among so many, whose coarse cluster is nearest to the target, or the first that is near enough; from ln on."""
    plan, target = coarse.plan, float(coarse.plan.mass[coarse.box])
    largest = 4 * np.pi / 3 * (WIDEST * plan.period) ** 3 * plan.background.rho_mean()
    tried: list[tuple[float, float]] = []  # ln sphere, ln of the coarse mass over the target
    while len(tried) < tries:
        found = coarse.mass(math.exp(ln), lattice)
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
