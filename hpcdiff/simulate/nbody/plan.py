"""What the boxes are: sides, particle numbers, target masses and cost, a function of the config alone."""

from __future__ import annotations

import math

import numpy as np
from scipy import fft

from hpcdiff.config import Config
from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError
from hpcdiff.simulate import gated
from hpcdiff.simulate.nbody.abundance import expected

SOFTENING, SPARSE = 0.033, 1.01e11
"""Softening (Mpc), half of which changes the power up to 10 h/Mpc by 1.6 +- 1.6 %, and the dark-matter particle (Msun) from which on it grows with the particles' spacing, of which it is 1/43."""
MESH, ZOOMED_MESH, LEAST_MESH = 4, 2, 24
"""Mesh cells over lattice points, along a side; the same where fine particles are in a part of the box, as then pairs cost less than a mesh; least cells."""
LEAST_LATTICE, MOST_LATTICE = 8, 1024
"""Particles of a type along the side of a box."""
LEAST_PARTICLES = 100
"""Least dark-matter particles of the least massive cluster."""
FEWEST = 0.05
"""Halos that the one periodic box has in `mass_range` in the mean; where there are fewer, it would be evolved for nothing."""
LARGEST, LARGEST_ZOOMED = 0.14, 0.078
"""Largest cluster over the mass of its box: heavier ones stay far below their targets (measured on boxes of 45 Mpc); with a region of its own, which then reaches the walls."""
YIELD = 0.8
"""M200m over the mass of the sphere whose linear overdensity is 1.686 (measured on clusters of 1e14 to 1e15)."""
SOFTEST = 0.4
"""Largest softening over the particles' spacing: the ball of three softenings lies within the reach of the pairs, also where coarse particles have twice the softening."""
SOFTEST_OF_HALO = 0.1
"""Largest softening over R200m of the least massive cluster: its profile is measured beyond three softenings."""
COARSER = 2
"""Spacing of the coarse particles over that of the fine ones, where a cluster has its own region in a wider box."""
REGION = 1.75
"""Radius of that region over that of the overdense sphere."""
LEAST_CELL = 5.0
"""Side of a cell that is cut out of a wider box over R200m of the heaviest cluster."""
SECONDS = 2.75e-6
"""Core seconds of a step over the particles of a type, coarse boxes included, measured on a server's cores with lattices of 32^3 and 48^3, and of 80^3 with surroundings."""
FORCES_ON = {"cpu": "the CPU", "cuda": "a GPU (the time below is a CPU's)", "auto": "GPUs if every rank has one"}
"""`simulate.device` in words."""
BYTES_OF_PARTICLE = 700
"""Memory of a gas and a dark-matter particle at most, while a box evolves or its initial conditions are made."""
BYTES_OF_START = 300
"""Memory of a lattice point while initial conditions are made."""
BYTES_OF_MESH = 26
"""Memory of a mesh cell."""
BYTES_OF_CHUNK = 64 + 52
"""Bytes on disk of a gas and a dark-matter particle."""
BYTES_OF_STATE = 2 * (24 + 24 + 8 * 12)
"""Bytes on disk of a gas and a dark-matter particle in a saved state."""


