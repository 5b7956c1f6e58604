"""One cell's particles: a cluster with subhalos and infall, and what fills the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpcdiff.simulate import profiles
from hpcdiff.simulate.cluster import Cluster, draw_cluster
from hpcdiff.simulate.diffuse import background
from hpcdiff.simulate.draws import Ripples, clumps, concentrations, directions, masses, toward
from hpcdiff.simulate.plan import STRAY, Plan

LEAST_SUBHALO = 15
"""Dark-matter particles of the smallest subhalo."""
SHALLOW = 1.4
"""The part of the subhalos within a radius is that of the mass to this power: fewer in the centre (Han et al. 2016)."""
STRIPPED = 5e12
"""Subhalos lighter than this, Msun, have lost all gas."""
SLOPE = 0.82
"""Of the mass function of small subhalos, dN/dln psi ~ psi^-SLOPE (Jiang & van den Bosch 2016)."""
UNRESOLVED, LARGEST = 1e-4, 0.5
"""Lightest subhalo that counts in the mass in subhalos, and the heaviest that is drawn, over the virial mass."""
SHOCK = 2.0
"""Radius over R200m of the accretion shock, where the cluster's pressure ends."""


@dataclass
class Drawn:
    """Particles of some cells.

    Attributes:
        dm, gas: positions in the box (not wrapped), comoving Mpc, float64 (n, 3) each.
        pressure: electron pressure of the cluster at the gas, Msun/Mpc^3 (km/s)^2, float32 (n,).
        temperature: of the group a gas particle is in, K, 0 outside of groups, float32 (n,).
    """

    dm: np.ndarray
    gas: np.ndarray
    pressure: np.ndarray
    temperature: np.ndarray


def draw_block(plan: Plan, block: int) -> Drawn:
    """All particles of a block, cell by cell."""
    cells = [draw_cell(plan, int(cell)) for cell in plan.blocks[block]]
    return Drawn(*(np.concatenate([getattr(c, name) for c in cells]) for name in ("dm", "gas", "pressure", "temperature")))


def draw_cell(plan: Plan, cell: int) -> Drawn:
    """The particles of a cell: `plan.n_cell[cell]` of each type, the cluster's first."""
    rng, n = plan.rng(cell), int(plan.n_halo[cell])
    cluster = draw_cluster(plan, cell, rng) if plan.halo_id[cell] >= 0 else None
    dm, gas, temperature = background(plan, int(plan.n_background[cell]), cell, cluster, rng)
    pressure = np.zeros(len(gas) + n)
    if cluster is not None:
        halo_dm, halo_gas = _halo(plan, cell, cluster, rng)
        scale = _scale_to_mass(plan, cluster, halo_dm, halo_gas, dm, gas)
        dm = np.concatenate([cluster.position + scale * halo_dm, dm])
        gas = np.concatenate([cluster.position + scale * halo_gas, gas])
        temperature = np.concatenate([np.zeros(n), temperature])
        pressure = _pressure(plan, cluster, gas, rng)
    low, high, corner = -STRAY * plan.cell, (1 + STRAY) * plan.cell, plan.corner(cell)
    dm, gas = (corner + _reflect(x, low, high) for x in (dm, gas))
    return Drawn(dm, gas, pressure.astype(np.float32), temperature.astype(np.float32))


