"""A few radii that stand for the area of each ring of pixels, so that a profile's ring means need no map."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

INNER, DENSE, FEW = 3, 64, 4
"""Radii of each of the first INNER rings, in which a cusp rises, and of the others."""
FINE = 16
"""Divisions of a pixel's side."""


class Nodes:
    """Radii for `measures.pixel_rings`.

    Args:
        npix: pixels a side. n_rings: of the rings.
    Attributes:
        radius: float64 (m,), pixels, ring by ring.
    """

    def __init__(self, npix: int, n_rings: int) -> None:
        at = (np.arange(npix * FINE // 2) + 0.5) / FINE  # a quarter of the map, the rest is its mirror image
        centre = np.floor(at) + 0.5 if npix % 2 == 0 else np.floor(at + 0.5)
        radius = np.hypot(at[:, None], at[None, :]).ravel()
        index = np.hypot(centre[:, None], centre[None, :]).astype(np.int64).ravel()
        order = np.lexsort((radius, index))
        stops = np.searchsorted(index[order], np.arange(n_rings + 1))
        sorted_radius = radius[order]
        groups = [
            [part.mean() for part in np.array_split(sorted_radius[stops[k] : stops[k + 1]], DENSE if k < INNER else FEW)]
            for k in range(n_rings)
        ]
        self.radius = np.concatenate(groups)
        self.counts = np.array([len(g) for g in groups])
        self.starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Ring means (..., n_rings) of values at the radii, (..., m)."""
        return np.add.reduceat(values, self.starts, axis=-1) / self.counts

    @staticmethod
    @lru_cache(maxsize=8)
    def of(npix: int, n_rings: int) -> Nodes:
        """The radii, made once."""
        return Nodes(npix, n_rings)
