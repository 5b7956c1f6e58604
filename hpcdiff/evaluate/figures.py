"""Curves and histograms, as Hsu et al. (2025) figures 1, 4, 6-9, and the calibration of the posterior.

Each function draws one figure from the metrics.
"""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from hpcdiff.evaluate.look import (
    BLACK,
    BLUE,
    FIELD_COLOUR,
    FIELD_NAME,
    FIELD_UNIT,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    new,
    power_of_ten,
)  # fmt: skip
from hpcdiff.maps import PARTS, MapFile


def bin_names(metrics: dict, quantity: str) -> list[str]:
    """Bins that hold views, from heavy to light; `all` where none of the others does."""
    edges = metrics["config"]["evaluate"]["mass_bins"]
    names = [n for n in sorted(edges, key=lambda n: -edges[n][0]) if metrics[quantity].get(n)]
    return names or ["all"]


def bin_title(metrics: dict, name: str) -> str:
    """The bin in words."""
    if name == "all":
        return "all test views"
    low, high = (power_of_ten(v) for v in metrics["config"]["evaluate"]["mass_bins"][name])
    top = max(edges[1] for edges in metrics["config"]["evaluate"]["mass_bins"].values())
    below = r"\leq" if metrics["config"]["evaluate"]["mass_bins"][name][1] == top else "<"
    return rf"${low} \leq M_{{200m}}/M_\odot {below} {high}$"


def _plain_ticks(axis) -> None:
    """Numbers as 0.5, 1, 2, 5 along a logarithmic x axis."""
    axis.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axis.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def _band(axis, x: np.ndarray, curve: dict, colour: str, label: str | None, style: str = "-") -> None:
    median, p16, p84 = (np.array([np.nan if v is None else v for v in curve[k]]) for k in ("median", "p16", "p84"))
    axis.fill_between(x, p16, p84, color=colour, alpha=0.2, lw=0)
    axis.plot(x, median, color=colour, label=label, ls=style)


def masses(maps: MapFile) -> Figure:
    """Figure 1: halos and views against mass, and views of each part of the split."""
    catalog = maps.catalog
    log_m = np.log10(catalog["mass_200m"])
    _, first = np.unique(catalog["halo_id"], return_index=True)
    low, high = np.floor(log_m.min() * 10) / 10, np.ceil(log_m.max() * 10 + 1e-9) / 10
    edges = np.linspace(low, high, max(int(round((high - low) * 10)), 1) + 1)
    figure, axes = new(1, 2, (9, 3.6))
    for axis, parts in zip(axes[0], (False, True), strict=True):
        if parts:
            for k, colour in enumerate((BLUE, GREEN, RED)):
                axis.hist(
                    log_m[catalog["split"] == k],
                    edges,
                    histtype="step",
                    color=colour,
                    lw=1.8,
                    ls=("-", "--", "-.")[k],
                    label=f"views, {PARTS[k]}",
                )
        else:
            axis.hist(log_m, edges, color=PURPLE, alpha=0.55, label="views (maps)")
            axis.hist(log_m[first], edges, histtype="step", color=ORANGE, lw=2, label="halos")
        axis.set_yscale("log")
        axis.set_ylim(0.5, axis.get_ylim()[1] * 4)
        axis.set_xlabel(r"$\log_{10}(M_{200m}/M_\odot)$")
        axis.set_ylabel(f"number per {edges[1] - edges[0]:.2g} dex")
        axis.legend(ncols=3 if parts else 2, loc="upper center")
    return figure


def convergence(metrics: dict) -> Figure | None:
    """Figure 4: sample variance of the mean map against the number of samples, and one e-fold of two samples' variance."""
    of = metrics["convergence"]["all"]
    if not any(of.values()):
        return None
    figure, axes = new(1, 1, (5, 3.8))
    axis = axes[0, 0]
    for marker, (field, c) in zip("osD^v", of.items(), strict=False):
        colour, n = FIELD_COLOUR.get(field, BLUE), np.array(c["samples"])
        v = np.array(c["variance"])
        e = np.array([np.nan if x is None else x for x in c["error_of_mean"]])
        axis.errorbar(n, v, e, marker=marker, ms=4, color=colour, capsize=2, label=FIELD_NAME.get(field, field))
        axis.axhline(v[0] / np.e, color=colour, ls=":", lw=1.2)
        axis.plot(n, v[0] * 2 / n, color=colour, ls="--", lw=1, alpha=0.6)
    axis.plot([], [], color=GREY, ls=":", label="two samples / e")
    axis.plot([], [], color=GREY, ls="--", lw=1, label=r"$\propto 1/N$")
    axis.set_yscale("log")
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axis.set_xlabel("number of samples N")
    axis.set_ylabel(
        r"variance of the mean map, $(\Sigma/\bar\Sigma)^2$" if set(of) <= {"gas", "dm", "star", "total"} else "variance of the mean map"
    )
    axis.legend()
    return figure


