"""A perfect posterior passes every test at the expected rate; the prior, an overconfident and a conditionally biased one fail theirs.

The toy has a closed form: theta ~ N(0, 1), datum d = theta + N(0, 1/2), posterior N(0.8 d, 0.2).
"""

import numpy as np
import pytest
from scipy.stats import kstest, linregress

from hpcdiff.evaluate import calibration
from hpcdiff.evaluate.bins import Bin, bootstrap
from hpcdiff.evaluate.calibrated import calibration_of
from hpcdiff.evaluate.consistency import agreement

S, HALOS, RUNS = 10, 60, 200
SPREAD = np.sqrt(0.2)


def draw(seed=0, runs=RUNS, dimensions=1):
    """Truths (runs, halos, D), data, and exact posterior samples (runs, S, halos, D)."""
    rng = np.random.default_rng(seed)
    theta = rng.standard_normal((runs, HALOS, dimensions))
    data = theta + 0.5 * rng.standard_normal(theta.shape)
    samples = 0.8 * data[:, None] + SPREAD * rng.standard_normal((runs, S, HALOS, dimensions))
    return rng, theta, data, samples


def ranked(rng, theta, samples):
    """Ranks (runs, halos) of the first component."""
    return calibration.ranks(samples[..., 0].swapaxes(0, 1), theta[..., 0], rng)


def counts_of(ranks):
    return np.bincount(ranks, minlength=S + 1)


def uniform(p):
    """Are p values what they should be if the null hypothesis holds? Discrete ones may be a little too large, never too small."""
    p = np.array(p)
    assert np.mean(p < 0.05) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(p))
    assert np.mean(p < 0.05) > 0.005
    assert kstest(p, "uniform").pvalue > 1e-3
    return True


def tarp_p(rng, theta, data, samples, near=True):
    out = []
    for t, d, x in zip(theta, data, samples, strict=True):
        reference = 0.8 * d + SPREAD * rng.standard_normal(d.shape) if near else rng.standard_normal(d.shape)
        r = np.array([calibration.tarp_rank(x[:, h], t[h], reference[h], rng) for h in range(HALOS)])
        out.append(calibration.tarp_curve(r, S)["p"])
    return np.array(out)


def trend_p(ranks, observable):
    return np.array([calibration.trend(r, S, o)["p"] for r, o in zip(ranks, observable, strict=True)])


@pytest.mark.parametrize("dimensions", [1, 4])
def test_perfect_posterior_passes_at_the_expected_rate(dimensions):
    rng, theta, data, samples = draw(dimensions=dimensions)
    ranks = ranked(rng, theta, samples)
    assert uniform([calibration.rank_band(counts_of(r))["p"] for r in ranks])
    assert uniform(trend_p(ranks, data[..., 0]))
    assert uniform(tarp_p(rng, theta, data, samples))


def test_bands_hold_the_part_of_perfect_posteriors_that_they_promise():
    rng, theta, data, samples = draw(1, runs=400)
    ranks = ranked(rng, theta, samples)
    bands = [calibration.rank_band(counts_of(r)) for r in ranks]
    inside = [np.all((counts_of(r) >= b["low"]) & (counts_of(r) <= b["high"])) for r, b in zip(ranks, bands, strict=True)]
    assert 0.92 < np.mean(inside) < 0.99
    curves = [calibration.tarp_curve(r, S) for r in ranks]  # in one dimension, with a reference at minus infinity, the rank itself
    inside = [np.all((np.array(c["low"]) - 1e-12 <= c["coverage"]) & (c["coverage"] <= np.array(c["high"]) + 1e-12)) for c in curves]
    assert 0.92 < np.mean(inside) < 0.99
    assert [c["p"] < 0.05 for c in curves] == [not i for i in inside]  # the curve leaves its band where p says so
    low, high = calibration.binomial_band(HALOS, 9 / 11)
    held = ((ranks > 0) & (ranks < S)).mean(1)
    assert 0.92 < np.mean((held >= low) & (held <= high)) < 0.99


