"""Radial laws: NFW with its outskirts, cored gas, the debiased pressure profile, and draws from a tabulated one."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq, minimize_scalar

from hpcdiff import cosmology
from hpcdiff.cosmology import Background
from hpcdiff.simulate import outskirts

OUTERMOST = 3.0
"""Radius over R200m to which a halo with its infall region reaches."""
FITTED_FROM = 0.08
"""Radius over R200c from which on, to R200c, concentrations are fitted: beyond it halos fall more steeply than NFW's profile."""
X_H = 0.76
"""Hydrogen mass fraction."""
X_E = 1 + (1 - X_H) / (2 * X_H)
"""Electrons per hydrogen nucleus, fully ionised."""
MU = 4 / (1 + 3 * X_H + 4 * X_H * X_E)
"""Mean molecular weight, fully ionised."""
MU_E = 1 / (X_H * X_E)
"""Mean molecular weight per electron, fully ionised."""
DEBIASED = {"p0": 5.048, "c500": 1.217, "alpha": 1.192, "beta": 5.490, "gamma": 0.433}
"""Generalised NFW electron pressure over P500 of He et al. 2021."""


def nfw_mass(x: np.ndarray) -> np.ndarray:
    """NFW mass within x = r/r_s, over 4 pi rho_s r_s^3."""
    return np.log1p(x) - x / (1 + x)


def nfw_density(x: np.ndarray) -> np.ndarray:
    """NFW density at x = r/r_s, over rho_s."""
    return 1 / (x * (1 + x) ** 2)


def critical(mass: float, radius: float, concentration: float, overdensity: float, background: Background) -> tuple[float, float]:
    """Mass (Msun) and radius (Mpc) at `overdensity` times critical of an NFW halo given by M200m, R200m and c200m."""
    rho = overdensity * background.rho_crit() * 4 * np.pi / 3

    def excess(x: float) -> float:
        return mass * float(nfw_mass(x) / nfw_mass(concentration)) - rho * (x * radius / concentration) ** 3

    r = brentq(excess, 1e-4, 3 * concentration) * radius / concentration
    return rho * r**3, r


def fitted_concentration(x: np.ndarray, low: float, mass: np.ndarray) -> float:
    """c200c of the NFW profile of most likelihood for particles at x = r/R200c (n,) of these masses (n,), those with x from `low` to 1; between 1 and 40, and at either where the profile bends nowhere."""
    there = (x > low) & (x < 1)
    x, weight = x[there], mass[there] / mass[there].mean()

    def minus_ln(ln_c: float) -> float:
        c = np.exp(ln_c)
        within = np.log(nfw_mass(c) - nfw_mass(c * low))
        return -(weight @ np.log(c**3 * x**2 * nfw_density(c * x))) + len(x) * within

    return float(np.exp(minimize_scalar(minus_ln, bounds=(np.log(1), np.log(40)), method="bounded").x))


def virial_overdensity(background: Background, a: float = 1.0) -> float:
    """Virial overdensity over the critical density of Bryan & Norman 1998 at a scale factor."""
    x = background.Om0 / (a**3 * background.efunc(1 / a - 1) ** 2) - 1
    return 18 * np.pi**2 + 82 * x - 39 * x**2


def electron_p500(mass_500c: float, radius_500c: float, background: Background) -> float:
    """Electron pressure scale P500 = G M500 / (2 R500) 500 rho_crit f_b mu/mu_e, in Msun/Mpc^3 (km/s)^2."""
    f_baryon = background.Ob0 / background.Om0
    return cosmology.G_MPC * mass_500c / (2 * radius_500c) * 500 * background.rho_crit() * f_baryon * MU / MU_E


def debiased_pressure(x: np.ndarray) -> np.ndarray:
    """P_e/P500 at x = r/R500c (He et al. 2021): p0 / ((c x)^gamma (1 + (c x)^alpha)^((beta - gamma)/alpha))."""
    p = DEBIASED
    y = p["c500"] * x
    return p["p0"] / (y ** p["gamma"] * (1 + y ** p["alpha"]) ** ((p["beta"] - p["gamma"]) / p["alpha"]))


def nonthermal(x: np.ndarray, turbulence: float) -> np.ndarray:
    """Part of the pressure that is turbulence at x = r/R200m: 10 % in the centre to 35 % at R200m and beyond, times `turbulence`."""
    return np.minimum(turbulence * (0.10 + 0.25 * np.minimum(x, 1.0) ** 0.8), 0.7)


def gas_scatter(mass: float) -> float:
    """Scatter (ln) of the gas fraction at a given M200m in Msun (ours): light clusters lose more of their gas, and more unevenly; 10 % at 1e15, 20 % at 1e14."""
    return 0.1 + 0.1 * float(np.clip(np.log10(1e15 / mass), 0, 1.5))


