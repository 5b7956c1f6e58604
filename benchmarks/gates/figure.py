"""One figure of the gates: concentrations, density, pressure, gas fractions, Compton signals and luminosities of every halo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from gates import halos
from hpcdiff.cosmology import Background
from hpcdiff.simulate.cluster import median_concentration

DOT = {"alpha": 0.7, "linewidths": 0}
LINE, BAND = "#000000", "#e6e6e6"
BLUE, ORANGE = "#0072b2", "#d55e00"


def draw(of: dict[str, np.ndarray], formation: np.ndarray, background: Background, path: Path) -> None:
    """Write the figure.

    Args:
        of: numbers of every halo (`halos.measure`). formation: its formation time, early is positive.
    """
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    axes = figure.subplots(2, 3)
    m500 = of["m500"]
    size = 9 if len(m500) > 50 else 36

    a = axes[0, 0]
    dots = a.scatter(of["m200c"], of["c"], c=formation, cmap="cividis", vmin=-2.5, vmax=2.5, s=size, **DOT)
    grid, median = median_concentration(background, float(of["m200c"].min()), float(of["m200c"].max()), "200c")
    a.plot(np.exp(grid), np.exp(median), color=LINE, lw=1.5, label="Diemer & Joyce 2019")
    a.set(xscale="log", yscale="log", xlabel="$M_{200c}$ / $10^{14}$ M$_\\odot$", ylabel="$c_{200c}$ of the dark matter")
    a.set_yticks([1, 2, 3, 5, 10, 20], ["1", "2", "3", "5", "10", "20"])
    a.set_ylim(0.8, 30)
    a.set_xticks([1e14, 2e14, 5e14, 1e15], ["1", "2", "5", "10"])
    a.minorticks_off()
    a.legend(frameon=False)
    figure.colorbar(dots, ax=a, label="formation time (early: positive)")

    middle = np.sqrt(halos.EDGES[1:] * halos.EDGES[:-1])
    for a, key, radius, name in (
        (axes[0, 1], "density", "R_{200c}", "dark matter / NFW"),
        (axes[0, 2], "pressure", "R_{200c}", "pressure / debiased profile"),
    ):
        tolerance = 0.15 if key == "density" else 0.2
        a.axhspan(1 - tolerance, 1 + tolerance, color=BAND, lw=0)
        low, half, high = np.nanpercentile(of[key], [16, 50, 84], axis=0)  # NaN: within the softening
        a.errorbar(middle, half, [half - low, high - half], fmt="o", color=BLUE, capsize=3)
        a.axhline(1, color=LINE, lw=1)
        a.set(xscale="log", xlabel=f"$r / {radius}$", ylabel=name, ylim=(0.5, 1.5))
        a.set_xticks([0.2, 0.5, 1], ["0.2", "0.5", "1"])
        a.minorticks_off()

    for a, key, unit, name in (
        (axes[1, 0], "f_gas", 1.0, "gas fraction in $R_{500c}$ / cosmic"),
        (axes[1, 1], "y500", None, "$Y_{500}$ / median"),
        (axes[1, 2], "l500", None, "$L_{X,500}$ / median"),
    ):
        value = of[key] / (unit or np.median(of[key]))
        a.scatter(m500, value, color=ORANGE, s=size, **DOT)
        slope, scatter, left = halos.relation(m500, value)
        order = np.argsort(m500)
        a.plot(m500[order], np.exp(np.log(value) - left)[order], color=LINE, lw=1.5)
        a.set(xscale="log", yscale="log" if unit is None else "linear", xlabel="$M_{500c}$ / $10^{14}$ M$_\\odot$", ylabel=name)
        a.set_xticks([5e13, 1e14, 2e14, 5e14], ["0.5", "1", "2", "5"])
        a.xaxis.set_minor_formatter("")
        if unit is None:
            a.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            a.yaxis.set_major_formatter("{x:g}")
            a.yaxis.set_minor_formatter("")
        a.set_title(f"slope {slope:.2f}, scatter {scatter:.2f}", fontsize=10)
    figure.savefig(path, dpi=110)