def test_the_prior_passes_ranks_and_fails_tarp_near_the_data_and_skill():
    rng, theta, data, exact = draw(2)
    prior = rng.standard_normal(exact.shape)
    ranks = ranked(rng, theta, prior)
    assert uniform([calibration.rank_band(counts_of(r))["p"] for r in ranks])
    assert uniform(tarp_p(rng, theta, data, prior, near=False))  # references that ignore the data do not see it
    assert (tarp_p(rng, theta, data, prior) < 0.05).mean() > 0.95
    assert (trend_p(ranks, data[..., 0]) < 0.05).mean() > 0.95
    climate = rng.standard_normal(500)
    for samples, low, high in ((prior, -0.05, 0.05), (exact, 0.4, 0.7)):
        crps = calibration.fair_crps(samples[..., 0].swapaxes(0, 1), theta[..., 0]).mean()
        skill = 1 - crps / calibration.climate_crps(climate, theta[..., 0].ravel()).mean()
        assert low < skill < high


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_wrong_widths_fail_ranks_and_tarp(factor):
    rng, theta, data, samples = draw(3)
    wrong = 0.8 * data[:, None] + factor * (samples - 0.8 * data[:, None])
    ranks = ranked(rng, theta, wrong)
    assert np.mean([calibration.rank_band(counts_of(r))["p"] < 0.05 for r in ranks]) > 0.8
    assert (tarp_p(rng, theta, data, wrong) < 0.05).mean() > 0.6


def test_bias_that_follows_an_observable_shows_in_conditional_calibration_alone():
    """Right on average over the clusters, too high for the bright and too low for the faint."""
    rng, theta, data, samples = draw(4)
    wrong = samples + 0.2 * data[:, None]
    ranks = ranked(rng, theta, wrong)
    p = trend_p(ranks, data[..., 0])
    assert (p < 0.05).mean() > 0.8
    assert np.mean([calibration.rank_band(counts_of(r))["p"] < 0.05 for r in ranks]) < 0.35
    slope = np.mean([calibration.trend(r, S, d)["slope"] for r, d in zip(ranks, data[..., 0], strict=True)])
    assert slope < -0.08  # the truth's rank falls where the samples are too high


def test_trend_is_the_least_squares_line_of_the_logarithm():
    rng = np.random.default_rng(5)
    x, r = rng.lognormal(size=40), rng.integers(0, S + 1, 40)
    got, z = calibration.trend(r, S, x), np.log(x)
    line = linregress((z - z.mean()) / z.std(), (r + 0.5) / (S + 1))
    assert [got["slope"], got["error"], got["p"]] == pytest.approx([line.slope, line.stderr, line.pvalue])
    assert calibration.trend(r[:2], S, x[:2]) is None and calibration.trend(r, S, np.ones(40)) is None


def test_band_of_pixels_knows_that_the_pixels_of_a_halo_go_together():
    """The same truth and samples for many pixels: a multinomial band would be far too narrow; halo scatter makes it right."""
    rng, pixels, p, naive = np.random.default_rng(6), 40, [], []
    for _ in range(RUNS):
        shared, own = rng.standard_normal((S + 1, HALOS, 1)), 0.3 * rng.standard_normal((S + 1, HALOS, pixels))
        x = shared + own
        ranks = (x[1:] < x[0]).sum(0)
        counts = np.array([counts_of(r) for r in ranks])
        p.append(calibration.scatter_band(counts, bootstrap(HALOS, 300))["p"])
        naive.append(calibration.rank_band(counts.sum(0))["p"])
    assert 0.01 < np.mean(np.array(p) < 0.05) < 0.11
    assert np.mean(np.array(naive) < 0.05) > 0.9
    narrow = []
    for _ in range(20):
        x = rng.standard_normal((S + 1, HALOS, 1)) + 0.3 * rng.standard_normal((S + 1, HALOS, pixels))
        counts = np.array([counts_of(r) for r in (0.5 * x[1:] < x[0]).sum(0)])
        narrow.append(calibration.scatter_band(counts, bootstrap(HALOS, 300))["p"])
    assert np.mean(np.array(narrow) < 0.05) > 0.7
    assert calibration.scatter_band(counts[:1], bootstrap(1, 10)) is None


