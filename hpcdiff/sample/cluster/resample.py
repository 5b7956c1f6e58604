"""Images on another grid, conserving surface brightness: every new pixel is the average of the image over its area.

The image is taken as smooth below its pixels, in such a way that each of its pixels keeps its average: it is first cut into finer pixels
by the monotone cubic (Fritsch & Carlson 1980) through its cumulative sum, which leaves sums as they are and makes nothing negative. Then
each new pixel, a quadrilateral in the image, is the average over the fine pixels, weighted with the areas that they share.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import distance_transform_edt

from hpcdiff.structure.compiled import jit

FINE = 4
"""Fine pixels along the side of a new pixel, at least."""
MOST = 16
"""An image's pixel is cut into this many a side at most; new pixels that are smaller yet have nothing to gain."""
FAR = 1e9
"""Pixels from the image's corner beyond which no image reaches, but a broken projection does."""
SEAM = 4
"""Sides of the grid beyond which a corner counts as torn off: a projection stretches less than that."""


def resample(image: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average an image over the pixels of a grid.

    Args:
        image: (ny, nx); NaN = nothing there.
        corners: (npix + 1, npix + 1, 2) of the grid's pixels as (x, y); pixel (row, column) of the image covers
            [column, column + 1] x [row, row + 1]. NaN = not in the image.
    Returns:
        maps float64 (npix, npix), 0 where the image does not reach; covered (npix, npix), the fraction of each pixel that lies in the
        image; blank (npix, npix), the fraction that lies on its NaNs, whose place the nearest value takes.
    """
    npix = len(corners) - 1
    corners = _on_one_side(np.where(np.abs(corners) < FAR, corners, np.nan))
    shape = np.array(image.shape)
    found = np.isfinite(corners).all(-1)
    if not (found[1:, 1:] & found[:-1, 1:] & found[1:, :-1] & found[:-1, :-1]).any():
        return np.zeros((npix, npix)), np.zeros((npix, npix)), np.zeros((npix, npix))
    low = np.clip(np.floor(corners[found].min(0)).astype(int)[::-1] - 3, 0, shape)  # the cubic reaches two pixels
    high = np.clip(np.ceil(corners[found].max(0)).astype(int)[::-1] + 3, 0, shape)
    if (high - low < 2).any():
        return np.zeros((npix, npix)), np.zeros((npix, npix)), np.zeros((npix, npix))
    part = np.array(image[low[0] : high[0], low[1] : high[1]], np.float64)
    local = corners - low[::-1]
    missing = np.isnan(part)
    if missing.all():
        return np.zeros((npix, npix)), *_blank(missing, local)
    if missing.any():
        part = part[tuple(distance_transform_edt(missing, return_distances=False, return_indices=True))]
    with np.errstate(invalid="ignore"):
        sides = np.sqrt(np.abs(_areas(local)))
    with np.errstate(divide="ignore"):
        times = int(np.clip(np.ceil(FINE / np.nanmedian(sides)), 1, MOST))
    fine = refine(refine(part, times, 0), times, 1)
    maps, covered = _average(fine, local * times)
    blank = _blank(missing, local)[1] if missing.any() else np.zeros((npix, npix))
    return maps, covered, blank


def _on_one_side(corners: np.ndarray) -> np.ndarray:
    """Leave out (NaN) corners that lie beyond the seam of a map of the whole sky, at its other edge: no pixel spans the map."""
    npix, middle = len(corners) - 1, corners[len(corners) // 2, len(corners) // 2]
    sides = np.linalg.norm(np.diff(corners, axis=0), axis=-1)
    if not np.isfinite(middle).all() or not np.isfinite(sides).any():
        return corners
    far = np.linalg.norm(corners - middle, axis=-1) > SEAM * npix * np.nanmedian(sides)
    return np.where(far[..., None], np.nan, corners)


def refine(image: np.ndarray, times: int, axis: int) -> np.ndarray:
    """Cut each pixel into `times` along one axis; the averages of the old pixels stay, and what is nowhere negative stays so."""
    if times == 1:
        return image
    image = np.moveaxis(image, axis, 0)
    sums = np.concatenate([np.zeros((1, *image.shape[1:])), np.cumsum(image, axis=0)])
    cumulative = PchipInterpolator(np.arange(len(sums)), sums, axis=0)(np.arange(len(image) * times + 1) / times)
    return np.moveaxis(np.diff(cumulative, axis=0) * times, 0, axis)


def _areas(corners: np.ndarray) -> np.ndarray:
    """Areas of the quadrilaterals, with their sign, (npix, npix)."""
    a, c = corners[:-1, :-1], corners[1:, 1:]
    b, d = corners[1:, :-1], corners[:-1, 1:]
    p, q = c - a, d - b
    return (p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]) / 2


def _blank(missing: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Covered and blank fractions of each pixel."""
    fraction, covered = _average(missing.astype(np.float64), corners)
    return covered, fraction * covered


@jit
def _average(image: np.ndarray, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Averages over the part of each quadrilateral that lies in the image, and how large a part that is."""
    npix = corners.shape[0] - 1
    ny, nx = image.shape
    out, covered = np.zeros((npix, npix)), np.zeros((npix, npix))
    polygon, other = np.empty((12, 2)), np.empty((12, 2))
    for i in range(npix):
        for j in range(npix):
            polygon[0], polygon[1] = corners[i, j], corners[i + 1, j]
            polygon[2], polygon[3] = corners[i + 1, j + 1], corners[i, j + 1]
            if not np.isfinite(polygon[:4]).all():
                continue
            whole = _area(polygon, 4)
            if whole == 0:  # a broken projection has folded it
                continue
            x0, x1 = polygon[:4, 0].min(), polygon[:4, 0].max()
            y0, y1 = polygon[:4, 1].min(), polygon[:4, 1].max()
            weight = 0.0
            for row in range(max(0, int(np.floor(y0))), min(ny, int(np.ceil(y1)))):
                for column in range(max(0, int(np.floor(x0))), min(nx, int(np.ceil(x1)))):
                    polygon[0], polygon[1] = corners[i, j], corners[i + 1, j]
                    polygon[2], polygon[3] = corners[i + 1, j + 1], corners[i, j + 1]
                    n = _cut(polygon, 4, other, 0, float(column), 1.0)
                    n = _cut(other, n, polygon, 0, float(column + 1), -1.0)
                    n = _cut(polygon, n, other, 1, float(row), 1.0)
                    n = _cut(other, n, polygon, 1, float(row + 1), -1.0)
                    shared = _area(polygon, n)
                    weight += shared
                    out[i, j] += shared * image[row, column]
            if weight > 0:
                out[i, j] /= weight
                covered[i, j] = weight / whole
    return out, covered


@jit
def _cut(polygon: np.ndarray, n: int, out: np.ndarray, axis: int, edge: float, sign: float) -> int:
    """Keep the part of a convex polygon where sign (p[axis] - edge) >= 0 (Sutherland & Hodgman 1974); the number of its corners."""
    m = 0
    for k in range(n):
        a, b = polygon[k], polygon[(k + 1) % n]
        da, db = sign * (a[axis] - edge), sign * (b[axis] - edge)
        if da >= 0:
            out[m, 0], out[m, 1] = a[0], a[1]
            m += 1
        if (da > 0 and db < 0) or (da < 0 and db > 0):
            t = da / (da - db)
            out[m, 0], out[m, 1] = a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])
            m += 1
    return m


@jit
def _area(polygon: np.ndarray, n: int) -> float:
    total = 0.0
    for k in range(n):
        a, b = polygon[k], polygon[(k + 1) % n]
        total += a[0] * b[1] - a[1] * b[0]
    return abs(total) / 2
