"""The passes of the deposit: particles to records, records to tiles, tiles to the sums of the pyramid.

Every pass is cut into parts that don't depend on the number of threads, and adds in an order that doesn't either.
"""

from __future__ import annotations

import numpy as np

from hpcdiff.project.window import LANES_OF, RECORD, TILE, WIDTHS, jit, window

SPILL = max(WIDTHS) - 1
"""Pixels that a window reaches beyond the tile that it begins in."""
LANES = TILE + max(LANES_OF.values())
"""Length of a buffer's row: a tile and what spills over."""
N_WIDTHS = len(WIDTHS)
CLASS = np.searchsorted(WIDTHS, np.arange(max(WIDTHS) + 1)).astype(np.int32)
"""Index into `WIDTHS` of the least window that holds so many pixels."""


@jit
def prepare(x, y, h, weights, scale, unit, levels, npix, largest, classes, key, corner, place, carried):
    """Level, tile, window and place of each particle: key (n,) = tile * N_WIDTHS + window, or -1 for one that misses the map.

    Returns the number of particles that are not finite, whose h is not above 0, or whose weight is beyond float32.
    """
    half, top, bad = 0.5 * npix, len(levels) - 1, 0
    for p in range(len(x)):
        total = x[p] + y[p]
        for c in range(weights.shape[1]):
            total += weights[p, c]
        key[p] = -1
        if not (np.isfinite(total) and np.isfinite(h[p]) and h[p] > 0):
            bad += 1
            continue
        u, v, r, level, shrink = x[p] * scale, y[p] * scale, max(h[p] * scale, 1e-9), 0, 1.0
        zoom = 1.0
        while r * zoom > largest and level < top:
            zoom *= 0.5
            level += 1
        r *= zoom
        if r > largest:  # so large that its column is flat over the map: the same column from a smaller one nearby
            shrink = largest / r
            r = largest
        side, margin, _, tiles, first = levels[level]
        low, high = -float(margin), float(side - margin)
        u = u * zoom * shrink + half * zoom
        v = v * zoom * shrink + half * zoom
        i, j, i_end, j_end = np.floor(u - r), np.floor(v - r), np.ceil(u + r), np.ceil(v + r)
        if not (i_end > low and i < high and j_end > low and j < high):
            continue
        span = np.int64(max(i_end - i, j_end - j, 1.0))
        a, b = np.int64(i) + margin + SPILL, np.int64(j) + margin + SPILL
        key[p] = (first + (a // TILE) * tiles + b // TILE) * N_WIDTHS + classes[span]
        corner[p] = (a % TILE) * TILE + b % TILE
        place[p, 0], place[p, 1], place[p, 2] = v - j, u - i, 1.0 / r
        for c in range(weights.shape[1]):
            carried[p, c] = weights[p, c] * (shrink * shrink * unit)
            if not np.isfinite(carried[p, c]):
                bad += 1
    return bad


@jit
def count(key, counts):
    """Particles of each key."""
    for p in range(len(key)):
        if key[p] >= 0:
            counts[key[p]] += 1


@jit
def sort(key, corner, place, carried, target, records):
    """Copy particles to their places in the order of keys; target: the next free place of each key."""
    k = carried.shape[1]
    for p in range(len(key)):
        if key[p] >= 0:
            to = target[key[p]]
            target[key[p]] = to + 1
            for n in range(3):
                records[to, n] = place[p, n]
            records[to, 3] = corner[p]
            for c in range(k):
                records[to, RECORD + c] = carried[p, c]


@jit
def deposit_range(records, starts, start, stop, first, kernel, group, buffer):
    """Add the records start..stop of one tile to its buffer (TILE + SPILL, len(group), LANES), flat; starts: of the tile's windows."""
    length = records.shape[1]
    flat = records.ravel()
    for n in range(N_WIDTHS):
        a, b = max(starts[n], start) * length, min(starts[n + 1], stop) * length
        if n == 0:
            for p in range(a, b, length):
                window(buffer, flat, p, first, kernel, 1, LANES, group)
        elif n == 1:
            for p in range(a, b, length):
                window(buffer, flat, p, first, kernel, 2, LANES, group)
        elif n == 2:
            for p in range(a, b, length):
                window(buffer, flat, p, first, kernel, 4, LANES, group)
        elif n == 3:
            for p in range(a, b, length):
                window(buffer, flat, p, first, kernel, 6, LANES, group)
        elif n == 4:
            for p in range(a, b, length):
                window(buffer, flat, p, first, kernel, 8, LANES, group)
        elif n == 5:
            for p in range(a, b, length):
                window(buffer, flat, p, first, kernel, 12, LANES, group)
        else:
            for p in range(a, b, length):
                window(buffer, flat, p, first, kernel, 16, LANES, group)


@jit
def drain(buffer, tile, side, tiles, first, group, sums):
    """Add a tile's buffer to the sums (side, k, side) of its level."""
    k = len(group)
    top, left = (tile // tiles) * TILE - SPILL, (tile % tiles) * TILE - SPILL
    begin, end = max(-left, 0), min(side - left, TILE + SPILL)
    for r in range(max(-top, 0), min(side - top, TILE + SPILL)):
        for c in range(k):
            row = sums[top + r, first + c, left + begin : left + end]
            line = buffer[(r * k + c) * LANES + begin : (r * k + c) * LANES + end]
            for q in range(end - begin):
                row[q] += line[q]


@jit
def deposit_chunks(records, starts, chunks, first, kernel, group, buffers):
    """Deposit each chunk (tile, start, stop) in a buffer of its own."""
    for n in range(len(chunks)):
        tile = chunks[n, 0] * N_WIDTHS
        buffers[n, :] = 0
        deposit_range(records, starts[tile:], chunks[n, 1], chunks[n, 2], first + RECORD, kernel, group, buffers[n])


@jit
def deposit_tiles(records, starts, chunks, which, first, kernel, group, buffers, levels, level_of, sums):
    """Add the chunks `which` to the sums: from buffers if they are filled, else deposited here."""
    scratch = np.zeros((TILE + SPILL) * len(group) * LANES, np.float32)
    k = records.shape[1] - RECORD
    for n in which:
        tile = chunks[n, 0]
        side, _, pixel, tiles, first_tile = levels[level_of[tile]]
        if len(buffers) > 0:
            buffer = buffers[n]
        else:
            buffer = scratch
            scratch[:] = 0
            deposit_range(records, starts[tile * N_WIDTHS :], chunks[n, 1], chunks[n, 2], first + RECORD, kernel, group, scratch)
        level = sums[pixel * k : (pixel + side * side) * k].reshape((side, k, side))
        drain(buffer, tile - first_tile, side, tiles, first, group, level)


@jit
def finish(sums, scale, image, start, stop):
    """Rows start..stop of the image (k, npix, npix) from the sums (npix, k, npix) of the finest level."""
    for i in range(start, stop):
        for c in range(image.shape[0]):
            for j in range(image.shape[2]):
                image[c, i, j] = sums[i, c, j] * scale
