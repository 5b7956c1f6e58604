"""Halos of one periodic box against the mass function of Tinker et al. 2008."""

from __future__ import annotations

import numpy as np

from hpcdiff.cosmology import Background, colossus_cosmology


def expected(background: Background, edges: np.ndarray, volume: float) -> np.ndarray:
    """Halos between the M200m of `edges` (Msun) in a volume (Mpc^3) by Tinker et al. 2008."""
    from colossus.lss import mass_function

    h = background.h
    colossus_cosmology(background)
    ln = np.linspace(np.log(edges[0]), np.log(edges[-1]), 400)
    dn = mass_function.massFunction(np.exp(ln) * h, 0.0, q_in="M", q_out="dndlnM", mdef="200m", model="tinker08") * h**3
    cumulative = np.concatenate([[0], np.cumsum(0.5 * (dn[1:] + dn[:-1]) * np.diff(ln))])
    return volume * np.diff(np.interp(np.log(edges), ln, cumulative))


def counts(mass: np.ndarray, background: Background, edges: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray]:
    """Halos found between the edges, and how many there should be, (len(edges) - 1,) each."""
    return np.histogram(mass, edges)[0], expected(background, edges, side**3)
