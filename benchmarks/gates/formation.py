"""When the clusters formed, against the median of simulated halos of their mass (Giocoli, Tormen & Sheth 2012)."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from gates.table import Table
from hpcdiff.cosmology import Background, colossus_cosmology
from hpcdiff.simulate.nbody import growth
from hpcdiff.simulate.nbody.excursion import COLLAPSE


def published(mass: np.ndarray, background: Background, share: float = 0.5) -> np.ndarray:
    """Median scale factor at which the main progenitor of a halo of this mass today (Msun, (n,)) had this share of it, their equations 6 and 7."""
    cosmology, b = colossus_cosmology(background), background
    alpha = 0.815 * np.exp(-2 * share**3) / share**0.707
    w = np.sqrt(2 * np.log(1 + alpha))
    radius = np.cbrt(3 * np.array([share, 1.0])[:, None] * mass / (4 * np.pi * b.rho_mean())) * b.h
    part, whole = (cosmology.sigma(r) ** 2 for r in radius)
    fell = COLLAPSE / (COLLAPSE + w * np.sqrt(part - whole))  # growth factor then
    return np.array([brentq(lambda a, d=d: growth.growth(a, b.Om0) - d, 0.05, 1.0) for d in fell])


def gates(table: Table, of: dict[str, np.ndarray], background: Background) -> None:
    """Add the rows of both halves.

    Args:
        of: `mass` (M200m, Msun) and `formation_scale_factor` of every halo.
    """
    ratio, heavy = of["formation_scale_factor"] / published(of["mass"], background), of["mass"] >= np.median(of["mass"])
    for name, part in (("lighter", ~heavy), ("heavier", heavy)):
        what = f"scale factor at half of the mass over Giocoli et al. 2012, {name} half ({part.sum()})"
        table.median("formation", what, ratio[part], 0.9, 1.1)
