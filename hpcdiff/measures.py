"""Power spectra, b(k), r(k), band means, radial profiles: pure numpy in float64, over any leading axes.

Everything here is a mean over rings: of Fourier modes by int(|n|), or of pixels by the distance to the centre of the map.
The sums take the same order for the same shapes, and no BLAS, so results don't depend on threads or ranks.
"""

from __future__ import annotations

import numpy as np


class Rings:
    """The cells of a square grid in rings by int(radius).

    Args:
        radius: (npix, npix), of each cell.
        first, stop: rings first <= int(radius) < stop are kept.

    Attributes:
        index: int64 (npix, npix), int(radius) - first; cells of no ring have a number below 0 or from `n` on.
        n: number of rings. radius: float64 (n,), mean radius of a ring's cells. counts: int64 (n,).
    """

    def __init__(self, radius: np.ndarray, first: int, stop: int) -> None:
        self.npix, self.n = len(radius), stop - first
        self.index = radius.astype(np.int64) - first
        flat = self.index.ravel()
        kept = np.flatnonzero((flat >= 0) & (flat < self.n))
        self.cells = kept[np.argsort(flat[kept], kind="stable")]
        self.counts = np.bincount(flat[kept], minlength=self.n)
        assert self.counts.all(), "a ring without cells"
        self.starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        self.radius = self.mean(radius)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Means over each ring, (..., npix, npix) -> (..., n)."""
        flat = np.asarray(values).reshape(*np.shape(values)[:-2], -1)[..., self.cells]
        return np.add.reduceat(flat, self.starts, axis=-1) / self.counts

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Each cell gets its ring's value, (..., n) -> (..., npix, npix); cells of no ring get the nearest one's."""
        return values[..., np.clip(self.index, 0, self.n - 1)]


def mode_rings(npix: int, whole: bool = False) -> Rings:
    """Rings of Fourier modes in the order of `np.fft.fft2`, by int(|n|): 1 <= int(|n|) < npix/2, or the `whole` plane."""
    n = np.fft.fftfreq(npix, 1.0 / npix)
    radius = np.hypot(n[:, None], n[None, :])
    return Rings(radius, 0, int(radius.max()) + 1) if whole else Rings(radius, 1, -(-npix // 2))


def pixel_rings(npix: int, whole: bool = False) -> Rings:
    """Rings of pixels, one pixel wide, about the centre of the map: within npix/2, or the `whole` map."""
    x = np.arange(npix) - (npix - 1) / 2
    radius = np.hypot(x[:, None], x[None, :])
    return Rings(radius, 0, int(radius.max()) + 1 if whole else max(npix // 2, 1))


def wavenumbers(rings: Rings, width_mpc: float, h: float) -> np.ndarray:
    """Mean |k| of each ring's modes, h/Mpc, (n,), of maps `width_mpc` (Mpc) wide."""
    return 2 * np.pi / (width_mpc * h) * rings.radius


def power(a: np.ndarray, b: np.ndarray, rings: Rings) -> np.ndarray:
    """Mean of Re(A B*) over each ring's modes, (..., n), of transforms A, B = `np.fft.fft2` of maps (..., npix, npix)."""
    return rings.mean(a.real * b.real + a.imag * b.imag)


def power_spectrum(maps: np.ndarray, width_mpc: float, h: float) -> tuple[np.ndarray, np.ndarray]:
    """Wavenumbers k (n,), h/Mpc, and P(k) (..., n), (Mpc/h)^2 times the map's unit squared, of maps (..., npix, npix)."""
    rings = mode_rings(np.shape(maps)[-1])
    modes = np.fft.fft2(np.asarray(maps, np.float64))
    return wavenumbers(rings, width_mpc, h), power(modes, modes, rings) * (width_mpc * h) ** 2 / rings.npix**4


def bias(p_gen: np.ndarray, p_sim: np.ndarray) -> np.ndarray:
    """b(k) = sqrt(P_gen / P_sim); NaN where the truth has no power."""
    return np.sqrt(ratio(p_gen, p_sim))


def correlation(p_cross: np.ndarray, p_sim: np.ndarray, p_gen: np.ndarray) -> np.ndarray:
    """r(k) = P_cross / sqrt(P_sim P_gen); NaN where either has no power."""
    return ratio(p_cross, np.sqrt(p_sim) * np.sqrt(p_gen))


def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, NaN where b is 0 or either is NaN."""
    a, b = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b != 0)


def bands(values: np.ndarray, k: np.ndarray, k_split: float) -> tuple[np.ndarray, np.ndarray]:
    """Unweighted means over the bins k >= k_split (small scales) and k < k_split (large scales), (..., n) -> (...), (...).

    NaN where a band has no bin, or a bin of it is NaN.
    """
    small = k >= k_split
    empty = np.full(np.shape(values)[:-1], np.nan)
    return tuple(values[..., part].mean(-1) if part.any() else empty for part in (small, ~small))
