"""Curves and histograms, as Hsu et al. (2025) figures 1, 4 and 6-9: each function draws one, from the metrics."""

from __future__ import annotations

import matplotlib
import numpy as np

from hpcdiff.evaluate.export import Drawn, Sheet
from hpcdiff.evaluate.look import (
    BLACK,
    BLUE,
    FIELD_COLOUR,
    FIELD_NAME,
    FIELD_UNIT,
    GREEN,
    GREY,
    LINES,
    MARKERS,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    band,
    bin_title,
    bins,
    field_name,
    floats,
    new,
    part,
    plain_ticks,
)
from hpcdiff.maps import PARTS, MapFile

QUANTILES = ("median", "p16", "p84")
PREDICTION = {
    "sz": (ORANGE, "--", "SZ itself"),
    "xray": (PURPLE, "-.", "X-ray itself"),
    "wiener": (GREEN, "-", "Wiener filter"),
    "stacked_profile": (GREY, ":", "stacked profile"),
    "nfw": (RED, (0, (5, 1, 1, 1)), "round NFW"),
    "nearest": (SKY, (0, (3, 1)), "nearest training map"),
    "regression": (BLACK, "-", "mean-square network"),
}
"""Colour, line and name of each baseline."""


def masses(maps: MapFile) -> Drawn:
    """Figure 1: halos and views against mass, and views of each part of the split."""
    catalog = maps.catalog
    log_m = np.log10(catalog["mass_200m"])
    _, first = np.unique(catalog["halo_id"], return_index=True)
    low, high = np.floor(log_m.min() * 10) / 10, np.ceil(log_m.max() * 10 + 1e-9) / 10
    edges = np.linspace(low, high, max(int(round((high - low) * 10)), 1) + 1)
    figure, axes = new(1, 2, (9, 3.6))
    left, right = axes[0]
    views = {name: log_m[catalog["split"] == k] for k, name in enumerate(PARTS)}
    left.hist(log_m, edges, color=SKY, alpha=0.6, label="views (maps)")
    left.hist(log_m[first], edges, histtype="step", color=RED, lw=2, label="halos")
    for (name, x), colour, style in zip(views.items(), (BLUE, GREEN, RED), LINES, strict=False):
        right.hist(x, edges, histtype="step", color=colour, lw=1.8, ls=style, label=f"views, {name}")
    for axis in (left, right):
        axis.set_yscale("log")
        axis.set_ylim(0.5, axis.get_ylim()[1] * 4)
        axis.set_xlabel(r"$\log_{10}(M_{200m}/M_\odot)$")
        axis.set_ylabel(f"number per {edges[1] - edges[0]:.2g} dex")
        axis.legend(ncols=len(axis.get_legend_handles_labels()[1]), loc="upper center")
    sheet = Sheet("log10_mass_low", "log10_mass_high", "halos", "views", *(f"views_{name}" for name in PARTS))
    counts = [np.histogram(x, edges)[0] for x in (log_m[first], log_m, *views.values())]
    sheet.curve((), edges[:-1], edges[1:], *counts)
    return Drawn(figure, sheet)


def convergence(metrics: dict) -> Drawn | None:
    """Figure 4: sample variance of the mean map against the number of samples, and one e-fold of two samples' variance."""
    of = part(metrics, "convergence", "all") or {}
    if not any(of.values()):
        return None
    figure, axes = new(1, 1, (5.4, 3.8))
    axis, sheet = axes[0, 0], Sheet("field", "samples", "variance", "error_of_mean", "relative")
    for marker, (field, c) in zip(MARKERS, of.items(), strict=False):
        colour, n, v = FIELD_COLOUR.get(field, BLUE), np.array(c["samples"]), floats(c["variance"])
        axis.errorbar(n, v, floats(c["error_of_mean"]), marker=marker, ms=4, color=colour, capsize=2, label=field_name(field))
        axis.axhline(v[0] / np.e, color=colour, ls=":", lw=1.2)
        axis.plot(n, v[0] * 2 / n, color=colour, ls="--", lw=1, alpha=0.6)
        sheet.curve((field,), c["samples"], c["variance"], c["error_of_mean"], c["relative"])
    axis.plot([], [], color=GREY, ls=":", label="two samples / e")
    axis.plot([], [], color=GREY, ls="--", lw=1, label=r"$\propto 1/N$")
    axis.set_yscale("log")
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axis.set_xlabel("number of samples N")
    density = set(of) <= {"gas", "dm", "star", "total"}
    axis.set_ylabel(r"variance of the mean map, $(\Sigma/\bar\Sigma)^2$" if density else "variance of the mean map")
    axis.legend()
    return Drawn(figure, sheet)


