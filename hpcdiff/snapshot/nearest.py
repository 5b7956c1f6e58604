"""Distance of every particle of a kind to its 64th neighbour in the periodic box, on all ranks, none of which holds the box.

The box is a grid of cells whose counts bound how far a neighbour can be (`domains.reach`), so each domain gets every particle that
it may need and no answer has to be made again. Distances are those between the stored coordinates and whole images of the box, so
their bits are the same for any number of ranks and any memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from hpcdiff.errors import Stopped, UserError
from hpcdiff.snapshot import domains
from hpcdiff.world import World

NEIGHBOURS = 64
"""The smoothing length is the distance to this neighbour, the particle itself not counted."""
SMALLEST = 1e-6
"""Of the box: no distance is given as less."""
PARTICLE_BYTES = 160
"""Memory that a particle takes in the search: positions as received, sorted and in the tree, and the tree itself."""
SLAB = 2**20
"""Particles read at once at most."""
QUERIES = 2**15
"""Particles whose neighbours are sought between two looks at the stop signal."""
LONELY = 1024
"""Particles at most that are compared with all others because what lies around them is more than fits."""


class Part(NamedTuple):
    """A domain, and the cells that it needs: numbers int32 (n,), and the image of the box, int8 (n, 3), in which each is needed."""

    domain: domains.Domain
    cells: np.ndarray
    shift: np.ndarray


class Search:
    """One search: this rank's rows are `first`..`last`, and `distance` holds their answers when `run` is done.

    Args:
        snapshot: has `box`, `count(kind)` and `positions(kind, start, stop)`.
        kind: of particles.
        world: the ranks.
        memory_gb: bound for this rank's particles, GB; what is taken beyond it says `support_radii`.
        threads: workers of the tree.
        n: number of the neighbour.
    """

    def __init__(self, snapshot, kind: str, world: World, memory_gb: float, threads: int = 1, n: int = NEIGHBOURS) -> None:
        self.snapshot, self.kind, self.world, self.threads = snapshot, kind, world, threads
        self.box, self.wanted = snapshot.box, n + 1  # a particle is its own nearest
        self.memory = memory_gb * 1e9
        rows = snapshot.count(kind)
        self.bounds = np.arange(world.size + 1) * rows // world.size
        self.first, self.last = int(self.bounds[world.rank]), int(self.bounds[world.rank + 1])
        self.slab = int(np.clip(self.memory / 8 / PARTICLE_BYTES, 256, SLAB))
        self.rounds = -(-int(np.diff(self.bounds).max()) // self.slab)
        self.kept: list | None = [] if 32 * (rows // world.size + 1) < self.memory / 4 else None
        self.distance = np.zeros(self.last - self.first, np.float32)
        self.side = domains.grid_side(rows)

    def run(self, bar) -> None:
        """Search. Collective; `bar.update` is told how many particles have their answer.

        Raises:
            UserError: the snapshot is damaged; `memory_gb` is too small for what stands in one place.
            Stopped: a signal came.
        """
        counts = np.zeros(self.side**3, np.int64)
        for _, position in self._blocks():
            counts += np.bincount(domains.cell_of(position, self.box, self.side), minlength=len(counts))
        counts = self.world.total(counts).reshape([self.side] * 3)
        if not counts.any():
            return
        near = domains.reach(counts, self.wanted)
        parts = self._domains(counts, near)
        self._far(near, int(counts.sum()), bar)
        for start in range(0, len(parts), self.world.size):
            self._turn(parts[start : start + self.world.size], near, bar)

    def _blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """This rank's (index, position), slab by slab, as many slabs on every rank; from memory if there is room. Collective."""
        whole = self.kept is not None and len(self.kept) == self.rounds
        for r in range(self.rounds):
            if whole:
                yield self.kept[r]
                continue
            a, b = (min(self.first + k * self.slab, self.last) for k in (r, r + 1))
            with self.world.together():
                block = self.snapshot.positions(self.kind, a, b)
            if self.kept is not None:
                self.kept.append(block)
            self._pause()
            yield block

    def _pause(self) -> None:
        if self.world.stop_agreed():
            raise Stopped("while seeking the neighbours of particles without smoothing lengths; run the same command again")

    def _far(self, near: np.ndarray, total: int, bar) -> None:
        """The few particles in near emptiness are compared with all others."""
        flat = near.ravel()
        if not (flat == domains.FAR).any():
            return
        index, position = [], []
        for i, x in self._blocks():
            far = flat[domains.cell_of(x, self.box, self.side)] == domains.FAR
            index.append(i[far])
            position.append(x[far])
        mine = np.concatenate(index)
        queries = np.concatenate(self.world.allgather(np.concatenate(position)))
        k = min(self.wanted, total)
        best = np.full((len(queries), k), np.inf)
        width = max(int(self.memory / 16 / 80 / max(len(queries), 1)), 1)
        for _, x in self._blocks():
            for start in range(0, len(x), width):
                squared = _squared(queries, x[start : start + width], self.box)
                best = np.partition(np.concatenate([best, squared], axis=1), k - 1, axis=1)[:, :k]
        before = sum(self.world.allgather(len(mine))[: self.world.rank])
        for start in range(0, len(queries), 64):  # a few at a time: each rank sends its own nearest of every one
            rows = slice(start, start + 64)
            nearest = np.partition(np.concatenate(self.world.allgather(best[rows]), axis=1), k - 1, axis=1)[:, k - 1]
            own = np.arange(start, start + len(nearest)) - before
            there = (own >= 0) & (own < len(mine))
            self._store(mine[own[there]], np.sqrt(nearest[there]))
        bar.update(len(queries))

    def _domains(self, counts: np.ndarray, near: np.ndarray) -> list[Part]:
        """Domains with the cells that each needs, the largest first; as many as memory asks for.

        The few particles of a lonely cell whose neighbours are more than fits are marked in `near` as `FAR`.
        """
        room, size = 0.6 * self.memory / PARTICLE_BYTES, self.world.size
        wanted = np.where(near > 0, counts, 0)
        total = int(wanted.sum())
        todo = domains.bisect(wanted, size * max(1, -(-total // int(max(room / 3, 1) * size))))
        done, lonely = [], []
        while todo := [d for d in todo if wanted[d.slices()].any()]:
            needs = []
            for domain in todo[self.world.rank :: size]:
                cells, shift = domains.cells_needed(domain, counts, near)
                need = int(counts.ravel()[cells].sum())
                needs.append((need, domain, cells, shift) if need <= room else (need, domain, None, None))
            split = []
            for need, domain, cells, shift in (part for parts in self.world.allgather(needs) for part in parts):
                if cells is not None:
                    done.append((need, Part(domain, cells, shift)))
                elif domain.single:
                    lonely.append((need, domain))
                else:
                    split += domains.bisect(wanted, 2, domain)
            todo = split
        if sum(int(counts[d.slices()].sum()) for _, d in lonely) > LONELY:
            need = max(need for need, _ in lonely)
            raise UserError(
                f"{need} particles of {self.kind} are needed at once to find neighbours in the densest place",
                "project.memory_gb",
                f"give at least {need * PARTICLE_BYTES / 0.6e9:.2g}",
            )
        for _, domain in lonely:
            near[domain.slices()] = domains.FAR
        return [part for _, part in sorted(done, key=lambda x: (-x[0], x[1].domain))]

    def _turn(self, parts: list[Part], near: np.ndarray, bar) -> None:
        """One domain a rank: collect its particles, find the neighbours of its own, send the answers home."""
        wants = _Wants(parts, near)
        got = [np.empty((0, 4))]
        for index, position in self._blocks():
            got.append(self.world.exchange_rows(*wants.rows(index, position, self.box, self.world.size)))
            self._pause()
        table = np.concatenate(got)
        del got
        index, distance = self._query(table)
        del table
        home = np.searchsorted(self.bounds, index, side="right") - 1
        order = np.argsort(home, kind="stable")
        back = self.world.exchange_rows(np.column_stack([index, distance])[order], np.bincount(home, minlength=self.world.size))
        self._store(back[:, 0].astype(np.int64), back[:, 1])
        bar.update(int(self.world.total(np.array([len(index)]))[0]))

    def _query(self, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Index and distance of the rows (n, 4): position, index that are this rank's own (index >= 0)."""
        own = np.flatnonzero(table[:, 3] >= 0)
        distance = np.zeros(len(table))
        tree = order = None
        if len(own):
            tree = cKDTree(np.ascontiguousarray(table[:, :3]), leafsize=32, balanced_tree=False, compact_nodes=True)
            order = tree.indices[table[tree.indices, 3] >= 0]  # neighbours in space after each other: leaves stay in the cache
        for r in range(-(-max(self.world.allgather(len(own))) // QUERIES)):
            if tree is not None and len(part := order[r * QUERIES : (r + 1) * QUERIES]):
                distance[part] = tree.query(table[part, :3], k=[self.wanted], workers=self.threads)[0][:, 0]
            self._pause()
        return table[own, 3].astype(np.int64), distance[own]

    def _store(self, index: np.ndarray, distance: np.ndarray) -> None:
        self.distance[index - self.first] = np.maximum(distance, SMALLEST * self.box)


class _Wants:
    """Which domains of a turn want the particles of a cell, and in which image; domain k is rank k's."""

    def __init__(self, parts: list[Part], near: np.ndarray) -> None:
        self.side = len(near)
        cells = np.concatenate([c for _, c, _ in parts])
        order = np.argsort(cells, kind="stable")
        self.starts = np.concatenate([np.zeros(1, np.int32), np.cumsum(np.bincount(cells, minlength=near.size), dtype=np.int32)])
        self.rank = np.concatenate([np.full(len(c), k, np.int32) for k, (_, c, _) in enumerate(parts)])[order]
        self.shift = np.concatenate([s for _, _, s in parts])[order]
        self.own = np.concatenate([_own(*part, near) for part in parts])[order]

    def rows(self, index: np.ndarray, position: np.ndarray, box: float, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows (n, 4) of position and index (-1 for one that is not the domain's own), sorted by rank, and how many for each of `size` ranks."""
        cell = domains.cell_of(position, box, self.side)
        times = self.starts[cell + 1] - self.starts[cell]
        row = np.repeat(np.arange(len(cell)), times)
        entry = np.arange(len(row)) - np.repeat(np.cumsum(times) - times, times) + self.starts[cell[row]]
        order = np.argsort(self.rank[entry], kind="stable")
        row, entry = row[order], entry[order]
        out = np.empty((len(row), 4))
        out[:, :3] = position[row] + self.shift[entry] * box
        out[:, 3] = np.where(self.own[entry], index[row], -1)
        return out, np.bincount(self.rank[entry], minlength=size)


def _own(domain: domains.Domain, cells: np.ndarray, shift: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Which of the cells that a domain needs are its own, with answers to find."""
    at = np.stack(np.unravel_index(cells, near.shape), axis=-1)
    inside = ((at >= domain.low) & (at < domain.high)).all(axis=1)
    return inside & (shift == 0).all(axis=1) & (near.ravel()[cells] > 0)


def _squared(queries: np.ndarray, others: np.ndarray, box: float) -> np.ndarray:
    """Squared distance to the nearest image, (n, m)."""
    out = np.zeros((len(queries), len(others)))
    for axis in range(3):
        own, there = queries[:, axis, None], others[None, :, axis]
        step = np.minimum(abs(own - there), np.minimum(abs(own - (there + box)), abs(own - (there - box))))
        out += step * step
    return out