def core_of_luminosity(core: float, cusp: float, slope: float, scale: float, factor: float) -> float:
    """The core radius over R200m for which gas of the same mass within R200m has `factor` times the emission measure.

    Args: as of `gas`, lengths over R200m. The answer lies within 0.01..0.5.
    """
    x = np.geomspace(1e-3, 1.0, 200)
    cores = np.geomspace(0.01, 0.5, 60)
    density = _gas_density(x, cores[:, None], cusp, slope, scale)
    shell = 4 * np.pi * x**2
    squared, mass = (np.trapezoid(shell * density**n, x, axis=1) for n in (2, 1))
    ln = np.log(squared / mass**2)  # falls with the core radius
    wanted = np.interp(np.log(core), np.log(cores), ln) + np.log(factor)
    return float(np.exp(np.interp(-wanted, -ln, np.log(cores))))


def virial_temperature(mass: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """mu m_p G M / (2 R k) in K, for Msun and Mpc."""
    return MU * cosmology.M_P * cosmology.G_MPC * mass / radius * 1e10 / (2 * cosmology.K_B)


class Radial:
    """A tabulated spherical density, to draw radii from.

    Args:
        r: radii, increasing, (n,).
        density: any normalisation, (n,).
    """

    def __init__(self, r: np.ndarray, density: np.ndarray) -> None:
        shell = 4 * np.pi * r**2 * density
        inner = shell[0] * r[0] / 3  # as if the density were flat below the first radius
        cumulative = inner + np.concatenate([[0], np.cumsum(0.5 * (shell[1:] + shell[:-1]) * np.diff(r))])
        self.r, self.cumulative = np.concatenate([[0], r]), np.concatenate([[0], cumulative]) / cumulative[-1]

    def within(self, radius: float) -> float:
        """The part of the mass within a radius."""
        return float(np.interp(radius, self.r, self.cumulative))

    def less(self, part: float, power: float) -> Radial:
        """What remains after `part` of the mass, of which the cumulative distribution is this one's to `power`, is taken away."""
        rest = Radial.__new__(Radial)
        part = min(part, 0.9 / power)  # else the density would be negative somewhere
        rest.r, rest.cumulative = self.r, (self.cumulative - part * self.cumulative**power) / (1 - part)
        return rest

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """n radii, (n,)."""
        return np.interp(rng.random(n), self.cumulative, self.r)


def matter(background: Background, mass: float, concentration: float, r_max: float, surroundings: float = 1.0) -> tuple[Radial, Radial]:
    """NFW with a splashback cut (Diemer & Kravtsov 2014) and the infall region (`outskirts`), both out to r_max (Mpc); mass: M200m, Msun."""
    radius = background.radius(mass)
    r = np.geomspace(1e-3 * radius, r_max, 400)
    return Radial(r, nfw_density(r * concentration / radius) * _cut(r / radius)), _infall(background, mass, r, surroundings)


def gas(
    background: Background, mass: float, core: float, cusp: float, slope: float, scale: float, r_max: float, surroundings: float = 1.0
) -> tuple[Radial, Radial]:
    """Cored gas (Vikhlinin et al. 2006, squared density) and its infall region, out to r_max.

    Args:
        mass: M200m, Msun.
        core, scale: radii (Mpc) of the core and of the outer steepening.
        cusp: slope of the density towards the centre.
        slope: 3 beta.
    """
    radius = background.radius(mass)
    r = np.geomspace(1e-3 * radius, r_max, 400)
    return Radial(r, _gas_density(r, core, cusp, slope, scale) * _cut(r / radius)), _infall(background, mass, r, surroundings)


def total_mass(background: Background, mass: float, concentration: float, surroundings: float = 1.0) -> float:
    """Mass of a halo with its splashback and infall region over its M200m, of which the halo's own part is scaled to have M200m together with the infall."""
    radius = float(background.radius(mass))
    r = np.geomspace(1e-3 * radius, OUTERMOST * radius, 400)
    shell = 4 * np.pi * r**2
    inner, outer = matter(background, mass, concentration, OUTERMOST * radius, surroundings)
    around = background.rho_mean() * outskirts.density(background, mass, r, surroundings)
    infall = np.trapezoid(shell * around * outskirts.infall(r / radius), r) / mass
    return infall + (1 - infall * outer.within(radius)) / inner.within(radius)


def _gas_density(r: np.ndarray, core: np.ndarray | float, cusp: float, slope: float, scale: float) -> np.ndarray:
    x, y = r / core, r / scale
    return x ** (-cusp) / (1 + x**2) ** (slope / 2 - cusp / 2) / (1 + y**3) ** (1 / 3)


def _cut(x: np.ndarray) -> np.ndarray:
    return (1 + (x / 1.5) ** 4) ** -2


def _infall(background: Background, mass: float, r: np.ndarray, surroundings: float) -> Radial:
    return Radial(r, outskirts.density(background, mass, r, surroundings) * outskirts.infall(r / background.radius(mass)))