def profiles(metrics: dict, maps: MapFile, rows: np.ndarray) -> Drawn:
    """Figure 6: radial profiles and their fractional error."""
    names, fields = bins(metrics, "profile", signal=True), metrics["config"]["task"]["outputs"]
    figure, axes = new(
        2 * len(names), len(fields), (4.6 * len(fields), 3.6 * len(names) + 0.7), sharex=True, height_ratios=[2.4, 1] * len(names)
    )
    mass, radius = maps.catalog["mass_200m"][rows], maps.catalog["radius_200m"][rows]
    edges = metrics["config"]["evaluate"]["mass_bins"]
    sheet = Sheet("bin", "field", "radius_mpc", *(f"{what}_{q}" for what in ("truth", "generated", "fractional_error") for q in QUANTILES))
    for n, name in enumerate(names):
        low, high = edges.get(name, (mass.min(), mass.max()))
        ends = part(metrics, "profile", name, fields[0], "r200m_mpc")  # older metrics don't say
        r200 = np.array(ends) if ends else radius[(mass >= low) & (mass <= high)]
        for c, field in enumerate(fields):
            p, (top, bottom) = metrics["profile"][name][field], axes[2 * n : 2 * n + 2, c]
            r = np.array(p["radius_mpc"])
            band(top, r, p["truth"], SKY, "simulated")
            band(top, r, p["generated"], RED, "generated", "--")
            band(bottom, r, p["fractional_error"], RED, None)
            bottom.axhline(0, color=BLACK, lw=0.8)
            worst = max((abs(v) for k in ("p16", "p84") for v in p["fractional_error"][k] if v is not None), default=0.1)
            limit = next((v for v in (0.02, 0.05, 0.1, 0.2, 0.4, 0.8) if worst <= v * 0.95), 1.0)
            bottom.set_ylim(-limit, limit)
            for axis in (top, bottom):
                if len(r200):
                    label = r"range of $R_{200m}$" if axis is top else None
                    axis.axvspan(r200.min(), r200.max(), color=GREY, alpha=0.18, lw=0, label=label)
                axis.set_xscale("log")
                plain_ticks(axis.xaxis)
            top.set_yscale("log")
            top.set_title(f"{field_name(field)}, {bin_title(metrics, name)}")
            if c == 0:
                top.set_ylabel(FIELD_UNIT.get(field, maps.units[field]))
                bottom.set_ylabel("fractional\nerror")
            if n == 0 and c == 0:
                top.legend()
            sheet.curve(
                (name, field), p["radius_mpc"], *(p[what][q] for what in ("truth", "generated", "fractional_error") for q in QUANTILES)
            )
    for axis in axes[-1]:
        axis.set_xlabel("projected radius (Mpc)")
    return Drawn(figure, sheet)


