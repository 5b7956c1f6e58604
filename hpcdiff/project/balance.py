"""Who projects what and when: work dealt to ranks and passes by predicted cost, within bounds of memory.

Pure functions of what each halo costs: no ranks, no files, so the plan for 10^5 ranks can be looked at in one process.
A unit of work is a halo with a run of its views. Units are dealt in order of falling cost, each to the (rank, pass) that
has least so far and still has room for its particles (longest processing time first, Graham 1969).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpcdiff.errors import UserError
from hpcdiff.project.cutout import ranges
from hpcdiff.project.deal import deal, flushes

FRACTIONS = (0.5, 0.3, 0.18, 0.1, 0.06, 0.03)
"""Halos that cost more than such a part of a rank's mean load are split; the plan that is done soonest is taken."""
BALANCED = 1.03
"""Balance with which the planner is content, and tries no smaller part."""


@dataclass(frozen=True)
class Rates:
    """Seconds of one core, as benchmarks/project_scaling.py fits them."""

    read: float = 1.8e-7
    """Reading a particle and finding the halos that see it."""
    row: float = 2.0e-7
    """Sending a particle to a rank, finding its halo again, gathering it."""
    seen: float = 2.6e-8
    """Turning a particle into one view and asking whether it lies inside."""
    deposit: float = 7.0e-10
    """One unit of `image.deposit_cost`."""
    pixel: float = 1.4e-8
    """Clearing, scaling and writing one pixel of one field of one view."""
    unit: float = 1.7e-3
    """Beginning and ending a unit of work."""


RATES = Rates()


@dataclass(frozen=True)
class Budget:
    """How one rank's `project.memory_gb` is shared out, all in bytes.

    Attributes:
        total: all of it.
        kept: particles that the rank has read and keeps.
        received: particles of the halos that it projects, and which halo sees which.
        sent: particles on their way.
        canvas: images in work, in double precision.
        maps: finished maps that wait to be written.
        read: a block of the snapshot while it is read.
    """

    total: int
    kept: int
    received: int
    sent: int
    canvas: int
    maps: int
    read: int

    @classmethod
    def of(cls, memory_gb: float) -> Budget:
        """Shares of `memory_gb` (1e9 bytes)."""
        total = memory_gb * 1e9
        return cls(int(total), *(int(total * part) for part in (0.25, 0.15, 0.05, 0.35, 0.10, 0.10)))


@dataclass
class Load:
    """What each halo asks for; arrays by halo.

    Attributes:
        views: int64 (n,), views to be made.
        step: int64 (n,), views that belong to one sightline and are best kept together.
        rows: int64 (n,), particles.
        row_bytes: int64 (n,), bytes of them on the rank that projects the halo.
        seconds: float64 (n,), predicted for one view.
        canvas: int64 (n,), bytes of one view in work.
        map_bytes: bytes of one view's finished maps.
        place: float64 (n,), where its particles stand in the snapshot: halos of one pass are neighbours in this, so that
            blocks that have to be read again serve few passes. None = any order.
    """

    views: np.ndarray
    step: np.ndarray
    rows: np.ndarray
    row_bytes: np.ndarray
    seconds: np.ndarray
    canvas: np.ndarray
    map_bytes: int
    place: np.ndarray | None = None


@dataclass
class Plan:
    """Who projects what and when; arrays by unit, ordered by (pass, rank, flush).

    Attributes:
        ranks: how many.
        halo, first, last: int64 (m,): views first..last of a halo.
        rank, turn, flush: int64 (m,): who, in which pass, written in which collective write of that pass.
        seconds: float64 (m,), predicted.
        row_bytes, map_bytes: int64 (m,), of its particles and its finished maps.
        streamed: bool (n_turns,): particles of this pass arrive in several windows, because a halo has too many.
        flushes: int64 (n_turns,), collective writes of each pass.
    """

    ranks: int
    halo: np.ndarray
    first: np.ndarray
    last: np.ndarray
    rank: np.ndarray
    turn: np.ndarray
    flush: np.ndarray
    seconds: np.ndarray
    row_bytes: np.ndarray
    map_bytes: np.ndarray
    streamed: np.ndarray
    flushes: np.ndarray

    @property
    def turns(self) -> int:
        """Number of passes."""
        return len(self.streamed)

    def units(self, rank: int, turn: int) -> np.ndarray:
        """Numbers of one rank's units in one pass, in order of their writes."""
        first, last = np.searchsorted(self._place, [turn * self.ranks + rank, turn * self.ranks + rank + 1])
        return np.arange(first, last)

    @property
    def _place(self) -> np.ndarray:
        return self.turn * self.ranks + self.rank

    def busy(self) -> np.ndarray:
        """Predicted seconds of each rank between two writes, float64 (n_writes, ranks)."""
        before = np.concatenate([[0], np.cumsum(self.flushes)])
        slot = (before[self.turn] + self.flush) * self.ranks + self.rank
        return np.bincount(slot, self.seconds, minlength=int(before[-1]) * self.ranks).reshape(-1, self.ranks)

    @property
    def balance(self) -> float:
        """Predicted time until all are done over the mean a rank works, at least 1: ranks meet at each write."""
        busy = self.busy()
        return float(busy.max(axis=1).sum() / busy.mean(axis=1).sum()) if busy.any() else 1.0

    @property
    def wall(self) -> float:
        """Predicted seconds of projecting, ranks waiting for the slowest at each write."""
        return float(self.busy().max(axis=1).sum()) if len(self.halo) else 0.0

    def received(self) -> np.ndarray:
        """Bytes of particles that each rank receives in each pass, int64 (n_turns, ranks), overlaps counted twice."""
        total = np.bincount(self._place, self.row_bytes, minlength=self.turns * self.ranks)
        return total.astype(np.int64).reshape(self.turns, self.ranks)

    def describe(self) -> str:
        """One line for the user."""
        received = self.received()[~self.streamed]
        passes = f"{self.turns} pass{'es' if self.turns != 1 else ''}"
        if self.streamed.any():
            passes += f" ({int(self.streamed.sum())} streamed)"
        most, whole = (received.max(), received.sum()) if received.size else (0, 0)
        return (
            f"{self.ranks} rank{'s' if self.ranks != 1 else ''}, {passes}, {len(self.halo)} units of work, {size_text(whole)} of particles "
            f"to their halos, {size_text(most)} a rank at most, {int(self.flushes.sum())} writes, "
            f"balance predicted {self.balance:.3f}, {time_text(self.wall)}"
        )

    def messages(self) -> int:
        """Most messages between ranks: every rank to every other with work, once a pass."""
        busy = np.unique(self._place)
        return len(busy) * (self.ranks - 1)


