"""Is the posterior as wide as its errors? Scores of samples against the truth, and what a perfect posterior would score."""

from hpcdiff.evaluate.calibration.expected import binomial_band, rank_band, scatter_band
from hpcdiff.evaluate.calibration.scores import (
    climate_crps,
    coverage,
    expected_within,
    fair_crps,
    ranks,
    standardised_error,
    variance_of_mean,
)
from hpcdiff.evaluate.calibration.tarp import tarp_curve, tarp_rank
from hpcdiff.evaluate.calibration.trend import trend

__all__ = [
    "binomial_band",
    "climate_crps",
    "coverage",
    "expected_within",
    "fair_crps",
    "rank_band",
    "ranks",
    "scatter_band",
    "standardised_error",
    "tarp_curve",
    "tarp_rank",
    "trend",
    "variance_of_mean",
]
