"""Smoothing lengths and densities from the 64 nearest neighbours of the same type."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree

NEIGHBOURS = 64
"""The smoothing length is the distance to this neighbour, the particle itself not counted."""
SLAB = 2**14
"""Particles whose neighbours are held at once."""


def wendland(q: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Wendland C2 in three dimensions, 21/(2 pi h^3) (1-q)^4 (1+4q)."""
    return 21 / (2 * np.pi * h**3) * (1 - q) ** 4 * (1 + 4 * q)


def smoothing(
    own: np.ndarray, around: Callable[[float], np.ndarray], margin: float, densities: bool, threads: int = 1
) -> tuple[np.ndarray, np.ndarray | None]:
    """Distance to the 64th neighbour, and the number density there.

    The density leaves out the particle itself: our particles are drawn at random, not relaxed as in a simulation, so
    that counting it would make the density 22 % too high.

    Args:
        own: positions, (n, 3), n > 0.
        around: margin -> positions of all particles within the margin of any of `own`, and of `own` themselves.
        margin: where to start; grows until it holds every neighbour.
        densities: whether they are wanted.
        threads: workers of the search.
    Returns:
        float64 (n,) in the positions' unit, and float64 (n,) per cubed unit, or None.
    """
    h, density = np.empty(len(own)), np.empty(len(own)) if densities else None
    left = cKDTree(own).indices  # neighbours in space after each other: the tree's leaves stay in the cache
    while True:
        tree = cKDTree(around(margin), leafsize=32)
        for start in range(0, len(left), SLAB):
            part = left[start : start + SLAB]
            k = NEIGHBOURS + 1 if densities else [NEIGHBOURS + 1]
            distance = tree.query(own[part], k=k, workers=threads)[0]
            h[part] = distance[:, -1]
            if densities:
                there = h[part] <= margin
                reach = h[part[there], None]
                density[part[there]] = wendland(distance[there, 1:] / reach, reach).sum(axis=1)
        left = left[h[left] > margin]  # the others' neighbours are all within the margin
        if not len(left):
            return h, density
        margin = 1.1 * h[left].max() if np.isfinite(h[left]).all() else 2 * margin
