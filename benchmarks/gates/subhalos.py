"""The subhalo mass function: a finder of subhalos among the dark matter of a cluster, and Jiang & van den Bosch 2016.

The finder lets density peaks grow to their saddle points, as SUBFIND (Springel et al. 2001). Of what it has then, the particles that are bound count where
there are velocities; else each counts as the part of its density that is not the host's, also of what lies about the peak no farther than that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from gates.halos import Snapshot
from gates.table import Table
from hpcdiff.cosmology import G_MPC, Background
from hpcdiff.simulate import particles, profiles

NEIGHBOURS = 32
"""The density at a particle is that of so many neighbours."""
LINKS = 10
"""A particle belongs with the denser of so many neighbours."""
LEAST = 20
"""Particles of the smallest subhalo that is looked for."""
COUNTED = 30
"""Particles of the smallest subhalo that the gates count."""
SHELL = 100
"""Particles of a shell in which the host's own density is the median."""
SOFTENING = 0.02
"""Mpc, where none is given."""
BLOCK = 512
"""Rows of the matrix of distances that are held at once."""
BINS = (0.01, 0.03, 0.1, 1.0)
"""Of the mass of a subhalo over the virial mass of its host."""
LIMITS = (0.67, 1.5)
"""Of what is found over what is expected."""


@dataclass(frozen=True)
class Subhalo:
    """Where it is densest (Mpc about the host's centre, (3,)), how many particles it has, and how far from there they reach (Mpc)."""

    centre: np.ndarray
    particles: float
    reach: float


def find(
    x: np.ndarray, v: np.ndarray | None = None, mass: float = 0.0, softening: float = SOFTENING, least: float = LEAST
) -> list[Subhalo]:
    """The subhalos of a halo, by falling number of particles; each particle is in one at most, and what the largest peak has is the host.

    Args:
        x: positions about the centre, Mpc, (n, 3).
        v: velocities, km/s, (n, 3), or None.
        mass: Msun of all matter for each particle; softening: of gravity, Mpc. Of use with velocities.
        least: particles of the smallest.
    """
    rho, near = density(x)
    groups = candidates(rho, near, least)
    if v is not None:
        return _picked(x, rho, groups, lambda own: bound(x[own], v[own], mass, softening, least), least)[0]
    free = np.ones(len(x), bool)
    for _ in range(2):  # once more when the host is known without its subhalos
        part = np.maximum(1 - smooth(x, rho, free) / rho, 0)
        found, free = _picked(x, rho, groups, lambda own, part=part: part[own], least)
    return _with_outskirts(x, 1 - smooth(x, rho, free) / rho, free, found)


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


def _picked(x: np.ndarray, rho: np.ndarray, groups: list[np.ndarray], share: Callable, least: float) -> tuple[list[Subhalo], np.ndarray]:
    """The groups that have enough after `share` said how much of each particle is theirs, and which particles are in none of them."""
    free, found = np.ones(len(x), bool), []
    for members in groups:
        own = members[free[members]]
        if len(own) < least:
            continue
        shares = share(own)
        if shares.sum() >= least:
            own = own[shares > 0]
            free[own] = False
            centre = x[own[np.argmax(rho[own])]]
            found.append(Subhalo(centre, float(shares.sum()), float(np.linalg.norm(x[own] - centre, axis=1).max())))
    return sorted(found, key=lambda s: -s.particles), free


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


