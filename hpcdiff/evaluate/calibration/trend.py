"""Conditional calibration: a posterior may be right on average and wrong for disturbed, or bright, clusters."""

from __future__ import annotations

import numpy as np
from scipy.stats import t as student


def trend(ranked: np.ndarray, samples: int, observable: np.ndarray) -> dict | None:
    """Least-squares line of the truth's rank against an observable: flat if the posterior is right given the data.

    Args:
        ranked: (n,), rank of the truth among the samples, one view per halo. samples: S.
        observable: (n,), a function of the data; its logarithm is taken where all of it is positive.
    Returns:
        {"slope": change of (rank + 1/2) / (S + 1) per standard deviation of the observable, "error": its standard error,
        "p": two-sided, t test with n - 2 degrees}, or None for fewer than 3 halos or an observable that doesn't vary.
    """
    good = np.isfinite(ranked) & np.isfinite(observable)
    u, x = (ranked[good] + 0.5) / (samples + 1), observable[good]
    n = len(u)
    if n < 3:
        return None
    x = np.log(x) if (x > 0).all() else x
    scale = x.std()
    if not scale > 1e-12 * np.abs(x).max():
        return None
    x = (x - x.mean()) / scale
    slope = (x * u).mean()
    left = ((u - u.mean() - slope * x) ** 2).sum() / (n - 2)
    error = np.sqrt(left / n)
    p = 2 * student.sf(abs(slope) / error, n - 2) if error > 0 else float(slope == 0)
    return {"slope": float(slope), "error": float(error), "p": float(p)}
