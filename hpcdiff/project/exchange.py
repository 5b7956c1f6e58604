"""Particles from the files to the ranks that project their halos.

Every rank owns a share of the snapshot's rows, in stripes, disjoint from all others, and scans it once, block by block: which halos see which particles, and what each halo will cost. Blocks that are seen are kept in
memory as far as `project.memory_gb` allows; of the others only the halos that they serve are remembered, and they are read
again when those halos' turn comes. From the costs of all ranks a plan is made (`balance.py`) that deals the halos to ranks
and passes. In each pass every rank walks through its blocks and sends each particle once to every rank that has a halo
that sees it, in rounds of bounded size. Rows are put in the order of their index before they are projected, which makes the
sums of the maps independent of the number of ranks, passes and rounds. A halo whose particles alone exceed the bound is streamed: its rows come in windows of ascending
index, and each window is projected before the next is sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hpcdiff.errors import Stopped
from hpcdiff.project.balance import Budget
from hpcdiff.project.cutout import ranges
from hpcdiff.project.source import FOUND_BYTES, TOGETHER, Ledger, Source
from hpcdiff.world import World

Part = tuple[np.ndarray, np.ndarray, np.ndarray]
"""A block: its table, and halo and row of every pair."""


@dataclass
class Destinations:
    """Which ranks want the particles of each halo in this pass.

    Attributes:
        start: int64 (n_halos + 1,), where each halo's ranks begin.
        rank: int64, ranks, halo by halo.
    """

    start: np.ndarray
    rank: np.ndarray

    @classmethod
    def of(cls, halo: np.ndarray, rank: np.ndarray, n_halos: int, ranks: int) -> Destinations:
        """From the (halo, rank) of every unit of work."""
        both = np.unique(halo * ranks + rank)
        return cls(np.searchsorted(both // ranks, np.arange(n_halos + 1)), both % ranks)

    @property
    def wanted(self) -> np.ndarray:
        """Halos that any rank wants, bool (n_halos,)."""
        return np.diff(self.start) > 0

    def rows(self, halo: np.ndarray, row: np.ndarray, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """(rank, row), each pair once, ordered by rank, then row."""
        first, last = self.start[halo], self.start[halo + 1]
        rank, row = self.rank[ranges(first, last)], np.repeat(row, last - first)
        both = np.sort(rank * max(n_rows, 1) + row)  # several times faster than numpy's unique
        both = both[np.concatenate([[True], both[1:] != both[:-1]])] if len(both) else both
        return both // max(n_rows, 1), both % max(n_rows, 1)

    def cut(self, part: Part, room: int) -> Iterator[Part]:
        """The block in runs of ascending rows whose copies for all ranks take about `room` bytes at most."""
        table, halo, row = part
        copies = np.bincount(row, self.start[halo + 1] - self.start[halo], minlength=len(table))
        run = (np.cumsum(copies * table.shape[1] * 8) // max(room, 1)).astype(np.int64)
        for number in np.unique(run[copies > 0]):
            mine = run[row] == number
            yield (table, halo, row) if mine.all() else (table, halo[mine], row[mine])


def exchange(parts: Iterator[Part], to: Destinations, columns: int, world: World, budget: Budget, ledger: Ledger) -> list[np.ndarray]:
    """Send every row of `parts` once to each rank that wants it. Collective.

    Args:
        parts: blocks in ascending order: table, and (halo, row) of its pairs.
        to: who wants which halo.
        columns: of the tables.
    Returns:
        One table (n, columns) a round, each ordered by index.
    Raises:
        UserError: a block cannot be read, on whichever rank.
        Stopped: a signal came.
    """
    received, ended = [], False
    pieces = (piece for part in parts for piece in to.cut(part, budget.sent // 3))
    while True:
        ranks, tables, held = [], [], 0
        with world.together():
            while not ended and held < budget.sent // 3 and len(tables) < TOGETHER:
                if (piece := next(pieces, None)) is None:
                    ended = True
                    break
                table, halo, row = piece
                rank, row = to.rows(halo, row, len(table))
                ranks.append(rank)
                tables.append(table[row])
                held += tables[-1].nbytes
        ledger.set("sent", 3 * held)
        got = _ordered(_sent(ranks, tables, columns, world))
        ledger.add("received", got.nbytes)
        ledger.set("sent", 0)
        if len(got):
            received.append(got)
        if world.stop_agreed():
            raise Stopped("maps so far are kept; run the same command again")
        if not world.any(not ended):
            return received


def _ordered(table: np.ndarray) -> np.ndarray:
    index = table[:, 0]
    return table if (index[1:] >= index[:-1]).all() else table[np.argsort(index, kind="stable")]


def _sent(ranks: list[np.ndarray], tables: list[np.ndarray], columns: int, world: World) -> np.ndarray:
    """Tables whose rows go to `ranks`; what comes, by source."""
    rank = np.concatenate([np.empty(0, np.int64), *ranks])
    rows = tables[0] if len(tables) == 1 else np.concatenate([np.empty((0, columns)), *tables])
    if len(tables) > 1 and world.size > 1:  # one alone is sorted by rank
        rows = rows[np.argsort(rank, kind="stable")]
    return world.exchange_rows(rows, np.bincount(rank, minlength=world.size))


def windows(source: Source, kind: str, to: Destinations, world: World, room: int) -> list[tuple[int, int]]:
    """Runs of ascending rows (low, high) that bring no rank more than `room` bytes each. Collective.

    A block that serves a rank counts with all rows that are seen by the rank's halos, at most its own number of rows.
    """
    row_bytes = source.columns(kind) * 8 + FOUND_BYTES
    served: list[tuple[int, np.ndarray, np.ndarray]] = []  # first row of a block, ranks, bytes for each
    for block in source.blocks:
        if block.kind != kind:
            continue
        first, last = to.start[block.halos], to.start[block.halos + 1]
        rank, which = np.unique(to.rank[ranges(first, last)], return_inverse=True)
        if len(rank):
            pairs = np.bincount(which, np.repeat(block.counts, last - first))
            served.append((block.start, rank, np.minimum(pairs, block.rows) * row_bytes))
    edges, held = [0], np.zeros(world.size)
    for start, rank, size in sorted((one for part in world.allgather(served) for one in part), key=lambda one: one[0]):
        if (held[rank] + size).max() > room and held.any():
            edges.append(start)
            held[:] = 0
        held[rank] += size
    return list(zip(edges, [*edges[1:], np.iinfo(np.int64).max], strict=True))
