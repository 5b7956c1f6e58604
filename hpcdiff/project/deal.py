"""Units of work dealt to ranks, passes and writes: longest processing time first, within room (Graham 1969)."""

from __future__ import annotations

import math

import numpy as np

from hpcdiff.project.image import jit

FLUSH_SECONDS = 30.0
"""Predicted time between two collective writes, where the ranks meet and ask whether to stop."""
LONG = 5
"""Longest units of work between two writes, at least: ranks wait for each other there by about half a unit."""
TRIED = 64
"""Bins without room that are tried for a unit before it is left to the next pass."""


def deal(seconds: np.ndarray, needs: np.ndarray, place: np.ndarray, ranks: int, room: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Rank and pass of every unit, and the number of passes that it takes: neighbours in `place` share a pass, and what
    finds no room in its pass goes first in the next."""
    assert (needs <= room).all(), "a unit that fits nowhere would never be dealt"
    by_place = np.argsort(place, kind="stable")
    filled = np.cumsum(needs[by_place], dtype=np.float64)
    whole = max(filled[-1], 1.0)  # halos without a particle need nothing
    turns = max(1, math.ceil(whole / (float(ranks) * room)))
    due = np.minimum((filled - needs[by_place] / 2) / whole * turns, turns - 1).astype(np.int64)
    edges = np.searchsorted(due, np.arange(turns + 1))
    rank, turn = np.empty(len(place), np.int64), np.empty(len(place), np.int64)
    left, t = np.empty(0, np.int64), 0
    while t < turns or len(left):
        mine = np.concatenate([left, by_place[edges[t] : edges[t + 1]]]) if t < turns else left
        mine = mine[np.argsort(-seconds[mine], kind="stable")]
        smallest = np.minimum.accumulate(needs[mine][::-1])[::-1].copy()
        rank[mine] = _deal(seconds[mine], needs[mine], smallest, ranks, room)
        turn[mine], left = t, mine[rank[mine] < 0]
        t += 1
    used, turn = np.unique(turn, return_inverse=True)  # none is empty
    return rank, turn, len(used)


@jit
def _sink(heap, size, load, k):
    """Move the entry at `k` down until no child has less load (ties: the lower bin first)."""
    while True:
        child = 2 * k + 1
        if child >= size:
            return
        a = heap[child]
        if child + 1 < size:
            b = heap[child + 1]
            if load[b] < load[a] or (load[b] == load[a] and b < a):
                child += 1
                a = b
        top = heap[k]
        if load[top] < load[a] or (load[top] == load[a] and top < a):
            return
        heap[k], heap[child] = a, top
        k = child


@jit
def _rise(heap, load, k):
    while k > 0:
        parent = (k - 1) // 2
        a, b = heap[parent], heap[k]
        if load[a] < load[b] or (load[a] == load[b] and a < b):
            return
        heap[parent], heap[k] = b, a
        k = parent


@jit
def _deal(seconds, needs, smallest, bins, room):
    """The bin of every unit, dearest first, each to the bin with least load that has room; -1 where none of the first has."""
    load = np.zeros(bins)
    free = np.full(bins, room)
    heap = np.arange(bins)
    size = bins
    place = np.empty(len(seconds), np.int64)
    aside = np.empty(min(bins, TRIED), np.int64)
    for u in range(len(seconds)):
        n_aside = 0
        while size and n_aside < TRIED and free[heap[0]] < needs[u]:
            b = heap[0]
            size -= 1
            heap[0] = heap[size]
            _sink(heap, size, load, 0)
            if free[b] >= smallest[u]:
                aside[n_aside] = b
                n_aside += 1
        place[u] = -1
        if size and free[heap[0]] >= needs[u]:
            b = heap[0]
            place[u] = b
            load[b] += seconds[u]
            free[b] -= needs[u]
            _sink(heap, size, load, 0)
        for k in range(n_aside):
            heap[size] = aside[k]
            _rise(heap, load, size)
            size += 1
    return place


def flushes(
    rank: np.ndarray, turn: np.ndarray, seconds: np.ndarray, map_bytes: np.ndarray, ranks: int, turns: int, room: int
) -> tuple[np.ndarray, np.ndarray]:
    """The write of its pass after which each unit is on disk, and the number of writes of each pass.

    All ranks meet at a write, so each one's n-th holds what it has finished by the same predicted time, or as much as fits.
    """
    place = turn * ranks + rank
    mean = np.bincount(turn, seconds, minlength=turns) / ranks
    longest = np.zeros(turns)
    np.maximum.at(longest, turn, seconds)
    n = np.maximum(np.floor(mean / np.maximum(FLUSH_SECONDS, LONG * longest)), 1)
    flush = _fill_slots(place, seconds, map_bytes, (mean / n)[turn], n[turn], room)
    writes = np.zeros(turns, np.int64)
    np.maximum.at(writes, turn, flush + 1)
    return flush, writes


@jit
def _fill_slots(place, seconds, map_bytes, slot, n_slots, room):
    flush = np.zeros(len(place), np.int64)
    elapsed, held, now = 0.0, 0, 0
    for u in range(len(place)):
        if u == 0 or place[u] != place[u - 1]:
            elapsed, held, now = 0.0, 0, 0
        due = min(int((elapsed + 0.5 * seconds[u]) / slot[u]), int(n_slots[u]) - 1) if slot[u] > 0 else 0
        if due > now:
            now, held = due, 0
        elif held + map_bytes[u] > room:
            now, held = now + 1, 0
        flush[u] = now
        held += map_bytes[u]
        elapsed += seconds[u]
    return flush