def bound(x: np.ndarray, v: np.ndarray, mass: float, softening: float, least: float = LEAST) -> np.ndarray:
    """Which particles are bound to each other, (n,): the fastest, a quarter at most at a time, are taken away until none is free or fewer than `least` are left.

    Args: as of `find`. Speeds are about the median velocity, and the Hubble flow is left out.
    """
    kept = np.arange(len(x))
    while len(kept) >= least:
        phi = -G_MPC * mass * (_inverse(x[kept], softening) - 1 / softening)
        energy = phi + 0.5 * np.sum((v[kept] - np.median(v[kept], axis=0)) ** 2, axis=1)
        free = np.flatnonzero(energy > 0)
        if not len(free):
            break
        kept = np.delete(kept, free[np.argsort(-energy[free])][: max(len(kept) // 4, 1)])
    return np.isin(np.arange(len(x)), kept)


def _inverse(x: np.ndarray, softening: float) -> np.ndarray:
    """Sum over all particles of one over the softened distance, 1/Mpc, (n,)."""
    rows = [x[i : i + BLOCK] for i in range(0, len(x), BLOCK)]
    return np.concatenate([(1 / np.sqrt(cdist(row, x, "sqeuclidean") + softening**2)).sum(axis=1) for row in rows])


def mass_fraction(background: Background, formed: float) -> float:
    """Mean mass in subhalos above 1e-4 of the virial mass of a host that had half of it at the scale factor `formed` (Jiang & van den Bosch 2016).

    0.3563 n^-0.6 - 0.075, with n the dynamical times since then; n is at least 1, below which the fraction would grow without bounds.
    """
    a = np.linspace(formed, 1, 200)
    rate = np.array([np.sqrt(profiles.virial_overdensity(background, s) / 178) / s for s in a])  # of times H(z)/H0: that of da/dt falls out
    n = 9.778 / 1.628 * np.trapezoid(rate, a)  # 1/H0 is 9.778 Gyr/h, a dynamical time at 178 times the critical density 1.628 Gyr/h
    return 0.3563 * max(float(n), 1.0) ** -0.6 - 0.075


def expected(fraction: float, low: float, high: float, power: float = 0.0) -> float:
    """Sum of psi^power over the subhalos with psi, mass over the host's, between two values: evolved mass function of Jiang & van den Bosch 2016.

    That of `hpcdiff.simulate.particles`, of which `fraction` of the mass is above psi = 1e-4.
    """

    return fraction * particles.subhalo_sum(low, high, power) / particles.subhalo_sum(particles.UNRESOLVED, 1, 1)


@dataclass(frozen=True)
class Host:
    """A cluster and its subhalos within the virial radius: their masses over the virial mass, distances over the virial radius, (n,)."""

    psi: np.ndarray
    r: np.ndarray
    resolved: float
    """psi of `COUNTED` particles."""
    fraction: float
    """Mass in subhalos that is expected (`mass_fraction`)."""


def hosts(s: Snapshot, softening: float = SOFTENING, velocities: bool = True) -> list[Host]:
    """Every cluster of a snapshot; subhalos that reach beyond R200m end there."""
    b, found = s.background, []
    least = s.m["dm"].min()  # heavier ones are from far around a cluster
    particle = least * b.Om0 / (b.Om0 - b.Ob0)
    for i, (mass, radius) in enumerate(zip(s.halos["mass_200m"], s.halos["radius_200m"], strict=True)):
        m, r = profiles.critical(mass, radius, s.halos["concentration_200m"][i], profiles.virial_overdensity(b), b)
        which, x = s.about(i, "dm", radius)
        fine = s.m["dm"][which] < 1.5 * least
        which, x = which[fine], x[fine]
        v = s.v[which] if velocities and s.v is not None else None
        subs = [h for h in find(x, v, particle, softening) if np.linalg.norm(h.centre) < r]
        psi, away = np.array([h.particles for h in subs]) * particle / m, np.array([np.linalg.norm(h.centre) for h in subs]) / r
        found.append(Host(psi, away, COUNTED * particle / m, mass_fraction(b, s.halos["formation_scale_factor"][i])))
    return found


def gates(table: Table, of: list[Host]) -> None:
    """Numbers of subhalos between bounds of their mass in the clusters in which they are resolved, their mass, and where they are.

    The errors are the Poisson noise of what is expected.
    """
    for low, high in [*zip(BINS[:-1], BINS[1:], strict=True), (BINS[0], 1.0)]:
        there = [h for h in of if h.resolved <= low]
        if there:
            n = sum(int(np.sum((h.psi >= low) & (h.psi < high))) for h in there)
            m = sum(expected(h.fraction, low, high) for h in there)
            name = f"{low:g}-{high:g}" if high < 1 else f"above {low:g}"
            what = f"subhalos over Jiang & van den Bosch 2016, m/M {name} ({n} in {len(there)} clusters)"
            table.gate("subhalos", what, n / m, *LIMITS, m**-0.5)
    counted = [h.psi >= h.resolved for h in of]
    found = sum(h.psi[c].sum() for h, c in zip(of, counted, strict=True))
    m, square = (sum(expected(h.fraction, h.resolved, 1.0, power) for h in of) for power in (1, 2))
    table.gate(
        "subhalos", f"mass in subhalos of {COUNTED} particles or more over Jiang & van den Bosch 2016", found / m, *LIMITS, square**0.5 / m
    )
    r = np.concatenate([h.r[c] for h, c in zip(of, counted, strict=True)])
    table.median("subhalos", f"distance of subhalos from the centre over the virial radius ({len(r)})", r, 0.5, 0.8)
