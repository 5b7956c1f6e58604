"""Images of particles in the periodic box: the nearest one, and those whose kernels reach a map from the other side."""

from __future__ import annotations

import numpy as np

from hpcdiff.project.window import jit


@jit
def nearest(d, box):
    """One component of an offset moved by whole boxes into [-box/2, box/2], for compiled loops."""
    return d - box * np.rint(d / box)


def nearest_image(offset: np.ndarray, box: float) -> np.ndarray:
    """Offsets moved by whole boxes into [-box/2, box/2], same shape and unit."""
    return offset - box * np.rint(offset / box)


def images(offset: np.ndarray, reach: np.ndarray, box: float) -> tuple[np.ndarray, np.ndarray]:
    """Every periodic image that may touch a map: (row int64 (m,), offset float64 (m, 3)), ordered by row, the nearest first.

    A kernel near the edge of the box reaches over it: then two images of one particle bring something to a wide map. The
    answer for a particle depends on that particle alone, so it does not matter in which pieces particles come.

    Args:
        offset: (n, 3), nearest images about the halo, along the box's axes.
        reach: (n, 3) or (3,), how far along each axis an image may lie and still touch the map; at most one box.
        box: side, same unit.
    """
    n = len(offset)
    reach = np.broadcast_to(reach, (n, 3))
    other = box - np.abs(offset) < reach  # the second nearest image along an axis
    rows, parts = [np.arange(n)], [offset]
    some = np.flatnonzero(other.any(axis=1))
    if not len(some):
        return rows[0], offset
    for subset in range(1, 8):
        axes = np.array([bool(subset & 1), bool(subset & 2), bool(subset & 4)])
        mine = some[other[some][:, axes].all(axis=1)]
        step = np.where(offset[mine] >= 0, -box, box) * axes
        rows.append(mine)
        parts.append(offset[mine] + step)
    row = np.concatenate(rows)
    order = np.argsort(row, kind="stable")
    return row[order], np.concatenate(parts)[order]
