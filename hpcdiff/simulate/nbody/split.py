"""The split of gravity by a Gaussian of r_s into a long-range part for the mesh and a short-range part for pairs; plain numbers, no loops.

The force of a mass m at the distance r is m r [S - L], the softened pull less what the mesh gives, with
L = (1 - erfc(u) - 2u/sqrt(pi) exp(-u^2)) / r^3 and u = r/(2 r_s). L is smooth in r^2, so a polynomial stands for it.

S is the pull of a ball of radius R = 3 eps with the density of Wendland's C2 function (Wendland 1995; as softening: Schaller et al. 2024): with
w = 1 - r/R, S = (1 + 3 w + 6 w^2 + 10 w^3 + 15 w^4 - 21 w^5) / R^3, and beyond R a point's, 1/r^3. Written so nothing cancels. Its depth,
(1 + w + w^2 + w^3 + w^4 + w^5 - 6 w^6 + 3 w^7) / R, is in the middle that of Plummer's sphere of this eps. Of two particles with different eps the larger counts.
"""

from __future__ import annotations

import numpy as np
from scipy import fft
from scipy.special import erf

SPLIT = 1.25
"""r_s of the force split over the mesh's cells."""
REACH = 4.5
"""Pairs farther apart than this many split lengths r_s feel the mesh alone; 1.7 % of the pair's force are left out there."""
BALL = 3.0
"""Radius of the ball that stands for a particle over the softening eps; beyond it the force is a point's."""
DEGREE = 9
"""Of the polynomials; they are true to 1e-5 of the largest value."""


def _long_force(w: np.ndarray) -> np.ndarray:
    u = np.sqrt(np.maximum(w, 1e-4))
    # erf(u) - 2u/sqrt(pi) exp(-u^2), over u^3; its series for small u
    series = 4 / (3 * np.sqrt(np.pi)) * (1 - 3 / 5 * w)
    return np.where(w < 1e-3, series, (erf(u) - 2 * u / np.sqrt(np.pi) * np.exp(-(u**2))) / u**3)


def _long_potential(w: np.ndarray) -> np.ndarray:
    u = np.sqrt(np.maximum(w, 1e-12))
    return erf(u) / u


def _polynomial(function) -> np.ndarray:
    """Coefficients in t = 2 r^2/reach^2 - 1, from the constant up, float32."""
    largest = (REACH / 2) ** 2
    fit = np.polynomial.Chebyshev.interpolate(lambda t: function(0.5 * largest * (t + 1)), DEGREE)
    return fit.convert(kind=np.polynomial.Polynomial).coef.astype(np.float32)


_FORCE, _POTENTIAL = _polynomial(_long_force), _polynomial(_long_potential)


def force_polynomial(split: float) -> np.ndarray:
    """Coefficients of L for the force, in t = 2 r^2/reach^2 - 1, from the constant up, float32; split: r_s, Mpc."""
    return _FORCE * np.float32(1 / (2 * split) ** 3)


def potential_polynomial(split: float) -> np.ndarray:
    """Coefficients of erf(u)/r, likewise."""
    return _POTENTIAL * np.float32(1 / (2 * split))


def own_depth(split: float, softening: np.ndarray | float) -> np.ndarray | float:
    """The short-range potential of a unit mass at its own place, 1/Mpc, positive, for this softening or each of these: a sum over all pairs has it in it."""
    return 3 / (BALL * softening) - float(_long_potential(np.zeros(1))[0]) / (2 * split)


def waves(side: float, n: int, split: float, strength: float) -> tuple[list[np.ndarray], np.ndarray]:
    """Wave numbers and kernel of the mesh: phi_k = kernel delta_k of triangular clouds, deposited and interpolated.

    Args:
        side: of the box, comoving Mpc. n: mesh cells a side. split: r_s, Mpc: exp(-k^2 r_s^2), in space erf(r/(2 r_s))/r. strength: 3/2 Om0.
    Returns:
        k along a whole and the half axis, 1/Mpc, 0 at the Nyquist frequency (n,) and (n//2 + 1,), and the kernel (n, n, n//2 + 1); float32:
        rounding is far below the error of the mesh.
    """
    h = side / n
    k = [(2 * np.pi * fft.fftfreq(n, h)).astype("f4"), (2 * np.pi * fft.rfftfreq(n, h)).astype("f4")]
    window = [np.sinc(one * h / (2 * np.pi)) ** 3 for one in k]  # of the cloud
    parts = [np.exp(-((one.astype(float) * split) ** 2)) / w.astype(float) ** 2 for one, w in zip(k, window, strict=True)]
    k2 = k[0][:, None, None] ** 2 + k[0][:, None] ** 2 + k[1] ** 2
    k2[0, 0, 0] = 1
    kernel = (-strength * parts[0][:, None, None] * parts[0][:, None] * parts[1]).astype("f4") / k2
    kernel[0, 0, 0] = 0
    for one in k:
        if n % 2 == 0:
            one[n // 2] = 0  # the slope of a wave at the Nyquist frequency is unknown
    return k, kernel
