"""Gravity of particles in a periodic box: particle-particle particle-mesh (Hockney & Eastwood 1988), split by a Gaussian.

In units where H0 = 1 and lengths are comoving Mpc: laplacian(phi) = 3/2 Om0 delta, and d(a^2 dx/dt)/dt = -grad(phi)/a.
"""

from __future__ import annotations

import numpy as np

from hpcdiff.simulate.nbody.split import SPLIT


def gravity_of(side: float, mesh: int, softening: float | np.ndarray, Om0: float, threads: int, device: str) -> Gravity:
    """The gravity of a box on a device: compiled loops on `cpu`, else torch on the device of that name."""
    if device == "cpu":
        return Gravity(side, mesh, softening, Om0, threads)
    from hpcdiff.simulate.nbody.torch_gravity import TorchGravity

    return TorchGravity(side, mesh, softening, Om0, device)


class Gravity:
    """Forces and potential of particles in a periodic box.

    Args:
        side: of the box, comoving Mpc.
        mesh: cells a side of the mesh, at least 24.
        softening: eps of all particles or of each (n,), comoving Mpc, see `split`.
        Om0: matter density today over the critical one.
        threads: of the transforms and the pairs.
    """

    def __init__(self, side: float, mesh: int, softening: float | np.ndarray, Om0: float, threads: int = 1) -> None:
        from hpcdiff.simulate.nbody.mesh import Mesh  # here, as a run on a GPU has no need of numba
        from hpcdiff.simulate.nbody.pairs import Pairs

        self.side, self.strength, self.threads = side, 1.5 * Om0, threads
        self.split = SPLIT * side / mesh
        self.mesh = Mesh(side, mesh, self.split, self.strength, threads)
        self.pairs = Pairs(side, self.split, softening)

    def _point_mass(self, mass: np.ndarray) -> np.ndarray:
        """G m of each particle: the box holds the mean density."""
        return self.strength * self.side**3 / (4 * np.pi) * mass / mass.sum()

    def _threads(self) -> None:
        import numba

        numba.set_num_threads(min(self.threads, numba.config.NUMBA_NUM_THREADS))

    def forces(self, x: np.ndarray, mass: np.ndarray) -> np.ndarray:
        """-grad(phi), float64 (n, 3); x (n, 3) within [0, side), float64, mass (n,) in any unit."""
        return self.far(x, mass) + self.near(x, mass)

    def far(self, x: np.ndarray, mass: np.ndarray) -> np.ndarray:
        """The mesh's part of `forces`, which changes slowly."""
        self._threads()
        return self.mesh.forces(x, mass)

    def near(self, x: np.ndarray, mass: np.ndarray, on: np.ndarray | None = None) -> np.ndarray:
        """The pairs' part of `forces`, on all particles or those that `on` (bool, (n,)) has, (n or fewer, 3)."""
        self._threads()
        return self.pairs.forces(x, self._point_mass(mass), on)

    def potential(self, x: np.ndarray, mass: np.ndarray) -> np.ndarray:
        """phi without the particle's own, of zero mean over the box, float64 (n,)."""
        self._threads()
        m = self._point_mass(mass)
        own = m / (np.sqrt(np.pi) * self.split)  # the mesh has it
        mean = self.strength * self.split**2  # of the pairs' part
        return self.mesh.potential(x, mass) + self.pairs.potential(x, m) + own + mean
