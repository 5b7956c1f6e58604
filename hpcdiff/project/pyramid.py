"""A pyramid of resolutions: level l has pixels of 2^l, and large particles are deposited where they are few pixels wide.

Levels above 0 have a margin about the map, so that nothing is lost where a level is brought up to the next finer one. That is a
conservative interpolation: a pixel of average a becomes halves a - d and a + d along each side, with d an antisymmetric sum over
the neighbours. The mass is kept to the last digit; |d| is held below |a|, so that no pixel changes its sign or is emptied.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from hpcdiff.project.kernel import column
from hpcdiff.project.window import TILE, WIDTHS, jit

TAPS = 5
"""Neighbours on each side that the interpolation looks at."""
STEPS = np.arange(1, TAPS + 1)
MARGIN = 2 * TAPS
"""Pixels about the map on levels above 0: fine margin / 2 + TAPS <= MARGIN."""
LARGEST = (max(WIDTHS) - 1) / 2
"""Support radius in pixels up to which a particle stays on a level; the widest window holds it at any place.

A particle alone is then wrong by 0.02 % (sum of absolute differences) on the finest level, and by 0.1 to 1 % on others; the sum of
many by a hundredth of that, because the error changes its sign from place to place."""
STEEPEST = 0.9
"""Largest |d| over |a|: each part keeps something of what a pixel has, which ratios of maps and logarithms need."""
BEYOND = 16
"""Levels above the one on which the map is one pixel. A particle that is too large even there has a flat column over the map."""


class Pyramid:
    """Where each level's pixels and tiles lie.

    Attributes:
        npix: pixels along the map's side.
        levels: int64 (n, 5): pixels along the side with margins, margin, first of its pixels in the flat image of one weight,
            tiles along the side, first of its tiles.
        n_pixels, n_tiles: of all levels.
        colour: int64 (n_tiles,), 0 to 3; windows that begin in tiles of one level and colour don't meet.
    """

    def __init__(self, npix: int):
        self.npix = npix
        n = int(npix - 1).bit_length() + 1 + BEYOND
        margin = np.where(np.arange(n) == 0, 0, MARGIN)
        side = -(-npix // 2 ** np.arange(n)) + 2 * margin
        tiles = -(-(side + max(WIDTHS) - 1) // TILE)
        first = np.concatenate([[0], np.cumsum(side**2)])
        first_tile = np.concatenate([[0], np.cumsum(tiles**2)])
        self.levels = np.stack([side, margin, first[:-1], tiles, first_tile[:-1]], axis=1).astype(np.int64)
        self.n_pixels, self.n_tiles = int(first[-1]), int(first_tile[-1])
        self.colour = np.concatenate([(2 * (np.arange(t)[:, None] % 2) + np.arange(t) % 2).ravel() for t in tiles])


@cache
def taps() -> np.ndarray:
    """The interpolation's weights c_m, float64 (TAPS,): d = sum_m c_m (a_{+m} - a_{-m}).

    Least squares over the kernel's own pixel averages at the radii that coarse levels hold, exact for a slope (2 sum m c_m = 1/4).
    """
    nodes, weights = np.polynomial.legendre.leggauss(6)
    rows, halves = [], []
    for radius in np.geomspace(LARGEST / 2, LARGEST, 6):
        n = 2 * (int(radius) + TAPS + 3)
        for x, y in n / 2 + np.array([[0.05, 0.35], [0.3, 0.8], [0.6, 0.1], [0.85, 0.55]]):
            place = np.arange(n)[:, None] + (nodes + 1) / 2
            left, right = ((np.arange(n)[:, None] + (nodes + shift) / 4) for shift in (1, 3))
            half = [
                np.einsum("iajb,a,b->ij", column(np.hypot((part - x)[:, :, None, None], place - y) / radius), weights, weights)
                for part in (left, right)
            ]
            average, d = (half[0] + half[1]) / 2, (half[1] - half[0]) / 2
            padded = np.pad(average, ((TAPS, TAPS), (0, 0)))
            rows.append(np.stack([(padded[TAPS + m : TAPS + m + n] - padded[TAPS - m : TAPS - m + n]).ravel() for m in STEPS], 1))
            halves.append(d.ravel())
    slope = 2.0 * STEPS
    free = np.eye(TAPS)[1:] - np.outer(slope[1:] / slope[0], np.eye(TAPS)[0])  # (TAPS - 1, TAPS), keeps the slope
    base = np.eye(TAPS)[0] / (4 * slope[0])
    rows, halves = np.concatenate(rows), np.concatenate(halves)
    return base + np.linalg.lstsq(rows @ free.T, halves - rows @ base, rcond=None)[0] @ free


@jit
def bring_up(coarse, fine, coarse_margin, fine_margin, taps, start, stop):
    """Add rows start..stop of a level's masses (side, k, side) to the next finer level's; a coarse row covers two fine ones."""
    k, across = coarse.shape[1], coarse.shape[2]
    low, high = coarse_margin - fine_margin // 2, coarse_margin + (fine.shape[2] - fine_margin + 1) // 2
    d, line, row = np.empty(across), np.empty(across), np.empty(2 * (high - low))
    for i in range(max(start, low), min(stop, high)):
        for c in range(k):
            here = coarse[i, c]
            d[:] = 0.0
            for m in range(len(taps)):
                t, above, below = taps[m], coarse[i + m + 1, c], coarse[i - m - 1, c]
                for j in range(across):
                    d[j] += t * (above[j] - below[j])
            for j in range(across):
                most = STEEPEST * abs(here[j])
                d[j] = 0.5 * min(max(d[j], -most), most)
            for half in range(2):
                sign, to = 2.0 * half - 1.0, 2 * (i - low) + half
                if to < fine.shape[0]:
                    for j in range(across):
                        line[j] = 0.5 * here[j] + sign * d[j]
                    _split(line, taps, low, high, row)
                    out = fine[to, c]
                    for g in range(len(out)):
                        out[g] += row[g]


@jit
def _split(line, taps, low, high, row):
    """Halves of the pixels low..high of a line, side by side."""
    d = np.zeros(high - low)
    for m in range(len(taps)):
        t, above, below = taps[m], line[low + m + 1 : high + m + 1], line[low - m - 1 : high - m - 1]
        for j in range(high - low):
            d[j] += t * (above[j] - below[j])
    for j in range(high - low):
        a = line[low + j]
        most = STEEPEST * abs(a)
        e = min(max(d[j], -most), most)
        row[2 * j] = 0.5 * (a - e)
        row[2 * j + 1] = 0.5 * (a + e)