class Plan:
    """The boxes of the run, one a cluster, or one box in all.

    Attributes:
        background: the cosmology. engine: what results call the engine, with what is known of its gates. device: of the forces.
        boxes: how many; cell: side of what the snapshot has of each; n_side: cells along the side of the snapshot; side: of the snapshot, comoving Mpc.
        period: side of the periodic box that is evolved, comoving Mpc. zoomed: it is wider than the cell, and coarser around the cluster's region.
        lattice: particles of a type along the side of a box. mesh: cells of the gravity mesh along it. softening: comoving Mpc.
        halos: that the one periodic box has in `mass_range` in the mean, else None.
        m_dm, m_gas: particle masses, Msun; heaviest: dark-matter particle that the least massive cluster allows.
        mass: target M200m of each box, Msun, (boxes,); empty for the one box. quantiles: of the height and the curvature of its peak (`excursion`), (boxes, 2).
        shares, shares_in_cell: particles of each box, and of its cell, over n_box, about; most: of a box, where a cluster needs twice the usual region.
        n_box, n_total: particles of each type in a box and in all, at most where zoomed. blocks: what each chunk file holds: the number of its box.
    Raises:
        UserError: there are no baryons, the box cannot hold the masses, or particles are too heavy or too many.
    """

    def __init__(self, config: Config) -> None:
        simulate, self.config, c = config.simulate, config, config.cosmology
        if not c.Ob0:
            raise UserError("the embedded simulation has gas, and cosmology.Ob0 is 0", "cosmology.Ob0", "give one above 0")
        self.background = b = Background(c.Om0, c.Ob0, c.h, c.sigma8, c.ns, c.Tcmb0)
        self.seed, self.single, self.device = config.run.seed, simulate.box is not None, simulate.device
        self.boxes = 1 if self.single else simulate.clusters
        self.cell = float(simulate.box if self.single else simulate.cell)
        self.n_side = math.ceil(round(self.boxes ** (1 / 3), 9))
        self.side = self.cell * self.n_side
        self.period, self.zoomed = self.cell, simulate.surroundings is not None
        if self.zoomed:
            self.period = float(simulate.surroundings)
            if self.single or self.period <= self.cell:
                how = "set it to null" if self.single else f"take more than {self.cell:g} Mpc, or null for none"
                what = "one periodic box has no" if self.single else f"the cell of {self.cell:g} Mpc is not smaller than its"
                raise UserError(f"{what} surroundings", "simulate.surroundings", how)
            need = LEAST_CELL * float(b.radius(simulate.mass_range[1]))
            if self.cell < need:
                what = (
                    f"a cluster of {simulate.mass_range[1]:.3g} Msun with what is around it does not fit into a cell of {self.cell:.4g} Mpc"
                )
                raise UserError(what, "simulate.cell", f"take at least {math.ceil(need * 10) / 10} Mpc, or lower masses")
        rho = b.rho_mean(component="dm") * self.period**3
        self.lattice = self.whole(np.cbrt(rho / simulate.particle_mass))
        where, (low, high) = "simulate.particle_mass", simulate.mass_range
        self.heaviest = low * (1 - c.Ob0 / c.Om0) / LEAST_PARTICLES
        if not LEAST_LATTICE <= self.lattice <= MOST_LATTICE:
            least, most = (rho / n**3 for n in (MOST_LATTICE, LEAST_LATTICE))
            how = f"take {1.005 * least:.3g} to {0.995 * min(most, self.heaviest):.3g} Msun"
            raise UserError(f"a box of {self.period:g} Mpc would have {self.lattice}^3 particles", where, how)
        self.m_dm, self.m_gas = (b.rho_mean(component=kind) * self.period**3 / self.lattice**3 for kind in ("dm", "gas"))
        self.engine = gated.engine(config, self.m_dm)
        if self.m_dm > self.heaviest:
            n = self.whole(np.cbrt(rho / self.heaviest), up=True)
            how = f"take at most {0.995 * rho / n**3:.3g}"  # rounded, not above it
            raise UserError(f"a cluster of {low:.3g} Msun would have fewer than {LEAST_PARTICLES} particles of {self.m_dm:.3g}", where, how)
        largest = LARGEST_ZOOMED if self.zoomed else LARGEST
        most = largest * b.rho_mean() * self.period**3
        if not self.single and high > most:
            need = math.ceil(10 * np.cbrt(high / largest / b.rho_mean())) / 10
            how = f"take at least {need} Mpc, or masses up to {most:.3g} Msun; configs/nbody.yaml has both"
            where = "simulate.surroundings" if self.zoomed else "simulate.cell"
            raise UserError(f"a box of {self.period:g} Mpc cannot hold a cluster of {high:.3g} Msun", where, how)
        self.halos = float(expected(b, np.array([low, high]), self.period**3)[0]) if self.single else None
        if self.single and self.halos < FEWEST:
            what = f"a box of {self.period:g} Mpc has {self.halos:.2g} halos of {low:.3g} to {high:.3g} Msun in the mean"
            raise UserError(what, "simulate.mass_range", "lower it, or take a larger simulate.box")
        self.mesh = self.mesh_of(self.lattice)
        kpc = simulate.softening
        self.softening = kpc / 1e3 if kpc else SOFTENING * max(1.0, float(np.cbrt(self.m_dm / SPARSE)))
        softest, least = SOFTEST * self.period / self.lattice, SOFTEST_OF_HALO * float(b.radius(low))
        if self.softening > min(softest, least):
            how = f"take at most {1e3 * min(softest, least):.3g} kpc"
            allows = "the forces' split allows" if softest < least else f"a halo of {low:.3g} Msun bears"
            raise UserError(f"a softening of {1e3 * self.softening:.3g} kpc is more than {allows}", "simulate.softening", how)
        self.n_box = self.lattice**3
        self.n_total = self.n_box * self.boxes
        self.blocks = list(range(self.boxes))
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, 2**32 - 3])))
        strata = (rng.permutation(self.boxes) + rng.random(self.boxes)) / self.boxes
        self.mass = np.empty(0) if self.single else low * (high / low) ** strata
        self.quantiles = np.stack([(rng.permutation(self.boxes) + rng.random(self.boxes)) / self.boxes for _ in range(2)], axis=1)
        self.shares, self.shares_in_cell = self._shares(1.0)
        self.most = float(self._shares(2.0)[0].max())

    def _shares(self, wider: float) -> tuple[np.ndarray, np.ndarray]:
        region = np.ones(self.boxes)
        if self.zoomed:
            region = np.minimum(wider * REGION**3 * self.mass / YIELD / (self.background.rho_mean() * self.period**3), 1.0)
        coarse = (1 - region) / COARSER**3
        return region + coarse, region + coarse * (self.cell / self.period) ** 3

    def whole(self, number: float, up: bool = False) -> int:
        """The nearest number of particles along the side of a box that a lattice can have, or the next higher one."""
        step = 2 * COARSER if self.zoomed else 2
        return step * (math.ceil(number / step) if up else round(number / step))

    def mesh_of(self, lattice: int) -> int:
        """Cells of the gravity mesh along a side, for so many fine particles along it."""
        return fft.next_fast_len(max((ZOOMED_MESH if self.zoomed else MESH) * lattice, LEAST_MESH), real=True)

    def seed_of(self, box: int) -> int:
        """Seed of a box's waves."""
        return int(np.random.SeedSequence([self.seed, box, 7]).generate_state(1, np.uint64)[0])

    def cost(self, box: int) -> float:
        """How long a box takes, compared with others: heavier clusters have more pairs and shorter steps."""
        return 1.0 if self.single else 1.0 + 2.0 * float(self.mass[box]) / 1e15

    def core_hours(self) -> float:
        """About how long all boxes take together: steps are as many as was measured for clusters of 1.5e14 to 1.2e15 Msun, 676 with 44 kpc and 761 with 33."""
        steps = 160 + 21.8 / (self.config.simulate.accuracy * math.sqrt(self.softening))
        return self.n_box * float(self.shares.sum()) * steps * SECONDS / 3600

    def corner(self, box: int) -> np.ndarray:
        """Lower corner of a box in the snapshot, comoving Mpc, (3,)."""
        return np.array(np.unravel_index(box, (self.n_side,) * 3)) * self.cell

    def disk_bytes(self, ranks: int = 1) -> int:
        """Bytes of the snapshot and of the boxes that so many ranks are at work on."""
        return self._chunk_bytes() + min(ranks, self.boxes) * self._state_bytes() + 2**16 * self.boxes

    def _state_bytes(self) -> int:
        return 2 * int(self.most * self.n_box * BYTES_OF_STATE)  # the last one is there until the next one is whole

    def _chunk_bytes(self) -> int:
        return int(self.n_box * float(self.shares_in_cell.sum()) * BYTES_OF_CHUNK)

    def memory_bytes(self) -> int:
        """Bytes of one rank at most."""
        return self._memory_of(self.lattice)

    def _memory_of(self, lattice: int) -> int:
        return (
            int(lattice**3 * max(self.most * BYTES_OF_PARTICLE, BYTES_OF_START)) + self.mesh_of(lattice) ** 3 * BYTES_OF_MESH + 250_000_000
        )

    def fitting(self, free: float, ranks: int) -> str:
        """What would fit into this much memory (bytes) of so many ranks."""
        n, fewer = self.lattice, "fewer ranks a node" if ranks > 1 else "a node with more memory"
        while n >= LEAST_LATTICE and self._memory_of(n) > free / ranks:
            n -= self.whole(1, up=True)
        heavier = self.m_dm * (self.lattice / max(n, 1)) ** 3
        if n < LEAST_LATTICE or heavier > self.heaviest:
            return f"take {fewer}"
        return f"take {fewer}, or simulate.particle_mass of at least {heavier:.3g}"

    def _too_wide(self) -> list[str]:
        """That the maps of this config show more than a cluster's cell, if they do."""
        project = self.config.project
        sides = [project.width, *(project.depth.values() if isinstance(project.depth, dict) else [project.depth])]
        if self.single or any(isinstance(side, str) for side in sides):
            return []
        across = project.views.across(sides[0], max(sides[1:], default=0))
        if across <= self.cell:
            return []
        what = (
            f"the maps of this config reach {across / 2:.3g} Mpc from a cluster, beyond its cell: what is there belongs to other clusters"
        )
        return [f"{what}; take simulate.cell of at least {across:.3g}, or smaller project.width and project.depth"]

    def lines(self) -> list[str]:
        """The plan in words, for `--dry-run`."""
        what = "one periodic box" if self.single else f"{self.boxes} clusters, each in its own periodic box"
        low, high = self.config.simulate.mass_range if self.single else (self.mass.min(), self.mass.max())
        masses = (
            f", about {self.halos:.2g} halos of {low:.3g} to {high:.3g} Msun (Tinker et al. 2008)"
            if self.single
            else f", target masses {low:.3g} to {high:.3g} Msun"
        )
        number = f"{self.lattice}^3 particles of each type in a box"
        if self.zoomed:
            masses = f", of which {self.cell:g} Mpc are kept{masses}"
            number = f"fine particles of a lattice of {self.lattice}^3 about each cluster, elsewhere one coarse particle for {COARSER**3} of each type"
        return [
            f"{what} of {self.period:g} Mpc{masses}",
            f"{number}: dark matter {self.m_dm:.4g} Msun, gas {self.m_gas:.4g} Msun",
            f"gravity mesh {self.mesh}^3, softening {1e3 * self.softening:.3g} kpc, forces on {FORCES_ON[self.device]}",
            f"{self.boxes} chunk files, {self._chunk_bytes() / 1e9:.3g} GB (and for each rank {self._state_bytes() / 1e9:.3g} GB while at work)",
            f"about {self.core_hours() * 60 / self.boxes:.2g} core minutes a box, {self.core_hours():.2g} core hours in all",
            f"memory {self.memory_bytes() / 1e9:.2g} GB a rank",
            *self._too_wide(),
            f"engine: {self.engine}; docs/simulation.md says what may be claimed with it",
        ]
