"""One cell's particles: a cluster with subhalos and infall, and the background with its groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpcdiff.simulate import profiles
from hpcdiff.simulate.cluster import Cluster, draw_cluster
from hpcdiff.simulate.plan import STRAY, TOTAL_OVER_M200, Plan

LEAST_SUBHALO = 15
"""Dark-matter particles of the smallest subhalo."""
LEAST_GROUP = 30
"""Dark-matter particles of the smallest group of the background."""
IN_GROUPS = 0.45
"""Part of the background's mass in groups."""
SHOCK = 2.0
"""Radius over R200m of the accretion shock, where the cluster's pressure ends."""
_X = np.geomspace(1e-3, 1.0, 200)
_CLUMP = profiles.Radial(_X, profiles.nfw_density(8 * _X))
_GAS_CLUMP = profiles.Radial(_X, (1 + (_X / 0.2) ** 2) ** -1.2)


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
    dm, gas, temperature = _background(plan, int(plan.n_background[cell]), cluster, rng)
    pressure = np.zeros(len(gas) + n)
    if cluster is not None:
        halo_dm, halo_gas = _halo(plan, n, cluster, rng)
        scale = _scale_to_mass(plan, cluster, halo_dm, halo_gas, dm, gas)
        dm = np.concatenate([cluster.position + scale * halo_dm, dm])
        gas = np.concatenate([cluster.position + scale * halo_gas, gas])
        temperature = np.concatenate([np.zeros(n), temperature])
        pressure = _pressure(plan, cluster, gas, rng)
    low, high, corner = -STRAY * plan.cell, (1 + STRAY) * plan.cell, plan.corner(cell)
    dm, gas = (corner + _reflect(x, low, high) for x in (dm, gas))
    return Drawn(dm, gas, pressure.astype(np.float32), temperature.astype(np.float32))


