"""What a run costs by particles, pixels, views and mass; the planner's rates fitted at two sizes and held against a third."""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from hpcdiff.project.balance import RATES
from scaling.runs import Bench

FIT, UNSEEN = ((1_000_000, 24), (4_000_000, 48)), (8_000_000, 96)
"""Particles and halos."""
WORK = ((64, 1), (128, 1), (128, 3), (256, 1))
"""Pixels a side and sightlines of the runs that are fitted."""
CHECKED = ((128, 3), (96, 2), (384, 1))
"""Of those that are not."""
KNOWN, NOISE = 3.0, 0.05
NAMES = ("row", "seen", "deposit", "pixel", "unit")


def measure(bench: Bench, size: tuple[int, int], work: tuple[int, int], repeats: int) -> dict:
    """One kind of run on one rank, CPU seconds; the least of some."""
    npix, sightlines = work
    keys = {"npix": npix, "views": {"sightlines": sightlines}}
    runs = [bench.project("model", bench.box(*size), **keys)[0] for _ in range(repeats)]
    seconds = [(r["cpu"]["scan"], r["cpu"]["run"] - r["cpu"]["scan"] - r["cpu"]["plan"]) for r in runs]
    reading, projecting = np.min(seconds, axis=0).tolist()
    one = runs[0]
    units = np.min([sorted(r["units"]) for r in runs], axis=0)  # (halo, seconds); one unit a halo on one rank
    return {
        "particles": size[0],
        "halos": size[1],
        "npix": npix,
        "sightlines": sightlines,
        "views": one["views"],
        "pairs": one["pairs"],
        "reading": reading,
        "projecting": projecting,
        "features": one["features"],
        "rows_read": one["rows_read"],
        "rates_reading": one["predicted_read"],
        "rates_projecting": sum(seconds for _, seconds in one["predicted_units"]),
        "mass": one["mass"],
        "unit_seconds": units[:, 1].tolist(),
        "unit_predicted": [s for _, s in sorted(one["predicted_units"])],
        "unit_rows": one["pairs_of_halos"],
        "load_average": one["load_average"],
    }


def fit(runs: list[dict]) -> dict[str, float]:
    """The planner's rates, least squares of relative errors, with none below 0.

    Particles seen and what they cost to deposit rise together, so that runs alone do not tell their rates apart: the planner's
    own rates stand beside the runs as known within a factor of `KNOWN`, where a run is known within `NOISE`. Reading has a second
    rate, that of a particle which a cluster sees (`found`).
    """
    seconds, now = np.array([r["projecting"] for r in runs]), np.array([getattr(RATES, name) for name in NAMES])
    features = np.array([[r["features"][name] for name in NAMES] for r in runs])
    told = np.vstack([features * now / seconds[:, None] / NOISE, np.eye(len(NAMES)) / np.log(KNOWN)])
    times, _ = nnls(told, np.concatenate([np.full(len(runs), 1 / NOISE), np.full(len(NAMES), 1 / np.log(KNOWN))]))
    told = np.array([[r["rows_read"], r["pairs"]] for r in runs]) / np.array([[r["reading"]] for r in runs])
    (read, found), _ = nnls(told, np.ones(len(runs)))
    return {"read": float(read), "found": float(found), **dict(zip(NAMES, (times * now).tolist(), strict=True))}


def predict(rates: dict[str, float], run: dict) -> dict[str, float]:
    """CPU seconds of reading and projecting."""
    reading = rates["read"] * run["rows_read"] + rates["found"] * run["pairs"]
    return {"reading": reading, "projecting": sum(rates[name] * run["features"][name] for name in NAMES)}


def check(rates: dict[str, float], run: dict) -> dict:
    """Predicted over measured, less 1, of a run that was not fitted; with the planner's own rates beside it."""
    predicted = predict(rates, run)
    reading, projecting = predicted["reading"], predicted["projecting"]
    return {
        "npix": run["npix"],
        "sightlines": run["sightlines"],
        "particles": run["particles"],
        "views": run["views"],
        "reading": run["reading"],
        "projecting": run["projecting"],
        "predicted_reading": reading,
        "predicted_projecting": projecting,
        "error_reading": reading / run["reading"] - 1,
        "error_projecting": projecting / run["projecting"] - 1,
        "error_both": (reading + projecting) / (run["reading"] + run["projecting"]) - 1,
        "rates_error_reading": run["rates_reading"] / run["reading"] - 1,
        "rates_error_projecting": run["rates_projecting"] / run["projecting"] - 1,
    }


def by_mass(run: dict, bins: int = 5) -> list[dict]:
    """Seconds of a halo by its mass, in bins of as many halos, measured and predicted."""
    bins_ = np.array_split(np.argsort(run["mass"]), bins)
    columns = {"mass": run["mass"], "rows": run["unit_rows"], "seconds": run["unit_seconds"], "predicted": run["unit_predicted"]}
    return [{name: float(np.mean(np.array(values)[some])) for name, values in columns.items()} for some in bins_]


def run(bench: Bench, repeats: int = 3) -> dict:
    """Measure, fit, check; what --dry-run says of the unseen runs."""
    fitted = [measure(bench, size, work, repeats) for size in FIT for work in WORK]
    pixels = [measure(bench, FIT[1], (npix, 1), repeats) for npix in (32, 512)]
    views = [measure(bench, FIT[1], (128, n), repeats) for n in (6,)]
    unseen = [measure(bench, UNSEEN, work, repeats) for work in CHECKED]
    rates = fit(fitted)
    forecasts = []
    for r in unseen:
        said = bench.forecast(bench.box(*UNSEEN), npix=r["npix"], views={"sightlines": r["sightlines"]})
        forecasts.append(
            {"npix": r["npix"], "sightlines": r["sightlines"], **said, "actual_pairs": r["pairs"], "actual_reading": r["reading"]}
            | {"actual_projecting": r["projecting"], "error_pairs": said["pairs"] / r["pairs"] - 1}
            | {"error": (said["reading"] + said["projecting"]) / (r["reading"] + r["projecting"]) - 1}
        )
    return {
        "rates": dict(vars(RATES)),
        "fitted_rates": rates,
        "checks": [check(rates, r) for r in unseen],
        "fit_error": [check(rates, r)["error_projecting"] for r in fitted],
        "forecasts": forecasts,
        "by_mass": by_mass(unseen[0]),
        "runs": [{k: v for k, v in r.items() if not k.startswith("unit_") and k != "mass"} for r in (*fitted, *pixels, *views, *unseen)],
        "correlation_of_units": float(np.corrcoef(unseen[0]["unit_seconds"], unseen[0]["unit_predicted"])[0, 1]),
    }
