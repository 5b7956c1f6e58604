"""The part `calibration` of the metrics: one view per halo, each score beside what a perfect posterior would give."""

from __future__ import annotations

import numpy as np

from hpcdiff.evaluate import calibration
from hpcdiff.evaluate.bins import Bin
from hpcdiff.evaluate.reference import NAMES
from hpcdiff.measures import ratio

SKILLS = {"total": "crps_skill_over_climatology", "pixel": "crps_skill_over_stacked_profile"}


def calibration_of(c, b: Bin, climate: np.ndarray, samples: int, observables: list[str]) -> dict:
    """`calibration.<bin>.<field>`; `total`: of the map's sum; `pixel`: of its pixels. CRPS in map units.

    Skills are 1 - CRPS / CRPS of the reference. The bands of ranks and TARP are 95 % simultaneous, those of coverage pointwise.

    Args:
        c: columns by name, of one view per halo. b: their bin. climate: (n,), training totals. samples: S, 2 or more.
        observables: names of columns `observable/<name>`.
    """
    truth = c("truth_total")
    reference = {"total": calibration.climate_crps(climate, truth) if len(climate) > 1 else None}
    try:
        reference["pixel"] = c("stacked_profile/absolute_error")
    except KeyError:
        reference["pixel"] = None
    out = {"samples": samples, "one_view_per_halo": b.n, "expected_within_1": calibration.expected_within(samples)}
    for name in ("total", "pixel"):
        counts, crps, skill = c(f"{name}_ranks"), c(f"{name}_crps"), reference[name]
        variance, square = c(f"{name}_variance"), c(f"{name}_square")
        if name == "total":  # so that each halo counts alike, whatever its mass
            weight = np.square(c("total_mean"))  # of the samples: weighted by the truth, a right posterior has too large errors
            variance, square = (ratio(v, weight) for v in (variance, square))
            band = calibration.rank_band(counts.sum(0))
        else:
            each = np.zeros((b.drawn.shape[1], samples + 1))
            np.add.at(each, b.unit, counts)
            band = calibration.scatter_band(each, b.drawn)
        out[name] = {
            "ranks": counts.sum(0).astype(int).tolist(),
            "rank_band": band,
            "coverage": _coverage(counts, b, independent=name == "total"),
            "crps": b.summary(crps),
            SKILLS[name]: None if skill is None else _skill(b.ratio_of_sums(crps, skill)),
            "spread_skill": b.ratio_of_sums((samples + 1) / samples * variance, square, 0.5),
            "within_1": b.summary(c(f"{name}_within")),
        }
    rank = c("total_rank")
    try:
        out["tarp"] = {name: calibration.tarp_curve(c(f"tarp/{name}"), samples) for name in NAMES}
    except KeyError:
        out["tarp"] = None
    out["conditional"] = {name: calibration.trend(rank, samples, c(f"observable/{name}")) for name in observables}
    return out


def _coverage(counts: np.ndarray, b: Bin, independent: bool) -> list[dict]:
    """Of each interval: the share of truths inside, and where 95 % of perfect posteriors have it."""
    nominal, _ = calibration.coverage(counts.sum(0))
    _, each = calibration.coverage(counts)
    out = []
    for n, values in zip(nominal.tolist(), each.T, strict=True):
        of = b.summary(values)
        low = high = None
        if independent:
            low, high = calibration.binomial_band(len(values), n)
        elif of["error_of_mean"] is not None:
            low, high = n - 1.96 * of["error_of_mean"], n + 1.96 * of["error_of_mean"]
        out.append({"nominal": n, **of, "low": low, "high": high})
    return out


def _skill(of: dict | None) -> dict | None:
    return of and {"value": 1 - of["value"], "error": of["error"]}
