"""A finder of subhalos among the dark matter of a cluster.

Density peaks grow to their saddle points, as SUBFIND's (Springel et al. 2001). Where there are velocities, what is bound of a peak grows on to all that is bound to
it within its virial radius, which is the mass of ROCKSTAR's subhalos (Behroozi, Wechsler & Wu 2013), those of the published function; above the saddle point lie
four tenths to nine tenths of it. Without, each particle counts as the part of its density that is not the host's, also of what lies about the peak no farther than
that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from hpcdiff.cosmology import G_MPC, Background
from hpcdiff.simulate import profiles

NEIGHBOURS = 32
"""The density at a particle is that of so many neighbours."""
LINKS = 10
"""A particle belongs with the denser of so many neighbours."""
LEAST = 20
"""Particles of the smallest subhalo that is looked for."""
CORE = 32
"""Of the densest particles of a peak, among which its velocity is looked for."""
ROUNDS = 10
"""At most, of a subhalo that grows to its virial radius."""
REACH = 2 / 3
"""How far a subhalo can reach at most, over its distance from the host's centre: farther in, ever more of the host moves as slowly as it by chance."""
SHELL = 100
"""Particles of a shell in which the host's own density is the median."""
SOFTENING = 0.02
"""Mpc, where none is given."""
VIRIAL = float(profiles.virial_overdensity(Background()) * Background().rho_crit())
"""Msun/Mpc^3, in the standard cosmology."""
BLOCK = 512
"""Rows of the matrix of distances that are held at once."""


@dataclass(frozen=True)
class Subhalo:
    """Where it is densest (Mpc about the host's centre, (3,)), how many particles it has, and how far from there they reach (Mpc)."""

    centre: np.ndarray
    particles: float
    reach: float


def find(
    x: np.ndarray,
    v: np.ndarray | None = None,
    mass: float = 0.0,
    softening: float = SOFTENING,
    least: float = LEAST,
    virial: float = VIRIAL,
) -> list[Subhalo]:
    """The subhalos of a halo, by falling number of particles; each particle is in one at most, and what the largest peak has is the host.

    Args:
        x: positions about the centre, Mpc, (n, 3).
        v: velocities, km/s, (n, 3), or None.
        mass: Msun of all matter for each particle; softening: of gravity, Mpc; virial: mean density within a virial radius, Msun/Mpc^3. Of use with velocities.
        least: particles of the smallest.
    """
    rho, near = density(x)
    groups = candidates(rho, near, least)

    def subhalo(own: np.ndarray, shares: np.ndarray) -> Subhalo:
        centre = x[own[np.argmax(rho[own])]]
        return Subhalo(centre, float(shares.sum()), float(np.linalg.norm(x[own] - centre, axis=1).max()))

    if v is not None:

        def held(own: np.ndarray, speed: np.ndarray) -> np.ndarray:
            return bound(x[own], v[own], mass, softening, speed, least)

        def at_peak(own: np.ndarray) -> np.ndarray:
            return held(own, stillest(v[own[np.argsort(-rho[own], kind="stable")[:CORE]]]))

        cores, free = _picked(len(x), groups, at_peak, least)
        unit = float(np.cbrt(3 * mass / (4 * np.pi * virial)))
        grown = _grown(x, v, rho, [own for own, _ in cores], free, unit, held)
        return sorted((subhalo(own, np.ones(len(own))) for own in grown), key=lambda s: -s.particles)
    free = np.ones(len(x), bool)
    for _ in range(2):  # once more when the host is known without its subhalos
        part = np.maximum(1 - smooth(x, rho, free) / rho, 0)
        picked, free = _picked(len(x), groups, lambda own, part=part: part[own], least)
    return _with_outskirts(x, 1 - smooth(x, rho, free) / rho, free, [subhalo(*one) for one in picked])


def _grown(
    x: np.ndarray, v: np.ndarray, rho: np.ndarray, cores: list[np.ndarray], free: np.ndarray, unit: float, held: Callable
) -> list[np.ndarray]:
    """All that is bound to these cores within their virial radii, large ones first.

    Args:
        cores: the particles of each. free: those of none. unit: virial radius of one particle, Mpc. held: which of some are bound to each other at a mean velocity.
    """
    free, grown = free.copy(), []
    for own in sorted(cores, key=len, reverse=True):
        free[own] = True
        for _ in range(ROUNDS):
            centre = x[own[np.argmax(rho[own])]]
            reach = min(unit * np.cbrt(len(own)), REACH * np.linalg.norm(centre))
            near = np.flatnonzero(free & (np.linalg.norm(x - centre, axis=1) < reach))
            before, own = own, near[held(near, v[own].mean(axis=0))]
            if not len(own) or np.array_equal(own, before):
                break
        free[own] = False
        if len(own):
            grown.append(own)
    return grown