def profiles(metrics: dict, maps: MapFile, rows: np.ndarray) -> Figure:
    """Figure 6: radial profiles and their fractional error."""
    names, fields = bin_names(metrics, "profile"), metrics["config"]["task"]["outputs"]
    figure, axes = new(2 * len(names), len(fields), (4.6 * len(fields), 4.3 * len(names)), sharex=True, height_ratios=[2.4, 1] * len(names))
    mass, radius = maps.catalog["mass_200m"][rows], maps.catalog["radius_200m"][rows]
    edges = metrics["config"]["evaluate"]["mass_bins"]
    for n, name in enumerate(names):
        low, high = edges.get(name, (mass.min(), mass.max()))
        r200 = radius[(mass >= low) & (mass <= high)]
        for c, field in enumerate(fields):
            p, (top, bottom) = metrics["profile"][name][field], axes[2 * n : 2 * n + 2, c]
            r = np.array(p["radius_mpc"])
            _band(top, r, p["truth"], SKY, "simulated")
            _band(top, r, p["generated"], RED, "generated", "--")
            _band(bottom, r, p["fractional_error"], RED, None)
            bottom.axhline(0, color=BLACK, lw=0.8)
            worst = max((abs(v) for k in ("p16", "p84") for v in p["fractional_error"][k] if v is not None), default=0.1)
            limit = next((v for v in (0.02, 0.05, 0.1, 0.2, 0.4, 0.8) if worst <= v * 0.95), 1.0)
            bottom.set_ylim(-limit, limit)
            for axis in (top, bottom):
                axis.axvspan(r200.min(), r200.max(), color=GREY, alpha=0.25, lw=0, label=r"range of $R_{200m}$" if axis is top else None)
                axis.set_xscale("log")
                _plain_ticks(axis)
            top.set_yscale("log")
            top.set_title(f"{FIELD_NAME.get(field, field)}, {bin_title(metrics, name)}")
            if c == 0:
                top.set_ylabel(FIELD_UNIT.get(field, maps.units[field]))
                bottom.set_ylabel("fractional error")
            if n == 0 and c == 0:
                top.legend()
    for axis in axes[-1]:
        axis.set_xlabel("projected radius (Mpc)")
    return figure


def pixels(metrics: dict) -> Figure:
    """Figure 7: fractional error of the mean map's pixels inside and outside R200m."""
    names = bin_names(metrics, "pixel_error")
    figure, axes = new(1, len(names), (4.8 * len(names), 3.8), sharey=True)
    for axis, name in zip(axes[0], names, strict=True):
        for field, e in metrics["pixel_error"][name].items():
            edges = np.array(e["edges"])
            for where, style in (("inside", "-"), ("outside", "--")):
                if e[where]:
                    counts = np.array(e[where]["histogram"], float)
                    label = f"{FIELD_NAME.get(field, field)}, {where} $R_{{200m}}$"
                    axis.stairs(
                        counts / counts.sum() / np.diff(edges), edges, color=FIELD_COLOUR.get(field, BLUE), ls=style, lw=1.6, label=label
                    )
        axis.axvline(0, color=BLACK, lw=0.8)
        axis.set(xlim=(-1, 1), xticks=(-1, -0.5, 0, 0.5, 1))
        axis.set_xlabel("(generated - simulated) / simulated")
        axis.set_title(bin_title(metrics, name))
    axes[0, 0].set_ylabel("probability density")
    axes[0, 0].set_yscale("log")
    axes[0, 0].set_ylim(bottom=1e-3)
    axes[0, 0].legend(loc="upper left", fontsize=7.5)
    return figure


