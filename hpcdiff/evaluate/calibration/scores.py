"""Scores of S samples (along the first axis) against the truth.

Ranks and coverage by order statistics (no interpolated percentiles: those of 10 perfect samples cover 57 %, not 68 %), fair
CRPS (Ferro 2014), spread-skill, and the standardised error, which is Student-t distributed for a Gaussian posterior.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import t as student


def ranks(samples: np.ndarray, truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How many of the samples (S, ...) lie below the truth (...): 0..S, ties at random; flat over 0..S if calibrated."""
    below, ties = (samples < truth).sum(0), (samples == truth).sum(0)
    return below + rng.integers(0, ties + 1)


def coverage(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nominal (m,) and observed (..., m) coverage of the intervals between the i-th lowest and i-th highest sample, widest first.

    Args:
        counts: (..., S + 1), how often the truth had each rank.
    """
    counts = np.asarray(counts, np.float64)
    bins = counts.shape[-1]
    low = np.arange(1, (bins - 1) // 2 + 1)
    total = counts.sum(-1)
    inside = np.stack([counts[..., i : bins - i].sum(-1) for i in low], -1) if len(low) else np.empty((*total.shape, 0))
    return (bins - 2 * low) / bins, inside / total[..., None]


def fair_crps(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """mean|x - y| - sum_ij |x_i - x_j| / (2 S (S - 1)), (...): its mean is lowest for the true posterior, whatever S; needs S >= 2."""
    s = len(samples)
    apart = sum(np.abs(samples[i + 1 :] - samples[i]).sum(0) for i in range(s - 1))  # for few samples quicker than sorting them
    return np.abs(samples - truth).mean(0) - apart / (s * (s - 1))


def climate_crps(climate: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Fair CRPS (n,) of drawing any training value (m,) whatever the data say, against each truth (n,)."""
    x = np.sort(climate)
    m = len(x)
    below = np.concatenate([[0.0], np.cumsum(x)])
    k = np.searchsorted(x, truth)
    apart = (k * truth - below[k] + (below[m] - below[k]) - (m - k) * truth) / m
    spread = ((2.0 * np.arange(m) - (m - 1)) * x).sum() / (m * (m - 1))
    return apart - spread


def standardised_error(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(mean - truth) / std (ddof = 1), (...); NaN where the samples don't differ."""
    error, std = samples.mean(0) - truth, samples.std(0, ddof=1)
    return np.divide(error, std, out=np.full(np.shape(error), np.nan), where=std > 0)


def expected_within(s: int) -> float:
    """P(|standardised error| < 1) of a calibrated Gaussian posterior: e / sqrt(1 + 1/S) is Student-t with S - 1 degrees."""
    return float(2 * student.cdf(1 / np.sqrt(1 + 1 / s), s - 1) - 1)


def variance_of_mean(samples: np.ndarray) -> np.ndarray:
    """Sample variance (ddof = 1) of the first N samples over N, mean over pixels, for N = 2..S, (S - 1,)."""
    mean, squares, out = np.array(samples[0], np.float64), np.zeros(samples[0].shape), []
    for n, x in enumerate(samples[1:], 2):
        delta = x - mean
        mean += delta / n
        squares += delta * (x - mean)
        out.append(squares.mean() / (n - 1) / n)
    return np.array(out)