def _halo(plan: Plan, n: int, cluster: Cluster, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Dark matter and gas of a cluster about its centre, (n, 3) each."""
    c, r = cluster, cluster.radius
    r_max = min(3 * r, 0.6 * plan.cell)
    inner, outer = profiles.matter(r, c.concentration, r_max)
    gas_inner, gas_outer = profiles.gas(r, c.core * r, c.cusp, c.slope, c.scale * r, r_max)
    n_inner = round(n * _share(inner, outer, r, 1 / TOTAL_OVER_M200))
    n_gas = round(n * _share(gas_inner, gas_outer, r, c.gas_fraction / TOTAL_OVER_M200))
    sub_dm, sub_gas = _subhalos(plan, n_inner, cluster, inner, rng)
    sub_gas = sub_gas[:n_gas]
    smooth = (inner.draw(rng, n_inner - len(sub_dm))[:, None] * _directions(rng, n_inner - len(sub_dm)) * c.axes) @ c.rotation.T
    smooth = smooth + Waves(rng, r, 0.15).displacement(smooth)
    gas = (gas_inner.draw(rng, n_gas - len(sub_gas))[:, None] * _directions(rng, n_gas - len(sub_gas)) * c.gas_axes) @ c.gas_rotation.T
    gas = gas + Waves(rng, r, 0.3).displacement(gas) + c.offset
    infall = outer.draw(rng, n - n_inner)[:, None] * _toward(rng, n - n_inner, c.filaments, 0.6)
    gas_infall = gas_outer.draw(rng, n - n_gas)[:, None] * _toward(rng, n - n_gas, c.filaments, 0.5)
    return np.concatenate([smooth, sub_dm, infall]), np.concatenate([gas, sub_gas, gas_infall])


def _share(inner: profiles.Radial, outer: profiles.Radial, radius: float, wanted: float) -> float:
    """The inner part's share of the mass, such that `wanted` of all is within the radius."""
    a, b = inner.within(radius), outer.within(radius)
    return float(np.clip((wanted - b) / (a - b), 0, 1))


def _subhalos(plan: Plan, n_inner: int, c: Cluster, inner: profiles.Radial, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Dark matter and gas of the subhalos about the cluster's centre."""
    least, most, unresolved = LEAST_SUBHALO * plan.m_dm / (1 - plan.f_baryon) / c.mass, 0.3, 1e-4
    if least >= most:
        return np.empty((0, 3)), np.empty((0, 3))
    resolved = (most**0.1 - least**0.1) / (most**0.1 - unresolved**0.1)
    x = _masses(rng, least, most, 0.1, c.subhalo_fraction * resolved)
    n_dm = np.rint(x * c.mass * (1 - plan.f_baryon) / plan.m_dm).astype(int)
    keep = np.cumsum(n_dm) <= 0.5 * n_inner
    x, n_dm = x[keep], n_dm[keep]
    r = np.interp(rng.random(len(x)) ** (1 / 1.4), inner.cumulative, inner.r)  # shallower than the mass (Han et al. 2016)
    centre = (r[:, None] * _directions(rng, len(x)) * c.axes) @ c.rotation.T
    size = plan.background.radius(x * c.mass) * np.clip(0.8 * (r / c.radius) ** 0.7, 0.1, 1)  # stripped to the tidal radius
    dm = _clumps(rng, n_dm, centre, size)
    n_gas = np.floor(0.7 * n_dm * np.clip(r / c.radius, 0, 1)).astype(int)
    lag = 0.4 * size[:, None] * _directions(rng, len(x))  # ram pressure
    return dm, _clumps(rng, n_gas, centre + lag, 1.3 * size, _GAS_CLUMP)


def _background(plan: Plan, n: int, cluster: Cluster | None, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups and diffuse matter of a cell: dark matter, gas (n, 3) and the groups' temperature at the gas (n,)."""
    dm, gas, temperature = _groups(plan, n, cluster, rng)
    n_dm, n_gas = n - len(dm), n - len(gas)
    waves = Waves(rng, plan.cell, 0.7, periodic=True)
    diffuse = rng.uniform(0, plan.cell, (n_gas, 3))
    diffuse = (diffuse + waves.displacement(diffuse)) % plan.cell
    # the intergalactic gas follows the dark matter
    moved = diffuse[:n_dm] + 0.3 * rng.normal(size=(n_dm, 3))
    return (
        np.concatenate([dm, diffuse[:n_dm]]),
        np.concatenate([gas, moved, diffuse[n_dm:]]),
        np.concatenate([temperature, np.zeros(n_gas)]),
    )


def _groups(plan: Plan, n: int, cluster: Cluster | None, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Small halos outside the cluster, half of them along its filaments."""
    heaviest = min(5e13, 0.3 * plan.config.simulate.mass_range[0]) * (1 - plan.f_baryon)
    least, budget = LEAST_GROUP * plan.m_dm, IN_GROUPS * n * plan.m_dm
    if least >= heaviest or budget < least:
        return np.empty((0, 3)), np.empty((0, 3)), np.empty(0)
    mass = heaviest * _masses(rng, least / heaviest, 1.0, 1.0, budget / heaviest)
    n_dm = np.rint(mass / plan.m_dm).astype(int)
    keep = np.cumsum(n_dm) <= 0.8 * n
    mass, n_dm = mass[keep] / (1 - plan.f_baryon), n_dm[keep]
    k, size = len(mass), plan.background.radius(mass)
    centre = rng.uniform(0, plan.cell, (k, 3))
    if cluster is not None:
        near = cluster.position + rng.uniform(1.3 * cluster.radius, 0.55 * plan.cell, k)[:, None] * _toward(rng, k, cluster.filaments, 0.8)
        centre = np.where(rng.random(k)[:, None] < 0.5, _reflect(near, 0, plan.cell), centre)
        away = centre - cluster.position
        r = np.linalg.norm(away, axis=1, keepdims=True)
        centre = cluster.position + away * np.maximum(1, (1.2 * cluster.radius + size[:, None]) / np.maximum(r, 1e-9))
    n_gas = np.floor(n_dm * rng.uniform(0.4, 0.9, k)).astype(int)
    gas = _clumps(rng, n_gas, centre, 1.2 * size, _GAS_CLUMP)
    x = np.linalg.norm(gas - np.repeat(centre, n_gas, axis=0), axis=1) / np.repeat(size, n_gas)
    hot = profiles.virial_temperature(mass, size) * np.exp(0.2 * rng.normal(size=k))
    return _clumps(rng, n_dm, centre, size), gas, 1.5 * np.repeat(hot, n_gas) / (1 + x) ** 1.2


def _masses(rng: np.random.Generator, least: float, most: float, cut: float, total: float) -> np.ndarray:
    """Masses with dn/dlnm ~ m^-0.9 exp(-m/cut) between least and most, as many as fit into `total`."""
    m = np.geomspace(least, most, 200)
    weight = m**-0.9 * np.exp(-m / cut)
    cumulative = np.concatenate([[0], np.cumsum(0.5 * (weight[1:] + weight[:-1]))])
    n = int(4 * total / (np.sum(weight * m) / np.sum(weight))) + 8
    drawn = np.interp(rng.random(n), cumulative / cumulative[-1], m)
    return drawn[np.cumsum(drawn) <= total]


def _clumps(
    rng: np.random.Generator, counts: np.ndarray, centre: np.ndarray, size: np.ndarray, profile: profiles.Radial = _CLUMP
) -> np.ndarray:
    """Clumps of the profile, truncated at their size: NFW, or cored as gas is, (counts.sum(), 3)."""
    n = int(counts.sum())
    return np.repeat(centre, counts, axis=0) + (profile.draw(rng, n) * np.repeat(size, counts))[:, None] * _directions(rng, n)


def _scale_to_mass(plan: Plan, c: Cluster, halo_dm, halo_gas, dm, gas) -> float:
    """By how much to stretch the halo so that M200m in the particles is the drawn one."""
    r = np.concatenate([np.linalg.norm(halo_dm, axis=1), np.linalg.norm(halo_gas, axis=1)])
    m = np.repeat([plan.m_dm, plan.m_gas], [len(halo_dm), len(halo_gas)])
    there = sum(w * np.sum(np.linalg.norm(x - c.position, axis=1) < c.radius) for x, w in ((dm, plan.m_dm), (gas, plan.m_gas)))
    order = np.argsort(r)
    reached = np.searchsorted(np.cumsum(m[order]), c.mass - there)
    return float(np.clip(c.radius / r[order[min(reached, len(r) - 1)]], 0.7, 1.4))


def _pressure(plan: Plan, c: Cluster, gas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Electron pressure of the cluster at the gas positions, Msun/Mpc^3 (km/s)^2."""
    about = gas - c.position - c.offset
    r = np.linalg.norm((about @ c.gas_rotation) / c.gas_axes, axis=1)
    p = profiles.debiased_pressure(np.maximum(r, 1e-3 * c.radius) / c.radius_500c)
    p *= np.exp(-((r / (SHOCK * c.radius)) ** 8))
    ripple = Waves(rng, c.radius, 0.12).field(about)
    return c.pressure * profiles.electron_p500(c.mass_500c, c.radius_500c, plan.background) * p * np.exp(ripple - 0.12**2 / 2)


class Waves:
    """A smooth random field of plane waves, of wavelengths 0.2 to 1 `scale`, or whole fractions of it if periodic.

    Args:
        rng: the draws.
        scale: Mpc.
        strength: standard deviation of the field.
    """

    def __init__(self, rng: np.random.Generator, scale: float, strength: float, periodic: bool = False, n: int = 12) -> None:
        if periodic:
            whole = rng.integers(-2, 3, (n, 3))
            whole[(whole == 0).all(axis=1)] = 1
            self.k = 2 * np.pi / scale * whole
        else:
            self.k = 2 * np.pi / (scale * np.exp(rng.uniform(np.log(0.2), 0, n)))[:, None] * _directions(rng, n)
        self.phase = rng.uniform(0, 2 * np.pi, n)
        self.amplitude = strength * np.sqrt(2 / n)

    def field(self, x: np.ndarray) -> np.ndarray:
        """The field at x (n, 3), (n,)."""
        return self.amplitude * np.cos(x @ self.k.T + self.phase).sum(axis=1)

    def displacement(self, x: np.ndarray) -> np.ndarray:
        """The displacement (Mpc) whose convergence is the field: density fluctuations of that strength, (n, 3)."""
        return -self.amplitude * np.sin(x @ self.k.T + self.phase) @ (self.k / np.sum(self.k**2, axis=1, keepdims=True))


def _directions(rng: np.random.Generator, n: int) -> np.ndarray:
    x = rng.normal(size=(n, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _toward(rng: np.random.Generator, n: int, axes: np.ndarray, part: float) -> np.ndarray:
    """Unit vectors, `part` of them gathered about the axes and the others in all directions."""
    near = axes[rng.integers(0, len(axes), n)] + 0.3 * rng.normal(size=(n, 3))
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    return np.where(rng.random(n)[:, None] < part, near, _directions(rng, n))


def _reflect(x: np.ndarray, low: float, high: float) -> np.ndarray:
    width = high - low
    y = np.abs((x - low) % (2 * width))
    return low + np.where(y > width, 2 * width - y, y)
