"""The long-range part of gravity on a periodic mesh: triangular-shaped clouds, Fourier transforms, a Gaussian split."""

from __future__ import annotations

import numpy as np
from scipy import fft

from hpcdiff.simulate.nbody.compiled import compiled
from hpcdiff.simulate.nbody.split import waves


class Mesh:
    """Solves laplacian(phi) = 3/2 Om0 delta, smoothed by a Gaussian of `split`, in a periodic box.

    Args:
        side: of the box, comoving Mpc.
        n: mesh cells a side.
        split: r_s, Mpc: the kernel is exp(-k^2 r_s^2), in space erf(r/(2 r_s))/r.
        strength: 3/2 Om0.
        threads: of the transforms.
    """

    def __init__(self, side: float, n: int, split: float, strength: float, threads: int = 1) -> None:
        self.side, self.n, self.threads = side, n, threads
        self._k, self._kernel = waves(side, n, split, strength)

    def _potential(self, x: np.ndarray, mass: np.ndarray) -> np.ndarray:
        density = np.zeros((self.n,) * 3, np.float32)
        _deposit(x, mass * (self.n**3 / mass.sum()), self.side, density)
        return fft.rfftn(density, workers=self.threads, overwrite_x=True) * self._kernel

    def _mesh(self, modes: np.ndarray) -> np.ndarray:
        return fft.irfftn(modes, (self.n,) * 3, workers=self.threads, overwrite_x=True)

    def forces(self, x: np.ndarray, mass: np.ndarray) -> np.ndarray:
        """-grad(phi) at the particles, float64 (n, 3); x (n, 3) within the box, Mpc, mass (n,) in any unit."""
        modes, out = self._potential(x, mass), np.empty_like(x)
        for axis, k in enumerate((self._k[0][:, None, None], self._k[0][:, None], self._k[1])):
            _interpolate(self._mesh(np.complex64(-1j) * k * modes), x, self.side, out[:, axis])
        return out

    def potential(self, x: np.ndarray, mass: np.ndarray) -> np.ndarray:
        """phi at the particles, float64 (n,)."""
        out = np.empty(len(x))
        _interpolate(self._mesh(self._potential(x, mass)), x, self.side, out)
        return out


@compiled
def _cloud(x, n):
    """Of a triangular cloud at x (in cells, at most n): the mesh points before it, nearest to it and after it, and their weights."""
    i = int(x + 0.5)
    d = x - i
    points = (i - 1 if i > 0 else n - 1, i if i < n else 0, i + 1 if i + 1 < n else i + 1 - n)
    return points, (0.5 * (0.5 - d) ** 2, 0.75 - d * d, 0.5 * (0.5 + d) ** 2)


@compiled
def _deposit(x, mass, side, mesh):
    n = mesh.shape[0]
    for p in range(len(x)):
        (i, wx), (j, wy), (k, wz) = _cloud(x[p, 0] * n / side, n), _cloud(x[p, 1] * n / side, n), _cloud(x[p, 2] * n / side, n)
        for a in range(3):
            for b in range(3):
                w = mass[p] * wx[a] * wy[b]
                row = mesh[i[a], j[b]]
                row[k[0]] += w * wz[0]
                row[k[1]] += w * wz[1]
                row[k[2]] += w * wz[2]


@compiled
def _interpolate(mesh, x, side, out):
    n = mesh.shape[0]
    for p in range(len(x)):
        (i, wx), (j, wy), (k, wz) = _cloud(x[p, 0] * n / side, n), _cloud(x[p, 1] * n / side, n), _cloud(x[p, 2] * n / side, n)
        total = 0.0
        for a in range(3):
            for b in range(3):
                row = mesh[i[a], j[b]]
                total += wx[a] * wy[b] * (wz[0] * row[k[0]] + wz[1] * row[k[1]] + wz[2] * row[k[2]])
        out[p] = total
