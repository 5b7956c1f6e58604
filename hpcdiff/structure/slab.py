"""Spherical density profiles integrated through a slab: the column that a map of finite depth shows, in closed form.

Lengths in units of the scale radius r_s, densities in units of rho_s; x = R / r_s is the projected radius, l = half the depth
over r_s. `nfw`: rho = 1 / (r (1 + r)^2) (Navarro, Frenk & White 1997). `king`: rho = (1 + r^2)^(-3/2) (King 1962), a core.
"""

from __future__ import annotations

import numpy as np


def nfw(x: np.ndarray, l: np.ndarray) -> np.ndarray:  # noqa: E741, the field's own name
    """Column density of an NFW halo between -l and l along the line of sight, over rho_s r_s; any shapes that broadcast.

    With r = sqrt(x^2 + l^2) and t = sqrt((r - x) / (r + x)) it is 2 (J - l / (1 + r)) / (1 - x^2), where J is
    2 / sqrt(1 - x^2) artanh(t sqrt((1 - x) / (1 + x))) inside x = 1, and with x^2 - 1 and arctan outside. As l grows it is
    the profile of Wright & Brainerd (2000).
    """
    x = np.where(np.abs(x - 1) < 1e-5, 1 + 1e-5, x)  # both terms vanish at x = 1
    r = np.hypot(x, l)
    root = np.sqrt(np.abs(x * x - 1))
    argument = np.sqrt((r - x) / (r + x)) * np.sqrt(np.abs(x - 1) / (x + 1))
    j = 2 / root * np.where(x < 1, np.arctanh(np.where(x < 1, argument, 0.0)), np.arctan(argument))
    return 2 * (j - l / (1 + r)) / (1 - x * x)


def nfw_mass(x: np.ndarray) -> np.ndarray:
    """NFW mass within radius x, over 4 pi rho_s r_s^3."""
    return np.log1p(x) - x / (1 + x)


def king(x: np.ndarray, l: np.ndarray) -> np.ndarray:  # noqa: E741
    """Column density of a King profile between -l and l, over rho_s r_s: 2 l / ((1 + x^2) sqrt(1 + x^2 + l^2))."""
    core = 1 + x * x
    return 2 * l / (core * np.sqrt(core + l * l))


def king_mass(x: np.ndarray) -> np.ndarray:
    """King mass within radius x, over 4 pi rho_s r_s^3."""
    return np.arcsinh(x) - x / np.sqrt(1 + x * x)