def size_text(n: float) -> str:
    """Bytes for a person to read."""
    return next((f"{n / unit:.3g} {name}" for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")) if n >= unit), f"{n / 1e3:.3g} kB")


def time_text(seconds: float) -> str:
    """Seconds for a person to read."""
    units = ((86400, "days"), (3600, "h"), (60, "min"))
    return next((f"{seconds / unit:.3g} {name}" for unit, name in units if seconds >= 2 * unit), f"{seconds:.2g} s")


def make_plan(load: Load, ranks: int, budget: Budget) -> Plan:
    """Deal the views of all halos to ranks and passes.

    Raises:
        UserError: not even one view at a time fits into the budget.
    """
    need = max(int(load.canvas.max()) / budget.canvas, load.map_bytes / budget.maps)
    if need > 1:
        what = f"one view needs more memory than project.memory_gb = {budget.total / 1e9:.3g} leaves for it"
        raise UserError(what, "config", f"at least {need * budget.total / 1e9 * 1.01:.3g}")
    best = None
    for fraction in FRACTIONS:
        plan = _plan(load, ranks, budget, fraction)
        if best is None or plan.wall < best.wall:
            best = plan
        if best.balance < BALANCED:
            break
    return best


def _plan(load: Load, ranks: int, budget: Budget, fraction: float) -> Plan:
    halo, first, last, seconds = _units(load, ranks, budget, fraction)
    n_views, rows = last - first, load.row_bytes[halo]
    canvas, finished = load.canvas[halo] * n_views, load.map_bytes * n_views
    giant = rows > budget.received
    rank, turn = np.zeros(len(halo), np.int64), np.zeros(len(halo), np.int64)
    turns = 0
    for streamed, needs, room in ((False, rows, budget.received), (True, canvas, budget.canvas)):
        mine = np.flatnonzero(giant == streamed)
        if len(mine):
            place = np.zeros(len(mine)) if load.place is None else load.place[halo[mine]]
            rank[mine], when, n = deal(seconds[mine], needs[mine], place, ranks, room)
            turn[mine] = when + turns
            turns += n
        if not streamed:
            whole = turns
    order = np.lexsort((np.arange(len(halo)), -seconds, rank, turn))
    halo, first, last, rank, turn, seconds, rows, finished = (a[order] for a in (halo, first, last, rank, turn, seconds, rows, finished))
    streamed = np.arange(turns) >= whole
    flush, writes = flushes(rank, turn, seconds, finished, ranks, turns, budget.maps)
    return Plan(ranks, halo, first, last, rank, turn, flush, seconds, rows, finished, streamed, writes)


def _units(load: Load, ranks: int, budget: Budget, fraction: float) -> tuple[np.ndarray, ...]:
    """Halos, cut where they cost more than `fraction` of a rank's mean load or their maps would fill the memory."""
    per_halo = RATES.unit + RATES.row * load.rows
    whole = per_halo + load.seconds * load.views
    parts = np.ceil(whole / max(fraction * whole.sum() / ranks, 1e-300)).astype(np.int64) if ranks > 1 else np.ones(len(whole), np.int64)
    most = np.maximum(1, np.minimum(budget.canvas // np.maximum(load.canvas, 1), budget.maps // load.map_bytes))
    sightlines = -(-load.views // load.step)
    fit = np.where(load.step <= most, -(-sightlines // np.maximum(most // load.step, 1)), -(-load.views // most))
    parts = np.minimum(np.maximum(np.maximum(parts, fit), 1), load.views)
    parts = np.where(parts <= sightlines, -(-sightlines // np.maximum(sightlines // parts, 1)), parts)  # parts alike
    k = ranges(np.zeros(len(parts), np.int64), parts)
    halo = np.repeat(np.arange(len(parts)), parts)
    q, n, s = parts[halo], load.views[halo], load.step[halo]
    by_sightline = (q <= sightlines[halo]) & (s <= most[halo])

    def edge(j: np.ndarray) -> np.ndarray:
        return np.where(by_sightline, np.minimum(sightlines[halo] * j // q * s, n), n * j // q)

    first, last = edge(k), edge(k + 1)
    return halo, first, last, per_halo[halo] + load.seconds[halo] * (last - first)
