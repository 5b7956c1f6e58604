"""Which halos see which particles by their positions, found in a periodic grid; and runs of rows."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from hpcdiff.project.image import jit
from hpcdiff.project.lengths import half_extent
from hpcdiff.project.periodic import nearest
from hpcdiff.snapshot import Snapshot
from hpcdiff.snapshot.cells import largest_kernels

ENTRIES = 2_000_000
"""Entries that the cells' lists of halos hold in all, about: many halos make coarser cells."""


@dataclass
class Reach:
    """How far from its centre a halo's views see: all arrays by halo, comoving Mpc.

    A particle of support radius h is seen if along every axis of the box it is nearer than `near` + `slope` h, and, unless
    its kernel reaches beyond half the box, if it lies within the cylinder about a view's cuboid: within `half_depth` along
    some line of sight and within sqrt(2) (`half_width` + h) of it. What is seen is all that may touch a map and little more.

    Attributes:
        position: float64 (n, 3), in the box.
        near, slope: float64 (n, 3), half the box about all cuboids of the halo's views, and what a support radius adds.
        half_width, half_depth: float64 (n,).
        first: int64 (n + 1,), where each halo's lines of sight begin in `line`.
        line: float64 (m, 3), unit vectors.
        box: side of the periodic box.
    """

    position: np.ndarray
    near: np.ndarray
    slope: np.ndarray
    half_width: np.ndarray
    half_depth: np.ndarray
    first: np.ndarray
    line: np.ndarray
    box: float
    _grids: tuple = field(default=(), repr=False)
    _runs: dict = field(default_factory=dict, repr=False)

    extra = 0
    """Columns that a table needs besides index, position, support radius and weights."""

    @classmethod
    def of_views(
        cls, position: np.ndarray, frame: np.ndarray, half_width: np.ndarray, half_depth: np.ndarray, first: np.ndarray, box: float
    ) -> Reach:
        """From the views of each halo, which stand halo by halo.

        Args:
            position: (n, 3), of each halo.
            frame, half_width, half_depth: (m, 3, 3), (m,), (m,), of each view: unit vectors along i, j and the line of sight.
            first: int64 (n,), where each halo's views begin.
            box: side.
        """
        more = 1 + 1e-9  # rounding of a rotation must not lose a particle at the rim
        near = half_extent(frame, half_width * more, half_depth * more)
        slope = np.abs(frame[:, :2]).sum(axis=1) * more
        near, slope, wide, deep = (np.maximum.reduceat(values, first) for values in (near, slope, half_width * more, half_depth * more))
        return cls(position, near, slope, wide, deep, np.append(first, len(frame)), np.ascontiguousarray(frame[:, 2]), box)

    def subset(self, halos: np.ndarray) -> Reach:
        """The same for some halos, which are numbered from 0 again."""
        line = self.line[ranges(self.first[halos], self.first[halos + 1])]
        first = np.concatenate([[0], np.cumsum(self.first[halos + 1] - self.first[halos])])
        parts = (values[halos] for values in (self.position, self.near, self.slope, self.half_width, self.half_depth))
        return Reach(*parts, first, line, self.box)

    def pairs(self, kind: str, table: np.ndarray, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """(halo, row) of every pair, int32, ordered by row.

        Args:
            kind: of the particles, which does not matter here.
            table: float64 (n, 5 or more): index, position, support radius.
        """
        n = len(table)
        if not n or not len(self.position):
            return np.empty(0, np.int32), np.empty(0, np.int32)
        position, h = np.ascontiguousarray(table[:, 1:4]), np.ascontiguousarray(table[:, 4])
        level = self._levels(h)
        grids = self._stack(int(level.max()) + 1)
        halos = (self.position, self.near, self.slope, self.half_width, self.half_depth, self.first, self.line, self.box)
        edges = np.linspace(0, n, (threads if n > 20_000 else 1) + 1).astype(np.int64)

        def search(a: int, b: int) -> tuple[np.ndarray, np.ndarray]:
            room = 2 * (b - a) + 1000
            while True:
                halo, row = np.empty(room, np.int32), np.empty(room, np.int32)
                found = _see(position[a:b], h[a:b], level[a:b], *halos, *grids, halo, row, a)
                if found <= room:
                    return halo[:found].copy(), row[:found].copy()
                room = found

        parts = _in_threads(search, edges)
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def extent(self, margin: float = 0.0) -> np.ndarray:
        """Half the sides of the cuboid about each halo that holds all it sees of kernels up to `margin`, float64 (n, 3)."""
        return self.near + self.slope * margin

    @property
    def _margin(self) -> float:
        return max(0.1 * float(np.median(self.extent())), 1e-3 * self.box)

    def _levels(self, h: np.ndarray) -> np.ndarray:
        """For each support radius the number of the grid whose margin, _margin 4^level, covers it, int8."""
        level = np.zeros(len(h), np.int8)
        large = h > self._margin
        level[large] = np.ceil(np.log(h[large] / self._margin) / np.log(4) - 1e-9)
        level[large & (h > self._margin * 4.0**level)] += 1
        return level

    def _stack(self, levels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The grids of all levels one behind the other: cells along a side and the first cell of each, and for each cell the
        halos that may see a particle in it: `entries` from starts[cell] to starts[cell + 1]."""
        known = len(self._grids[0]) if self._grids else 0
        if known < levels:
            new = [self._grid(self._margin * 4.0**k) for k in range(known, levels)]
            cells, begin, starts, entries = self._grids or (*[np.empty(0, np.int64)] * 3, np.empty(0, np.int32))
            for grid in new:
                begin = np.append(begin, len(starts))
                starts = np.concatenate([starts, grid[1] + len(entries)])
                entries = np.concatenate([entries, grid[2]])
            self._grids = (np.append(cells, [g[0] for g in new]), begin, starts, entries)
        return self._grids

    def _grid(self, margin: float) -> tuple[int, np.ndarray, np.ndarray]:
        """The halos in reach of each cell, for kernels up to `margin`."""
        return _grid_of(self.position, self.extent(margin), self.box)

    def runs(self, snapshot: Snapshot, kind: str) -> np.ndarray:
        """The rows of the snapshot that have to be read, int64 (m, 2), ascending and apart.

        All of them, unless the snapshot's own index says where its rows lie: then cells of which no kernel can reach a view are
        left out. It is found once a snapshot and kind.
        """
        known = self._runs.get(kind)
        if known is None or known[0] is not snapshot:
            known = self._runs[kind] = (snapshot, self._find_runs(snapshot, kind))
        return known[1]

    def _find_runs(self, snapshot: Snapshot, kind: str) -> np.ndarray:
        cells = snapshot.cells(kind)
        h = None if cells is None else largest_kernels(snapshot, kind, cells)
        if h is None:
            return np.array([[0, snapshot.count(kind)]], np.int64)
        read = ~np.isfinite(h)
        centre, half = (cells.low + cells.high) / 2, (cells.high - cells.low) / 2
        level = np.ceil(np.log2(half.max(axis=1) + h))  # a grid for each size of cell, so that a few large ones do not coarsen all
        for k in np.unique(level[~read]):
            mine = np.flatnonzero((level == k) & ~read)
            extent = self.extent(float(h[mine].max())) + half[mine].max(axis=0)
            grid = _grid_of(self.position, extent, self.box)
            read[mine] = _seen(centre[mine], half[mine], h[mine], self.position, self.near, self.slope, self.box, *grid)
        return merge_runs(np.stack([cells.start, cells.stop], axis=-1)[read])


def _grid_of(position: np.ndarray, extent: np.ndarray, box: float) -> tuple[int, np.ndarray, np.ndarray]:
    """Cells along a side, where each one's list of halos begins, and the lists: halos whose cuboid touches the cell.

    Args:
        position, extent: (n, 3), of the halos, and half the sides of the cuboids about them.
        box: side.
    """
    typical = np.cbrt(np.mean(np.minimum(extent, box / 2).prod(axis=1)))
    finer = float(np.clip((np.cbrt(ENTRIES / len(extent)) - 1) / 2, 0.5, 8.0))
    most = np.clip(8 * np.cbrt(len(extent)), 16, 128)
    cells = int(np.clip(box / typical * finer, 1, most))
    counts = np.zeros(cells**3 + 1, np.int64)
    _list_cells(position, extent, box, cells, counts, np.empty(0, np.int32), False)
    starts = np.concatenate([[0], np.cumsum(counts[:-1])])
    entries = np.empty(starts[-1], np.int32)
    _list_cells(position, extent, box, cells, starts.copy(), entries, True)
    return cells, starts, entries


def ranges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """arange(first[0], last[0]), arange(first[1], last[1]), ... one after the other, int64."""
    length = np.asarray(last, np.int64) - first
    ends = np.cumsum(length)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(np.asarray(first, np.int64) - (ends - length), length)


def merge_runs(runs: np.ndarray) -> np.ndarray:
    """Runs of rows (m, 2) in ascending order, those that touch or overlap joined, empty ones dropped."""
    runs = np.asarray(runs, np.int64).reshape(-1, 2)
    runs = runs[runs[:, 1] > runs[:, 0]]
    if not len(runs):
        return runs
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    furthest = np.maximum.accumulate(runs[:, 1])
    new = np.flatnonzero(np.concatenate([[True], runs[1:, 0] > furthest[:-1]]))
    return np.stack([runs[new, 0], furthest[np.concatenate([new[1:] - 1, [len(runs) - 1]])]], axis=-1)


def share_of_runs(runs: np.ndarray, rank: int, size: int, block: int, stripes: int = 1) -> list[tuple[int, int]]:
    """One rank's part of the runs: as many rows as any other's, ascending, cut to `block` rows.

    All rows are cut into size x stripes parts of equal length, which the ranks take in turn; parts shorter than a block are
    not made for the sake of stripes.
    """
    ends = np.cumsum(runs[:, 1] - runs[:, 0]) if len(runs) else np.zeros(1, np.int64)
    total = int(ends[-1])
    n = size * max(1, min(stripes, total // (size * block)))
    pieces = []
    for part in range(rank, n, size):
        low, high = total * part // n, total * (part + 1) // n
        for k in range(int(np.searchsorted(ends, low, side="right")), len(runs)):
            before = int(ends[k] - (runs[k, 1] - runs[k, 0]))
            if before >= high:
                break
            a, b = max(low, before), min(high, int(ends[k]))
            start = int(runs[k, 0]) + a - before
            pieces += [(s, min(s + block, start + b - a)) for s in range(start, start + b - a, block)]
    return pieces


def _in_threads(work: Callable[[int, int], tuple], edges: np.ndarray) -> list[tuple]:
    spans = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    if len(spans) == 1:
        return [work(*spans[0])]
    with ThreadPoolExecutor(len(spans)) as pool:
        return list(pool.map(lambda span: work(*span), spans))


@jit
def _list_cells(position, extent, box, cells, places, entries, fill):
    """Count the halos of each cell in `places`, or write them from `places` on."""
    for m in range(len(position)):
        lo = np.empty(3, np.int64)
        n = np.empty(3, np.int64)
        for axis in range(3):
            lo[axis] = int(np.floor((position[m, axis] - extent[m, axis]) / box * cells))
            n[axis] = min(int(np.floor((position[m, axis] + extent[m, axis]) / box * cells)) - lo[axis] + 1, cells)
        for di in range(n[0]):
            i = (lo[0] + di) % cells
            for dj in range(n[1]):
                j = (lo[1] + dj) % cells
                for dk in range(n[2]):
                    c = (i * cells + j) * cells + (lo[2] + dk) % cells
                    if fill:
                        entries[places[c]] = m
                    places[c] += 1


@jit
def _seen(middle, half, h, centre, near, slope, box, side, starts, entries):
    """Which of the cuboids (m, 3) some halo may see, with kernels up to `h` (m,), bool (m,); the grid's lists hold all that may."""
    found = np.zeros(len(middle), np.bool_)
    at = np.empty(3, np.int64)
    for n in range(len(middle)):
        for axis in range(3):
            at[axis] = int(np.floor(middle[n, axis] / box * side)) % side
        c = (at[0] * side + at[1]) * side + at[2]
        for s in range(starts[c], starts[c + 1]):
            m, inside = entries[s], True
            for axis in range(3):
                d = abs(nearest(middle[n, axis] - centre[m, axis], box))
                inside = inside and d <= near[m, axis] + slope[m, axis] * h[n] + half[n, axis]
            if inside:
                found[n] = True
                break
    return found


@jit
def _see(
    position, h, level, centre, near, slope, half_width, half_depth, first, line, box, cells, begin, starts, entries, halo, row, offset
):
    """The number of pairs; they are written to `halo` and `row` as far as there is room."""
    d = np.empty(3)
    found, room = 0, len(halo)
    for p in range(len(position)):
        side = cells[level[p]]
        i = min(int(position[p, 0] / box * side), side - 1)
        j = min(int(position[p, 1] / box * side), side - 1)
        k = min(int(position[p, 2] / box * side), side - 1)
        c = begin[level[p]] + (i * side + j) * side + k
        for s in range(starts[c], starts[c + 1]):
            m = entries[s]
            inside, wraps = True, False
            for axis in range(3):
                d[axis] = nearest(position[p, axis] - centre[m, axis], box)
                reach = near[m, axis] + slope[m, axis] * h[p]
                inside = inside and abs(d[axis]) < reach
                wraps = wraps or reach > 0.5 * box
            if not inside:
                continue
            if not wraps:
                far2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
                wide = half_width[m] + h[p]
                inside = False
                for v in range(first[m], first[m + 1]):
                    along = d[0] * line[v, 0] + d[1] * line[v, 1] + d[2] * line[v, 2]
                    if abs(along) < half_depth[m] and far2 - along * along < 2.0 * wide * wide:
                        inside = True
                        break
            if inside:
                if found < room:
                    halo[found] = m
                    row[found] = offset + p
                found += 1
    return found
