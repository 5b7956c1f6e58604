"""What a perfect posterior would show: bands around the expected counts and curves, and p values.

The null hypothesis is that the truth's rank among S samples is uniform on 0..S, independently from halo to halo: counts are then
multinomial. Bands hold 95 % of perfect posteriors in all their entries together (simultaneous), with a half width in each entry
proportional to its standard deviation there; they and the p values come from the same fixed draws of the multinomial, so nothing
is asymptotic, and the same counts give the same numbers.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.stats import binom

SEED, DRAWS, LEVEL = 20251, 4000, 0.95


@lru_cache(maxsize=64)
def uniform_counts(n: int, bins: int) -> np.ndarray:
    """Counts (DRAWS, bins) of n uniform ranks."""
    return np.random.default_rng([SEED, n, bins]).multinomial(n, np.full(bins, 1 / bins), DRAWS)


def share_above(drawn: np.ndarray, value: float) -> float:
    """p value of `value` among `drawn` (draws,) of the null hypothesis; never zero, and valid for any number of draws."""
    return float((1 + np.count_nonzero(drawn >= value * (1 - 1e-12))) / (1 + len(drawn)))


def farthest(values: np.ndarray, expected: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Largest |values - expected| / deviation over the last axis, entries without deviation left out."""
    return (np.abs(values - expected) / np.where(deviation > 0, deviation, np.inf)).max(-1)


def rank_band(counts: np.ndarray) -> dict | None:
    """Expected band of a rank histogram with independent entries, and the p value of its chi squared.

    Args:
        counts: (S + 1,), how often the truth had each rank, one view per halo.
    Returns:
        {"low", "high"}: (S + 1,) lists, 95 % simultaneous; "p": of chi squared, by simulation; None for no counts.
    """
    n, bins = int(counts.sum()), len(counts)
    if n == 0:
        return None
    expected, drawn = n / bins, uniform_counts(n, bins)
    deviation = np.full(bins, np.sqrt(n * (1 / bins) * (1 - 1 / bins)))
    reach = np.quantile(farthest(drawn, expected, deviation), LEVEL, method="higher") * deviation
    p = share_above(((drawn - expected) ** 2).sum(1), ((counts - expected) ** 2).sum())
    return {"low": np.maximum(expected - reach, 0.0).tolist(), "high": (expected + reach).tolist(), "p": p}


def scatter_band(counts: np.ndarray, weights: np.ndarray) -> dict | None:
    """Expected band of the rank histogram of pixels, whose entries are not independent within a halo.

    The scatter of the halos' own histograms about their mean stands for the unknown correlation: the band and p are those of the
    largest standardised deviation under the bootstrap over halos, each draw standardised by its own scatter (bootstrap-t), without
    which a right posterior of 60 halos would fail three times too often. Approximate for fewer than some 30 halos.

    Args:
        counts: (halos or groups of them, S + 1). weights: (draws, halos), how often each is in each bootstrap draw.
    Returns:
        As `rank_band`, of the summed counts; None for fewer than two halos.
    """
    n, bins = counts.shape
    if n < 2:
        return None
    expected = counts.sum() / bins
    about = counts - counts.sum(1, keepdims=True) / bins
    about = about - about.mean(0)
    deviation = np.sqrt((about**2).sum(0) * n / (n - 1))
    drawn = np.einsum("dh,hb->db", weights, about)
    scatter = np.einsum("dh,hb->db", weights, about**2) - drawn**2 / n
    scatter = np.where(scatter > 1e-9 * deviation**2, scatter, 0.0)  # a draw of one halo alone has none
    largest = farthest(drawn, 0.0, np.sqrt(scatter * n / (n - 1)))
    reach = np.quantile(largest, LEVEL, method="higher") * deviation
    p = share_above(largest, float(farthest(counts.sum(0), expected, deviation)))
    return {"low": np.maximum(expected - reach, 0.0).tolist(), "high": (expected + reach).tolist(), "p": p}


def binomial_band(n: int, nominal: float) -> tuple[float, float]:
    """95 % band, pointwise, of the share of n independent truths inside an interval that should hold `nominal` of them."""
    low, high = binom.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2], n, nominal)
    return float(low / n), float(high / n)
