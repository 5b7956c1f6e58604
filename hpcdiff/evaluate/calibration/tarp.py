"""Tests of accuracy with random points (TARP; Lemos et al. 2023, arXiv:2302.03026), in any number of dimensions.

How many posterior samples lie nearer to a reference point than the truth does is uniform if the posterior is right, wherever the
reference is, as long as it depends on the data alone. References drawn near what the data say are what gives the test its power:
with references that ignore the data, the prior passes it.
"""

from __future__ import annotations

import numpy as np

from hpcdiff.evaluate.calibration.expected import LEVEL, farthest, share_above, uniform_counts
from hpcdiff.evaluate.calibration.scores import ranks


def tarp_rank(samples: np.ndarray, truth: np.ndarray, reference: np.ndarray, rng: np.random.Generator) -> int:
    """How many of the samples (S, D) are nearer to the reference (D,) than the truth (D,) is: 0..S, ties at random."""
    return int(ranks(((samples - reference) ** 2).sum(-1), ((truth - reference) ** 2).sum(-1), rng))


def tarp_curve(ranked: np.ndarray, samples: int) -> dict | None:
    """Expected coverage against credibility.

    Args:
        ranked: (n,), `tarp_rank` of independent truths; NaN ones are left out. samples: S.
    Returns:
        {"alpha": 0, 1/(S+1), .. 1; "coverage": share of the truths with rank < alpha (S + 1), to be equal to alpha;
        "low", "high": 95 % band of a perfect posterior, simultaneous; "p": of the largest standardised deviation, the curve leaves
        the band where p < 0.05; "n_halos"}, or None for no ranks.
    """
    ranked = ranked[np.isfinite(ranked)].astype(np.int64)
    n, bins = len(ranked), samples + 1
    if n == 0:
        return None
    alpha = np.arange(bins + 1) / bins
    deviation = np.sqrt(alpha * (1 - alpha) / n)
    deviation[-1] = 0.0
    observed = np.concatenate([[0.0], np.cumsum(np.bincount(ranked, minlength=bins)) / n])
    drawn = np.concatenate([np.zeros((len(uniform_counts(n, bins)), 1)), np.cumsum(uniform_counts(n, bins), 1) / n], 1)
    largest = farthest(drawn, alpha, deviation)
    reach = np.quantile(largest, LEVEL, method="higher") * deviation
    return {
        "alpha": alpha.tolist(),
        "coverage": observed.tolist(),
        "low": np.maximum(alpha - reach, 0.0).tolist(),
        "high": np.minimum(alpha + reach, 1.0).tolist(),
        "p": share_above(largest, float(farthest(observed, alpha, deviation))),
        "n_halos": n,
    }
