"""One rank's share of the snapshot: scanned once, kept as far as there is room, read again where there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hpcdiff.errors import Stopped
from hpcdiff.project.balance import Budget
from hpcdiff.project.cutout import share_of_runs
from hpcdiff.project.fields import carried, reads_gas, weights
from hpcdiff.project.image import deposit_cost
from hpcdiff.project.members import Cutout
from hpcdiff.project.sanity import add_mass, within
from hpcdiff.sections import Project
from hpcdiff.snapshot import Snapshot
from hpcdiff.world import World

BLOCK = 131_072
"""Most rows of a block."""
READ_BYTES = 250
"""Bytes that a row takes while it is read and converted."""
PAIR_BYTES = 8
"""Bytes of one (halo, row)."""
FOUND_BYTES = 24
"""Bytes for each particle of a halo on the rank that projects it, beyond its row: found and put in order."""
STRIPES = 32
"""Parts of the snapshot in which a rank's share lies, so that blocks that a pass needs again are many ranks' blocks."""
TOGETHER = 16
"""Blocks between two agreements of the ranks that all is well."""


class Ledger:
    """Bytes of the tables that this rank holds, and the most it has held."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.peak = 0

    def set(self, name: str, size: int) -> None:
        """The tables called `name` now take `size` bytes."""
        self.held[name] = int(size)
        self.peak = max(self.peak, sum(self.held.values()))

    def add(self, name: str, size: int) -> None:
        """They take `size` bytes more, or fewer."""
        self.set(name, self.held.get(name, 0) + size)


@dataclass
class Block:
    """A run of rows of one kind that some halo sees.

    Attributes:
        kind, start, stop: rows of the snapshot.
        rows: how many of them are seen.
        halos, counts: int32 (m,), halos that see some, and how many each.
        table: float64 (rows, columns), or None where it has to be read again.
        halo, row: int32 (pairs,), which halo sees which row of the table.
    """

    kind: str
    start: int
    stop: int
    rows: int
    halos: np.ndarray
    counts: np.ndarray
    table: np.ndarray | None = None
    halo: np.ndarray | None = None
    row: np.ndarray | None = None

    @property
    def bytes(self) -> int:
        """What it takes to keep it."""
        return 0 if self.table is None else self.table.nbytes + self.halo.nbytes + self.row.nbytes


@dataclass
class Census:
    """What the scan found; arrays by halo, over all ranks.

    Attributes:
        rows: {kind: int64 (n,)}, particles that the halo sees.
        cost: float64 (n,), `image.deposit_cost` of one view.
        enclosed: float64 (n, m), Msun within each of the source's `radius`.
        place: float64 (n,), mean row of its particles over all rows of their kind.
        near: int64 (n,), its particles within the source's `around`.
    """

    rows: dict[str, np.ndarray]
    cost: np.ndarray
    enclosed: np.ndarray
    place: np.ndarray
    near: np.ndarray


