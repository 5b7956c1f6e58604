"""How the figures look, and what the bins of the metrics are called in them."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from hpcdiff.look import (
    BLACK,
    BLUE,
    FIELD_COLOUR,
    FIELD_MAP,
    FIELD_NAME,
    FIELD_UNIT,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SIGNED_MAP,
    SKY,
    STYLE,
)

__all__ = [
    "BLACK", "BLUE", "FIELD_COLOUR", "FIELD_MAP", "FIELD_NAME", "FIELD_UNIT", "GREEN", "GREY", "ORANGE", "PURPLE", "RED", "SIGNED_MAP",
    "SKY", "STYLE", "Figure", "band", "bin_title", "bins", "field_name", "floats", "new", "part", "plain_ticks", "plt", "power_of_ten",
    "signal_name",
]  # fmt: skip
SIGNAL = {"signal_high": "strong", "signal_middle": "middle", "signal_low": "weak"}
"""Thirds of the views by an observable, from strong to weak."""
MARKERS = "osD^v"
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


def new(rows: int, columns: int, size: tuple[float, float], **options) -> tuple[Figure, np.ndarray]:
    """A figure and its axes (rows, columns)."""
    return plt.subplots(rows, columns, figsize=size, squeeze=False, **options)


def power_of_ten(value: float) -> str:
    """As 6\\times10^{14}, for mathematical text."""
    exponent = int(np.floor(np.log10(value) + 1e-9))
    return rf"{value / 10**exponent:.3g}\times10^{{{exponent}}}"


def field_name(field: str) -> str:
    """In words."""
    return FIELD_NAME.get(field, field)


def part(metrics: dict, *path: str):
    """What stands at a path of the metrics; None where it, or anything above it, is missing or null."""
    for key in path:
        if not isinstance(metrics, dict):
            return None
        metrics = metrics.get(key)
    return metrics


def floats(values: list) -> np.ndarray:
    """A list of the metrics as float64; null is NaN."""
    return np.array([np.nan if v is None else v for v in values], float)


def bins(metrics: dict, quantity: str, signal: bool = False) -> list[str]:
    """Bins that hold views, from heavy to light: of halo mass, or of the SZ signal where there are such; `all` where there is no other."""
    edges = metrics["config"]["evaluate"]["mass_bins"]
    heavy = [name for name in sorted(edges, key=lambda n: -edges[n][0]) if part(metrics, quantity, name)]
    strong = [name for name in SIGNAL if part(metrics, quantity, name)]
    return (strong if signal and strong else heavy) or ["all"]


def signal_name(metrics: dict) -> str:
    """The observable whose thirds are bins: SZ signal, X-ray signal, ..."""
    return f"{field_name(part(metrics, 'signal_bins', 'field') or 'sz')} signal"


def bin_title(metrics: dict, name: str) -> str:
    """The bin in words."""
    if name in SIGNAL:
        return f"{SIGNAL[name]} {signal_name(metrics)}"
    edges = metrics["config"]["evaluate"]["mass_bins"]
    if name not in edges:
        return "all test views" if name == "all" else name
    low, high = (power_of_ten(v) if v > 0 else "0" for v in edges[name])
    below = r"\leq" if edges[name][1] == max(e[1] for e in edges.values()) else "<"
    return rf"${low} \leq M_{{200m}}/M_\odot {below} {high}$"


def plain_ticks(axis) -> None:
    """Numbers as 0.5, 1, 2, 5 along a logarithmic `ax.xaxis` or `ax.yaxis`."""
    axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def band(axis, x: np.ndarray, curve: dict, colour: str, label: str | None, style="-", alpha: float = 0.2) -> None:
    """Median and 16-84 % of a curve of the metrics."""
    median, p16, p84 = (floats(curve[k]) for k in ("median", "p16", "p84"))
    axis.fill_between(x, p16, p84, color=colour, alpha=alpha, lw=0)
    axis.plot(x, median, color=colour, label=label, ls=style)
