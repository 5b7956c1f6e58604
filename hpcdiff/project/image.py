"""Particles to images: the exact pixel average of each particle's analytic column.

Particles are taken in blocks of a fixed number. Within a block they are sorted by level of the pyramid, tile and window; runs of
them go to small buffers in float32, and those are added to the image in float64. Blocks, runs and the order of additions follow
from the sequence of particles alone, so the image has the same bits for any number of threads and any pieces it came in.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np

from hpcdiff.project import tiles
from hpcdiff.project.mesh import Mesh
from hpcdiff.project.pyramid import LARGEST, Pyramid, bring_up, taps
from hpcdiff.project.tiles import LANES, N_WIDTHS, SPILL
from hpcdiff.project.window import GROUP, RECORD, TILE, factors, jit

__all__ = ["Canvas", "deposit", "deposit_cost", "jit"]

AXES = {"x": (1, 2, 0), "y": (2, 0, 1), "z": (0, 1, 2)}
"""First and second transverse axis, and the line of sight, in cyclic order."""
BLOCK = 1 << 18
"""Least number of particles of a block."""
RUN = 8192
"""Most particles of a buffer: float32 keeps their sum to about 1e-5."""
PARTS = 8
"""Parts of a block that are sorted side by side."""
FEW = 300
"""Buffers that are added to the image by one thread rather than by all in four turns."""
MANY = 1000
"""Runs beyond which no buffer is kept: a thread fills one and adds it to the image at once, tile by tile."""


class _Scratch(threading.local):
    """Memory that canvases use in turn: sorted records of a block, and buffers."""

    def __init__(self):
        self.held = {}

    def take(self, name: str, n: int, width: int) -> np.ndarray:
        """Float32 (n, width), not cleared."""
        if name not in self.held or self.held[name].size < n * width:
            self.held[name] = np.empty(n * width, np.float32)
        return self.held[name][: n * width].reshape(n, width)


_scratch = _Scratch()


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)  # one for all canvases; a forked process has none of its parent's threads


def deposit(
    position: np.ndarray,
    h: np.ndarray,
    weights: np.ndarray,
    npix: int,
    width: float,
    axis: str = "z",
    method: str = "exact",
    threads: int | None = None,
) -> np.ndarray:
    """Project particles along an axis: the column density of each weight, averaged over each pixel.

    Args:
        position: (n, 3) Mpc about the centre of the map; every particle is used, however far along the line of sight.
        h: (n,) Mpc, support radius of the Wendland C2 kernel, above 0.
        weights: (n, k), what each particle carries; (n,) counts as k = 1.
        npix, width: pixels a side; side in Mpc.
        axis: line of sight; "z" gives an image (x, y), "x" (y, z), "y" (z, x).
        method: "exact", or "mesh": the paper's 3D mesh, summed (`mesh.Mesh`), which also cuts along the line of sight.
        threads: None = as many as there are cores for this process; the bits do not depend on it.
    Returns:
        float32 (k, npix, npix), weight per Mpc^2. Sums must stay within float32.
    Raises:
        ValueError: wrong shapes, h not above 0, numbers that are not finite, unknown axis or method.
    """
    if method not in ("exact", "mesh"):
        raise ValueError(f"method is {method!r}; one of exact, mesh")
    if axis not in AXES:
        raise ValueError(f"axis is {axis!r}; one of x, y, z")
    position, h, weights = (np.asarray(a, np.float64) for a in (position, h, weights))
    weights = weights[:, None] if weights.ndim == 1 else weights
    if position.ndim != 2 or position.shape[1] != 3 or h.shape != position.shape[:1] or weights.shape[:1] != h.shape or weights.ndim != 2:
        raise ValueError(f"shapes do not agree: position {position.shape}, h {h.shape}, weights {weights.shape}")
    if not (npix >= 1 and width > 0):
        raise ValueError(f"npix is {npix} and width {width}; both must be above 0")
    x, y, z = (position[:, n] for n in AXES[axis])
    if not np.isfinite(z).all():
        raise ValueError("positions are not finite")
    threads = threads or len(os.sched_getaffinity(0))
    if method == "mesh":
        mesh = Mesh(weights.shape[1], npix, width, threads)
        mesh.add(x, y, z, h, weights)
        return mesh.image()
    canvas = Canvas(weights.shape[1], npix, width, threads)
    canvas.add(x, y, h, weights)
    return canvas.image()


class Canvas:
    """The images of one view, filled piece by piece.

    The image depends on the sequence of particles alone: not on threads, not on how the sequence is cut into calls of `add`.
    Memory: 11 k npix^2 bytes for the sums, and 18 + 4 k bytes for each particle that came, up to a block of 2^18 (or half the
    number of pixels, at most 2^22); what else a block needs, 16 + 4 k bytes a particle and buffers, all canvases of a thread share.

    Args:
        k: weights a particle.
        npix, width: pixels a side; side in Mpc.
        threads: threads to use.
    """

    def __init__(self, k: int, npix: int, width: float, threads: int):
        self.k, self.npix, self.width, self.threads = k, npix, width, max(1, threads)
        self.pyramid = Pyramid(npix)
        self.level_of = np.repeat(np.arange(len(self.pyramid.levels)), self.pyramid.levels[:, 3] ** 2)
        self.sums = np.zeros(self.pyramid.n_pixels * k)
        self.used = np.zeros(len(self.pyramid.levels), bool)
        self.block = max(BLOCK, min(npix**2 // 2, BLOCK << 4))
        self.unit = 2.0 ** round(2 * np.log2(npix / width))  # float32 holds a weight over a pixel's area as it holds the image
        self.filled = 0
        self._room(0)

    def _room(self, n: int) -> None:
        """Make room for n particles of a block, keeping those that are there."""
        old = getattr(self, "parts", None)
        shapes = (((n,), np.int32), ((n,), np.uint16), ((n, 3), np.float32), ((n, self.k), np.float32))
        self.parts = [np.empty(shape, kind) for shape, kind in shapes]  # key, corner, place, carried
        if old is not None:
            for new, before in zip(self.parts, old, strict=True):
                new[: self.filled] = before[: self.filled]

    def add(self, x: np.ndarray, y: np.ndarray, h: np.ndarray, weights: np.ndarray) -> None:
        """Add particles.

        Args:
            x, y: float64 (n,) Mpc about the centre, along i and j.
            h: float64 (n,) Mpc, support radius, above 0.
            weights: float64 (n, k).
        Raises:
            ValueError: a number that is not finite, h not above 0, a weight over a pixel's area that float32 does not hold.
        """
        start = 0
        while start < len(h):
            n = min(len(h) - start, self.block - self.filled)
            if self.filled + n > len(self.parts[0]):
                self._room(min(self.block, max(self.filled + n, 2 * len(self.parts[0]))))
            self._prepare(*(a[start : start + n] for a in (x, y, h, weights)))
            self.filled += n
            start += n
            if self.filled == self.block:
                self._flush()

    def _prepare(self, x, y, h, weights) -> None:
        scale, levels = self.npix / self.width, self.pyramid.levels
        here = [part[self.filled : self.filled + len(h)] for part in self.parts]

        def prepare(a: int, b: int) -> int:
            given, made = (q[a:b] for q in (x, y, h, weights)), (part[a:b] for part in here)
            return tiles.prepare(*given, scale, self.unit, levels, self.npix, LARGEST, tiles.CLASS, *made)

        bad = sum(self._together(prepare, _even(len(h), 2 * self.threads if len(h) > 4000 else 1)))
        if bad:
            raise ValueError(f"{bad} particles are not finite, have an h that is not above 0, or weigh more than float32 holds")

    def _together(self, function, arguments: list[tuple]) -> list:
        """What the function returns for each of the arguments; the calling thread and others take them one by one."""
        results, turn = [None] * len(arguments), iter(enumerate(arguments))

        def work() -> None:
            for n, each in turn:
                results[n] = function(*each)

        jobs = []
        if self.threads > 1:
            pool = _pool(self.threads, os.getpid())
            jobs = [pool.submit(work) for _ in range(min(self.threads, len(arguments)) - 1)]
        work()
        for job in jobs:
            if not job.cancel():  # one that has not begun finds nothing left to do
                job.result()
        return results

    def _flush(self) -> None:
        """Deposit the block."""
        key, corner, place, carried = (part[: self.filled] for part in self.parts)
        parts = _even(self.filled, PARTS)
        counts = np.zeros((len(parts), self.pyramid.n_tiles * N_WIDTHS), np.int64)
        for n, (a, b) in enumerate(parts):
            tiles.count(key[a:b], counts[n])
        starts = np.concatenate([[0], np.cumsum(counts.sum(axis=0))])
        target = starts[:-1] + np.cumsum(counts, axis=0) - counts
        records = _scratch.take("records", int(starts[-1]), RECORD + self.k)
        self._together(
            lambda n, a, b: tiles.sort(key[a:b], corner[a:b], place[a:b], carried[a:b], target[n], records),
            [(n, *part) for n, part in enumerate(parts)],
        )
        chunks = self._chunks(starts)
        for first in range(0, self.k, GROUP):
            self._deposit(records, starts, chunks, first, (0,) * min(GROUP, self.k - first))
        self.filled = 0

    def _chunks(self, starts: np.ndarray) -> np.ndarray:
        """Runs of records of one tile, int64 (m, 3): tile, start, stop; by colour, then tile."""
        edges = starts[::N_WIDTHS]
        tile = np.flatnonzero(edges[1:] > edges[:-1])
        tile = tile[np.argsort(self.pyramid.colour[tile], kind="stable")]
        length = edges[tile + 1] - edges[tile]
        pieces = -(-length // RUN)
        which = np.repeat(np.arange(len(tile)), pieces)
        number = np.arange(len(which)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        start, stop = (edges[tile[which]] + length[which] * (number + more) // pieces[which] for more in (0, 1))
        self.used[self.level_of[tile]] = True
        return np.stack([tile[which], start, stop], axis=1)

    def _deposit(self, records: np.ndarray, starts: np.ndarray, chunks: np.ndarray, first: int, group: tuple) -> None:
        """Deposit a group of weights, from the `first` on: each run to a buffer, then buffers to the sums, colour after colour."""
        kernel, size = factors(), (TILE + SPILL) * len(group) * LANES
        cost, colour = 3000 + chunks[:, 2] - chunks[:, 1], self.pyramid.colour[chunks[:, 0]]
        buffers = _scratch.take("buffers", len(chunks) if self.threads > 1 and len(chunks) <= MANY else 0, size)
        if len(buffers):
            self._together(
                lambda a, b: tiles.deposit_chunks(records, starts, chunks[a:b], first, kernel, group, buffers[a:b]),
                _runs(cost, 4 * self.threads),
            )

        def add(which: np.ndarray) -> None:
            given = records, starts, chunks, which, first, kernel, group, buffers
            tiles.deposit_tiles(*given, self.pyramid.levels, self.level_of, self.sums)

        if self.threads == 1 or len(chunks) <= min(FEW, MANY):
            add(np.arange(len(chunks)))
            return
        for which in (np.flatnonzero(colour == c) for c in range(4)):
            if len(which):
                self._together(add, [(which[a:b],) for a, b in _runs(cost[which], 2 * self.threads, chunks[which, 0])])

    def image(self) -> np.ndarray:
        """The column density of each weight, float32 (k, npix, npix) per Mpc^2, averaged over each pixel; ends the canvas."""
        if self.filled:
            self._flush()
        levels = self.pyramid.levels
        views = [self.sums[p * self.k : (p + s * s) * self.k].reshape(s, self.k, s) for s, _, p, *_ in levels.tolist()]
        for level in range(int(np.flatnonzero(self.used).max(initial=0)), 0, -1):
            margins = int(levels[level, 1]), int(levels[level - 1, 1])
            self._rows(len(views[level]), bring_up, views[level], views[level - 1], *margins, taps())
        image = np.empty((self.k, self.npix, self.npix), np.float32)
        self._rows(self.npix, tiles.finish, views[0], (self.npix / self.width) ** 2 / self.unit, image)
        return image

    def _rows(self, n: int, function, *arguments) -> None:
        """Call the function with the arguments and each of some ranges of n rows."""
        self._together(lambda a, b: function(*arguments, a, b), _even(n, 2 * self.threads if n > 64 else 1))


def _even(n: int, parts: int) -> list[tuple[int, int]]:
    """Ranges (start, stop) that cut n into parts of about equal length."""
    edges = [n * part // parts for part in range(parts + 1)]
    return list(zip(edges, edges[1:], strict=False))


def _runs(cost: np.ndarray, n: int, group: np.ndarray | None = None) -> list[tuple[int, int]]:
    """Up to n consecutive runs (start, stop) of about equal cost; none ends between two of the same group."""
    cumulative = np.cumsum(cost)
    inner = np.searchsorted(cumulative, cumulative[-1] * np.arange(1, n) / n)
    if group is not None:
        new = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1], [True]]))
        inner = new[np.searchsorted(new, inner)]
    edges = np.unique(np.concatenate([[0], inner, [len(cost)]])).tolist()
    return list(zip(edges, edges[1:], strict=False))


COST = {0.1: 48.0, 0.5: 58.0, 1.5: 69.0, 3.5: 95.0, 5.5: 150.0, LARGEST: 178.0}
"""Nanoseconds for a particle with a support radius of up to so many pixels of its level: one core of 3 GHz, 4 weights."""


def deposit_cost(radius_pixels: np.ndarray, npix: int) -> np.ndarray:
    """Predicted time to deposit a particle, in about nanoseconds on one core; it does not grow with the particle's area.

    Args:
        radius_pixels: support radius in pixels, any shape; npix: pixels along the map's side.
    """
    radius = np.clip(np.asarray(radius_pixels, np.float64), 1e-9, LARGEST * 2.0 ** (len(Pyramid(npix).levels) - 1))
    on_level = radius / 2.0 ** np.maximum(np.ceil(np.log2(radius / LARGEST)), 0)
    return np.interp(on_level, list(COST), list(COST.values()))
