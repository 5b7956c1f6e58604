"""Ring means of power over half the Fourier plane: those of `measures.power` over the whole of it, at half the work."""

from __future__ import annotations

import numpy as np
from scipy import fft


class HalfModes:
    """The modes of real maps in rings 1 <= int(|n|) < npix/2, as `measures.mode_rings`.

    Attributes:
        npix, n (number of rings), radius (float64 (n,), mean |n| of a ring's modes in the whole plane), counts (of them).
    """

    def __init__(self, npix: int) -> None:
        self.npix, self.n = npix, -(-npix // 2) - 1
        across, along = np.fft.fftfreq(npix, 1.0 / npix), np.arange(npix // 2 + 1)
        radius = np.hypot(across[:, None], along[None, :])
        twice = np.broadcast_to(np.where((along == 0) | (2 * along == npix), 1.0, 2.0), radius.shape)  # a mode and its mirror image
        ring = radius.astype(np.int64).ravel() - 1
        kept = np.flatnonzero((ring >= 0) & (ring < self.n))
        self._cells = kept[np.argsort(ring[kept], kind="stable")]
        self._weights = twice.ravel()[self._cells]
        self._starts = np.searchsorted(ring[self._cells], np.arange(self.n))
        self.counts = np.add.reduceat(self._weights, self._starts)
        self.radius = self._mean(radius)

    def transform(self, maps: np.ndarray) -> np.ndarray:
        """Modes complex128 (..., npix, npix // 2 + 1) of maps float64 (..., npix, npix)."""
        return fft.rfft2(maps)

    def power(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Mean of Re(A B*) over each ring's modes, (..., n), of transforms A, B."""
        return self._mean(a.real * b.real + a.imag * b.imag)

    def _mean(self, values: np.ndarray) -> np.ndarray:
        flat = values.reshape(*values.shape[:-2], -1)[..., self._cells] * self._weights
        return np.add.reduceat(flat, self._starts, axis=-1) / self.counts
