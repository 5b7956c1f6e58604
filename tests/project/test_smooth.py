"""The beam's matrix: flux, moments, emptiness."""

from __future__ import annotations

import numpy as np
import pytest

from hpcdiff.project.smooth import FWHM, margin_pixels, matrix, smooth


@pytest.mark.parametrize(("npix", "oversample", "fwhm"), [(16, 1, 0.0), (16, 4, 0.0), (16, 1, 2.0), (10, 8, 4.8), (7, 3, 11.0)])
def test_inner_pixels_keep_their_flux_and_every_map_pixel_its_mean(npix, oversample, fwhm):
    margin = int(margin_pixels(fwhm))
    a = matrix(npix, oversample, margin, fwhm).toarray()
    assert a.shape == (npix, npix * oversample + 2 * margin)
    assert a.sum(axis=1) == pytest.approx(1, abs=1e-12)
    inner = slice(2 * margin, a.shape[1] - 2 * margin)  # all of what they spread stays in the map
    assert a[:, inner].sum(axis=0) == pytest.approx(1 / oversample, abs=1e-12)


@pytest.mark.parametrize("fwhm", [2.0, 4.8, 13.0])
def test_the_beam_adds_its_variance(fwhm):
    margin = int(margin_pixels(fwhm))
    line = matrix(41, 1, margin, fwhm).toarray()[20]
    x = np.arange(len(line)) - 20 - margin
    assert (line * x).sum() == pytest.approx(0, abs=1e-9)
    assert np.sqrt((line * x**2).sum()) * FWHM == pytest.approx(fwhm, rel=1e-4)


def test_no_beam_is_a_block_average():
    image = np.random.default_rng(0).random((24, 24)).astype(np.float32)
    expected = image.reshape(6, 4, 6, 4).mean(axis=(1, 3))
    assert smooth(image, 6, 4, 0, 0.0) == pytest.approx(expected, rel=1e-6)
    padded = np.pad(image, 5, constant_values=9.0)
    assert smooth(padded, 6, 4, 5, 0.0) == pytest.approx(expected, rel=1e-6)


def test_nothing_smooths_to_nothing_and_no_pixel_turns_negative():
    image = np.zeros((64, 64))
    image[40, 29] = 1e30
    out = smooth(image, 24, 2, 8, 3.0)
    assert (out >= 0).all() and (out > 0).sum() < 100 and out.sum() * 4 == pytest.approx(1e30)
