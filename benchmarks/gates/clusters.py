"""The rows of the table that are about clusters one by one, the same for both engines."""

from __future__ import annotations

import numpy as np

from gates import halos
from gates.table import Table
from hpcdiff.cosmology import Background
from hpcdiff.simulate.cluster import median_concentration

SLOPES = (("Y500 - M500c", "Y-M", "y500", 5 / 3, 0.07, 0.25), ("L_X - M500c", "L_X-M", "l500", 4 / 3, 0.25, 0.60))
"""Name, group and key of each relation, its self-similar slope, least and largest scatter (ln).

Spherical Y500 scatters by 0.087 in hydrodynamical simulations (Gupta et al. 2017; 0.09 in Kay et al. 2012), and by more with a scatter of its own."""
SCATTER_OF_C = 0.16
"""Scatter of concentrations at one mass, dex (Diemer & Joyce 2019)."""


def gates(table: Table, of: dict[str, np.ndarray], background: Background) -> None:
    """Concentration, density, pressure, gas fraction, relations and shape.

    Args:
        of: numbers of every halo (`halos.measure`).
    """
    heavy = of["mass"] >= np.median(of["mass"])
    halves = (("lighter half", ~heavy), ("heavier half", heavy))
    ratio = concentrations(of, background)
    of_c = "c200c, dark matter, over Diemer & Joyce 2019"
    table.median("c(M)", f"{of_c}, all ({len(ratio)})", ratio, 0.9, 1.1)
    for name, part in halves:  # of 14 clusters the published scatter alone moves the median by 12 %
        noise = 1.2533 * np.log(10) * SCATTER_OF_C / np.sqrt(max(part.sum(), 1))
        table.median("c(M)", f"{of_c}, {name} ({part.sum()}; 10 % and the noise)", ratio[part], 0.9 - noise, 1.1 + noise)
    middle = np.ptp(np.percentile(np.log10(ratio), [16, 84]))
    table.gate("c(M)", "scatter of c200c, dex: half of the middle 68 %", 0.5 * middle, 0.12, 0.22)
    shells = [(k, f"{a:g}-{b:g}") for k, (a, b) in enumerate(zip(halos.EDGES[:-1], halos.EDGES[1:], strict=True))]
    for k, shell in shells:
        there = np.isfinite(of["density"][:, k])
        table.median("density", f"dark matter over NFW, {shell} R200c ({there.sum()} halos)", of["density"][there, k], 0.85, 1.15)
    for k, (a, b) in enumerate(zip(halos.RINGS[:-1], halos.RINGS[1:], strict=True)):
        there = np.isfinite(of["projected"][:, k])
        what = f"projected dark matter over one- and two-halo terms, {a:g}-{b:g} R200m ({there.sum()} halos)"
        table.mean("projected density", what, of["projected"][there, k], 0.8, 1.2)  # as what is published is a mean
    for name, part in halves:
        for k, shell in shells:
            table.median("pressure", f"pressure over the debiased profile, {name}, {shell} R200c", of["pressure"][part, k], 0.8, 1.2)
    light = of["mass"] < 3e14
    table.median("gas fraction", "gas fraction within R500c over cosmic, M200m < 3e14", of["f_gas"][light], 0.55, 0.95)
    table.median("gas fraction", "gas fraction within R500c over cosmic, M200m >= 3e14", of["f_gas"][~light], 0.6, 1.0)
    for name, group, key, slope, low, high in SLOPES:
        found, scatter, left = halos.relation(of["m500"], of[key])
        error = scatter / np.std(np.log(of["m500"])) / np.sqrt(len(left))
        table.gate(group, f"slope of {name}", found, slope - 0.2, slope + 0.2, error)
        table.gate(group, f"scatter of {name} (ln)", scatter, low, high, scatter / np.sqrt(2 * len(left)))
    table.median("shape", "axis ratio c/a of the dark matter", of["roundness"], 0.45, 0.75)
    table.median("shape", "gas rounder than the dark matter: axis ratio, gas - dm", of["gas_roundness"] - of["roundness"], 0.02, 0.4)


def concentrations(of: dict[str, np.ndarray], background: Background) -> np.ndarray:
    """c200c of the dark matter over the median of Diemer & Joyce 2019 at the halo's M200c, their own definition: fitted within R200c."""
    grid, median = median_concentration(background, float(of["m200c"].min()), float(of["m200c"].max()), "200c")
    return of["c"] / np.exp(np.interp(np.log(of["m200c"]), grid, median))
