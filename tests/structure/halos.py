"""Maps of halos of known mass, concentration and shape, by quadrature along the line of sight."""

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq

OM, OB, H = 0.3, 0.045, 0.7
RHO_CRIT0 = 2.775366e11 * H**2  # Msun/Mpc^3


def rho_crit(z):
    return RHO_CRIT0 * (OM * (1 + z) ** 3 + 1 - OM)


def rho_mean(z):
    return RHO_CRIT0 * OM * (1 + z) ** 3


LAWS = {
    "nfw": (lambda x: 1 / (x * (1 + x) ** 2), lambda x: np.log(1 + x) - x / (1 + x)),
    "king": (lambda x: (1 + x * x) ** -1.5, lambda x: np.arcsinh(x) - x / np.sqrt(1 + x * x)),
}


def halo(m200c, c200c, z, law="nfw"):
    """rho_s (Msun/Mpc^3), r_s (Mpc) and M500c (Msun)."""
    r200 = np.cbrt(3 * m200c / (4 * np.pi * 200 * rho_crit(z)))
    within = LAWS[law][1]
    r_s, rho_s = r200 / c200c, m200c / (4 * np.pi * (r200 / c200c) ** 3 * within(c200c))
    x = brentq(lambda x: 3 * rho_s * within(x) / x**3 - 500 * rho_crit(z), 1e-3, c200c)
    return rho_s, r_s, 4 * np.pi * rho_s * r_s**3 * within(x)


def column(radius, rho_s, r_s, depth, law="nfw"):
    """Surface density, Msun/Mpc^2, at projected radii (Mpc) of any shape, between -depth/2 and depth/2."""
    at = np.geomspace(1e-3, 30, 160)
    rho = LAWS[law][0]
    made = [2 * quad(lambda s, x=x: rho(np.hypot(x, s)), 0, depth / 2 / r_s, points=[x, 10 * x], limit=200)[0] for x in at / r_s]
    return rho_s * r_s * np.exp(np.interp(np.log(np.maximum(radius, at[0])), np.log(at), np.log(made)))


def paint(rho_s, r_s, npix, width, depth, z, law="nfw", q=1.0, angle=0.0, shift=(0.0, 0.0)):
    """Map over the mean column, on a background of 1: averaged over pixels; axis ratio q, angle from i, shift in Mpc."""
    fine = 9
    x = ((np.arange(npix * fine) + 0.5) / fine - npix / 2) * width / npix
    a, b = x[:, None] - shift[0], x[None, :] - shift[1]
    along, across = a * np.cos(angle) + b * np.sin(angle), -a * np.sin(angle) + b * np.cos(angle)
    sigma = column(np.hypot(along * np.sqrt(q), across / np.sqrt(q)), rho_s, r_s, depth, law)
    return 1 + sigma.reshape(npix, fine, npix, fine).mean((1, 3)) / (rho_mean(z) * depth)
