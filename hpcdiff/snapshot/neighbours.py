"""Kernel support radii from the distance to the n-th neighbour in a periodic box."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from hpcdiff.world import World


def neighbour_distance(position: np.ndarray, box: float, world: World | None = None, n: int = 64, threads: int = 1) -> np.ndarray:
    """Distance of each of this rank's particles to its n-th neighbour (itself not counted). Collective.

    Every rank holds a tree of all ranks' particles and asks it for its own: about 100 bytes a particle of the box.

    Args:
        position: float64 (n_mine, 3), 0 <= x < box.
        box: side.
        world: the ranks; None = this process alone.
        threads: workers of the search.
    Returns:
        float64 (n_mine,), at least 1e-6 of the box; with n or fewer other particles, the distance to the furthest.
    """
    whole = position
    if world is not None and world.size > 1:
        counts = world.allgather(len(position))
        whole = np.empty((sum(counts), 3))
        sizes = 3 * np.array(counts)
        world.comm.Allgatherv(np.ascontiguousarray(position), [whole, sizes])
    if not len(position):
        return np.empty(0)
    tree = cKDTree(whole, boxsize=box)
    k = min(n + 1, len(whole))
    return np.maximum(tree.query(position, k=[k], workers=threads)[0][:, 0], 1e-6 * box)
