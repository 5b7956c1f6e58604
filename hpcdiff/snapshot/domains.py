"""The periodic box as a grid of cells: how far the 64th neighbour can be, and domains with the ghosts that prove it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import maximum_filter1d

PER_CELL = 8
"""Particles in a cell of mean density: fewer make the bound on the neighbour's distance tighter and the grid larger."""
LARGEST = 256
"""Cells along a side at most."""
STEPS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128)
"""Half sides, in cells, of the blocks in which neighbours are counted."""
FAR = -1
"""Reach of a cell whose neighbours may be more than half the box away."""


class Domain(NamedTuple):
    """Cells low..high (exclusive) along each axis."""

    low: tuple[int, int, int]
    high: tuple[int, int, int]

    @property
    def single(self) -> bool:
        """Is it one cell?"""
        return all(b - a == 1 for a, b in zip(self.low, self.high, strict=True))

    def slices(self) -> tuple[slice, slice, slice]:
        """Of the grid's arrays."""
        return tuple(slice(a, b) for a, b in zip(self.low, self.high, strict=True))


def grid_side(n: int) -> int:
    """Cells along a side for n particles: of n alone, so that results depend on neither ranks nor memory."""
    return int(np.clip(round((n / PER_CELL) ** (1 / 3)), 1, LARGEST))


def cell_of(position: np.ndarray, box: float, side: int) -> np.ndarray:
    """Number of the cell in C order, int64 (n,), of positions (n, 3) with 0 <= x < box."""
    cell = np.minimum((position / box * side).astype(np.int64), side - 1)
    return (cell[:, 0] * side + cell[:, 1]) * side + cell[:, 2]


def reach(counts: np.ndarray, wanted: int) -> np.ndarray:
    """How many cells around its own hold a particle's `wanted` nearest ones (itself counted) for certain.

    A block of 2m+1 cells a side around the cell with `wanted` particles in it holds so many within sqrt(3) (m+1) cells of
    any of the cell's points; so the cells up to ceil(sqrt(3) (m+1)) away hold the nearest.

    Args:
        counts: int64 (side, side, side), particles in each cell of the periodic box.
        wanted: how many.
    Returns:
        int16 (side, side, side): 0 where the cell is empty, `FAR` where the bound exceeds half the box.
    """
    side = len(counts)
    out = np.where(counts > 0, np.int16(FAR), np.int16(0))
    for m in STEPS:
        bound = np.sqrt(3) * (m + 1)
        if bound > side / 2 or not (out == FAR).any():
            break
        inside = counts
        for axis in range(3):
            inside = _window(inside, m, axis)
        out[(out == FAR) & (inside >= wanted)] = int(np.ceil(bound))
    return out


def _window(counts: np.ndarray, m: int, axis: int) -> np.ndarray:
    """Sum of 2m+1 neighbours along one periodic axis."""
    if m == 0:
        return counts
    counts = np.moveaxis(counts, axis, 0)
    running = np.cumsum(np.concatenate([counts[-m:], counts, counts[:m]]), axis=0)
    running = np.concatenate([np.zeros_like(running[:1]), running])
    return np.moveaxis(running[2 * m + 1 :] - running[: -2 * m - 1], 0, axis)


def bisect(counts: np.ndarray, n: int, whole: Domain | None = None) -> list[Domain]:
    """`whole` (None = the box) as about n boxes of cells with about equal counts, by cutting the longest side again and again."""
    out, todo = [], [(whole or Domain((0, 0, 0), counts.shape), n)]
    while todo:
        domain, parts = todo.pop()
        sides = np.subtract(domain.high, domain.low)
        axis = int(np.argmax(sides))
        if parts == 1 or sides[axis] == 1:
            out.append(domain)
            continue
        line = counts[domain.slices()].sum(axis=tuple(a for a in range(3) if a != axis))
        before = np.cumsum(line)[:-1]
        first = parts // 2
        cut = domain.low[axis] + 1 + int(np.argmin(abs(before - line.sum() * first / parts)))
        middle_high, middle_low = list(domain.high), list(domain.low)
        middle_high[axis] = middle_low[axis] = cut
        todo += [(Domain(tuple(middle_low), domain.high), parts - first), (Domain(domain.low, tuple(middle_high)), first)]
    return out


def cells_needed(domain: Domain, counts: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells with particles that a domain's own particles may have among their nearest, and the domain's own.

    Args:
        domain: box of cells.
        counts: int64 (side, side, side).
        near: what `reach` gives.
    Returns:
        int32 (n,) cell numbers in C order, and int8 (n, 3): by how many boxes the cell's image is shifted along each axis.
    """
    side = len(counts)
    own = near[domain.slices()]
    margin = int(own.max(initial=0))
    inside = np.pad(own, margin)
    seen = np.pad(own > 0, margin).astype(np.uint8)
    for k in np.unique(own[own > 0]):
        level = (inside == k).astype(np.uint8)
        for axis in range(3):
            level = maximum_filter1d(level, 2 * int(k) + 1, axis=axis, mode="constant")
        seen |= level
    index = np.argwhere(seen) + np.array(domain.low) - margin
    shift, cell = np.divmod(index, side)
    filled = counts[cell[:, 0], cell[:, 1], cell[:, 2]] > 0
    cell, shift = cell[filled], shift[filled].astype(np.int8)
    return ((cell[:, 0] * side + cell[:, 1]) * side + cell[:, 2]).astype(np.int32), shift
