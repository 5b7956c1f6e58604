"""The matter about a cluster: the mean density, and what is clustered about a halo of its mass (Diemer & Kravtsov 2014).

From the halo's edge on the density is the mean one times 1 + b xi(r), with the linear correlation function xi and the bias b of the halo's mass (Tinker et al. 2010).
The part near the halo is its infall region, made with the halo itself; the rest fills its cell.
"""

from __future__ import annotations

import functools

import numpy as np

from hpcdiff.cosmology import Background, colossus_cosmology

INFALL = 2.4
"""Radius over R200m at which the infall region gives way to what fills the cell."""
_GRID = 40
"""Points along half of a cell's side."""
_FARTHEST = 150.0
"""Mpc; farther out nothing is clustered."""


@functools.lru_cache(maxsize=4)
def _correlation(background: Background) -> tuple[np.ndarray, np.ndarray]:
    """ln r (comoving Mpc) and the linear correlation function today."""
    r = np.geomspace(0.05, _FARTHEST, 400)
    return np.log(r), colossus_cosmology(background).correlationFunction(r * background.h)


@functools.lru_cache(maxsize=4)
def _biases(background: Background) -> tuple[np.ndarray, np.ndarray]:
    """ln M200m (Msun) and the halo bias today."""
    from colossus.lss import bias

    colossus_cosmology(background)
    mass = np.geomspace(1e11, 1e17, 121)
    return np.log(mass), bias.haloBias(mass * background.h, 0.0, "200m", model="tinker10")


def density(background: Background, mass: float, r: np.ndarray, surroundings: float = 1.0) -> np.ndarray:
    """Matter about a halo that is not its own over the mean density, at r (comoving Mpc); it ends within the halo, of M200m `mass` (Msun).

    Args:
        surroundings: what is clustered about this halo over the mean of its mass.
    """
    ln_r, xi = _correlation(background)
    b = np.interp(np.log(mass), *_biases(background))
    x = np.asarray(r) / background.radius(mass)
    return (1 + surroundings * b * np.interp(np.log(np.maximum(r, 1e-9)), ln_r, xi)) * x**4 / (1 + x**4)


def infall(x: np.ndarray) -> np.ndarray:
    """The part of `density` that is the infall region's, at x = r/R200m."""
    return np.exp(-((x / INFALL) ** 4))


def filling(background: Background, mass: float, r: np.ndarray, surroundings: float = 1.0) -> np.ndarray:
    """What fills the cell around the infall region, over the mean density, at r (comoving Mpc); the mean density everywhere for no cluster, mass 0."""
    if not mass:
        return np.ones_like(r)
    return density(background, mass, r, surroundings) * (1 - infall(r / background.radius(mass)))


def mean_filling(background: Background, mass: float, cell: float, surroundings: float = 1.0) -> float:
    """Mean of `filling` over a cell (side in Mpc) with the cluster in its middle."""
    x = (np.arange(_GRID) + 0.5) / _GRID * cell / 2
    return float(filling(background, mass, np.sqrt(x[:, None, None] ** 2 + x[:, None] ** 2 + x**2), surroundings).mean())
