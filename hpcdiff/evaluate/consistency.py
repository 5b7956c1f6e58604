"""A check without truth: one halo seen along three axes has one mass, so three posteriors of it must agree."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from hpcdiff.evaluate.calibration.expected import DRAWS, SEED, share_above
from hpcdiff.evaluate.inputs import depth_of

CUBE = 1e-3
"""Relative difference of width and depth up to which the three axes cut the same cube."""


def groups_of(halos: np.ndarray, sightlines: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """For each view the number of its (halo, sightline), or -1 where that sightline is not the halo's chosen one.

    Args:
        halos, sightlines: (views,). chosen: bool (views,), one view of each halo; its sightline stands for the halo.
    """
    of = dict(zip(halos[chosen].tolist(), sightlines[chosen].tolist(), strict=True))
    kept = np.array([of.get(h) == s for h, s in zip(halos.tolist(), sightlines.tolist(), strict=True)], bool)
    return np.where(kept, np.unique(halos, return_inverse=True)[1], -1)


def agreement(mean: np.ndarray, variance: np.ndarray, groups: np.ndarray, samples: int) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Scatter of the posterior means of one mass over what their spreads allow.

    chi2 of a group of A views: (variance of the A means) / (mean posterior variance (1 + 1/S)), times (d - 2)/d with
    d = A (S - 1), so that its mean is 1 for posteriors whose errors are independent: an F variable with A - 1 and d degrees.
    What is common to the axes (the prior, the halo's own departures from the mean relation) makes it smaller, never larger.

    Args:
        mean, variance: (views,), of the S samples of the mass (ddof = 1). groups: int (views,), below 0 = not used.
    Returns:
        chi2 (groups of at least two views,), the first view of each (int), and p: P(mean chi2 at least as large) for
        independent errors; None for no group.
    """
    chi2, first, shape = [], [], []
    for g in np.unique(groups[groups >= 0]):
        here = np.flatnonzero(groups == g)
        a, d = len(here), len(here) * (samples - 1)
        allowed = variance[here].mean() * (1 + 1 / samples)
        if a < 2 or d < 3 or not allowed > 0:
            continue
        chi2.append(mean[here].var(ddof=1) / allowed * (d - 2) / d)
        first.append(here[0])
        shape.append((a - 1, d))
    if not chi2:
        return np.empty(0), np.empty(0, int), None
    return np.array(chi2), np.array(first), share_above(_independent(tuple(shape)), float(np.mean(chi2)))


@lru_cache(maxsize=8)
def _independent(shape: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Mean chi2 of groups with these degrees of freedom, drawn for independent errors, (DRAWS,)."""
    over, under = np.array(shape, np.float64).T
    return (np.random.default_rng(SEED).f(over, under, (DRAWS, len(shape))) * (under - 2) / under).mean(1)


def consistency(
    columns: dict[str, np.ndarray], field: str, catalog: dict[str, np.ndarray], chosen: np.ndarray, samples: int, make_bin
) -> tuple[dict | None, str | None]:
    """The part `consistency.<field>` of the metrics, and the reason where it is null.

    Args:
        columns: {"<field>/<quantity>": (views, ...)}. catalog: its rows of the views. chosen: bool (views,), one view of each halo.
        samples: S. make_bin: from halo ids to a `Bin`.
    """
    if samples < 2:
        return None, "one sample a view: there is no spread"
    if not np.allclose(catalog["width_mpc"], depth_of(catalog, field), rtol=CUBE, atol=0):
        return None, "the maps are not as deep as they are wide: the three axes cut different volumes, with different masses"
    groups = groups_of(catalog["halo_id"], catalog["sightline_index"], chosen)
    chi2, first, p = agreement(columns[f"{field}/total_mean"], columns[f"{field}/total_variance"], groups, samples)
    if p is None:
        return None, "no halo is seen along two axes, with samples that differ"
    of = make_bin(catalog["halo_id"][first])
    return {"chi2": of.summary(chi2), "expected": 1.0, "p": p, "n_halos": of.n}, None
