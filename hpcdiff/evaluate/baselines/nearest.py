"""The outputs of the training view whose inputs are the most alike: what a network that memorises would give."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

BLOCKS = 8
"""Coarse pixels a side of the map's central half."""


def coarse(x: np.ndarray) -> np.ndarray:
    """The central half of maps (n, I, npix, npix), averaged over about BLOCKS x BLOCKS blocks, (n, I, b, b)."""
    npix = x.shape[-1]
    side = max(npix // (2 * BLOCKS), 1)  # pixels of a block
    b = min(BLOCKS, npix // side)
    first = (npix - b * side) // 2
    part = x[..., first : first + b * side, first : first + b * side]
    return part.reshape(*x.shape[:2], b, side, b, side).mean((3, 5))


class Nearest:
    """Nearest training view.

    Views are compared by the coarse maps of their inputs under asinh(x / s), which makes small and large clusters comparable;
    s is the median over all training values of that input, and each input is divided by its spread, so that all weigh alike.

    Args:
        features: (n, I, b, b), `coarse` maps of the training views. rows, halos: int64 (n,), of these views.
    """

    def __init__(self, features: np.ndarray, rows: np.ndarray, halos: np.ndarray) -> None:
        self.rows, self.halos = rows, halos
        size = np.median(np.abs(features), axis=(0, 2, 3))
        largest = np.abs(features).max((0, 2, 3))
        self.scale = np.where(size > 0, size, np.where(largest > 0, largest, 1.0))[:, None, None]
        bent = np.arcsinh(features / self.scale)
        spread = np.sqrt(((bent - bent.mean(0)) ** 2).mean((0, 2, 3)))
        self.spread = np.where(spread > 0, spread, 1.0)[:, None, None]
        self.tree = cKDTree(self._point(features))
        self.most = int(np.unique(halos, return_counts=True)[1].max())

    def _point(self, features: np.ndarray) -> np.ndarray:
        return (np.arcsinh(features / self.scale) / self.spread).reshape(len(features), -1)

    def row(self, x: np.ndarray, halo: int) -> int:
        """Row of the map file of the most alike training view of another halo than `halo`; x: inputs (I, npix, npix)."""
        own = int((self.halos == halo).any())
        _, near = self.tree.query(self._point(coarse(x[None]))[0], k=range(1, 2 + own * self.most))
        near = near[near < len(self.rows)]
        return int(self.rows[near[self.halos[near] != halo][0]])