def _halo(plan: Plan, cell: int, cluster: Cluster, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Dark matter and gas of a cluster about its centre, (n, 3) each."""
    n = int(plan.n_halo[cell])
    c, r, b, total = cluster, cluster.radius, plan.background, float(plan.total[cell])
    r_max = profiles.OUTERMOST * r
    inner, outer = profiles.matter(b, c.mass, c.concentration, r_max, c.surroundings)
    gas_inner, gas_outer = profiles.gas(b, c.mass, c.core * r, c.cusp, c.slope, c.scale * r, r_max, c.surroundings)
    n_inner = round(n * _share(inner, outer, r, 1 / total))
    n_gas = round(n * _share(gas_inner, gas_outer, r, c.gas_fraction / total))
    sub_dm, sub_gas = _subhalos(plan, n_inner, cluster, inner, rng)
    sub_gas = sub_gas[:n_gas]
    rest = inner.less(len(sub_dm) / max(n_inner, 1), SHALLOW)  # so that all together follow the profile
    smooth = (rest.draw(rng, n_inner - len(sub_dm))[:, None] * directions(rng, n_inner - len(sub_dm)) * c.axes) @ c.rotation.T
    smooth = smooth + Ripples(rng, r, 0.15).stirring(smooth)
    gas = (gas_inner.draw(rng, n_gas - len(sub_gas))[:, None] * directions(rng, n_gas - len(sub_gas)) * c.gas_axes) @ c.gas_rotation.T
    gas = gas + Ripples(rng, r, 0.3).stirring(gas) + c.offset
    infall = outer.draw(rng, n - n_inner)[:, None] * toward(rng, n - n_inner, c.filaments, 0.6)
    gas_infall = gas_outer.draw(rng, n - n_gas)[:, None] * toward(rng, n - n_gas, c.filaments, 0.5)
    return np.concatenate([smooth, sub_dm, infall]), np.concatenate([gas, sub_gas, gas_infall])


def _share(inner: profiles.Radial, outer: profiles.Radial, radius: float, wanted: float) -> float:
    """The inner part's share of the mass, such that `wanted` of all is within the radius."""
    a, b = inner.within(radius), outer.within(radius)
    return float(np.clip((wanted - b) / (a - b), 0, 1))


def subhalo_sum(low: float, high: float, power: float) -> float:
    """Sum of psi^power over the subhalos with psi, mass over the host's, between two values: evolved mass function of Jiang & van den Bosch 2016, not normalised."""
    psi = np.geomspace(low, high, 400)
    return float(np.trapezoid(psi**power * _per_ln_mass(psi), np.log(psi)))


def _per_ln_mass(psi: np.ndarray) -> np.ndarray:
    return psi**-SLOPE * np.exp(-50 * psi**4)


def _subhalos(plan: Plan, n_inner: int, c: Cluster, inner: profiles.Radial, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Dark matter and gas of the subhalos about the cluster's centre.

    Their masses are those of Jiang & van den Bosch 2016, with the cluster's own mass in subhalos within the virial radius; radial distribution shallower than the mass, `SHALLOW`.
    """
    virial, radius = profiles.critical(c.mass, c.radius, c.concentration, profiles.virial_overdensity(plan.background), plan.background)
    particle = plan.m_dm / (1 - plan.f_baryon)
    least = LEAST_SUBHALO * particle / virial
    if least >= LARGEST:
        return np.empty((0, 3)), np.empty((0, 3))
    total = c.subhalo_fraction * subhalo_sum(least, LARGEST, 1) / subhalo_sum(UNRESOLVED, 1, 1)
    everywhere = total / inner.within(radius) ** SHALLOW
    mass = virial * masses(rng, least, LARGEST, _per_ln_mass, everywhere)
    r = np.interp(rng.random(len(mass)) ** (1 / SHALLOW), inner.cumulative, inner.r)
    if c.disturbed:  # the one that is falling in
        mass = np.append(np.exp(rng.uniform(np.log(0.05), np.log(0.2))) * c.mass, mass)
        r = np.append(rng.uniform(0.3, 0.8) * c.radius, r)
    n_dm = np.rint(mass / particle).astype(int)
    keep = np.cumsum(n_dm) <= 0.5 * n_inner
    mass, n_dm, r = mass[keep], n_dm[keep], r[keep]
    centre = (r[:, None] * directions(rng, len(r)) * c.axes) @ c.rotation.T
    size = plan.background.radius(mass) * np.clip(0.8 * (r / c.radius) ** 0.7, 0.1, 1)  # stripped to the tidal radius
    dm = clumps(rng, n_dm, centre, size, concentrations(rng, mass))
    left = np.clip(1.5 * r / c.radius, 0, 1) * (mass > STRIPPED)  # of their gas; the more, the farther out
    n_gas = np.floor(0.7 * n_dm * left).astype(int)
    lag = 0.25 * size[:, None] * directions(rng, len(r))  # ram pressure
    return dm, clumps(rng, n_gas, centre + lag, size)


def _scale_to_mass(plan: Plan, c: Cluster, halo_dm, halo_gas, dm, gas) -> float:
    """By how much to stretch the halo so that M200m in the particles is the drawn one."""
    r = np.concatenate([np.linalg.norm(halo_dm, axis=1), np.linalg.norm(halo_gas, axis=1)])
    m = np.repeat([plan.m_dm, plan.m_gas], [len(halo_dm), len(halo_gas)])
    there = sum(w * np.sum(np.linalg.norm(x - c.position, axis=1) < c.radius) for x, w in ((dm, plan.m_dm), (gas, plan.m_gas)))
    order = np.argsort(r)
    reached = np.searchsorted(np.cumsum(m[order]), c.mass - there)
    return float(np.clip(c.radius / r[order[min(reached, len(r) - 1)]], 0.5, 2.0))


def _pressure(plan: Plan, c: Cluster, gas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Thermal electron pressure of the cluster at the gas positions, Msun/Mpc^3 (km/s)^2; that of the mean cluster is the debiased profile."""
    about = gas - c.position - c.offset
    r = np.linalg.norm((about @ c.gas_rotation) / c.gas_axes, axis=1)
    p = profiles.debiased_pressure(np.maximum(r, 1e-3 * c.radius) / c.radius_500c)
    p *= np.exp(-((r / (SHOCK * c.radius)) ** 8))
    x = r / c.radius
    p *= (1 - profiles.nonthermal(x, c.turbulence)) / (1 - profiles.nonthermal(x, 1.0))
    ripple = Ripples(rng, c.radius, 0.12).field(about)
    return c.pressure * profiles.electron_p500(c.mass_500c, c.radius_500c, plan.background) * p * np.exp(ripple - 0.12**2 / 2)


def _reflect(x: np.ndarray, low: float, high: float) -> np.ndarray:
    width = high - low
    y = np.abs((x - low) % (2 * width))
    return low + np.where(y > width, 2 * width - y, y)