class Source:
    """One rank's share of the snapshot: what it has read, what it keeps, what it reads again.

    Args:
        snapshot, cutout, project: what is read, who sees it, which fields.
        support: {kind: object with read(start, stop)} for kinds without smoothing lengths in the snapshot; those longer than half
            the box (of a few scattered particles) are taken for that.
        pixel: float64 (n,), side of a pixel of each halo's deposited images, comoving Mpc.
        npix: pixels a side of them.
        centre, radius: (n, 3) and (n, m), ascending, comoving Mpc: spheres in which the mass of all kinds is added up; m may be 0.
        budget, ledger: bytes that may be kept, and that are.
        around: float64 (n,), comoving Mpc about `centre` within which particles are counted; None = they are not.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        cutout: Cutout,
        project: Project,
        world: World,
        threads: int,
        support: dict,
        pixel: np.ndarray,
        npix: int,
        centre: np.ndarray,
        radius: np.ndarray,
        budget: Budget,
        ledger: Ledger,
        around: np.ndarray | None = None,
    ) -> None:
        self.snapshot, self.cutout, self.project, self.world, self.threads = snapshot, cutout, project, world, threads
        self.support, self.pixel, self.npix = support, pixel, npix
        self.centre, self.radius, self.around = centre, radius, around
        self.budget, self.ledger = budget, ledger
        self.blocks: list[Block] = []
        self.rows_read, self.seconds = 0, 0.0

    def columns(self, kind: str) -> int:
        """Columns of a table of `kind`: index, position, support radius, weights, and what the cutout adds."""
        return 5 + len(carried(self.project.fields, kind)) + self.cutout.extra

    def block_rows(self, kind: str) -> int:
        """Rows of a block, so that reading and sending one stay within their shares."""
        row = self.columns(kind) * 8
        fits = min(self.budget.read // READ_BYTES, self.budget.sent // (3 * row), self.budget.received // (4 * row))
        return int(np.clip(fits, 64, BLOCK))

    def scan(self, kinds: list[str], bar=None) -> Census:
        """Read this rank's share once, keep what is seen as far as there is room, and add up over the ranks. Collective.

        Raises:
            UserError: the snapshot is damaged or its numbers make no sense, on whichever rank.
            Stopped: a signal came.
        """
        n = len(self.pixel)
        rows = {k: np.zeros(n, np.int64) for k in kinds}
        census = Census(rows, np.zeros(n), np.zeros(self.radius.shape), np.zeros(n), np.zeros(n, np.int64))
        for kind in kinds:
            runs = self.cutout.runs(self.snapshot, kind)
            pieces = share_of_runs(runs, self.world.rank, self.world.size, self.block_rows(kind), STRIPES)
            rounds = int(max(self.world.allgather(-(-len(pieces) // TOGETHER))))
            for r in range(rounds):
                with self.world.together():
                    for start, stop in pieces[r * TOGETHER : (r + 1) * TOGETHER]:
                        self._scan_block(kind, start, stop, census)
                        if bar is not None:
                            bar.update(stop - start)
                if self.world.stop_agreed():
                    raise Stopped("while reading the snapshot; run the same command again")
        rows = {k: self.world.total(v) for k, v in census.rows.items()}
        place = self.world.total(census.place) / np.maximum(sum(rows.values()), 1)
        enclosed = self.world.total(census.enclosed).cumsum(axis=1)
        return Census(rows, self.world.total(census.cost), enclosed, place, self.world.total(census.near))

    def _scan_block(self, kind: str, start: int, stop: int, census: Census) -> None:
        table, halo, row = self.read(kind, start, stop, self.cutout)
        if not len(halo):
            return
        n = len(self.pixel)
        counts = np.bincount(halo, minlength=n)
        census.rows[kind] += counts
        census.place += counts * (start / max(self.snapshot.count(kind), 1))
        size = table[row, 4] / self.pixel[halo]
        census.cost += np.bincount(halo, deposit_cost(size, self.npix), minlength=n)
        if self.radius.shape[1]:
            add_mass(table, halo, row, self.centre, self.radius, self.snapshot.box, census.enclosed)
        if self.around is not None:
            census.near += within(table[row, 1:4], halo, self.centre, self.around, self.snapshot.box)
        seen_by = np.flatnonzero(counts)
        block = Block(kind, start, stop, len(table), seen_by.astype(np.int32), counts[seen_by].astype(np.int32))
        if self.ledger.held.get("kept", 0) + table.nbytes + PAIR_BYTES * len(halo) <= self.budget.kept:
            block.table, block.halo, block.row = table, halo, row
            self.ledger.add("kept", block.bytes)
        self.blocks.append(block)

    def read(self, kind: str, start: int, stop: int, cutout: Cutout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows start..stop: the table (n, columns) of those that `cutout` sees, and (halo, row) of every pair, int32."""
        names, started = carried(self.project.fields, kind), time.perf_counter()
        p = self.snapshot.read(kind, start, stop, self.project.mu_e, gas=reads_gas(self.project, kind), groups=self.cutout.extra > 0)
        self.rows_read += stop - start
        h = p.h if kind not in self.support else np.minimum(self.support[kind].read(start, stop)[p.index - start], self.snapshot.box / 2)
        where = np.column_stack([p.index, p.position, h, *[p.group] * self.cutout.extra])
        halo, row = cutout.pairs(kind, where, self.threads)
        seen = np.zeros(len(where), bool)
        seen[row] = True
        number = np.cumsum(seen, dtype=np.int32) - np.int32(1)
        p.keep(seen)
        table = np.column_stack([where[seen, :5], weights(p, names, self.project), where[seen, 5:]])
        self.seconds += time.perf_counter() - started
        return table, halo, number[row]

    def parts(self, kind: str, wanted: np.ndarray, low: int, high: int, final: bool) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For each block within rows low..high that serves a `wanted` halo (bool, by halo): table, halo, row of its pairs.

        Kept blocks are let go as they pass where this is the `final` use of them.
        """
        numbers = np.flatnonzero(wanted).astype(np.int32)
        some = self.cutout.subset(numbers)
        for block in self.blocks:
            if block.kind != kind or not low <= block.start < high:
                continue
            if wanted[block.halos].any():
                if block.table is None:
                    table, halo, row = self.read(kind, block.start, block.stop, some)
                    yield table, numbers[halo], row
                else:
                    mine = wanted[block.halo]
                    yield block.table, block.halo[mine], block.row[mine]
            if final and block.table is not None:
                self.ledger.add("kept", -block.bytes)
                block.table = block.halo = block.row = None
