"""The beam, and averaging down: one sparse matrix along each side of an image."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.sparse import csr_array

FWHM = np.sqrt(8 * np.log(2))
"""Full width at half maximum of a Gaussian over its standard deviation."""
REACH = 5.0
"""Standard deviations after which the beam is cut (6e-7 of its light lies beyond, and is given back to the rest)."""


def margin_pixels(fwhm: np.ndarray | float) -> np.ndarray:
    """Pixels that a beam of `fwhm` pixels reaches, int64, shaped like `fwhm`."""
    return np.ceil(np.asarray(fwhm) / FWHM * REACH - 1e-9).astype(np.int64)


@lru_cache(maxsize=64)
def matrix(npix: int, oversample: int, margin: int, fwhm: float) -> csr_array:
    """A of shape (npix, npix * oversample + 2 * margin): A @ line smooths by the beam, drops the margin and averages down.

    An image's pixels are averages over their area, so a Gaussian sampled at their centres gives the pixel averages of the
    smoothed field, as far as the pixels resolve it (the Gaussian itself within 1e-5 from a fwhm of 2 pixels on).

    Args:
        fwhm: in pixels of the fine image; 0 = no beam.
    """
    reach = int(margin_pixels(fwhm))
    assert reach <= margin, "the margin must hold the beam"
    kernel = np.ones(1)
    if fwhm > 0:
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * FWHM / fwhm) ** 2)
    line = np.convolve(kernel / kernel.sum(), np.full(oversample, 1 / oversample))  # the same for every pixel, shifted
    first = margin - reach + oversample * np.arange(npix)
    columns = first[:, None] + np.arange(len(line))
    starts = np.arange(npix + 1) * len(line)
    return csr_array((np.tile(line, npix), columns.ravel(), starts), shape=(npix, npix * oversample + 2 * margin))


def smooth(image: np.ndarray, npix: int, oversample: int, margin: int, fwhm: float) -> np.ndarray:
    """Smooth an image and average it down; where no light can reach the result is exactly 0.

    Args:
        image: (n, n) with n = npix * oversample + 2 * margin. fwhm: in its pixels, 0 = no beam.
    Returns:
        float64 (npix, npix).
    """
    a = matrix(npix, oversample, margin, fwhm)
    return np.ascontiguousarray((a @ np.ascontiguousarray((a @ image.astype(np.float64)).T)).T)
