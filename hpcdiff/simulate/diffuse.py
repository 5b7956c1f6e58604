"""What fills a cell beside its cluster: small halos (groups) and diffuse matter."""

from __future__ import annotations

import numpy as np

from hpcdiff.simulate import outskirts, profiles
from hpcdiff.simulate.cluster import Cluster
from hpcdiff.simulate.draws import clumps, concentrations, masses, toward
from hpcdiff.simulate.plan import Plan

LEAST_GROUP = 30
"""Dark-matter particles of the smallest group of the background."""
IN_GROUPS = 0.45
"""Part of the background's mass in groups."""
SPARE, SITES = 4, 8
"""Points that are drawn for each of the diffuse background and for each group, to choose from."""
SHELLS = 16
"""In which the density about a cluster is set."""
NEAR = 0.55
"""Distance from the cluster over the side of its cell within which a third of the groups stand along its filaments."""
CLUSTERING = 1.0
"""Groups are exp(CLUSTERING x linear overdensity) times as many."""


def background(
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
    mass = heaviest * masses(rng, least / heaviest, 1.0, lambda m: m**-0.9 * np.exp(-m), budget / heaviest)
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
        away = np.where(gathered, r * toward(rng, k, cluster.filaments, 0.8), away)
        centre = cluster.position + away * np.maximum(1, (1.2 * cluster.radius + size[:, None]) / np.maximum(r, 1e-9))
    n_gas = np.floor(n_dm * rng.uniform(0.4, 0.9, k)).astype(int)
    gas = clumps(rng, n_gas, centre, 1.2 * size)
    x = np.linalg.norm(gas - np.repeat(centre, n_gas, axis=0), axis=1) / np.repeat(size, n_gas)
    hot = profiles.virial_temperature(mass, size) * np.exp(0.2 * rng.normal(size=k))
    dm = clumps(rng, n_dm, centre, size, concentrations(rng, mass))
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
