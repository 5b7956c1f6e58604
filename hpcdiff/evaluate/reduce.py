"""From the numbers of every view to `metrics.json`: bins of halo mass, summaries, errors by bootstrap over halos.

Runs on rank 0 alone, on columns sorted by view. A number that does not exist is null, with its reason under `reasons`.
"""

from __future__ import annotations

import numpy as np

from hpcdiff.evaluate import calibration
from hpcdiff.evaluate.baselines import Baselines
from hpcdiff.evaluate.views import ERROR_EDGES
from hpcdiff.measures import ratio

TABLE = ("b_small", "b_large", "r_small", "r_large")
SEED = 20251
"""Of the bootstrap: fixed, so that the same samples give the same metrics."""


def mass_bins(bins: dict[str, list[float]], mass: np.ndarray) -> dict[str, np.ndarray]:
    """{name: bool (views,)}: [low, high), the bin with the highest top closed; `all` is every view."""
    top = max((high for _, high in bins.values()), default=0.0)
    chosen = {name: (mass >= low) & ((mass < high) | ((high == top) & (mass == high))) for name, (low, high) in bins.items()}
    return {**chosen, "all": np.ones(len(mass), bool)}


class Bin:
    """The views of one mass bin, and bootstrap draws of its halos.

    Args:
        halos: int64 (views,), halo of each view. draws: number of bootstrap draws.
    """

    def __init__(self, halos: np.ndarray, draws: int) -> None:
        self.halos, self.index = np.unique(halos, return_inverse=True)
        self.n = len(self.halos)
        rng = np.random.default_rng(SEED)
        self.weights = np.array([np.bincount(rng.integers(0, self.n, self.n), minlength=self.n) for _ in range(draws)], np.float64)

    def _sums(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.index, values, self.n)

    def _error(self, top: np.ndarray, bottom: np.ndarray) -> float | None:
        """Spread over the draws of a ratio of sums over halos; null for a single halo."""
        if np.count_nonzero(bottom) < 2:
            return None
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn = np.einsum("dh,h->d", self.weights, top) / np.einsum("dh,h->d", self.weights, bottom)
        drawn = drawn[np.isfinite(drawn)]
        return float(drawn.std(ddof=1)) if len(drawn) > 1 else None

    def summary(self, values: np.ndarray) -> dict | None:
        """Over views; views whose value is NaN are left out, and null is all that is left of none."""
        good = np.isfinite(values)
        if not good.any():
            return None
        p16, median, p84 = np.percentile(values[good], [16, 50, 84])
        counts = self._sums(good.astype(np.float64))
        return {
            "mean": float(values[good].mean()),
            "median": float(median),
            "p16": float(p16),
            "p84": float(p84),
            "error_of_mean": self._error(self._sums(np.where(good, values, 0.0)), counts),
            "n_views": int(good.sum()),
            "n_halos": int(np.count_nonzero(counts)),
        }

    def per_halo(self, values: np.ndarray) -> np.ndarray:
        """Mean over each halo's views, (halos,)."""
        return self._sums(values) / np.bincount(self.index, minlength=self.n)

    def gain(self, model: np.ndarray, other: np.ndarray) -> dict | None:
        """Summary over halos of 1 - model/other, errors of the same halo paired; `wins`: share of halos with a gain."""
        gains = 1 - ratio(self.per_halo(model), self.per_halo(other))
        out = Bin(self.halos, len(self.weights)).summary(gains)  # every halo one view
        return out and {**out, "n_views": len(model), "wins": float((gains > 0).mean())}

    def ratio_of_sums(self, top: np.ndarray, bottom: np.ndarray, power: float = 1.0) -> dict | None:
        """(sum over views / sum over views)^power with its bootstrap error."""
        if not bottom.sum() > 0:
            return None
        value = (top.sum() / bottom.sum()) ** power
        error = self._error(self._sums(top), self._sums(bottom))
        return {"value": float(value), "error": error and float(power * value ** (1 - 1 / power) * error) if value > 0 else None}


def curve(values: np.ndarray) -> dict:
    """Median and 16-84 % over views of (views, n), as lists; null where no view has a value."""
    out = {}
    for name, q in (("median", 50), ("p16", 16), ("p84", 84)):
        column = [np.percentile(v[np.isfinite(v)], q) if np.isfinite(v).any() else None for v in values.T]
        out[name] = [None if v is None else float(v) for v in column]
    return out


