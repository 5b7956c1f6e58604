"""A calibrated Gaussian posterior passes every score; one too narrow fails them by what it should."""

import numpy as np
import pytest

from hpcdiff.evaluate import calibration
from hpcdiff.measures import bias, correlation, mode_rings, power

S, N = 10, 40000


@pytest.fixture(scope="module")
def toy():
    """Truth and samples of N cases: both scatter by 2 about a known part."""
    rng = np.random.default_rng(0)
    known = 5 * rng.standard_normal(N)
    return known + 2 * rng.standard_normal((S, N)), known + 2 * rng.standard_normal(N), rng


def test_ranks_and_coverage_are_uniform(toy):
    x, y, rng = toy
    counts = np.bincount(calibration.ranks(x, y, rng), minlength=S + 1)
    assert (((counts - N / (S + 1)) ** 2) / (N / (S + 1))).sum() < 30  # chi squared, 10 degrees: p = 0.001
    nominal, observed = calibration.coverage(counts)
    assert nominal == pytest.approx([9 / 11, 7 / 11, 5 / 11, 3 / 11, 1 / 11])
    assert observed == pytest.approx(nominal, abs=0.01)
    narrow = x.mean(0) + 0.5 * (x - x.mean(0))
    counts = np.bincount(calibration.ranks(narrow, y, rng), minlength=S + 1)
    assert counts[0] > 2 * N / (S + 1)
    assert calibration.coverage(counts)[1][0] < 0.65


def test_ties_are_dealt_at_random():
    rng = np.random.default_rng(1)
    counts = np.bincount(calibration.ranks(np.zeros((S, N)), np.zeros(N), rng), minlength=S + 1)
    assert np.abs(counts / N - 1 / (S + 1)).max() < 0.01


def test_fair_crps_has_its_closed_form_for_any_number_of_samples(toy):
    x, y, _ = toy
    for s in (2, 3, S):
        crps = calibration.fair_crps(x[:s], y)
        assert crps.mean() == pytest.approx(2 / np.sqrt(np.pi), abs=4 * crps.std() / np.sqrt(N))  # sigma / sqrt pi
    few = x[:3, :50]
    pairs = np.abs(few[:, None] - few[None]).sum((0, 1)) / (2 * 3 * 2)
    assert calibration.fair_crps(few, y[:50]) == pytest.approx(np.abs(few - y[:50]).mean(0) - pairs)
    for wrong in (x.mean(0) + 0.5 * (x - x.mean(0)), x + 1):
        assert calibration.fair_crps(wrong, y).mean() > calibration.fair_crps(x, y).mean() + 0.02


def test_climatology_is_the_fair_crps_of_all_training_values():
    rng = np.random.default_rng(0)
    x, y = rng.lognormal(size=30), rng.lognormal(size=4)
    pairs = np.abs(x[:, None] - x).sum() / (2 * 30 * 29)
    assert calibration.climate_crps(x, y) == pytest.approx(np.abs(x - y[:, None]).mean(1) - pairs)


def test_standardised_error_is_student(toy):
    x, y, _ = toy
    e = calibration.standardised_error(x, y)
    assert calibration.expected_within(10) == pytest.approx(0.635, abs=5e-4)
    assert (np.abs(e) < 1).mean() == pytest.approx(calibration.expected_within(S), abs=0.01)
    assert np.isnan(calibration.standardised_error(np.ones((3, 2)), np.zeros(2))).all()


def test_variance_of_the_mean_falls_as_one_over_n(toy):
    x, _, _ = toy
    v = calibration.variance_of_mean(x)
    assert v == pytest.approx([x[:n].var(0, ddof=1).mean() / n for n in range(2, S + 1)], rel=1e-12)
    assert v * np.arange(2, S + 1) == pytest.approx(4.0, rel=0.03)


def test_spectra_of_a_calibrated_posterior_scored_on_the_mean():
    """b^2 = rho^2 + (1 - rho^2)/N and r b = rho^2 for the mean of N samples; b = 1 and r = rho^2 for each (physics of table 1)."""
    rho, n, rng = 0.8, 10, np.random.default_rng(2)
    rings = mode_rings(32)

    def noise(*shape):
        return np.fft.fft2(rng.standard_normal((*shape, 32, 32)))

    known = rho * noise(300)
    truth = known + np.sqrt(1 - rho**2) * noise(300)
    samples = known + np.sqrt(1 - rho**2) * noise(n, 300)

    def scores(x):
        p_sim, p_gen = power(truth, truth, rings).mean(-2), power(x, x, rings).mean(-2)
        return bias(p_gen, p_sim), correlation(power(truth, x, rings).mean(-2), p_sim, p_gen)

    b, r = scores(samples.mean(0))
    assert b**2 == pytest.approx(rho**2 + (1 - rho**2) / n, rel=0.04)
    assert r * b == pytest.approx(rho**2, rel=0.04)
    b, r = scores(samples)
    assert b == pytest.approx(1.0, rel=0.04) and r == pytest.approx(rho**2, rel=0.05)
