"""From the numbers of every view to `metrics.json`: bins, summaries, errors by bootstrap over halos.

Runs on rank 0 alone, on columns sorted by view. A number that does not exist is null, with its reason under `reasons`.
"""

from __future__ import annotations

import numpy as np

from hpcdiff.evaluate.baselines import Baselines
from hpcdiff.evaluate.bins import SIGNAL, Bin, curve, independent_units, mass_bins, one_view_per_halo, signal_bins
from hpcdiff.evaluate.calibrated import calibration_of
from hpcdiff.evaluate.consistency import consistency
from hpcdiff.evaluate.morphology import structure_of, substructure_of
from hpcdiff.evaluate.observables import APERTURE_MPC, signal_field
from hpcdiff.evaluate.views import ERROR_EDGES
from hpcdiff.measures import ratio

TABLE = ("b_small", "b_large", "r_small", "r_large")
BY_MASS = ("table1", "table1_per_sample")
"""Quantities in bins of true mass alone, as in the paper; all others are also in bins of the signal."""
OF_FILE = ("k", "radius", "r200")


def reduce_views(
    columns: dict[str, np.ndarray], catalog: dict[str, np.ndarray], samples: int, settings, baselines: Baselines, no_tarp: str | None = None
) -> dict:
    """All quantities of the metrics.

    Args:
        columns: {"<field>/<quantity>": (views, ...)}, sorted by view.
        catalog: columns of the map file's catalogue, of these views.
        samples: posterior samples a view. settings: the section `evaluate`. baselines: the fitted ones.
        no_tarp: why there are no references for TARP, if so.
    Returns:
        {quantity: {bin: {field: ...}}}, `consistency`, `signal_bins`, `bootstrap_over` (halo or group) and `reasons` {path: text}.
    """
    observables = [*baselines.inputs, "offset_mpc"]
    makers = {
        "table1": lambda c, b, o: {q: b.summary(c(q)) for q in TABLE},
        "table1_per_sample": lambda c, b, o: {q: b.summary(c(f"sample_{q}")) for q in TABLE},
        "total_mass_error": lambda c, b, o: b.summary(c("mass_error")),
        "squared_error": _squared_error,
        "profile": _profile,
        "pixel_error": _pixel_error,
        "spectra": lambda c, b, o: _spectra(c, baselines),
        "convergence": lambda c, b, o: _convergence(c, b) if samples > 1 else None,
        "calibration": lambda c, b, o: calibration_of(c, b, baselines.totals[:, o], samples, observables) if samples > 1 else None,
        "baseline": lambda c, b, o: _baseline(c, b, baselines),
        "structure": lambda c, b, o: structure_of(c, b, samples),
        "substructure": lambda c, b, o: substructure_of(c, b),
    }
    halos, field_of_signal = catalog["halo_id"], signal_field(baselines.inputs)
    single = one_view_per_halo(halos, catalog["sightline_index"], catalog["axis"])
    by_signal, edges = signal_bins(columns[f"observable/{field_of_signal}"])
    drawn, units = independent_units(halos, catalog["group"])
    unit_of = dict(zip(halos.tolist(), units.tolist(), strict=True))
    metrics, reasons = {q: {} for q in makers}, {}
    for name, chosen in {**mass_bins(settings.mass_bins, catalog["mass_200m"]), **by_signal}.items():
        part, alone = (Bin(halos[rows], settings.bootstrap, units[rows]) if rows.any() else None for rows in (chosen, chosen & single))
        for quantity, make in makers.items():
            if name in by_signal and quantity in BY_MASS:
                continue
            rows, here = (chosen & single, alone) if quantity == "calibration" else (chosen, part)
            if here is None:
                metrics[quantity][name] = None
                reasons[f"{quantity}.{name}"] = _empty(name, settings.mass_bins, quantity)
                continue
            metrics[quantity][name] = {}
            for o, field in enumerate(baselines.outputs):

                def column(key: str, field=field, rows=rows) -> np.ndarray:
                    return columns[key if key in OF_FILE or key.startswith("observable/") else f"{field}/{key}"][rows]

                metrics[quantity][name][field] = make(column, here, o)
    metrics["consistency"] = {}
    for field in baselines.outputs:
        found, reason = consistency(
            columns, field, catalog, single, samples, lambda ids: Bin(ids, settings.bootstrap, np.array([unit_of[i] for i in ids.tolist()]))
        )
        metrics["consistency"][field] = found
        reasons |= {f"consistency.{field}": reason} if reason else {}
    if samples < 2:
        reasons |= {q: "one sample a view: there is no spread" for q in ("convergence", "calibration")}
    _name_nulls(metrics, reasons, no_tarp, baselines.reasons)
    bounds = {name: edges[n : n + 2] for n, name in enumerate(SIGNAL)}
    return {
        **metrics,
        "bootstrap_over": drawn,
        "signal_bins": {"field": field_of_signal, "aperture_mpc": APERTURE_MPC, **bounds},
        "reasons": reasons,
    }


