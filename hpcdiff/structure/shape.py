"""Ellipticity and peak of the inner region, by loops over pixels."""

from __future__ import annotations

import numpy as np

from hpcdiff.structure.compiled import jit

TURNS = 40
"""Most repetitions of the moments."""
SMOOTHING = 1.27
"""Standard deviation in pixels of the Gaussian before a peak is looked for: 3 pixels of full width at half maximum."""
TAPS = np.exp(-0.5 * (np.arange(-4, 5) / SMOOTHING) ** 2)
TAPS /= TAPS.sum()


@jit
def ellipticity(maps: np.ndarray, aperture: np.ndarray) -> np.ndarray:
    """1 - b/a of each map's inner region, about the centre, (n,); NaN where the moments are not those of an ellipse.

    Second moments of the map times (1 - m^2)^2 within the ellipse m < 1, whose shape is set to that of the moments, at the same
    area, until it stays; so an elliptical profile has its own axis ratio, whatever it falls like (Bernstein & Jarvis 2002).

    Args:
        maps: float64 (n, npix, npix). aperture: radius of the circle of the ellipse's area, pixels, (n,).
    """
    n, npix = maps.shape[0], maps.shape[1]
    centre = (npix - 1) / 2
    out = np.full(n, np.nan)
    for k in range(n):
        a = aperture[k] ** 2
        xx, yy, xy = a, a, 0.0  # the ellipse: its matrix over the moments' has determinant aperture^4
        for turn in range(TURNS):
            det = xx * yy - xy * xy
            reach_x, reach_y = np.sqrt(xx), np.sqrt(yy)
            mxx = myy = mxy = 0.0
            for i in range(max(0, int(np.ceil(centre - reach_x))), min(npix - 1, int(centre + reach_x)) + 1):
                x = i - centre
                for j in range(max(0, int(np.ceil(centre - reach_y))), min(npix - 1, int(centre + reach_y)) + 1):
                    y = j - centre
                    m = (yy * x * x - 2 * xy * x * y + xx * y * y) / det
                    if m < 1:
                        w = maps[k, i, j] * (1 - m) ** 2
                        mxx += w * x * x
                        myy += w * y * y
                        mxy += w * x * y
            det = mxx * myy - mxy * mxy
            if not (det > 0 and mxx > 0):
                break
            scale = a / np.sqrt(det)
            mxx, myy, mxy = mxx * scale, myy * scale, mxy * scale
            half, cross = (mxx + myy) / 2, np.sqrt(((mxx - myy) / 2) ** 2 + mxy**2)
            if (half - cross) * 100 < half + cross:  # thinner than 1 : 10
                break
            if turn == TURNS - 1 or np.abs(mxx - xx) + np.abs(myy - yy) + np.abs(mxy - xy) < 3e-4 * a:
                out[k] = 1 - np.sqrt((half - cross) / (half + cross))
                break
            xx, yy, xy = mxx, myy, mxy
    return out


@jit
def smooth(image: np.ndarray, low: int, high: int) -> np.ndarray:
    """The rows and columns low..high-1 of a map smoothed by a Gaussian of `SMOOTHING`, continued by its edges."""
    npix, size = image.shape[0], high - low
    wide = np.empty((size + 8, size + 8))
    for i in range(size + 8):
        for j in range(size + 8):
            wide[i, j] = image[min(max(low + i - 4, 0), npix - 1), min(max(low + j - 4, 0), npix - 1)]
    a, b, c, d, e = TAPS[4:]
    rows, out = np.empty((size, size + 8)), np.empty((size, size))
    for i in range(size):
        for j in range(size + 8):
            first, second = wide[i + 3, j] + wide[i + 5, j], wide[i + 2, j] + wide[i + 6, j]
            third, fourth = wide[i + 1, j] + wide[i + 7, j], wide[i, j] + wide[i + 8, j]
            rows[i, j] = a * wide[i + 4, j] + b * first + c * second + d * third + e * fourth
    for i in range(size):
        for j in range(size):
            first, second = rows[i, j + 3] + rows[i, j + 5], rows[i, j + 2] + rows[i, j + 6]
            third, fourth = rows[i, j + 1] + rows[i, j + 7], rows[i, j] + rows[i, j + 8]
            out[i, j] = a * rows[i, j + 4] + b * first + c * second + d * third + e * fourth
    return out


@jit
def refine(below: float, here: float, above: float) -> float:
    """Where between -0.5 and 0.5 the parabola through three neighbours has its top."""
    bend = below - 2 * here + above
    return min(max(0.5 * (below - above) / bend, -0.5), 0.5) if bend < 0 else 0.0


@jit
def offset(maps: np.ndarray, aperture: np.ndarray) -> np.ndarray:
    """Distance in pixels of the highest point of the smoothed map, within the aperture (pixels, (n,)), from the centre, (n,)."""
    n, npix = maps.shape[0], maps.shape[1]
    centre = (npix - 1) / 2
    out = np.full(n, np.nan)
    for k in range(n):
        reach = aperture[k]
        low, high = max(0, int(centre - reach) - 1), min(npix, int(centre + reach) + 3)
        seen = smooth(maps[k], low, high)
        best, bi, bj = -np.inf, -1, -1
        for i in range(1, high - low - 1):
            for j in range(1, high - low - 1):
                x, y = i + low - centre, j + low - centre
                if seen[i, j] > best and x * x + y * y <= reach * reach:
                    best, bi, bj = seen[i, j], i, j
        if bi >= 0:
            x = bi + low - centre + refine(seen[bi - 1, bj], best, seen[bi + 1, bj])
            y = bj + low - centre + refine(seen[bi, bj - 1], best, seen[bi, bj + 1])
            out[k] = np.sqrt(x * x + y * y)
    return out
