"""Closed forms of spectra, b(k), r(k), bands and profiles."""

import numpy as np
import pytest

from hpcdiff.measures import Rings, bands, bias, correlation, mode_rings, pixel_rings, power, power_spectrum, wavenumbers


def test_plane_wave_lands_in_its_bin_with_its_power():
    n, width, h, amplitude = 64, 12.8, 0.7, 3.0
    x = np.arange(n)
    wave = amplitude * np.cos(2 * np.pi * (3 * x[:, None] + 4 * x[None, :]) / n + 0.3)  # |n| = 5
    k, p = power_spectrum(wave, width, h)
    rings = mode_rings(n)
    # two modes of (A n^2 / 2)^2, over the modes of the ring, times area / npix^4
    expected = 2 * (amplitude / 2) ** 2 / rings.counts[4] * (width * h) ** 2
    assert p[4] == pytest.approx(expected, rel=1e-12)
    assert np.delete(p, 4).max() < 1e-20 * expected
    assert 5 * 2 * np.pi / (width * h) <= k[4] < 6 * 2 * np.pi / (width * h)


def test_the_grid_of_the_paper():
    rings = mode_rings(128)
    k = wavenumbers(rings, 12.8, 0.7)
    assert rings.n == 63
    assert (k < 2).sum() == 2
    # the fundamental, 0.7012 h/Mpc, is the lowest |k|: ring 1 holds |n| = 1 and sqrt 2
    assert k[0] / np.mean([1, 1, 1, 1, *[2**0.5] * 4]) == pytest.approx(0.7012, abs=1e-4)
    assert rings.counts[0] == 8


def test_parseval_over_the_whole_plane():
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((3, 2, 20, 20)) + 5
    rings = mode_rings(20, whole=True)
    modes = np.fft.fft2(maps)
    assert (power(modes, modes, rings) * rings.counts).sum(-1) == pytest.approx(400 * (maps**2).sum((-1, -2)), rel=1e-12)


def test_white_noise_is_flat_at_variance_times_pixel_area():
    rng = np.random.default_rng(1)
    _, p = power_spectrum(2.0 * rng.standard_normal((400, 32, 32)), 12.8, 0.7)
    error = p.std(0, ddof=1) / 20
    z = (p.mean(0) - 4.0 * (12.8 * 0.7 / 32) ** 2) / error
    assert np.abs(z).max() < 4
    assert (error / p.mean(0)).max() < 0.03


def test_bias_and_correlation_of_scaled_mixed_and_independent_maps():
    rng = np.random.default_rng(2)
    a, b = np.fft.fft2(rng.standard_normal((2, 200, 32, 32)))
    rings = mode_rings(32)

    def br(x, y):
        p, q = power(x, x, rings), power(y, y, rings)
        return bias(q, p), correlation(power(x, y, rings), p, q)

    b_scaled, r_scaled = br(a, 0.3 * a)
    assert np.allclose(b_scaled, 0.3, rtol=1e-12) and np.allclose(r_scaled, 1, rtol=1e-12)
    assert np.allclose(br(a, -a)[1], -1, rtol=1e-12)
    _, r_none = br(a, b)
    assert np.abs(r_none.mean(0)).max() < 4 * r_none.std(0).max() / np.sqrt(200) < 0.2
    _, r_half = br(a, 0.6 * a + 0.8 * b)
    assert np.abs(r_half.mean(0)[3:] - 0.6).max() < 0.03


def test_a_shift_turns_phases_into_lost_correlation():
    n, shift = 32, 4
    rng = np.random.default_rng(3)
    x = rng.standard_normal((500, n, n))
    a, b = np.fft.fft2(x), np.fft.fft2(np.roll(x, shift, axis=-1))
    rings = mode_rings(n)
    r = power(a, b, rings).mean(0) / power(a, a, rings).mean(0)
    f = np.fft.fftfreq(n, 1 / n)
    assert np.allclose(r, rings.mean(np.broadcast_to(np.cos(2 * np.pi * f * shift / n), (n, n))), atol=0.02)


def test_no_power_is_not_a_number_and_no_crash():
    assert np.isnan(bias(np.ones(2), np.zeros(2))).all()
    assert np.isnan(correlation(np.zeros(2), np.ones(2), np.zeros(2))).all()


def test_bands_are_unweighted_means_on_either_side():
    k = np.array([0.8, 1.6, 2.0, 3.0])
    small, large = bands(np.array([[1.0, 2.0, 3.0, 7.0]]), k, 2.0)
    assert small == [5.0] and large == [1.5]
    assert np.isnan(bands(np.ones((1, 4)), k, 0.1)[1])


def test_profile_about_the_point_between_the_middle_pixels():
    rings = pixel_rings(32)
    x = np.arange(32) - 15.5
    r = np.hypot(x[:, None], x[None, :])
    assert rings.n == 16 and rings.counts[0] == 4 and rings.radius[0] == pytest.approx(0.5**0.5)
    assert rings.mean(3 * r + 1) == pytest.approx(3 * rings.radius + 1, rel=1e-12)
    assert rings.mean(np.exp(-((r / 8) ** 2))) == pytest.approx(np.exp(-((rings.radius / 8) ** 2)), rel=0.02)
    shifted = rings.mean(np.exp(-((np.hypot(x[:, None] - 1, x[None, :]) / 8) ** 2)))
    assert np.abs(shifted[0] / np.exp(-((rings.radius[0] / 8) ** 2)) - 1) > 0.01


def test_spread_is_the_inverse_of_mean_for_round_maps():
    rings = pixel_rings(9, whole=True)
    values = np.arange(2.0 * rings.n).reshape(2, -1)
    assert np.array_equal(rings.mean(rings.spread(values)), values)
    assert rings.counts.sum() == 81


def test_mean_agrees_with_a_loop():
    rng = np.random.default_rng(4)
    radius, values = rng.uniform(0, 6, (10, 10)), rng.standard_normal((2, 10, 10))
    rings = Rings(radius, 1, 5)
    for n, ring in enumerate(range(1, 5)):
        part = (radius >= ring) & (radius < ring + 1)
        assert rings.mean(values)[:, n] == pytest.approx(values[:, part].mean(-1), abs=1e-14)
