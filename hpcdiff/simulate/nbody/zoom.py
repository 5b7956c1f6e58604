"""Which particles a box has: all alike, or fine ones in a sphere about the cluster and coarse ones around it.

The sphere, and what else falls into the cluster, consists of coarse cells: each holds eight fine particles of each type, or one coarse particle with the mass and the centre of all
sixteen. While gravity acts it is one, as coarse dark matter and coarse gas would fall onto each other; in the snapshot they are two in one place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpcdiff.simulate.nbody.plan import COARSER, REGION, Plan


@dataclass(frozen=True)
class Levels:
    """The particles of a box, in their order: fine dark matter, coarse ones, fine gas; and apart by type, with the coarse gas at the end.

    Attributes:
        lattice: fine particles of a type along the side of the box, if they filled it.
        inside: coarse cells that hold fine particles, (n, n, n) with n = lattice / `COARSER`; None: there are only fine ones.
    """

    lattice: int
    inside: np.ndarray | None = None

    @property
    def fine(self) -> int:
        """Fine particles of a type."""
        return self.lattice**3 if self.inside is None else COARSER**3 * int(self.inside.sum())

    @property
    def n(self) -> int:
        """Particles of a type."""
        return self.fine + (0 if self.inside is None else int((~self.inside).sum()))

    def parts(self) -> tuple[slice, slice, slice, slice]:
        """Where fine and coarse dark matter, fine and coarse gas are when they are apart; the first three are those of all particles."""
        ends = [0, self.fine, self.n, self.n + self.fine, 2 * self.n]
        return tuple(slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True))

    def is_fine(self) -> np.ndarray:
        """Which particles are fine, bool (n + fine,)."""
        fine = np.ones(self.n + self.fine, bool)
        fine[self.fine : self.n] = False
        return fine

    def apart(self, of: np.ndarray) -> np.ndarray:
        """What all particles have, (n + fine, ...), for each type: dark matter, then gas, (2 n, ...)."""
        return np.concatenate([of, of[self.fine : self.n]])

    def began_in(self, plan: Plan, sphere: float) -> np.ndarray:
        """Numbers of the fine dark-matter particles that began in a sphere of this mass (Msun) at the box's centre; at least one."""
        away = np.arange(self.lattice) * plan.period / self.lattice - plan.period / 2
        there = away[:, None, None] ** 2 + away[:, None] ** 2 + away**2 <= radius_of(plan, sphere) ** 2
        return np.flatnonzero(self.chosen(there.ravel()))

    def cells_of(self, which: np.ndarray, cells: int) -> np.ndarray:
        """The cubes, of `cells` along the side of the box, that hold a part of where the particles of these numbers began, bool (cells, cells, cells)."""
        n, point = self.lattice, np.arange(self.lattice**3)
        own = self.chosen(point)
        of = np.concatenate([own, np.full(self.n - self.fine, -1), own])[which]
        began = np.zeros(n**3, bool)
        began[of[of >= 0]] = True
        began = began.reshape(n, n, n)
        if self.inside is not None:  # all fine ones that a coarse one is instead of
            coarse = np.zeros(self.inside.size, bool)
            coarse[np.flatnonzero(~self.inside)[which[(which >= self.fine) & (which < self.n)] - self.fine]] = True
            began |= _spread(coarse.reshape(self.inside.shape))
        cube, found = np.arange(cells)[:, None], began.astype(np.float32)
        overlap = ((cube * n < (point[:n] + 1) * cells) & ((cube + 1) * n > point[:n] * cells)).astype(np.float32)
        for axis in range(3):
            found = np.moveaxis(np.tensordot(overlap, found, (1, axis)), 0, axis)
        return found > 0

    def masses(self, plan: Plan) -> np.ndarray:
        """Msun, (n + fine,)."""
        kinds = plan.m_dm, COARSER**3 * (plan.m_dm + plan.m_gas), plan.m_gas
        return self._each(plan, kinds)

    def masses_apart(self, plan: Plan) -> np.ndarray:
        """Msun, (2 n,)."""
        kinds = [m * heavier for m in (plan.m_dm, plan.m_gas) for heavier in (1, COARSER**3)]
        return self._each(plan, kinds)

    def softened(self, softening: float) -> float | np.ndarray:
        """Softening of all particles, or of each (n + fine,), where fine ones have this: as many times larger for coarse ones as their spacing is."""
        return softening if self.inside is None else np.where(self.is_fine(), softening, COARSER * softening)

    def _each(self, plan: Plan, kinds) -> np.ndarray:
        counts = [part.stop - part.start for part in self.parts()][: len(kinds)]
        return np.repeat((plan.lattice / self.lattice) ** 3 * np.array(kinds), counts)

    def chosen(self, fine: np.ndarray) -> np.ndarray:
        """The fine particles of a type, from those of a lattice that filled the box, (lattice^3, ...)."""
        if self.inside is None:
            return fine
        return fine[_spread(self.inside).ravel()]


def levels(plan: Plan, sphere: float, lattice: int, also_fine: np.ndarray | None = None) -> Levels:
    """The particles of a box with a cluster from a sphere of this mass (Msun), for this many fine ones along the side.

    Args:
        also_fine: coarse cells that hold fine particles beside those of the sphere's region, bool (n, n, n) with n = lattice / `COARSER`.
    """
    if not plan.zoomed:
        return Levels(lattice)
    n = lattice // COARSER
    radius = REGION * radius_of(plan, sphere)
    away = (np.arange(n) + 0.5) * plan.period / n - plan.period / 2
    inside = away[:, None, None] ** 2 + away[:, None] ** 2 + away**2 < radius**2
    return Levels(lattice, inside if also_fine is None else inside | also_fine)


def radius_of(plan: Plan, sphere: float) -> float:
    """Radius of a sphere of this mass (Msun) before anything has moved, comoving Mpc."""
    return float(np.cbrt(3 * sphere / (4 * np.pi * plan.background.rho_mean())))


def _spread(cells: np.ndarray) -> np.ndarray:
    """What coarse cells are, for the points of the lattice."""
    for axis in range(3):
        cells = np.repeat(cells, COARSER, axis)
    return cells
