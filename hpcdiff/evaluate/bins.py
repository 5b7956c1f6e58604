"""The views of one bin: summaries with errors by bootstrap over halos or groups of them, never over views, which are not independent."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np

from hpcdiff.measures import ratio

SEED = 20251
"""Of the bootstrap: fixed, so that the same samples give the same metrics."""
SIGNAL = ("signal_low", "signal_middle", "signal_high")


def mass_bins(bins: dict[str, list[float]], mass: np.ndarray) -> dict[str, np.ndarray]:
    """{name: bool (views,)}: [low, high), the bin with the highest top closed; `all` is every view."""
    top = max((high for _, high in bins.values()), default=0.0)
    chosen = {name: (mass >= low) & ((mass < high) | ((high == top) & (mass == high))) for name, (low, high) in bins.items()}
    return {**chosen, "all": np.ones(len(mass), bool)}


def signal_bins(signal: np.ndarray) -> tuple[dict[str, np.ndarray], list[float]]:
    """{name: bool (views,)} of the terciles of an observable signal (views,), and their four edges; the last bin is closed."""
    edges = np.percentile(signal, [0, 100 / 3, 200 / 3, 100])
    tercile = (signal >= edges[1]).astype(int) + (signal >= edges[2])
    return {name: tercile == n for n, name in enumerate(SIGNAL)}, edges.tolist()


def one_view_per_halo(halos: np.ndarray, sightlines: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """bool (views,): of each halo the view whose (halo, sightline, axis) has the lowest SHA-256, whatever else is evaluated."""
    best: dict[int, tuple[bytes, int]] = {}
    for n, named in enumerate(zip(halos.tolist(), sightlines.tolist(), axes.tolist(), strict=True)):
        mine = (hashlib.sha256("{} {} {}".format(*named).encode()).digest(), n)
        best[named[0]] = min(best.get(named[0], mine), mine)
    chosen = np.zeros(len(halos), bool)
    chosen[[n for _, n in best.values()]] = True
    return chosen


@lru_cache(maxsize=16)
def bootstrap(n: int, draws: int) -> np.ndarray:
    """How often each of n halos is in each draw, float64 (draws, n)."""
    drawn = np.random.default_rng(SEED).integers(0, n, (draws, n)) + n * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float64)


def independent_units(halos: np.ndarray, groups: np.ndarray) -> tuple[str, np.ndarray]:
    """What a bootstrap draws: ("group", groups) where halos share groups and there are several, else ("halo", halos).

    Args:
        halos, groups: int64 (views,), of the views that are evaluated.
    """
    shared = 1 < len(np.unique(groups)) < len(np.unique(halos))
    return ("group", groups) if shared else ("halo", halos)


class Bin:
    """The views of one bin, and bootstrap draws of its halos, or of whole groups of halos.

    Args:
        halos: int64 (views,), halo of each view. draws: number of bootstrap draws.
        units: int64 (views,), what is drawn as a whole; a halo lies in one. None = the halos.
    Attributes:
        unit: int64 (views,), number of each view's unit. drawn: float64 (draws, units), how often each is in each draw.
    """

    def __init__(self, halos: np.ndarray, draws: int, units: np.ndarray | None = None) -> None:
        self.halos, self.index = np.unique(halos, return_inverse=True)
        self.n = len(self.halos)
        self.unit = self.index if units is None else np.unique(units, return_inverse=True)[1]
        self.drawn = bootstrap(int(self.unit.max()) + 1, draws)

    def _sums(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.index, values, self.n)

    def _error(self, top: np.ndarray, bottom: np.ndarray) -> float | None:
        """Spread over the draws of a ratio of sums over units, of (views,); null for a single unit."""
        top, bottom = (np.bincount(self.unit, v, self.drawn.shape[1]) for v in (top, bottom))
        if np.count_nonzero(bottom) < 2:
            return None
        with np.errstate(invalid="ignore", divide="ignore"):
            drawn = np.einsum("du,u->d", self.drawn, top) / np.einsum("du,u->d", self.drawn, bottom)
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
            "error_of_mean": self._error(np.where(good, values, 0.0), good.astype(np.float64)),
            "n_views": int(good.sum()),
            "n_halos": int(np.count_nonzero(counts)),
        }

    def per_halo(self, values: np.ndarray) -> np.ndarray:
        """Mean over each halo's views, (halos,)."""
        return self._sums(values) / np.bincount(self.index, minlength=self.n)

    def gain(self, model: np.ndarray, other: np.ndarray) -> dict | None:
        """Summary over halos of 1 - model/other, errors of the same halo paired; `wins`: share of halos with a gain."""
        gains = 1 - ratio(self.per_halo(model), self.per_halo(other))
        first = np.unique(self.index, return_index=True)[1]
        out = Bin(self.halos, len(self.drawn), self.unit[first]).summary(gains)  # every halo one view
        return out and {**out, "n_views": len(model), "wins": float((gains > 0).mean())}

    def ratio_of_sums(self, top: np.ndarray, bottom: np.ndarray, power: float = 1.0) -> dict | None:
        """(sum over views / sum over views)^power with its bootstrap error."""
        if not bottom.sum() > 0:
            return None
        value = (top.sum() / bottom.sum()) ** power
        error = self._error(top, bottom)
        return {"value": float(value), "error": error and float(power * value ** (1 - 1 / power) * error) if value > 0 else None}


def curve(values: np.ndarray) -> dict:
    """Median and 16-84 % over views of (views, n), as lists; null where no view has a value."""
    good = np.isfinite(values)
    if good.all():
        rows = np.percentile(values, [50, 16, 84], axis=0).tolist()
    else:
        columns = [np.percentile(v[g], [50, 16, 84]).tolist() if g.any() else [None] * 3 for v, g in zip(values.T, good.T, strict=True)]
        rows = [list(row) for row in zip(*columns, strict=True)]
    return dict(zip(("median", "p16", "p84"), rows, strict=True))
