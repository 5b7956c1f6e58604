"""Which particles a box has: all alike, or fine ones in a sphere about the cluster and eight times heavier ones around it.

The sphere consists of coarse cells: each holds one coarse particle of a type, or eight fine ones with the same centre.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpcdiff.simulate.nbody.plan import COARSER, REGION, Plan


@dataclass(frozen=True)
class Levels:
    """The particles of a box in their order: fine dark matter, coarse dark matter, fine gas, coarse gas.

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
        """Where each kind is."""
        ends = [0, self.fine, self.n, self.n + self.fine, 2 * self.n]
        return tuple(slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True))

    def is_fine(self) -> np.ndarray:
        """Which particles are fine, bool (2 n,)."""
        fine = np.zeros(2 * self.n, bool)
        fine[: self.fine] = fine[self.n : self.n + self.fine] = True
        return fine

    def masses(self, plan: Plan) -> np.ndarray:
        """Msun, (2 n,)."""
        times = (plan.lattice / self.lattice) ** 3
        kinds = [m * times * heavier for m in (plan.m_dm, plan.m_gas) for heavier in (1, COARSER**3)]
        return np.repeat(kinds, [part.stop - part.start for part in self.parts()])

    def chosen(self, fine: np.ndarray, coarse: np.ndarray | None) -> np.ndarray:
        """The particles of a type, from those of both lattices if each filled the box, (lattice^3, 3) and (n^3, 3)."""
        if self.inside is None:
            return fine
        cells = self.inside
        for axis in range(3):
            cells = np.repeat(cells, COARSER, axis)
        return np.concatenate([fine[cells.ravel()], coarse[~self.inside.ravel()]])


def levels(plan: Plan, sphere: float, lattice: int) -> Levels:
    """The particles of a box with a cluster from a sphere of this mass (Msun), for this many fine ones along the side."""
    if not plan.zoomed:
        return Levels(lattice)
    n = lattice // COARSER
    radius = REGION * float(np.cbrt(3 * sphere / (4 * np.pi * plan.background.rho_mean())))
    away = (np.arange(n) + 0.5) * plan.period / n - plan.period / 2
    return Levels(lattice, away[:, None, None] ** 2 + away[:, None] ** 2 + away**2 < radius**2)
