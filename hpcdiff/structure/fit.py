"""Masses and concentrations by a fit of a projected profile to the map's rings.

For every scale radius of a table the best amplitude has a closed form; the best scale radius is read off a parabola through the
least chi^2 and its neighbours. The fit reaches out to twice R500c, found by repetition. The background is the mean density: left
free, it takes part of the halo's own outskirts, the masses become no better and the concentrations scatter more.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from hpcdiff.measures import Rings
from hpcdiff.structure import slab
from hpcdiff.structure.nodes import Nodes

SCALES = np.geomspace(0.002, 1.0, 80)
"""Scale radii of the table, over the map's width."""
REACH = 2.0
"""How far the fit goes, over R500c."""
REPEATS = 6
"""Fits after each of which R500c is set anew."""
PROFILES = {"nfw": (slab.nfw, slab.nfw_mass), "king": (slab.king, slab.king_mass)}
X = np.geomspace(1e-3, 1e3, 1200)
"""Radii over the scale radius of the table from which overdensity radii are read."""


@lru_cache(maxsize=16)
def templates(profile: str, npix: int, n_rings: int, depth: float) -> np.ndarray:
    """Ring means of the slab's column density over rho_s times the width, (SCALES, n_rings); depth over the map's width."""
    nodes = Nodes.of(npix, n_rings)
    scale = SCALES[:, None]
    return nodes.mean(PROFILES[profile][0](nodes.radius / npix / scale, depth / 2 / scale)) * scale


@lru_cache(maxsize=2)
def overdensity(profile: str) -> np.ndarray:
    """ln of the mean density within X over rho_s, falling, (X,)."""
    return np.log(3 * PROFILES[profile][1](X) / X**3)


def radius_at(rho_s: np.ndarray, density: float, profile: str) -> np.ndarray:
    """Radius over r_s within which the mean density is `density` (the unit of rho_s), (n,); NaN where it is nowhere so high."""
    with np.errstate(divide="ignore", invalid="ignore"):
        wanted = np.log(density / rho_s)
    x = np.exp(np.interp(wanted, overdensity(profile)[::-1], np.log(X)[::-1], left=np.nan, right=np.nan))
    return np.where(rho_s > 0, x, np.nan)


def fit(
    rings: Rings, sigma: np.ndarray, width_mpc: float, depth_mpc: float, rho_mean: float, rho_crit: float, profile: str
) -> tuple[np.ndarray, np.ndarray]:
    """Fit ring means of surface densities.

    Each ring counts by the inverse square of its own value, and every stretch of radius alike: what scatters about a profile are
    subhalos and the halo's shape, whose part in it is about the same at all radii.

    Args:
        rings: of pixels. sigma: (n, rings), Msun/Mpc^2.
        rho_mean: of the background, rho_crit: for the overdensity, Msun/Mpc^3. profile: `nfw` or `king`.
    Returns:
        rho_s in Msun/Mpc^3 and r_s in Mpc, (n,); NaN where no profile of positive mass fits or 500 rho_crit is nowhere reached.
    """
    pixel = width_mpc / rings.npix
    table = templates(profile, rings.npix, rings.n, float(f"{depth_mpc / width_mpc:.9g}")) * width_mpc
    top = sigma.max(1, initial=0.0)
    known = np.isfinite(sigma).all(1) & (top > 0)
    value = np.where(known[:, None], sigma, 1.0)
    weight = rings.counts / (np.maximum(rings.radius, 0.5) * np.maximum(value, 1e-3 * np.where(known, top, 1.0)[:, None]) ** 2)
    value = value - rho_mean * depth_mpc
    r500 = np.full(len(sigma), width_mpc / 10)
    for _ in range(REPEATS):
        reach = np.clip(REACH * r500, 3 * pixel, width_mpc / 2)
        w = weight / (1 + (rings.radius * pixel / reach[:, None]) ** 16)
        wv = w * value
        norm = np.einsum("nr,kr->nk", w, table * table)
        amplitude = np.einsum("nr,kr->nk", wv, table) / norm  # (n, SCALES)
        gain = np.where(amplitude > 0, amplitude**2 * norm, 0.0)  # what chi^2 falls by
        rho_s, r_s = _best(gain, amplitude, width_mpc)
        found = radius_at(rho_s, 500 * rho_crit, profile) * r_s
        r500 = np.where(np.isfinite(found), found, r500)
    known &= np.isfinite(found)
    return np.where(known, rho_s, np.nan), np.where(known, r_s, np.nan)


def _best(gain: np.ndarray, amplitude: np.ndarray, width_mpc: float) -> tuple[np.ndarray, np.ndarray]:
    """Amplitude and scale radius (Mpc) at the top of the parabola through the largest gain and its neighbours, (n,)."""
    rows = np.arange(len(gain))
    i = np.clip(gain.argmax(1), 1, len(SCALES) - 2)
    below, here, above = gain[rows, i - 1], gain[rows, i], gain[rows, i + 1]
    bend = below - 2 * here + above
    with np.errstate(divide="ignore", invalid="ignore"):
        step = 0.5 * (below - above) / bend
    step = np.where(np.isfinite(step) & (bend < 0), np.clip(step, -1, 1), 0.0)
    log_s = np.log(SCALES)
    r_s = np.exp(log_s[i] + step * (log_s[1] - log_s[0])) * width_mpc
    low, mid, high = (np.log(np.maximum(amplitude[rows, i + d], 1e-300)) for d in (-1, 0, 1))
    best = np.exp(mid + step * (high - low) / 2 + step**2 * (high - 2 * mid + low) / 2)
    return np.where(amplitude[rows, i] > 0, best, np.nan), r_s
