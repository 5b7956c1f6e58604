"""What the gas of the evolved halos is like: a polytrope in the potential that gravity made, with the energy of the halo's own binding.

The run's gas particles feel gravity alone. In each halo the gas is then put into hydrostatic equilibrium in the evolved potential phi
(Ostriker, Bode & Babul 2005): P/rho = (G - 1)/G (C - phi) and rho ~ (P/rho)^(1/(G - 1)), subhalos, infall and shape included, since phi
has them. C is such that the thermal and turbulent energy within R200c goes with the binding energy of the matter there, as the virial theorem says: an early,
concentrated halo is hotter. The motions themselves don't say how hot the gas is: streams and neighbours are in them.
Particles stay where they are; their masses change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from hpcdiff import cosmology
from hpcdiff.cosmology import Background
from hpcdiff.simulate import profiles
from hpcdiff.simulate.nbody.halos import Halo, wrapped

POLYTROPE, SCATTER, LATE = 1.2, 0.06, 0.5
"""Mean of G, that of Ostriker, Bode & Babul 2005; its scatter, without which clusters of one mass are too alike in X-rays (ours); its correlation with how late a halo formed."""
VIRIAL = 1.26
"""Energy of the gas within R200c over half of the binding energy: above 1, since what falls in presses on it (ours: with it
the mean pressure is the debiased profile; docs/simulation.md)."""
LEAST = 64
"""Gas particles within R200c of the smallest halo that gets a polytrope."""
REACH = 2.0
"""To this radius over R200m the gas has the halo's pressure: about the accretion shock."""
THINNEST = 1e-3
"""Least gas over what the run has there: a place above the polytrope's edge, between two halos, is not empty."""
MOST = 1.1
"""Most gas within R200c over the cosmic part."""
THICKEST = 3.0
"""Most gas outside of R200m over what the run has there; what a halo between others lacks beyond that lies outside of all halos."""


@dataclass
class Gas:
    """The gas particles of a box.

    Attributes:
        mass: Msun, (n,). density: Msun/Mpc^3, (n,). energy: internal energy, (km/s)^2, (n,).
    """

    mass: np.ndarray
    density: np.ndarray
    energy: np.ndarray


def gas_fraction(mass: float, retention: float = 0.0) -> float:
    """Gas within R200c over the cosmic part of M200c, for M200m in Msun: 0.84 in the largest clusters, 0.24 at 1e13 (ours).

    Args:
        retention: how much more gas the halo kept than others of its mass, in standard deviations.
    """
    return min(0.85 / (1 + (mass / 2.2e13) ** -1.2) * float(np.exp(profiles.gas_scatter(mass) * retention)), MOST)


def lateness(formed: float) -> float:
    """How late a halo had half of its mass, at this scale factor, in standard deviations of the halo model's, within 2.5."""
    return float(np.clip(np.log10(formed / 0.64) / 0.09, -2.5, 2.5))


def turbulence(formed: float) -> float:
    """Turbulent part of the pressure over the halo model's mean, for the scale factor of half of the mass: late halos are stirred."""
    return float(np.exp(0.2 * lateness(formed)))


def index(formed: float, flatness: float = 0.0) -> float:
    """The polytrope's index: the lower it is, the denser and the less hot is the core. Early halos have had time for one.

    Args:
        formed: scale factor of half of the mass. flatness: what else makes the core flatter than in others, in standard deviations; within 2.5 of them in all.
    """
    return POLYTROPE + SCATTER * float(np.clip(LATE * lateness(formed) + np.sqrt(1 - LATE**2) * flatness, -2.5, 2.5))