def pixels(metrics: dict) -> Drawn:
    """Figure 7: fractional error of the mean map's pixels inside and outside R200m."""
    names = bins(metrics, "pixel_error", signal=True)
    figure, axes = new(1, len(names), (3.6 * len(names) + 1.2, 3.8), sharey=True)
    sheet = Sheet("bin", "field", "where", "error_low", "error_high", "pixels")
    for axis, name in zip(axes[0], names, strict=True):
        for field, e in metrics["pixel_error"][name].items():
            edges = np.array(e["edges"])
            for where, style in (("inside", "-"), ("outside", "--")):
                if e[where]:
                    counts = np.array(e[where]["histogram"], float)
                    density = counts / counts.sum() / np.diff(edges)
                    label = f"{field_name(field)}, {where} $R_{{200m}}$"
                    axis.stairs(density, edges, color=FIELD_COLOUR.get(field, BLUE), ls=style, lw=1.6, label=label)
                    sheet.curve((name, field, where), edges[:-1], edges[1:], e[where]["histogram"])
        axis.axvline(0, color=BLACK, lw=0.8)
        axis.set(xlim=(-1, 1), xticks=(-1, -0.5, 0, 0.5, 1), xlabel="(generated − simulated) / simulated", title=bin_title(metrics, name))
    first = axes[0, 0]
    first.set_ylabel("probability density")
    first.set_yscale("log")
    first.set_ylim(1e-3, first.get_ylim()[1] * 4)
    first.legend(loc="upper left", fontsize=7.5)
    return Drawn(figure, sheet)


def _spectra(metrics: dict, draw, ylabel: str):
    names, fields = bins(metrics, "spectra", signal=True), metrics["config"]["task"]["outputs"]
    figure, axes = new(len(names), len(fields), (4.6 * len(fields), 2.7 * len(names) + 0.7), sharex=True, sharey=True)
    sheet = Sheet("bin", "field", "curve", "k_h_per_mpc", *QUANTILES)
    for n, name in enumerate(names):
        for c, field in enumerate(fields):
            axis, s = axes[n, c], metrics["spectra"][name][field]
            for label, curve in draw(axis, np.array(s["k"]), s):
                sheet.curve((name, field, label), s["k"], *(curve[q] for q in QUANTILES))
            axis.axhline(1, color=BLACK, lw=0.8)
            axis.axvline(metrics["config"]["evaluate"]["k_split"], color=GREY, lw=1, ls=":")
            axis.set_xscale("log")
            plain_ticks(axis.xaxis)
            axis.set_title(f"{field_name(field)}, {bin_title(metrics, name)}")
    for axis in axes[-1]:
        axis.set_xlabel(r"$k$ ($h$/Mpc)")
    for axis in axes[:, 0]:
        axis.set_ylabel(ylabel)
    axes[0, 0].legend(loc="lower left", fontsize=8)
    return figure, axes, sheet


def bias(metrics: dict) -> Drawn:
    """Figure 8: b(k) of the mean map, and of single samples."""

    def draw(axis, k: np.ndarray, s: dict) -> list:
        band(axis, k, s["b"], BLUE, "mean of the samples")
        band(axis, k, s["b_per_sample"], ORANGE, "each sample", "--")
        return [("b_of_mean", s["b"]), ("b_per_sample", s["b_per_sample"])]

    figure, axes, sheet = _spectra(metrics, draw, r"$b(k)$")
    low, high = axes[0, 0].get_ylim()
    axes[0, 0].set_ylim(max(low, 0.0), min(max(high, 1.1), 2.0))
    return Drawn(figure, sheet)


def correlation(metrics: dict) -> Drawn:
    """Figure 9: r(k) of the mean map with the truth, beside the inputs' own and the baselines'."""

    def draw(axis, k: np.ndarray, s: dict) -> list:
        band(axis, k, s["r"], BLUE, "mean of the samples")
        for name, curve in s["r_baseline"].items():
            colour, style, label = PREDICTION.get(name, (BLACK, "--", FIELD_NAME.get(name, name.replace("_", " "))))
            axis.plot(k, floats(curve["median"]), color=colour, ls=style, lw=1.3, label=label)
        return [("r_of_mean", s["r"]), ("r_per_sample", s["r_per_sample"]), *((f"r_{n}", v) for n, v in s["r_baseline"].items())]

    figure, axes, sheet = _spectra(metrics, draw, r"$r(k)$ with the truth")
    axes[0, 0].set_ylim(max(min(axis.get_ylim()[0] for axis in axes.ravel()), -0.2), 1.03)
    return Drawn(figure, sheet)
