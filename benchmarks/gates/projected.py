"""The projected density about a cluster as it should be: its own halo, and the matter that is clustered about it."""

from __future__ import annotations

import functools

import numpy as np

from hpcdiff.cosmology import Background, colossus_cosmology

_told = functools.lru_cache(maxsize=1)(colossus_cosmology)  # each time that it is told, colossus forgets its correlation function


def rings(x: np.ndarray, mass: np.ndarray, edges: np.ndarray, half: float) -> np.ndarray:
    """Surface density in rings of a slab of depth 2 `half` (Mpc) about a halo, seen along x, y and z, (3, rings).

    Args:
        x: positions about the halo's centre, Mpc, (n, 3). mass: Msun, (n,). edges: of the rings, Mpc.
    """
    found = []
    for axis in range(3):
        there = np.abs(x[:, axis]) < half
        r = np.hypot(*np.delete(x[there], axis, axis=1).T)
        found.append(np.histogram(r, edges, weights=mass[there])[0] / (np.pi * np.diff(edges**2)))
    return np.array(found)


def expected(mass: float, concentration: float, edges: np.ndarray, half: float, background: Background) -> np.ndarray:
    """Mean surface density in rings, Msun/Mpc^2 of all matter, of a slab of depth 2 `half` (Mpc) about the cluster.

    Diemer & Kravtsov 2014: their truncated inner profile, the linear correlation function times the bias, and the mean density.

    Args:
        mass: M200m, Msun. edges: of the rings, Mpc.
    """
    from colossus.halo import profile_dk14, profile_outer

    h = background.h
    _told(background)
    outer = [profile_outer.OuterTermMeanDensity(z=0), profile_outer.OuterTermCorrelationFunction(z=0, derive_bias_from="R200m")]
    of = profile_dk14.DK14Profile(M=mass * h, c=concentration, z=0.0, mdef="200m", outer_terms=outer)
    r = np.geomspace(1e-3, 2 * half + edges[-1], 400)
    density = of.density(r * 1e3 * h) * 1e9 * h**2
    radius = np.geomspace(edges[0], edges[-1], 80)
    depth = np.concatenate([[0], np.geomspace(1e-3, half, 200)])
    column = 2 * np.trapezoid(np.interp(np.hypot(radius[:, None], depth), r, density), depth, axis=1)
    inside = np.concatenate([[0], np.cumsum(np.pi * np.diff(radius**2) * 0.5 * (column[1:] + column[:-1]))])
    return np.diff(np.interp(edges, radius, inside)) / (np.pi * np.diff(edges**2))
