"""Linear growth, and the integrals over time that kicks and drifts need, in flat LambdaCDM without radiation.

Time is in units of 1/H0, so that H is E(a) = sqrt(Om0/a^3 + 1 - Om0).
"""

from __future__ import annotations

import numpy as np

_X, _W = np.polynomial.legendre.leggauss(32)


def efunc(a: np.ndarray | float, Om0: float) -> np.ndarray | float:
    """H/H0 at the scale factor a."""
    return np.sqrt(Om0 / a**3 + 1 - Om0)


def _integral(function, low: float, high: float) -> float:
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    return float(half * np.sum(_W * function(middle + half * _X)))


def kick(a: float, b: float, Om0: float) -> float:
    """Integral of dt/a from scale factor a to b: what multiplies -grad(phi) in the change of a^2 dx/dt."""
    return _integral(lambda s: 1 / (s**2 * efunc(s, Om0)), a, b)


def drift(a: float, b: float, Om0: float) -> float:
    """Integral of dt/a^2 from scale factor a to b: what multiplies a^2 dx/dt in the change of x."""
    return _integral(lambda s: 1 / (s**3 * efunc(s, Om0)), a, b)


def growing(a: float, Om0: float) -> float:
    """Growing mode, a at early times: 5/2 Om0 E(a) times the integral of da/(a E)^3 (Heath 1977)."""
    # substituting a = s^2 makes the integrand smooth at 0
    value = _integral(lambda s: 2 * s / (s**2 * efunc(s**2, Om0)) ** 3, 0.0, np.sqrt(a))
    return 2.5 * Om0 * float(efunc(a, Om0)) * value


def growth(a: float, Om0: float) -> float:
    """Linear growth factor D(a), 1 today."""
    return growing(a, Om0) / growing(1.0, Om0)


def rate(a: float, Om0: float) -> float:
    """f = dlnD/dlna, from the growing mode's equation."""
    matter = Om0 / (a**3 * float(efunc(a, Om0)) ** 2)
    return matter * (2.5 * a / growing(a, Om0) - 1.5)


def second_order(a: float, Om0: float) -> tuple[float, float]:
    """Second-order growth factor over D^2, and its rate dlnD2/dlna (Bouchet et al. 1995)."""
    matter = Om0 / (a**3 * float(efunc(a, Om0)) ** 2)
    return -3 / 7 * matter ** (-1 / 143), 2 * matter ** (6 / 11)