def _with_outskirts(x: np.ndarray, part: np.ndarray, free: np.ndarray, found: list[Subhalo]) -> list[Subhalo]:
    """The subhalos with what is theirs of the particles within reach that no peak has: towards the outside they go on below the density of their saddle point.

    Args:
        part: of each particle's density that is not the host's, in the mean; also below 0.
    """
    free, whole = free.copy(), []
    for sub in found:
        about = np.flatnonzero(free & (np.linalg.norm(x - sub.centre, axis=1) < sub.reach))
        more = float(part[about].sum())
        if more > 0:
            free[about] = False
        whole.append(replace(sub, particles=sub.particles + max(more, 0.0)))
    return sorted(whole, key=lambda s: -s.particles)


def _picked(n: int, groups: list[np.ndarray], share: Callable, least: float) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """The groups of n particles that have enough after `share` said how much of each is theirs: which particles and how much; and which of the n are in none."""
    free, found = np.ones(n, bool), []
    for members in groups:
        own = members[free[members]]
        if len(own) < least:
            continue
        shares = share(own)
        if shares.sum() >= least:
            own, shares = own[shares > 0], shares[shares > 0]
            free[own] = False
            found.append((own, shares))
    return found, free


def density(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Particles a volume at each of x (n, 3), from its neighbours and itself with a falling weight, (n,); the neighbours, nearest first, (n, `NEIGHBOURS`)."""
    r, near = cKDTree(x).query(x, NEIGHBOURS + 1)
    reach = r[:, -1:]
    q = r[:, :-1] / reach
    kernel = 21 / (2 * np.pi) * (1 - q) ** 4 * (1 + 4 * q)  # Wendland 1995
    return kernel.sum(axis=1) / reach[:, 0] ** 3, near[:, 1:]


def smooth(x: np.ndarray, rho: np.ndarray, free: np.ndarray) -> np.ndarray:
    """The median density of the particles that are `free` (mask) in shells of the shape of their second moments, at each particle, (n,)."""
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
    axes2, rotation = np.linalg.eigh(unit[free].T @ unit[free])
    r = np.linalg.norm(x @ rotation / np.sqrt(axes2), axis=1)
    own = np.flatnonzero(free)
    shells = np.array_split(own[np.argsort(r[own])], max(len(own) // SHELL, 1))
    return np.exp(np.interp(r, [np.median(r[s]) for s in shells], [np.log(np.median(rho[s])) for s in shells]))


def candidates(rho: np.ndarray, near: np.ndarray, least: float) -> list[np.ndarray]:
    """Of two peaks that meet at a saddle point the one that has fewer particles there, if it has `least`: the particles, of inner groups first."""
    links = near[:, :LINKS]
    denser = rho[links] > rho[:, None]
    group = np.full(len(rho), -1)
    members: dict[int, list[int]] = {}
    found = []
    for i in np.argsort(-rho, kind="stable").tolist():
        roots = set(group[links[i][denser[i]][:2]].tolist())  # of the two nearest
        if not roots:
            group[i] = i
            members[i] = [i]
            continue
        large, *small = sorted(roots, key=lambda g: (-len(members[g]), g))
        for g in small:
            if len(members[g]) >= least:
                found.append(np.array(members[g]))
            group[members[g]] = large
            members[large] += members.pop(g)
        group[i] = large
        members[large].append(i)
    return found


def stillest(v: np.ndarray) -> np.ndarray:
    """Where some velocities (n, 3) lie densest: the mean of a quarter of them, (3,). The host's particles that are among a subhalo's are scattered far."""
    near, which = cKDTree(v).query(v, max(len(v) // 4, 2))
    return v[which[np.argmin(near[:, -1])]].mean(axis=0)


def bound(x: np.ndarray, v: np.ndarray, mass: float, softening: float, speed: np.ndarray, least: float = LEAST) -> np.ndarray:
    """Which particles are bound to each other, bool (n,): the fastest, a quarter at most at a time, are taken away until none is free; none if fewer than `least` are left.

    Args: as of `find`. speed: velocity (3,) about which they move. The Hubble flow is left out.
    """
    kept = np.arange(len(x))
    while len(kept) >= least:
        phi = -G_MPC * mass * (_inverse(x[kept], softening) - 1 / softening)
        energy = phi + 0.5 * np.sum((v[kept] - speed) ** 2, axis=1)
        free = np.flatnonzero(energy > 0)
        if not len(free):
            return np.isin(np.arange(len(x)), kept)
        kept = np.delete(kept, free[np.argsort(-energy[free])][: max(len(kept) // 4, 1)])
    return np.zeros(len(x), bool)


def _inverse(x: np.ndarray, softening: float) -> np.ndarray:
    """Sum over all particles of one over the softened distance, 1/Mpc, (n,)."""
    rows = [x[i : i + BLOCK] for i in range(0, len(x), BLOCK)]
    return np.concatenate([(1 / np.sqrt(cdist(row, x, "sqeuclidean") + softening**2)).sum(axis=1) for row in rows])
