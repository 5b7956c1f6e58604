"""Particles to images: the exact pixel average of each particle's analytic column.

Each pixel's integral is the difference of four corner values of the kernel's cumulative integral (`kernel.rectangle_table`),
and neighbouring pixels share corners. Threads own bands of rows and go over the particles in their order, so every pixel
is the same sum in the same order for any number of threads.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np

from hpcdiff.project.kernel import TABLE, rectangle_table

AXES = {"x": (1, 2, 0), "y": (2, 0, 1), "z": (0, 1, 2)}
"""First and second transverse axis, and the line of sight, in cyclic order."""


WIDE = 48
"""Pixels across a footprint from which on a line of the table is interpolated as a whole."""


def jit(function):
    """numba.njit without the GIL, cached on disk where a cache can be written."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # a read-only installation and no home to write to
        return numba.njit(nogil=True)(function)


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
        method: "exact"; "mesh" (the paper's 3D mesh, summed) is not built yet.
        threads: None = as many as there are cores for this process; the bits do not depend on it.
    Returns:
        float32 (k, npix, npix), weight per Mpc^2. Sums must stay within float32.
    Raises:
        ValueError: wrong shapes, h not above 0, numbers that are not finite, unknown axis or method.
    """
    if method != "exact":
        raise ValueError(f"method {method!r} is not built yet; use 'exact'" if method == "mesh" else f"unknown method {method!r}")
    if axis not in AXES:
        raise ValueError(f"axis is {axis!r}; one of x, y, z")
    position, h, weights = (np.asarray(a, np.float64) for a in (position, h, weights))
    weights = weights[:, None] if weights.ndim == 1 else weights
    if position.ndim != 2 or position.shape[1] != 3 or h.shape != position.shape[:1] or weights.shape[:1] != h.shape or weights.ndim != 2:
        raise ValueError(f"shapes do not agree: position {position.shape}, h {h.shape}, weights {weights.shape}")
    if not (npix >= 1 and width > 0):
        raise ValueError(f"npix is {npix} and width {width}; both must be above 0")
    if not (np.isfinite(position).all() and np.isfinite(weights).all()):
        raise ValueError("positions or weights are not finite")
    if not ((h > 0) & np.isfinite(h)).all():
        raise ValueError("h must be above 0 and finite")
    first, second, _ = AXES[axis]
    scale = npix / width
    u = position[:, first] * scale + npix / 2  # pixels from the map's corner
    v = position[:, second] * scale + npix / 2
    r = h * scale
    weights = np.ascontiguousarray(weights) * scale**2
    image = np.zeros((weights.shape[1], npix, npix))
    table = rectangle_table()
    n_threads = max(1, min(threads or len(os.sched_getaffinity(0)), npix))
    if len(h) < 2000:
        n_threads = 1
    if n_threads == 1:
        _add_rows(u, v, r, weights, table, image, 0, npix)
    else:
        edges = _bands(_row_cost(u, v, r, npix), n_threads)
        with ThreadPoolExecutor(n_threads) as pool:
            jobs = [pool.submit(_add_rows, u, v, r, weights, table, image, a, b) for a, b in zip(edges, edges[1:], strict=False)]
            for job in jobs:
                job.result()
    return image.astype(np.float32)


def _bands(cost: np.ndarray, n: int) -> list[int]:
    """Edges of n bands of rows of about equal cost."""
    cumulative = np.concatenate([[0], np.cumsum(cost, dtype=np.float64)])
    inner = np.searchsorted(cumulative, cumulative[-1] * np.arange(1, n) / n)
    return [0, *np.maximum.accumulate(inner).tolist(), len(cost)]


@jit
def _row_cost(u, v, r, npix):
    """Work in each row of the image: corners to look up."""
    change = np.zeros(npix + 1)
    for p in range(len(u)):
        low, high = max(u[p] - r[p], 0.0), min(u[p] + r[p], npix - 1e-9)
        across = min(v[p] + r[p], npix - 0.0) - max(v[p] - r[p], 0.0)
        if high >= low and across > 0:
            change[int(low)] += across + 5
            change[int(high) + 1] -= across + 5
    return np.cumsum(change)[:npix]


@jit
def _add_rows(u, v, r, weights, table, image, row_start, row_stop):
    """Add all particles, in order, to rows row_start..row_stop of image (k, npix, npix)."""
    k, npix = image.shape[0], image.shape[1]
    cell = np.empty(npix + 1, np.uintp)  # unsigned, for the same reason as below
    part = np.empty(npix + 1)
    sign = np.empty(npix + 1)
    upper = np.empty(npix + 1)
    lower = np.empty(npix + 1)
    share = np.empty(npix)
    line = np.empty(TABLE + 1)
    one = np.uintp(1)
    for p in range(len(u)):
        x, y, size = u[p], v[p], r[p]
        if x + size <= row_start or x - size >= row_stop or y + size <= 0 or y - size >= npix:
            continue
        i0 = max(int(np.floor(x - size)), 0)
        i1 = min(int(np.ceil(x + size)), npix)
        j0 = max(int(np.floor(y - size)), 0)
        j1 = min(int(np.ceil(y + size)), npix)
        if x - size >= i0 and x + size <= i0 + 1 and y - size >= j0 and y + size <= j0 + 1:
            if row_start <= i0 < row_stop:
                for c in range(k):
                    image[c, i0, j0] += weights[p, c]
            continue
        scale = 1.0 / size
        width = j1 - j0  # buffers count from j0: with ranges from 0 numba drops the test for negative indices
        for q in range(width + 1):
            s = (j0 + q - y) * scale
            t = min(abs(s), 1.0) * TABLE
            n = min(int(t), TABLE - 1)
            cell[q] = n
            sign[q] = 1.0 if s >= 0 else -1.0
            part[q] = t - n
        a, b = max(i0, row_start), min(i1, row_stop)
        for i in range(a, b + 1):
            s = (i - x) * scale
            t = min(abs(s), 1.0) * TABLE
            m = np.uintp(min(int(t), TABLE - 1))
            f = t - m
            g = 1.0 if s >= 0 else -1.0
            if width > WIDE:  # interpolate the whole line of the table first: a straight pass, and half the look-ups
                for n in range(TABLE + 1):
                    line[n] = g * (table[m, n] + f * (table[m + one, n] - table[m, n]))
                for q in range(width + 1):
                    n = cell[q]
                    upper[q] = sign[q] * (line[n] + part[q] * (line[n + one] - line[n]))
            else:
                for q in range(width + 1):
                    n = cell[q]
                    near = table[m, n] + f * (table[m + one, n] - table[m, n])
                    far = table[m, n + one] + f * (table[m + one, n + one] - table[m, n + one])
                    upper[q] = g * sign[q] * (near + part[q] * (far - near))
            if i > a:
                for q in range(width):
                    share[q] = (upper[q + 1] - upper[q]) - (lower[q + 1] - lower[q])
                for c in range(k):
                    w = weights[p, c]
                    row = image[c, i - 1, j0:j1]
                    for q in range(width):
                        row[q] += w * share[q]
            upper, lower = lower, upper
