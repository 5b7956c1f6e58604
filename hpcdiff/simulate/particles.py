"""One cell's particles: a cluster with subhalos and infall, and the background with its groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hpcdiff.simulate import outskirts, profiles
from hpcdiff.simulate.cluster import Cluster, draw_cluster
from hpcdiff.simulate.plan import STRAY, Plan

LEAST_SUBHALO = 15
"""Dark-matter particles of the smallest subhalo."""
LEAST_GROUP = 30
"""Dark-matter particles of the smallest group of the background."""
IN_GROUPS = 0.45
"""Part of the background's mass in groups."""
SHALLOW = 1.4
"""The part of the subhalos within a radius is that of the mass to this power: fewer in the centre (Han et al. 2016)."""
STRIPPED = 5e12
"""Subhalos lighter than this, Msun, have lost all gas."""
SLOPE = 0.82
"""Of the mass function of small subhalos, dN/dln psi ~ psi^-SLOPE (Jiang & van den Bosch 2016)."""
UNRESOLVED, LARGEST = 1e-4, 0.5
"""Lightest subhalo that counts in the mass in subhalos, and the heaviest that is drawn, over the virial mass."""
SPARE, SITES = 4, 8
"""Points that are drawn for each of the diffuse background and for each group, to choose from."""
SHELLS = 16
"""In which the density about a cluster is set."""
NEAR = 0.55
"""Distance from the cluster over the side of its cell within which a third of the groups stand along its filaments."""
CLUSTERING = 1.0
"""Groups are exp(CLUSTERING x linear overdensity) times as many."""
SHOCK = 2.0
"""Radius over R200m of the accretion shock, where the cluster's pressure ends."""
_X = np.geomspace(1e-3, 1.0, 200)
CONCENTRATIONS = np.array([5.0, 7.0, 10.0, 14.0, 20.0])
"""Those that subhalos and groups may have."""
_CLUMPS = [profiles.Radial(_X, profiles.nfw_density(c * _X)) for c in CONCENTRATIONS]
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
    dm, gas, temperature = _background(plan, int(plan.n_background[cell]), cell, cluster, rng)
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
    smooth = (rest.draw(rng, n_inner - len(sub_dm))[:, None] * _directions(rng, n_inner - len(sub_dm)) * c.axes) @ c.rotation.T
    smooth = smooth + Waves(rng, r, 0.15).stirring(smooth)
    gas = (gas_inner.draw(rng, n_gas - len(sub_gas))[:, None] * _directions(rng, n_gas - len(sub_gas)) * c.gas_axes) @ c.gas_rotation.T
    gas = gas + Waves(rng, r, 0.3).stirring(gas) + c.offset
    infall = outer.draw(rng, n - n_inner)[:, None] * _toward(rng, n - n_inner, c.filaments, 0.6)
    gas_infall = gas_outer.draw(rng, n - n_gas)[:, None] * _toward(rng, n - n_gas, c.filaments, 0.5)
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
    mass = virial * _masses(rng, least, LARGEST, _per_ln_mass, everywhere)
    r = np.interp(rng.random(len(mass)) ** (1 / SHALLOW), inner.cumulative, inner.r)
    if c.disturbed:  # the one that is falling in
        mass = np.append(np.exp(rng.uniform(np.log(0.05), np.log(0.2))) * c.mass, mass)
        r = np.append(rng.uniform(0.3, 0.8) * c.radius, r)
    n_dm = np.rint(mass / particle).astype(int)
    keep = np.cumsum(n_dm) <= 0.5 * n_inner
    mass, n_dm, r = mass[keep], n_dm[keep], r[keep]
    centre = (r[:, None] * _directions(rng, len(r)) * c.axes) @ c.rotation.T
    size = plan.background.radius(mass) * np.clip(0.8 * (r / c.radius) ** 0.7, 0.1, 1)  # stripped to the tidal radius
    dm = _clumps(rng, n_dm, centre, size, _concentrations(rng, mass))
    left = np.clip(1.5 * r / c.radius, 0, 1) * (mass > STRIPPED)  # of their gas; the more, the farther out
    n_gas = np.floor(0.7 * n_dm * left).astype(int)
    lag = 0.25 * size[:, None] * _directions(rng, len(r))  # ram pressure
    return dm, _clumps(rng, n_gas, centre + lag, size)


