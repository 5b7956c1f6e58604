"""What will be drawn: cells, cluster masses and particle numbers, a function of the config alone."""

from __future__ import annotations

import functools
import math

import numpy as np

from hpcdiff.config import Config
from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError
from hpcdiff.sections import Simulate
from hpcdiff.simulate import gated, history, outskirts, profiles
from hpcdiff.simulate.environment import Environment, mesh_cells

CONCENTRATION = 6.0
"""c200m for which the mass of a halo beyond R200m is reckoned; it hardly depends on it."""
LEAST_CELL = 5.0
"""Least side of a cell over R200m of the heaviest cluster: its infall region, to `profiles.OUTERMOST`, lies within 0.6 of it."""
SCATTER_SURROUNDINGS = 0.35
"""Scatter of what is clustered about clusters of one mass (standard deviation of its logarithm; eight evolved clusters have 0.3 to 0.5 at 2 to 5 R200m)."""
MASSES = 24
"""Masses at which what is around a cluster is tabulated."""
LEAST_PARTICLES = 100
"""Least dark-matter particles of the least massive cluster."""
BLOCK_PARTICLES = 2**17
"""Particles of a type in a block of cells (one chunk file), at most, unless one cell has more."""
STRAY = 0.25
"""How far particles may lie outside their own cell, over its side."""
BYTES_OF_CHUNK = 48 + 40
"""Bytes on disk of a gas and a dark-matter particle in a chunk."""
BYTES_OF_DRAW = 24 + 24 + 4 + 4
"""Bytes on disk of a gas and a dark-matter particle in a draw."""
BYTES_OF_MESH = 80
"""Bytes of a point of the environment's mesh while it is made."""
BYTES_OF_QUERY = 80e6
"""Bytes of one slab of neighbour distances and of the interpreter."""