def _spectra(metrics: dict, draw) -> Figure:
    names, fields = bin_names(metrics, "spectra"), metrics["config"]["task"]["outputs"]
    figure, axes = new(len(names), len(fields), (4.6 * len(fields), 3.4 * len(names)), sharex=True, sharey=True)
    for n, name in enumerate(names):
        for c, field in enumerate(fields):
            axis, s = axes[n, c], metrics["spectra"][name][field]
            draw(axis, np.array(s["k"]), s)
            axis.axhline(1, color=BLACK, lw=0.8)
            axis.axvline(metrics["config"]["evaluate"]["k_split"], color=GREY, lw=1, ls=":")
            axis.set_xscale("log")
            _plain_ticks(axis)
            axis.set_title(f"{FIELD_NAME.get(field, field)}, {bin_title(metrics, name)}")
    for axis in axes[-1]:
        axis.set_xlabel(r"$k$ ($h$/Mpc)")
    axes[0, 0].legend(loc="lower left")
    return figure


def bias(metrics: dict) -> Figure:
    """Figure 8: b(k) of the mean map, and of single samples."""

    def draw(axis, k: np.ndarray, s: dict) -> None:
        _band(axis, k, s["b"], BLUE, "mean of the samples")
        _band(axis, k, s["b_per_sample"], ORANGE, "each sample", "--")

    figure = _spectra(metrics, draw)
    axes = figure.axes
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(max(low, 0.0), min(max(high, 1.1), 2.0))
    for axis in axes:
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel(r"$b(k)$")
    return figure


def correlation(metrics: dict) -> Figure:
    """Figure 9: r(k) of the mean map with the truth, beside the inputs' own and the baselines'."""
    look = {"sz": (ORANGE, "--"), "xray": (PURPLE, "-."), "linear_map": (GREEN, "-"), "stacked_profile": (GREY, ":")}

    def draw(axis, k: np.ndarray, s: dict) -> None:
        _band(axis, k, s["r"], BLUE, "mean of the samples")
        for name, curve in s["r_baseline"].items():
            colour, style = look.get(name, (BLACK, "--"))
            median = np.array([np.nan if v is None else v for v in curve["median"]])
            label = FIELD_NAME.get(name, name.replace("_", " "))
            axis.plot(k, median, color=colour, ls=style, label=f"{label} itself" if name in FIELD_NAME else label)

    figure = _spectra(metrics, draw)
    low = min(axis.get_ylim()[0] for axis in figure.axes)
    figure.axes[0].set_ylim(max(low, -0.2), 1.03)
    for axis in figure.axes:
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel(r"$r(k)$")
    return figure


def calibration(metrics: dict) -> Figure | None:
    """Rank histograms, and coverage against its nominal value, of total masses and of pixels."""
    of = metrics["calibration"]["all"]
    if not any(of.values()):
        return None
    figure, axes = new(2, 2, (9, 6.6))
    for row, (what, title) in enumerate((("total", "total of the map"), ("pixel", "pixels"))):
        for field, marker, style in zip(of, "osD^v", ("-", "--", "-.", ":", "-"), strict=False):
            c, colour, label = of[field][what], FIELD_COLOUR.get(field, BLUE), FIELD_NAME.get(field, field)
            counts = np.array(c["ranks"], float)
            bins = np.arange(len(counts) + 1) - 0.5
            axes[row, 0].stairs(counts / counts.mean(), bins, color=colour, lw=1.8, ls=style, label=label)
            x = [p["nominal"] for p in c["coverage"]]
            axes[row, 1].errorbar(
                x, [p["mean"] for p in c["coverage"]], [p["error_of_mean"] or 0.0 for p in c["coverage"]],
                marker=marker, ms=5, mfc="none" if marker != "o" else colour, ls=style, capsize=2, color=colour, label=label,
            )  # fmt: skip
        axes[row, 0].axhline(1, color=BLACK, lw=0.8)
        axes[row, 0].set(title=f"{title}: rank of the truth", xlabel="samples below the truth", ylabel="frequency over expected")
        axes[row, 0].set_ylim(0, max(2.0, axes[row, 0].get_ylim()[1]))
        axes[row, 1].plot([0, 1], [0, 1], color=BLACK, lw=0.8)
        axes[row, 1].set(title=f"{title}: coverage", xlabel="nominal", ylabel="observed", xlim=(0, 1), ylim=(0, 1))
    axes[0, 0].legend()
    return figure
