"""Substructure: peaks of a map over its round profile, and how many of the true ones a map shows."""

from __future__ import annotations

import numpy as np

from hpcdiff.structure.compiled import jit
from hpcdiff.structure.shape import refine

CONTRAST = 0.3
"""Least height of a peak over its surroundings, in units of the round profile."""
FLOOR = 0.3
"""Least height of a peak over the round profile, in units of the mean of the whole map."""
AROUND = np.array([(i, j) for i in range(-4, 5) for j in range(-4, 5) if 3.5 <= np.hypot(i, j) < 4.5])
"""The surroundings of a peak: a ring 4 pixels away, where its smoothed core has ended."""


@jit
def profile(image: np.ndarray, index: np.ndarray, n_rings: int) -> np.ndarray:
    """Ring means (n_rings,) of a map without the pixels above twice the plain mean of their ring."""
    mean = np.full(n_rings, np.inf)
    for _ in range(2):
        total, count = np.zeros(n_rings), np.zeros(n_rings)
        for i in range(image.shape[0]):
            for j in range(image.shape[1]):
                ring = index[i, j]
                if image[i, j] <= 2 * mean[ring]:
                    total[ring] += image[i, j]
                    count[ring] += 1
        mean = total / np.maximum(count, 1)
    return mean


@jit
def peaks(seen: np.ndarray, index: np.ndarray, n_rings: int, reach: float, contrast: float, floor: float) -> np.ndarray:
    """Peaks of a smoothed map within `reach` pixels of the centre, highest contrast first: (m, 3): i, j in pixels from the centre, contrast.

    A peak is the highest of its eight neighbours in u = seen / profile. Its contrast is u less the mean of u 4 pixels around it: an
    elliptical halo, which stands over its round profile all along an axis, has none. It also stands over the profile by `floor`, or
    else the noise of empty outskirts were full of peaks.

    Args:
        seen: the smoothed map, or its middle. index: ring of each pixel, of `n_rings`.
    """
    npix = seen.shape[0]
    centre = (npix - 1) / 2
    ring = profile(seen, index, n_rings)
    low, high = max(5, int(centre - reach)), min(npix - 6, int(centre + reach) + 1)
    ratio = np.zeros((npix, npix))
    for i in range(low - 5, high + 6):
        for j in range(low - 5, high + 6):
            x, y = i - centre, j - centre
            at = np.sqrt(x * x + y * y)
            inner = min(max(int(at - 0.5), 0), n_rings - 2)
            part = min(max(at - 0.5 - inner, 0.0), 1.0)
            round_value = ring[inner] * (1 - part) + ring[inner + 1] * part
            ratio[i, j] = seen[i, j] / round_value if round_value > 0 else 0.0
    found = np.empty((npix * npix // 4 + 1, 3))
    m = 0
    for i in range(low, high + 1):
        for j in range(low, high + 1):
            here = ratio[i, j]
            x, y = i - centre, j - centre
            if here < 1 + contrast or seen[i, j] * (1 - 1 / here) < floor or x * x + y * y > reach * reach:
                continue
            top = True
            for a in range(-1, 2):
                for b in range(-1, 2):
                    other = ratio[i + a, j + b]
                    if other > here or (other == here and (a < 0 or (a == 0 and b < 0))):
                        top = False
            if not top:
                continue
            around = 0.0
            for t in range(len(AROUND)):
                around += ratio[i + AROUND[t, 0], j + AROUND[t, 1]]
            height = here - around / len(AROUND)
            if height >= contrast:
                found[m, 0] = x + refine(ratio[i - 1, j], here, ratio[i + 1, j])
                found[m, 1] = y + refine(ratio[i, j - 1], here, ratio[i, j + 1])
                found[m, 2] = height
                m += 1
    return found[:m][np.argsort(-found[:m, 2], kind="mergesort")]


def match(truth: np.ndarray, found: np.ndarray, radius_mpc: float) -> tuple[float, float]:
    """Completeness and purity: the part of the true peaks that is found, and of the found ones that is true.

    Pairs are made by distance, nearest first, each peak in one pair at most, none further apart than `radius_mpc`.

    Args:
        truth, found: (m, 2 or more), the first two columns are positions, Mpc. radius_mpc: Mpc.
    Returns:
        Each in [0, 1]; NaN where there is no true peak, or none found.
    """
    distance = np.hypot(*(truth[:, None, c] - found[None, :, c] for c in (0, 1)))
    pairs = 0
    while distance.size and distance.min() <= radius_mpc:
        a, b = np.unravel_index(distance.argmin(), distance.shape)
        distance[a], distance[:, b] = np.inf, np.inf
        pairs += 1
    return tuple(pairs / len(p) if len(p) else np.nan for p in (truth, found))
