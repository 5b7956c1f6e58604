"""The large-scale environment that all cells of the box share: a linear density field with a peak at each cluster.

A Gaussian random field of the linear power spectrum, without the waves longer than two cells (they would only move whole
clusters, which stand where the plan puts them) and smoothed on the mesh, is constrained to a set height at the clusters
(Hoffman & Ribak 1991): it gains the mean field around peaks of the wanted heights less the ones it had. Background matter and
groups are displaced by it (Zel'dovich 1970), so that they fall towards the clusters, gather in filaments between them, and go
on from one cluster's map to its neighbour's.
"""

from __future__ import annotations

import numpy as np
from scipy import fft
from scipy.ndimage import map_coordinates

from hpcdiff.cosmology import Background, colossus_cosmology

SMOOTHING = 2.5
"""Gaussian smoothing of the linear field, comoving Mpc."""
MOST_CELLS = 192
"""Mesh cells a side, at most."""
PEAK = 1.7
"""Smoothed linear overdensity at a cluster: about the threshold of collapse."""
REACH = 0.2
"""Longest displacement over the side of a cluster's cell."""
ITERATIONS, TOLERANCE = 50, 1e-4
"""Of the conjugate gradients that find the heights of the added peaks."""


class Environment:
    """The field of one box.

    Args:
        background: the cosmology.
        side, cell: of the box and of a cluster's cell, comoving Mpc.
        peaks: positions of the clusters, comoving Mpc, (n, 3).
        rng: the draws.
    Attributes:
        n: mesh cells a side; spacing: Mpc. density: the smoothed linear overdensity at the mesh points, float32 (n, n, n).
    """

    def __init__(self, background: Background, side: float, cell: float, peaks: np.ndarray, rng: np.random.Generator) -> None:
        self.side, self.cell = side, cell
        self.n = mesh_cells(side)
        self.spacing = side / self.n
        kx = 2 * np.pi * fft.fftfreq(self.n, self.spacing)
        kz = 2 * np.pi * fft.rfftfreq(self.n, self.spacing)
        k = np.sqrt(kx[:, None, None] ** 2 + kx[:, None] ** 2 + kz**2)
        # as the variance of a mesh value is the sum of this over modes
        self._power = _linear_power(background, k) * np.exp(-((k * SMOOTHING) ** 2)) * (1 - np.exp(-((k * cell / np.pi) ** 4))) / side**3
        white = fft.rfftn(rng.standard_normal((self.n,) * 3)) / self.n**1.5
        modes = white * np.sqrt(self._power)
        modes += self._constraint(peaks, PEAK - self._at(peaks, self._mesh(modes)))
        self.density = self._mesh(modes).astype(np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            potential = np.where(k > 0, modes / k**2, 0)
        self.shift = np.stack([self._mesh(1j * a * potential).astype(np.float32) for a in (kx[:, None, None], kx[:, None], kz)])

    def _mesh(self, modes: np.ndarray) -> np.ndarray:
        """Modes, whose squares sum up to the variance, to the values on the mesh."""
        return fft.irfftn(modes, (self.n,) * 3) * self.n**3

    def _nearest(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple((np.rint(x / self.spacing).astype(int) % self.n).T)

    def _at(self, x: np.ndarray, mesh: np.ndarray) -> np.ndarray:
        return mesh[self._nearest(x)]

    def _constraint(self, peaks: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Modes of the mean field that has these values at the peaks: sum of a_i xi(x - x_i), sum_j xi(x_i - x_j) a_j = wanted_i."""

        def field(a: np.ndarray) -> np.ndarray:
            mesh = np.zeros((self.n,) * 3)
            np.add.at(mesh, self._nearest(peaks), a)
            return fft.rfftn(mesh) * self._power

        a, residual = np.zeros(len(peaks)), wanted.copy()
        direction, size = residual.copy(), residual @ residual
        goal = TOLERANCE**2 * max(size, 1e-300)
        for _ in range(ITERATIONS if len(peaks) else 0):
            if size <= goal:
                break
            image = self._at(peaks, self._mesh(field(direction)))
            step = size / (direction @ image)
            a += step * direction
            residual -= step * image
            size, before = residual @ residual, size
            direction = residual + size / before * direction
        return field(a) if len(peaks) else np.zeros_like(self._power)

    def overdensity(self, x: np.ndarray) -> np.ndarray:
        """The smoothed linear overdensity at x (m, 3), comoving Mpc in the box, (m,)."""
        return self._between(x, self.density)

    def displacement(self, x: np.ndarray) -> np.ndarray:
        """Zel'dovich displacement at x (m, 3), comoving Mpc, (m, 3), never longer than `REACH` cells."""
        shift = np.stack([self._between(x, part) for part in self.shift], 1)
        length, most = np.linalg.norm(shift, axis=1, keepdims=True), REACH * self.cell
        return shift * (most * np.tanh(length / most) / np.maximum(length, 1e-12))

    def axes(self, x: np.ndarray) -> np.ndarray:
        """Principal axes of the tidal field at x (3,), unit vectors in rows, (3, 3): first the one along which least falls in, a filament's."""
        h = 2 * self.spacing
        steps = x + h * np.concatenate([np.eye(3), -np.eye(3)])
        d = self.displacement(steps)
        tensor = (d[:3] - d[3:]) / (2 * h)  # rows: derivative along each side
        values, vectors = np.linalg.eigh(0.5 * (tensor + tensor.T))
        return vectors[:, np.argsort(-values)].T

    def _between(self, x: np.ndarray, mesh: np.ndarray) -> np.ndarray:
        return map_coordinates(mesh, (x / self.spacing).T, order=1, mode="grid-wrap")


def mesh_cells(side: float) -> int:
    """Mesh cells a side of a box (Mpc): of the smoothing's width, at most `MOST_CELLS`."""
    return int(min(MOST_CELLS, max(16, 2 * round(side / SMOOTHING / 2))))


def _linear_power(background: Background, k: np.ndarray) -> np.ndarray:
    """Linear power spectrum today, Mpc^3, at k in 1/Mpc; 0 at k = 0."""
    h, positive = background.h, k[k > 0]
    grid = np.geomspace(positive.min(), positive.max() * (1 + 1e-9), 400)
    power = colossus_cosmology(background).matterPowerSpectrum(grid / h) / h**3
    out = np.zeros_like(k)
    out[k > 0] = np.exp(np.interp(np.log(positive), np.log(grid), np.log(power)))
    return out
