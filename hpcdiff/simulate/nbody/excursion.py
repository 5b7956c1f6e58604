"""Which peak of the linear density becomes a halo: excursion set peaks (Paranjape, Sheth & Desjacques 2013).

A halo of mass m is a peak that, smoothed on the scale of m, is as dense as the barrier that a triaxial collapse has to pass, and less dense on every larger scale. Its
barrier is 1.686 + beta sigma0, beta lognormal, and that the overdensity falls as the sphere grows fixes the curvature: at 1.5e14 Msun it is 2.7 +- 0.6 standard deviations,
where a peak that is only given its overdensity has 1.2 +- 0.8. What is dense far outside would fall in late.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import erf, ndtr

from hpcdiff.cosmology import Background, colossus_cosmology

COLLAPSE = 1.686
"""Linear overdensity of spherical collapse today."""
BARRIER = 0.5, 0.5
"""Mean and standard deviation of beta, in simulations (Robertson et al. 2009)."""
_K = np.geomspace(1e-5, 1e2, 4000)
"""1/Mpc: the moments of any sphere that holds a halo have converged."""
_CELLS = 400
"""Of the grids of beta and of the curvature."""


@dataclass(frozen=True)
class Peak:
    """A constraint on the linear density today at a point where it has no slope.

    Attributes:
        radius: of the top hat, comoving Mpc; height: overdensity within it.
        narrow: standard deviation of the Gaussian of the same variance in common with the top hat's as that has, comoving Mpc, see `moments`.
        curvature: minus the Laplacian of the overdensity smoothed by this Gaussian, 1/Mpc^2.
    """

    radius: float
    height: float
    narrow: float
    curvature: float


@dataclass(frozen=True)
class Moments:
    """Of the linear density today on the scale of one sphere.

    Attributes:
        sigma0: standard deviation within the top hat. sigma2: that of the Laplacian within the Gaussian, 1/Mpc^2. narrow: width of this, comoving Mpc.
        gamma: correlation of the two. volume: V* of peaks, (6 pi)^1.5 (sigma1/sigma2)^3 of the Gaussian, Mpc^3.
    """

    sigma0: float
    sigma2: float
    narrow: float
    gamma: float
    volume: float


def top_hat(x: np.ndarray) -> np.ndarray:
    """Fourier transform of a sphere of radius 1."""
    return np.where(x < 1e-2, 1 - x**2 / 10, 3 * (np.sin(x) - x * np.cos(x)) / np.maximum(x, 1e-2) ** 3)


def peaks_of(x: np.ndarray) -> np.ndarray:
    """Mean of |det| of the curvature over the ways in which a point of total curvature x is a peak: F(x) of Bardeen et al. 1986, equation A15."""
    out = 0.5 * (x**3 - 3 * x) * (erf(x * np.sqrt(2.5)) + erf(x * np.sqrt(0.625)))
    out += np.sqrt(0.4 / np.pi) * ((7.75 * x**2 + 1.6) * np.exp(-0.625 * x**2) + (0.5 * x**2 - 1.6) * np.exp(-2.5 * x**2))
    return np.where(x > 0, np.maximum(out, 0), 0)


class Excursion:
    """Excursion set peaks in a cosmology."""

    def __init__(self, background: Background) -> None:
        h = background.h
        spectrum = colossus_cosmology(background).matterPowerSpectrum(_K / h) / h**3
        self._weight = spectrum * _K**3 / (2 * np.pi**2) * np.gradient(np.log(_K))  # of each k in a variance

    def moments(self, radius: float) -> Moments:
        """On the scale of a sphere of this radius, comoving Mpc."""
        sphere = top_hat(_K * radius)
        variance = float(self._weight @ sphere**2)
        narrow = brentq(lambda r: float(self._weight @ (sphere * np.exp(-0.5 * (_K * r) ** 2))) - variance, 0.1 * radius, 2 * radius)
        gauss = np.exp(-0.5 * (_K * narrow) ** 2)
        one, two = (float(np.sqrt(self._weight @ (_K**n * gauss) ** 2)) for n in (1, 2))
        gamma = float(self._weight @ (_K**2 * sphere * gauss)) / (np.sqrt(variance) * two)
        return Moments(float(np.sqrt(variance)), two, float(narrow), gamma, (6 * np.pi) ** 1.5 * (one / two) ** 3)

    def _joint(self, of: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Edges of intervals of beta (n + 1,) and of the curvature in standard deviations (n + 1,), and the part of nu f(nu) in each (n, n)."""
        mean, spread = BARRIER
        s2 = np.log(1 + (spread / mean) ** 2)
        edges = np.exp(np.log(mean) - 0.5 * s2 + np.sqrt(s2) * np.linspace(-6, 6, _CELLS + 1))
        beta = np.sqrt(edges[1:] * edges[:-1])
        drawn = np.diff(ndtr(np.linspace(-6, 6, _CELLS + 1)))
        high = COLLAPSE / of.sigma0 + beta
        curves = np.linspace(0, of.gamma * high[-1] + 8, _CELLS + 1)
        x = 0.5 * (curves[1:] + curves[:-1])
        loose = 1 - of.gamma**2
        near = np.exp(-0.5 * (x - of.gamma * high[:, None]) ** 2 / loose) / np.sqrt(2 * np.pi * loose)
        falls = np.maximum(x - beta[:, None] * of.gamma, 0) / of.gamma
        part = near * falls * peaks_of(x) * (x[1] - x[0])
        dense = drawn * np.exp(-0.5 * high**2) / np.sqrt(2 * np.pi)
        return edges, curves, part * dense[:, None]

    def multiplicity(self, radius: float) -> float:
        """nu f(nu): halos of this scale a ln nu, times the volume of the sphere."""
        of = self.moments(radius)
        return 4 * np.pi / 3 * radius**3 / of.volume * float(self._joint(of)[2].sum())

    def peak(self, radius: float, u: float, v: float) -> Peak:
        """One of the peaks that become halos from spheres of this radius (comoving Mpc).

        Args:
            u, v: the quantiles, within 0 and 1, of its barrier, and of its curvature among those with the same barrier.
        """
        of = self.moments(radius)
        edges, curves, part = self._joint(of)
        barrier = _quantile(u, edges, part.sum(axis=1))
        beta = np.sqrt(edges[1:] * edges[:-1])
        among = np.stack([np.interp(barrier, beta, column) for column in part.T])
        return Peak(radius, COLLAPSE + barrier * of.sigma0, of.narrow, _quantile(v, curves, among) * of.sigma2)


def _quantile(q: float, edges: np.ndarray, part: np.ndarray) -> float:
    """Below which there is this share of all; part: in each interval."""
    whole = np.concatenate([[0], np.cumsum(part)])
    return float(np.interp(q * whole[-1], whole, edges))