def _background(
    plan: Plan, n: int, cell: int, cluster: Cluster | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups and diffuse matter of a cell: dark matter, gas (n, 3) and the groups' temperature at the gas (n,)."""
    dm, gas, temperature = _groups(plan, n, cell, cluster, rng)
    n_dm, n_gas = n - len(dm), n - len(gas)
    began = rng.uniform(0, plan.cell, (SPARE * n_gas, 3))
    diffuse = began + plan.environment.displacement(plan.corner(cell) + began)
    weight = np.ones(len(began))
    if cluster is not None:  # what stood in the cluster's place is part of it
        away = diffuse - cluster.position
        r = np.linalg.norm(away, axis=1, keepdims=True)
        diffuse = cluster.position + away * np.cbrt(1 + (cluster.radius / np.maximum(r, 1e-9)) ** 3)
        weight = _as_clustered(plan, cluster, began, diffuse, weight)
    diffuse = diffuse[_chosen(rng, weight, n_gas)]
    # the intergalactic gas follows the dark matter
    moved = diffuse[:n_dm] + 0.3 * rng.normal(size=(n_dm, 3))
    return (
        np.concatenate([dm, diffuse[:n_dm]]),
        np.concatenate([gas, moved, diffuse[n_dm:]]),
        np.concatenate([temperature, np.zeros(n_gas)]),
    )


def _groups(plan: Plan, n: int, cell: int, cluster: Cluster | None, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Small halos outside the cluster: a third along its filaments, the others where the environment is dense."""
    heaviest = min(5e13, 0.3 * plan.config.simulate.mass_range[0]) * (1 - plan.f_baryon)
    least, budget = LEAST_GROUP * plan.m_dm, IN_GROUPS * n * plan.m_dm
    if least >= heaviest or budget < least:
        return np.empty((0, 3)), np.empty((0, 3)), np.empty(0)
    mass = heaviest * _masses(rng, least / heaviest, 1.0, lambda m: m**-0.9 * np.exp(-m), budget / heaviest)
    n_dm = np.rint(mass / plan.m_dm).astype(int)
    keep = np.cumsum(n_dm) <= 0.8 * n
    mass, n_dm = mass[keep] / (1 - plan.f_baryon), n_dm[keep]
    k, size, corner, field = len(mass), plan.background.radius(mass), plan.corner(cell), plan.environment
    sites = rng.uniform(0, plan.cell, (SITES * k, 3))
    weight = np.exp(CLUSTERING * field.overdensity(corner + sites))
    moved = sites + field.displacement(corner + sites)
    if cluster is not None:
        weight = _as_clustered(plan, cluster, sites, moved, weight)
    centre = moved[_chosen(rng, weight, k)]
    if cluster is not None:
        away = centre - cluster.position
        r = np.linalg.norm(away, axis=1, keepdims=True)
        gathered = (rng.random(k)[:, None] < 1 / 3) & (r < NEAR * plan.cell)
        away = np.where(gathered, r * _toward(rng, k, cluster.filaments, 0.8), away)
        centre = cluster.position + away * np.maximum(1, (1.2 * cluster.radius + size[:, None]) / np.maximum(r, 1e-9))
    n_gas = np.floor(n_dm * rng.uniform(0.4, 0.9, k)).astype(int)
    gas = _clumps(rng, n_gas, centre, 1.2 * size)
    x = np.linalg.norm(gas - np.repeat(centre, n_gas, axis=0), axis=1) / np.repeat(size, n_gas)
    hot = profiles.virial_temperature(mass, size) * np.exp(0.2 * rng.normal(size=k))
    dm = _clumps(rng, n_dm, centre, size, _concentrations(rng, mass))
    return dm, gas, 1.5 * np.repeat(hot, n_gas) / (1 + x) ** 1.2


def _as_clustered(plan: Plan, c: Cluster, began: np.ndarray, moved: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The weights with which points that came from `began`, of even density, to `moved` have the density of what fills the cluster's cell, in the mean of each shell.

    Args:
        began, moved: in the cell, Mpc, (n, 3). weight: what they have of their own, (n,).
    """
    before, after = (np.linalg.norm(x - c.position, axis=1) for x in (began, moved))
    edges = c.radius * np.geomspace(1, max(float(after.max()) / c.radius, 2), SHELLS + 1)
    own, even = np.histogram(after, edges, weights=weight)[0], np.histogram(before, edges)[0]
    there = (own > 0) & (even > 0)
    middle = np.sqrt(edges[1:] * edges[:-1])[there]
    of = np.interp(after, middle, own[there] / even[there]) if there.any() else 1.0
    return weight * outskirts.filling(plan.background, c.mass, after, c.surroundings) / of


def _chosen(rng: np.random.Generator, weight: np.ndarray, n: int) -> np.ndarray:
    """n different numbers, drawn one after the other in proportion to their weights (Efraimidis & Spirakis 2006)."""
    key = rng.standard_exponential(len(weight)) / np.maximum(weight, 1e-300)
    return np.sort(np.argpartition(key, n - 1)[:n]) if n < len(weight) else np.arange(len(weight))


def _masses(
    rng: np.random.Generator, least: float, most: float, per_ln_mass: Callable[[np.ndarray], np.ndarray], total: float
) -> np.ndarray:
    """Masses between least and most that are distributed so; a Poisson number of them, of which the mean mass is `total`."""
    m = np.geomspace(least, most, 200)
    weight = per_ln_mass(m)
    cumulative = np.concatenate([[0], np.cumsum(0.5 * (weight[1:] + weight[:-1]))])
    n = rng.poisson(total * np.trapezoid(weight) / np.trapezoid(weight * m))
    return np.interp(rng.random(n), cumulative / cumulative[-1], m)


def _concentrations(rng: np.random.Generator, mass: np.ndarray) -> np.ndarray:
    """Which of `CONCENTRATIONS` small halos of these masses (Msun) have: about 10 (m/1e13)^-0.1, scatter 0.16 dex (Diemer & Joyce 2019)."""
    c = 10 * (mass / 1e13) ** -0.1 * 10 ** (0.16 * rng.normal(size=len(mass)))
    edges = np.sqrt(CONCENTRATIONS[1:] * CONCENTRATIONS[:-1])
    return np.searchsorted(edges, c)


def _clumps(
    rng: np.random.Generator, counts: np.ndarray, centre: np.ndarray, size: np.ndarray, kinds: np.ndarray | None = None
) -> np.ndarray:
    """Clumps truncated at their size: NFW of `kinds`, numbers of `CONCENTRATIONS`, or cored as gas is, (counts.sum(), 3)."""
    n = int(counts.sum())
    if kinds is None:
        r = _GAS_CLUMP.draw(rng, n)
    else:
        kind, u = np.repeat(kinds, counts), rng.random(n)
        r = np.empty(n)
        for number, profile in enumerate(_CLUMPS):
            chosen = kind == number
            r[chosen] = np.interp(u[chosen], profile.cumulative, profile.r)
    return np.repeat(centre, counts, axis=0) + (r * np.repeat(size, counts))[:, None] * _directions(rng, n)


def _scale_to_mass(plan: Plan, c: Cluster, halo_dm, halo_gas, dm, gas) -> float:
    """By how much to stretch the halo so that M200m in the particles is the drawn one."""
    r = np.concatenate([np.linalg.norm(halo_dm, axis=1), np.linalg.norm(halo_gas, axis=1)])
    m = np.repeat([plan.m_dm, plan.m_gas], [len(halo_dm), len(halo_gas)])
    there = sum(w * np.sum(np.linalg.norm(x - c.position, axis=1) < c.radius) for x, w in ((dm, plan.m_dm), (gas, plan.m_gas)))
    order = np.argsort(r)
    reached = np.searchsorted(np.cumsum(m[order]), c.mass - there)
    return float(np.clip(c.radius / r[order[min(reached, len(r) - 1)]], 0.7, 1.4))


def _pressure(plan: Plan, c: Cluster, gas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Thermal electron pressure of the cluster at the gas positions, Msun/Mpc^3 (km/s)^2; that of the mean cluster is the debiased profile."""
    about = gas - c.position - c.offset
    r = np.linalg.norm((about @ c.gas_rotation) / c.gas_axes, axis=1)
    p = profiles.debiased_pressure(np.maximum(r, 1e-3 * c.radius) / c.radius_500c)
    p *= np.exp(-((r / (SHOCK * c.radius)) ** 8))
    x = r / c.radius
    p *= (1 - profiles.nonthermal(x, c.turbulence)) / (1 - profiles.nonthermal(x, 1.0))
    ripple = Waves(rng, c.radius, 0.12).field(about)
    return c.pressure * profiles.electron_p500(c.mass_500c, c.radius_500c, plan.background) * p * np.exp(ripple - 0.12**2 / 2)


class Waves:
    """A smooth random field of plane waves, of wavelengths 0.2 to 1 `scale`.

    Args:
        rng: the draws.
        scale: Mpc.
        strength: standard deviation of the field.
    """

    def __init__(self, rng: np.random.Generator, scale: float, strength: float, n: int = 12) -> None:
        self.k = 2 * np.pi / (scale * np.exp(rng.uniform(np.log(0.2), 0, n)))[:, None] * _directions(rng, n)
        self.phase = rng.uniform(0, 2 * np.pi, n)
        self.amplitude = strength * np.sqrt(2 / n)

    def field(self, x: np.ndarray) -> np.ndarray:
        """The field at x (n, 3), (n,)."""
        return self.amplitude * np.cos(x @ self.k.T + self.phase).sum(axis=1)

    def stirring(self, x: np.ndarray) -> np.ndarray:
        """The displacement (Mpc) whose convergence is the field, density fluctuations of that strength, (n, 3); the centre stays in its place."""
        wave = np.sin(x @ self.k.T + self.phase) - np.sin(self.phase)
        return -self.amplitude * wave @ (self.k / np.sum(self.k**2, axis=1, keepdims=True))


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
