"""Particles to the halos that see them: read in disjoint slabs, found in a grid of halos, sent to the halo's rank."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hpcdiff.config import Project
from hpcdiff.errors import Stopped
from hpcdiff.project.fields import carried, weights
from hpcdiff.project.image import jit
from hpcdiff.snapshot import Particles, Snapshot, neighbour_distance
from hpcdiff.world import World

SLAB = 2_000_000
"""Particles a rank reads at once."""


@dataclass
class Share:
    """The particles of one kind that this rank has read and some halo sees.

    Attributes:
        table: float64 (n, 5 + k): index, position (comoving Mpc), support radius (comoving Mpc), weights.
        starts: int64 (n_halos + 1,), where each halo's entries begin in `members`.
        members: int64, rows of `table`, halo by halo, ordered by index.
    """

    table: np.ndarray
    starts: np.ndarray
    members: np.ndarray

    def of(self, halo: int) -> np.ndarray:
        """The rows (n, 5 + k) that halo number `halo` sees."""
        return self.table[self.members[self.starts[halo] : self.starts[halo + 1]]]


@dataclass
class Reach:
    """How far from its centre a halo's views see: all arrays by halo, comoving Mpc.

    A particle is seen if its centre is nearer than `near` + its support radius along every axis of the box (`cube`, where
    no view is rotated), or within hypot(sqrt(2) (`half_width` + h), `half_depth`) of the centre.
    """

    position: np.ndarray
    half_width: np.ndarray
    half_depth: np.ndarray
    cube: bool


def read_share(snapshot: Snapshot, kind: str, reach: Reach, project: Project, world: World, threads: int, bar=None) -> Share:
    """Read this rank's particles of one kind and keep those that a halo sees. Collective.

    Raises:
        UserError: the snapshot is damaged or its numbers make no sense, on whichever rank.
        Stopped: a signal came.
    """
    n, names = snapshot.count(kind), carried(project.fields, kind)
    first, last = n * world.rank // world.size, n * (world.rank + 1) // world.size
    support = None
    if not snapshot.has_h[kind]:
        support = _support_from_neighbours(snapshot, kind, first, last, world, threads)
    tables, halos, rows, kept = [], [], [], 0
    rounds = math.ceil(math.ceil(n / world.size) / SLAB)
    for r in range(rounds):
        a, b = min(first + r * SLAB, last), min(first + (r + 1) * SLAB, last)
        with world.together():
            p = snapshot.read(kind, a, b, project.mu_e, gas=names != ["mass"])
            h = p.h if support is None else support[a - first : b - first]
            pair_halo, pair_row = find_pairs(p.position, h, reach, snapshot.box)
            seen, pair_row = np.unique(pair_row, return_inverse=True)
            table = np.column_stack([p.index, p.position, h, weights(p, names, project)])[seen]
            tables.append(table)
            halos.append(pair_halo)
            rows.append(pair_row + kept)
            kept += len(table)
        if bar is not None:
            bar.update(b - a)
        if world.stop_agreed():
            raise Stopped("while reading the snapshot; run the same command again")
    halo, row = np.concatenate(halos), np.concatenate(rows)
    order = np.argsort(halo, kind="stable")  # rows grow with the index, so each halo's stay ordered
    starts = np.searchsorted(halo[order], np.arange(len(reach.position) + 1))
    return Share(np.concatenate(tables), starts, row[order])


def _support_from_neighbours(snapshot: Snapshot, kind: str, first: int, last: int, world: World, threads: int) -> np.ndarray:
    p = Particles(np.empty(0, np.int64), np.empty((0, 3)), np.empty(0))
    with world.together():
        p = snapshot.read(kind, first, last, gas=False)
    return neighbour_distance(p.position, snapshot.box, world, threads=threads)


def find_pairs(position: np.ndarray, h: np.ndarray, reach: Reach, box: float) -> tuple[np.ndarray, np.ndarray]:
    """Which halos see which particles: (halo, row) of every pair, ordered by row.

    Halos are sorted into a periodic grid; each particle looks into the cells that its reach touches.
    """
    n = len(reach.position)
    furthest = max(reach.half_width.max(), reach.half_depth.max(), 1e-3 * box)
    cells = int(np.clip(box / furthest, 1, min(64, max(1, 2 * round(n ** (1 / 3)) + 1))))
    cell = np.minimum((reach.position % box / box * cells).astype(np.int64), cells - 1)
    flat = (cell[:, 0] * cells + cell[:, 1]) * cells + cell[:, 2]
    order = np.argsort(flat, kind="stable")
    starts = np.searchsorted(flat[order], np.arange(cells**3 + 1))
    arguments = (position, h, reach.position, reach.half_width, reach.half_depth, reach.cube, box, cells, starts, order)
    empty = np.empty(0, np.int64)
    total = _pairs(*arguments, empty, empty)
    halo, row = np.empty(total, np.int64), np.empty(total, np.int64)
    _pairs(*arguments, halo, row)
    return halo, row


@jit
def _pairs(position, h, centre, half_width, half_depth, cube, box, cells, starts, order, halo, row):
    """Count the pairs, and fill `halo` and `row` where they have room."""
    widest, deepest = half_width.max(), half_depth.max()
    found = 0
    for p in range(len(position)):
        if cube:
            far = max(widest + h[p], deepest)
        else:
            far = np.sqrt(2 * (widest + h[p]) ** 2 + deepest**2)
        span = int(np.ceil(far / box * cells))
        steps = min(2 * span + 1, cells)
        i0, j0, k0 = (
            int(position[p, 0] / box * cells) - span,
            int(position[p, 1] / box * cells) - span,
            int(position[p, 2] / box * cells) - span,
        )
        for di in range(steps):
            for dj in range(steps):
                for dk in range(steps):
                    c = (((i0 + di) % cells) * cells + (j0 + dj) % cells) * cells + (k0 + dk) % cells
                    for s in range(starts[c], starts[c + 1]):
                        m = order[s]
                        near2, largest = 0.0, 0.0
                        for axis in range(3):
                            d = position[p, axis] - centre[m, axis]
                            d = abs(d - box * np.rint(d / box))
                            near2 += d * d
                            largest = max(largest, d)
                        if cube:
                            sees = largest < max(half_width[m] + h[p], half_depth[m])
                        else:
                            sees = near2 < 2 * (half_width[m] + h[p]) ** 2 + half_depth[m] ** 2
                        if sees:
                            if found < len(halo):
                                halo[found], row[found] = m, p
                            found += 1
    return found


def exchange(share: Share, wanted: list[int | None], world: World) -> np.ndarray | None:
    """Bring the rows of one halo a rank together. Collective.

    Args:
        share: what this rank has read.
        wanted: for each rank, the number of the halo that it asks for, or None.
    Returns:
        (n, 5 + k), ordered by index; None for a rank that asked for nothing.
    """
    mine = wanted[world.rank]
    if world.size == 1:
        return None if mine is None else share.of(mine)
    parts = [share.of(halo) if halo is not None else share.table[:0] for halo in wanted]
    counts = np.array([len(part) for part in parts])
    got = np.array(world.comm.alltoall(counts.tolist()))
    received = np.empty((got.sum(), share.table.shape[1]))
    from mpi4py import MPI

    row = MPI.DOUBLE.Create_contiguous(share.table.shape[1]).Commit()  # counts in rows stay below 2^31
    send = np.concatenate(parts)
    world.comm.Alltoallv(
        [send, counts, np.concatenate([[0], counts.cumsum()[:-1]]), row], [received, got, np.concatenate([[0], got.cumsum()[:-1]]), row]
    )
    row.Free()
    return None if mine is None else received  # ranks hold growing slabs, so the indices are in order