class Plan:
    """Cells, masses and counts of the box.

    Attributes:
        background: the cosmology. engine: what results call the engine, with what is known of its gates.
        n_side, cell, side: cells a side; side of a cell and of the box, comoving Mpc.
        m_dm, m_gas: particle masses, Msun.
        halo_id: int64 (n_cells,), the cluster of each cell, -1 for none.
        mass: float64 (n_cells,), its M200m in Msun, 0 for none.
        place: float64 (n_cells, 3), its centre in the cell, comoving Mpc.
        n_halo, n_background: int64 (n_cells,), particles OF EACH TYPE of the cluster with its infall region and of the background, which is
            denser than the universe where there is a cluster (`outskirts`).
        surroundings: float64 (n_cells,), what is clustered about the cluster over the mean of its mass, 1 for none.
        total: float64 (n_cells,), mass of the cluster with its infall region over its M200m, 0 for none.
        first: int64 (n_cells,), particles of each type in the cells before.
        n_total: particles of each type in the box.
        blocks: list of int64 arrays: the cells of each block.
        block_of: int64 (n_cells,).
    Raises:
        UserError: there are no baryons, the box cannot hold the masses, or a particle is too heavy.
    """

    def __init__(self, config: Config) -> None:
        simulate, self.config = config.simulate, config
        c = config.cosmology
        for key in ("box", "surroundings", "softening", "accuracy", "device"):
            if getattr(simulate, key) != (default := getattr(Simulate(), key)):
                what = f"simulate.{key} is of the engine nbody, and simulate.engine is halo_model"
                raise UserError(what, f"simulate.{key}", f"take engine nbody or set it to {'null' if default is None else default}")
        if not c.Ob0:
            raise UserError("the embedded simulation has gas, and cosmology.Ob0 is 0", "cosmology.Ob0", "give one above 0")
        self.background = Background(c.Om0, c.Ob0, c.h, c.sigma8, c.ns, c.Tcmb0)
        self.seed, self.cell = config.run.seed, float(simulate.cell)
        self.n_side = math.ceil(round(simulate.clusters ** (1 / 3), 9))
        self.side = self.cell * self.n_side
        self.f_baryon = c.Ob0 / c.Om0
        self.m_dm = float(simulate.particle_mass)
        self.m_gas = self.m_dm * c.Ob0 / (c.Om0 - c.Ob0)
        self.engine = gated.engine(config, self.m_dm)
        self.n_cells = self.n_side**3
        self._masses(simulate.clusters, *simulate.mass_range)
        self._counts(*simulate.mass_range)
        self._blocks()

    def rng(self, cell: int) -> np.random.Generator:
        """The random numbers of one cell."""
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, int(cell)])))

    def _masses(self, n: int, low: float, high: float) -> None:
        rng = self.rng(2**32 - 1)  # no cell's number
        cells = np.sort(rng.permutation(self.n_cells)[:n])
        strata = (rng.permutation(n) + rng.random(n)) / n
        self.halo_id = np.full(self.n_cells, -1, np.int64)
        self.halo_id[cells] = np.arange(n)
        self.mass = np.zeros(self.n_cells)
        self.mass[cells] = low * (high / low) ** strata
        self.place = self.cell * (0.5 + rng.uniform(-0.1, 0.1, (self.n_cells, 3)))

    @functools.cached_property
    def environment(self) -> Environment:
        """The density field that all cells share; made when it is first asked for."""
        cells = np.flatnonzero(self.halo_id >= 0)
        corners = np.stack(np.unravel_index(cells, (self.n_side,) * 3), 1) * self.cell
        return Environment(self.background, self.side, self.cell, corners + self.place[cells], self.rng(2**32 - 2))

    def _counts(self, low: float, high: float) -> None:
        where = "simulate.particle_mass"
        if (1 - self.f_baryon) * low < LEAST_PARTICLES * self.m_dm:
            how = f"take at most {(1 - self.f_baryon) * low / LEAST_PARTICLES:.3g}"
            raise UserError(f"a cluster of {low:.3g} Msun would have fewer than {LEAST_PARTICLES} particles of {self.m_dm:.3g}", where, how)
        need = LEAST_CELL * float(self.background.radius(high))
        if self.cell < need:
            what = f"a cluster of {high:.3g} Msun with what falls into it does not fit into a cell of {self.cell:.4g} Mpc"
            raise UserError(what, "simulate.cell", f"take at least {math.ceil(need * 10) / 10} Mpc, or lower masses")
        rho, volume, b = self.background.rho_mean(component="dm"), self.cell**3, self.background
        there = self.mass > 0
        self.surroundings, self.total, filling = np.ones(self.n_cells), np.zeros(self.n_cells), np.ones(self.n_cells)
        for cell in np.flatnonzero(there):
            late = history.draw_history(self.rng(cell))[1]["surroundings"]  # as `draw_cluster` finds it
            self.surroundings[cell] = np.exp(SCATTER_SURROUNDINGS * late - SCATTER_SURROUNDINGS**2 / 2)
        grid = np.geomspace(self.mass[there].min(), self.mass.max() * (1 + 1e-9), MASSES)
        for out, law in (
            (self.total, lambda m, s: profiles.total_mass(b, m, CONCENTRATION, s)),
            (filling, lambda m, s: outskirts.mean_filling(b, m, self.cell, s)),
        ):
            none, mean = (np.interp(np.log(self.mass[there]), np.log(grid), [law(m, s) for m in grid]) for s in (0.0, 1.0))
            out[there] = none + self.surroundings[there] * (mean - none)  # both go with it
        halo, background = self.total * (1 - self.f_baryon) * self.mass / self.m_dm, filling * rho * volume / self.m_dm
        if halo.sum() + background.sum() >= 2**62:
            raise UserError(f"{halo.sum() + background.sum():.3g} particles are too many", where, "take heavier ones or a smaller cell")
        self.n_halo, self.n_background = (np.rint(n).astype(np.int64) for n in (halo, background))
        self.n_cell = self.n_halo + self.n_background
        self.n_total = int(self.n_cell.sum())
        self.first = np.concatenate([[0], np.cumsum(self.n_cell)[:-1]])

    def _blocks(self) -> None:
        mean = max(1.0, self.n_total / self.n_cells)
        edge = max(1, min(self.n_side // 2, int((BLOCK_PARTICLES / mean) ** (1 / 3))))
        self.block_edge = edge
        a = np.arange(self.n_side) // edge
        n = int(a[-1]) + 1
        self.block_of = ((a[:, None, None] * n + a[:, None]) * n + a).ravel()
        order = np.argsort(self.block_of, kind="stable")
        ends = np.searchsorted(self.block_of[order], np.arange(n**3 + 1))
        self.blocks = [order[i:j] for i, j in zip(ends[:-1], ends[1:], strict=True)]

    def corner(self, cell: int) -> np.ndarray:
        """Lower corner of a cell in the box, comoving Mpc, (3,)."""
        return np.array(np.unravel_index(cell, (self.n_side,) * 3)) * self.cell

    def first_margin(self) -> float:
        """Where the search for the 64 neighbours of a background particle starts, Mpc: 1.5 times their mean distance."""
        density = max(1.0, 0.5 * float(self.n_background.min())) / self.cell**3
        return 1.5 * (3 * 64 / (4 * np.pi * density)) ** (1 / 3)

    def disk_bytes(self, ranks: int = 1) -> int:
        """Bytes of the snapshot and of the draws that stand beside it until it is done, whatever the ranks."""
        return int(self.n_total * (BYTES_OF_CHUNK + BYTES_OF_DRAW)) + 2**16 * len(self.blocks)

    def memory_bytes(self) -> int:
        """Bytes of one rank at most: the surroundings of a block with their tree, one slab of distances, and its chunk file."""
        reach = self.block_edge * self.cell + 2 * (STRAY * self.cell + self.first_margin())
        around = 1.5 * self.n_total / self.side**3 * reach**3
        own = max(self.n_cell[b].sum() for b in self.blocks)
        mesh = BYTES_OF_MESH * mesh_cells(self.side) ** 3
        return int(around * 24 * 4 + own * 400 + mesh + BYTES_OF_QUERY) + 120_000_000

    def fitting(self, free: float, ranks: int) -> str:
        """What to do where so many ranks have only this much memory (bytes)."""
        return "take " + "fewer ranks a node, " * (ranks > 1) + "heavier particles or a smaller cell"

    def lines(self) -> list[str]:
        """The plan in words, for `--dry-run`."""
        n = int((self.halo_id >= 0).sum())
        share = self.n_halo.sum() / self.n_total
        over = self.n_total * self.m_dm / (self.background.rho_mean(component="dm") * self.side**3)
        return [
            f"{n} clusters in {self.n_side}^3 cells of {self.cell:g} Mpc: a periodic box of {self.side:g} Mpc",
            f"{self.n_total} particles of each type: dark matter {self.m_dm:.4g} Msun, gas {self.m_gas:.4g} Msun",
            f"{share:.0%} of the mass in clusters and their infall regions, the rest around them: {over:.3g} times the universe's mean density in all",
            f"{len(self.blocks)} chunk files, {self.n_total * BYTES_OF_CHUNK / 1e9:.3g} GB ({self.disk_bytes() / 1e9:.3g} GB while at work)",
            f"memory {self.memory_bytes() / 1e9:.2g} GB a rank",
            f"engine: {self.engine}; docs/simulation.md says what may be claimed with it",
        ]