def reduce_views(columns: dict[str, np.ndarray], halos: np.ndarray, mass: np.ndarray, samples: int, settings, baselines: Baselines) -> dict:
    """All quantities of the metrics.

    Args:
        columns: {"<field>/<quantity>": (views, ...)}, sorted by view.
        halos, mass: (views,), halo ids and M200m in Msun.
        samples: posterior samples a view. settings: the section `evaluate`. baselines: the fitted ones.
    Returns:
        {quantity: {bin: {field: ...}}} and `reasons` {path: text}.
    """
    makers = {
        "table1": lambda c, b, o: {q: b.summary(c(q)) for q in TABLE},
        "table1_per_sample": lambda c, b, o: {q: b.summary(c(f"sample_{q}")) for q in TABLE},
        "total_mass_error": lambda c, b, o: b.summary(c("mass_error")),
        "squared_error": _squared_error,
        "profile": _profile,
        "pixel_error": _pixel_error,
        "spectra": lambda c, b, o: _spectra(c, baselines),
        "convergence": lambda c, b, o: _convergence(c, b) if samples > 1 else None,
        "calibration": lambda c, b, o: _calibration(c, b, baselines.totals[:, o], samples) if samples > 1 else None,
        "baseline": lambda c, b, o: _baseline(c, b, baselines),
    }
    metrics, reasons = {q: {} for q in makers}, {}
    for name, chosen in mass_bins(settings.mass_bins, mass).items():
        if not chosen.any():
            low, high = settings.mass_bins[name]
            for quantity in makers:
                metrics[quantity][name] = None
                reasons[f"{quantity}.{name}"] = f"no evaluated view has M200m in {low:.3g}..{high:.3g} Msun"
            continue
        part = Bin(halos[chosen], settings.bootstrap)
        for quantity, make in makers.items():
            metrics[quantity][name] = {}
            for o, field in enumerate(baselines.outputs):

                def column(key: str, field=field, chosen=chosen) -> np.ndarray:
                    return columns[key if key in ("k", "radius") else f"{field}/{key}"][chosen]

                metrics[quantity][name][field] = make(column, part, o)
    if samples < 2:
        reasons |= {q: "one sample a view: there is no spread" for q in ("convergence", "calibration")}
    if baselines.reason:
        reasons["baseline"] = f"{', '.join(('stacked_profile', 'linear_map'))}: {baselines.reason}"
    _name_nulls(metrics, reasons)
    return {**metrics, "reasons": reasons}


def _name_nulls(metrics: dict, reasons: dict) -> None:
    """A reason for each null that has none yet."""

    def walk(node: dict, path: tuple[str, ...]) -> None:
        for key, value in node.items():
            here = (*path, key)
            if isinstance(value, dict):
                walk(value, here)
            elif (value is None or (isinstance(value, list) and None in value)) and not any(
                ".".join(here[:n]) in reasons for n in range(1, len(here) + 1)
            ):
                if key in ("error_of_mean", "error"):
                    text = "one halo: no bootstrap"
                elif key in ("b_small", "b_large", "r_small", "r_large"):
                    text = "no wavenumber bin in this band, or a map without power there"
                elif key == "within_1":
                    text = "the samples of a view don't differ"
                else:
                    text = "no view has a finite value"
                reasons[".".join(here)] = text

    walk(metrics, ())


def _squared_error(c, b: Bin, o: int) -> dict:
    return {**b.summary(c("squared_error")), "relative": b.summary(ratio(c("squared_error"), c("truth_square")))}


def _profile(c, b: Bin, o: int) -> dict:
    truth, made = c("profile_truth"), c("profile")
    return {
        "radius_mpc": c("radius").mean(0).tolist(),
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
    for name in set(("stacked_profile", "linear_map")) - set(baselines.names):
        out[name] = None
    for name in baselines.inputs:
        out[name] = {q: b.summary(c(f"{name}/{q}")) for q in ("r_small", "r_large")}
    return out


def _calibration(c, b: Bin, climate: np.ndarray, samples: int) -> dict:
    """`total`: of the map's sum; `pixel`: of its pixels. CRPS in map units; skills are 1 - CRPS / CRPS of the reference."""
    truth = c("truth_total")
    reference = {"total": climate_crps(climate, truth) if len(climate) > 1 else None}
    named = {"total": "crps_skill_over_climatology", "pixel": "crps_skill_over_stacked_profile"}
    try:
        reference["pixel"] = c("stacked_profile/absolute_error")
    except KeyError:
        reference["pixel"] = None
    out = {"samples": samples, "expected_within_1": calibration.expected_within(samples)}
    for name in ("total", "pixel"):
        counts = c(f"{name}_ranks")
        nominal, _ = calibration.coverage(counts.sum(0))
        _, each = calibration.coverage(counts)
        crps = c(f"{name}_crps")
        skill = reference[name]
        variance, square = c(f"{name}_variance"), c(f"{name}_square")
        if name == "total":  # so that each halo counts alike, whatever its mass
            variance, square = variance / truth**2, square / truth**2
        out[name] = {
            "ranks": counts.sum(0).astype(int).tolist(),
            "coverage": [{"nominal": float(n), **b.summary(v)} for n, v in zip(nominal, each.T, strict=True)],
            "crps": b.summary(crps),
            named[name]: None if skill is None else _skill(b.ratio_of_sums(crps, skill)),
            "spread_skill": b.ratio_of_sums((samples + 1) / samples * variance, square, 0.5),
            "within_1": b.summary(c(f"{name}_within")),
        }
    return out


def _skill(of: dict | None) -> dict | None:
    return of and {"value": 1 - of["value"], "error": of["error"]}


def climate_crps(climate: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Fair CRPS (n,) of drawing any training value (m,) whatever the data say, against each truth (n,)."""
    x = np.sort(climate)
    m = len(x)
    spread = ((2.0 * np.arange(m) - (m - 1)) * x).sum() / (m * (m - 1))
    return np.array([np.abs(x - y).mean() for y in truth]) - spread