def settle(
    halos: list[tuple[Halo, float, float, float]],
    x: np.ndarray,
    phi: np.ndarray,
    number: np.ndarray,
    particle: float,
    side: float,
    background: Background,
) -> Gas:
    """The gas of a box today.

    Args:
        halos: with the scale factors at which they had half of their mass, their `retention`, and their index (`index`), by falling mass.
        x: gas positions, comoving Mpc, (n, 3). phi: potential, (km/s)^2, (n,).
        number: gas particles per Mpc^3 about each, (n,).
        particle: mass of a gas particle of the run, Msun. side: of the box, Mpc.
    """
    weight, heat = np.ones(len(x)), np.zeros(len(x))
    host, nearest = np.full(len(x), -1), np.full(len(x), REACH)
    for i, (halo, *_) in enumerate(halos):
        r = np.linalg.norm(wrapped(x - halo.centre, side), axis=1) / halo.radius_200m
        closer = r < nearest
        host[closer], nearest[closer] = i, r[closer]
    for i, (halo, formed, retention, power) in enumerate(halos):
        own = np.flatnonzero(host == i)
        r, core = nearest[own], halo.radius_200c / halo.radius_200m
        inside = own[r < core]
        if len(inside) < LEAST:
            continue
        s = _polytrope(phi[inside], 1 / number[inside], VIRIAL * 0.5 * halo.depth, power)
        square = np.maximum((power - 1) / power * (s - phi[own]), 0)  # P/rho, thermal and turbulent
        gas = gas_fraction(halo.mass_200m, retention) * halo.mass_200c * background.Ob0 / background.Om0
        weight[own] = np.maximum(_weights(square ** (1 / (power - 1)) / number[own], r, core, gas / particle), THINNEST)
        heat[own] = square * (1 - profiles.nonthermal(r, turbulence(formed)))
    free = nearest >= 1
    weight[free] += (len(x) - weight.sum()) / max(np.count_nonzero(free), 1)
    density = weight * particle * number
    kelvin = 1e4 * (density / background.rho_mean(component="gas")) ** 0.6  # of the intergalactic medium
    floor = cosmology.K_B / (profiles.MU * cosmology.M_P) * 1e-10 * np.minimum(kelvin, 1e6)
    return Gas(weight * particle, density, 1.5 * np.maximum(heat, floor))


def _polytrope(phi: np.ndarray, volume: np.ndarray, energy: float, power: float) -> float:
    """C for which the mean of 3/2 P/rho over the gas of this index is this energy per mass."""
    part = (power - 1) / power

    def excess(c: float) -> float:
        square = part * (c - phi)
        gas = volume * (square / square.max()) ** (1 / (power - 1))
        return 1.5 * float(np.sum(gas * square) / np.sum(gas)) - energy

    low, span = float(phi.max()), float(np.ptp(phi))
    low += 1e-6 * span
    return low if excess(low) >= 0 else brentq(excess, low, low + 1000 * span)


def _weights(rule: np.ndarray, r: np.ndarray, core: float, wanted: float) -> np.ndarray:
    """Mass of each particle over that of the run: the polytrope in the halo, and beyond it what was there and what the halo lacks.

    Their sum within `core` (R200c; both over R200m, as r) is `wanted`, and in all the number of particles, as it was, or less where little room is outside.
    rule: the polytrope's density over the run's, up to a factor.
    """
    inner = 1 / (1 + r**12)  # about R200m the polytrope gives way to what lies around the halo
    inside = r < core
    if inside.all():
        return rule * (wanted / np.sum(rule))
    # rule x inner + k (1 - inner): mass within the core and in all
    a = np.array([[np.sum((rule * inner)[inside]), np.sum((1 - inner)[inside])], [np.sum(rule * inner), np.sum(1 - inner)]])
    scale, outer = np.linalg.solve(a, [wanted, len(r)])
    if outer < 0:  # nothing would be left outside
        scale, outer = len(r) / a[1, 0], 0.0
    outside = 1 - inner
    if scale < 0 or outer > THICKEST:  # a small halo, or one to which others leave little room: nothing of what is outside leaks in
        outside = np.where(inside, 0, outside)
        scale = wanted / a[0, 0]
        outer = np.clip((len(r) - scale * a[1, 0]) / np.sum(outside), 0, THICKEST)
    return scale * rule * inner + outer * outside