def _empty(name: str, bins: dict[str, list[float]], quantity: str) -> str:
    if quantity == "calibration":
        return "no halo's chosen view is in this bin"
    if name in bins:
        low, high = bins[name]
        return f"no evaluated view has M200m in {low:.3g}..{high:.3g} Msun"
    return "no evaluated view has a signal in this third: too many are equal, or there are too few"


NULLS = {
    "error_of_mean": "one halo: no bootstrap",
    "error": "one halo: no bootstrap",
    **dict.fromkeys(TABLE, "no wavenumber bin in this band, or a map without power there"),
    "within_1": "the samples of a view don't differ",
    "coverage": "one sample a view, or a number that is not defined for all of a view's samples",
    "rank_band": "one halo",
    "low": "one halo: no bootstrap",
    "high": "one halo: no bootstrap",
    "completeness": "no true peak",
    "purity": "no peak is found",
}


def _name_nulls(metrics: dict, reasons: dict, no_tarp: str | None, no_baseline: dict[str, str]) -> None:
    """A reason for each null that has none yet."""

    def walk(node: dict, path: tuple[str, ...]) -> None:
        for key, value in node.items():
            here = (*path, key)
            if isinstance(value, dict):
                walk(value, here)
            elif (value is None or (isinstance(value, list) and None in value)) and not any(
                ".".join(here[:n]) in reasons for n in range(1, len(here) + 1)
            ):
                if path[0] == "baseline" and key in no_baseline:
                    text = no_baseline[key]
                elif key == "tarp":
                    text = no_tarp or "there is no baseline to draw references from"
                elif path[-1] == "conditional":
                    text = "fewer than three halos, or an observable that doesn't vary"
                else:
                    text = NULLS.get(key, "no view has a finite value")
                reasons[".".join(here)] = text

    walk(metrics, ())


def _squared_error(c, b: Bin, o: int) -> dict:
    return {**b.summary(c("squared_error")), "relative": b.summary(ratio(c("squared_error"), c("truth_square")))}


def _profile(c, b: Bin, o: int) -> dict:
    truth, made = c("profile_truth"), c("profile")
    return {
        "radius_mpc": c("radius").mean(0).tolist(),
        "r200m_mpc": [float(c("r200").min()), float(c("r200").max())],
        "truth": curve(truth),
        "generated": curve(made),
        "fractional_error": curve(ratio(made - truth, truth)),
    }


def _pixel_error(c, b: Bin, o: int) -> dict:
    def half(name: str) -> dict | None:
        median = b.summary(c(f"{name}_median"))
        counts = c(f"{name}_histogram").sum(0)
        return median and {**median, "spread": b.summary(c(f"{name}_spread")), "histogram": counts.astype(int).tolist()}

    return {"inside": half("inside"), "outside": half("outside"), "edges": ERROR_EDGES.tolist()}


def _spectra(c, baselines: Baselines) -> dict:
    others = {name: curve(c(f"{name}/r")) for name in (*baselines.inputs, *baselines.names)}
    named = {"b": "b", "r": "r", "b_per_sample": "sample_b", "r_per_sample": "sample_r"}
    return {"k": c("k").mean(0).tolist(), **{key: curve(c(q)) for key, q in named.items()}, "r_baseline": others}


def _convergence(c, b: Bin) -> dict:
    variance = c("variance_of_mean")
    mean = variance.mean(0)
    return {
        "samples": list(range(2, variance.shape[1] + 2)),
        "variance": mean.tolist(),
        "error_of_mean": [s["error_of_mean"] for s in (b.summary(v) for v in variance.T)],
        "relative": [None if np.isnan(v) else float(v) for v in ratio(mean, mean[0])],
    }


def _baseline(c, b: Bin, baselines: Baselines) -> dict:
    out = {}
    for name in baselines.names:
        out[name] = {
            "squared_error": b.summary(c(f"{name}/squared_error")),
            "total_mass_error": b.summary(c(f"{name}/mass_error")),
            **{q: b.summary(c(f"{name}/{q}")) for q in TABLE},
            "gain": b.gain(c("squared_error"), c(f"{name}/squared_error")),
        }
    for name in baselines.reasons:
        out[name] = None
    for name in baselines.inputs:
        out[name] = {q: b.summary(c(f"{name}/{q}")) for q in ("r_small", "r_large")}
    return out