def test_band_of_groups_of_other_sizes_is_about_their_ranks_not_their_sizes():
    """Groups of halos with flat ranks but very different sizes: nothing is left to scatter."""
    counts = np.outer([1.0, 50.0, 8.0, 20.0, 3.0], np.full(S + 1, 7.0))
    band = calibration.scatter_band(counts, bootstrap(5, 200))
    assert band["low"] == band["high"] == pytest.approx([574.0] * (S + 1))


def test_spread_over_skill_of_a_right_posterior_is_one():
    """Also where the posterior is wide, 25 % of the mass: weighted by the truth it would be .85."""
    rng = np.random.default_rng(11)
    n, s = 20000, 10
    x = rng.lognormal(0, 0.5, n) * (1 + 0.25 * rng.standard_normal((s + 1, n)))
    y, x = x[0], x[1:]
    ranks = (x < y).sum(0)[:, None] == np.arange(s + 1)
    columns = {
        "truth_total": y, "total_mean": x.mean(0), "total_rank": ranks.argmax(1), "stacked_profile/absolute_error": y,
        **{f"{w}_{k}": v for w in ("total", "pixel") for k, v in {
            "ranks": ranks.astype(float), "crps": y, "variance": x.var(0, ddof=1), "square": (x.mean(0) - y) ** 2, "within": y,
        }.items()},
    }  # fmt: skip
    got = calibration_of(columns.__getitem__, Bin(np.arange(n), 20), y, s, [])["total"]["spread_skill"]
    assert got["value"] == pytest.approx(1, abs=0.02)


def axes(rng, factor=1.0, common=0.0):
    """Three posteriors of each halo's mass from data with independent errors; `common`: part of the error that all share."""
    mass = 100 + 10 * rng.standard_normal((HALOS, 1))
    error = np.sqrt(1 - common) * rng.standard_normal((HALOS, 3)) + np.sqrt(common) * rng.standard_normal((HALOS, 1))
    samples = (mass + error) + factor * rng.standard_normal((S, HALOS, 3))
    groups = np.repeat(np.arange(HALOS), 3)
    return agreement(samples.mean(0).ravel(), samples.var(0, ddof=1).ravel(), groups, S)


def test_three_axes_agree_if_the_posterior_is_right():
    rng = np.random.default_rng(7)
    runs = [axes(rng) for _ in range(RUNS)]
    assert np.mean([c.mean() for c, _, _ in runs]) == pytest.approx(1.0, abs=0.03)
    assert uniform([p for _, _, p in runs])
    assert np.mean([axes(rng, factor=0.6)[2] < 0.05 for _ in range(50)]) > 0.9
    assert np.mean([axes(rng, common=0.8)[2] > 0.5 for _ in range(50)]) > 0.9  # what is shared can only hide a disagreement
    chi2, first, _ = axes(rng)
    assert len(chi2) == HALOS and first.tolist() == list(range(0, 3 * HALOS, 3))
    assert agreement(np.ones(3), np.zeros(3), np.zeros(3, int), S)[2] is None
    assert agreement(np.ones(3), np.ones(3), np.arange(3), S)[2] is None


def test_the_same_counts_give_the_same_numbers_and_no_counts_give_none():
    counts = np.array([3, 5, 1, 9])
    assert calibration.rank_band(counts) == calibration.rank_band(counts.copy())
    assert calibration.rank_band(np.zeros(4)) is None and calibration.tarp_curve(np.full(3, np.nan), 3) is None
    assert calibration.rank_band(np.array([18, 0, 0, 0]))["p"] < 1e-3


def test_ties_of_distances_are_dealt_at_random():
    rng = np.random.default_rng(8)
    x = np.zeros((S, 2))
    ranks = [calibration.tarp_rank(x, np.zeros(2), np.ones(2), rng) for _ in range(4000)]
    assert calibration.rank_band(counts_of(ranks))["p"] > 1e-3
