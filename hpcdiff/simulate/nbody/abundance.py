"""How many halos a volume has."""

from __future__ import annotations

import numpy as np

from hpcdiff.cosmology import Background, colossus_cosmology


def expected(background: Background, edges: np.ndarray, volume: float) -> np.ndarray:
    """Halos between the M200m of `edges` (Msun, (n,)) in a volume (comoving Mpc^3) today by Tinker et al. 2008, (n - 1,)."""
    from colossus.lss import mass_function

    h = background.h
    colossus_cosmology(background)
    ln = np.linspace(np.log(edges[0]), np.log(edges[-1]), 400)
    dn = mass_function.massFunction(np.exp(ln) * h, 0.0, q_in="M", q_out="dndlnM", mdef="200m", model="tinker08") * h**3
    cumulative = np.concatenate([[0], np.cumsum(0.5 * (dn[1:] + dn[:-1]) * np.diff(ln))])
    return volume * np.diff(np.interp(np.log(edges), ln, cumulative))
