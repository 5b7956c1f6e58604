"""Halos in a periodic box: density peaks, spheres of a given overdensity, and how a halo grew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from hpcdiff.cosmology import G_MPC, Background
from hpcdiff.simulate import profiles

NEIGHBOURS = 32
"""The density about a particle is that within the distance to this neighbour."""
DENSEST = 1000.0
"""A halo has a particle at least this many times denser than the mean."""
NEAREST = 0.02
"""Least distance (Mpc) in the sum of the binding energy: it is well within any softening."""


@dataclass(frozen=True)
class Halo:
    """Spheres about the most bound particle; lengths comoving Mpc, masses Msun."""

    centre: np.ndarray
    mass_200m: float
    radius_200m: float
    mass_500c: float
    radius_500c: float
    mass_200c: float
    radius_200c: float
    depth: float
    """Mean over the mass within R200c of G M(r)/r, (km/s)^2: the binding energy per mass."""


class Matter:
    """All particles of a box, to be searched.

    Args:
        x: positions within the box, comoving Mpc, (n, 3).
        mass: Msun, (n,).
        phi: potential, (n,), in any unit.
        side: of the box, comoving Mpc.
    """

    def __init__(self, x: np.ndarray, mass: np.ndarray, phi: np.ndarray, side: float, background: Background, threads: int = 1) -> None:
        self.x, self.mass, self.phi, self.side, self.background, self.threads = x, mass, phi, side, background, threads
        self.tree = cKDTree(x, boxsize=side)

    def about(self, centre: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the particles within reach of a point, from near to far, and their distances."""
        index = np.asarray(self.tree.query_ball_point(centre, reach, return_sorted=True), np.int64)
        r = np.linalg.norm(wrapped(self.x[index] - centre, self.side), axis=1)
        order = np.argsort(r, kind="stable")
        return index[order], r[order]

    def sphere(self, centre: np.ndarray, density: float) -> tuple[float, float]:
        """Mass and radius of the largest sphere about a point with at least this mean density (Msun/Mpc^3); 0, 0 if there is none."""
        reach = 0.5
        while True:
            index, r = self.about(centre, reach)
            mean = np.cumsum(self.mass[index]) / (4 * np.pi / 3 * np.maximum(r, 1e-9) ** 3)
            dense = np.flatnonzero(mean >= density)
            last = int(dense[-1]) + 1 if len(dense) else 0
            if last < len(r) or 2 * reach > self.side / 2:
                break
            reach *= 1.5
        mass = float(self.mass[index[:last]].sum())
        return mass, float(np.cbrt(3 * mass / (4 * np.pi * density)))

    def at(self, centre: np.ndarray) -> Halo:
        """The halo whose centre is this point."""
        b = self.background
        spheres = [self.sphere(centre, rho) for rho in (200 * b.rho_mean(), 500 * b.rho_crit(), 200 * b.rho_crit())]
        index, r = self.about(centre, spheres[2][1])
        m = self.mass[index]
        within = np.cumsum(m) - 0.5 * m
        depth = G_MPC * float(np.sum(m * within / np.maximum(r, NEAREST)) / max(m.sum(), 1.0))
        return Halo(centre, *(value for sphere in spheres for value in sphere), depth)

    def halo(self, centre: np.ndarray) -> Halo:
        """The halo about a point near its centre: the most bound particle within half of its radius becomes the centre."""
        for _ in range(3):
            _, radius = self.sphere(centre, 200 * self.background.rho_mean())
            index, _ = self.about(centre, 0.5 * radius)
            if not len(index):
                break
            centre = self.x[index[np.argmin(self.phi[index])]]
        return self.at(centre)

    def halos(self, least: float, among: np.ndarray | None = None) -> list[Halo]:
        """All halos with M200m of at least `least` Msun that are not inside a larger one, by falling mass.

        Args:
            among: bool (n,), the particles that may be in one, all if not given; where they are there are few others.
        """
        among = np.ones(len(self.x), bool) if among is None else among
        distance = self.tree.query(self.x, k=[NEIGHBOURS + 1], workers=self.threads)[0][:, 0]
        density = np.where(among, NEIGHBOURS * self.mass[among].mean() / (4 * np.pi / 3 * distance**3), 0)
        free = density >= DENSEST * self.background.rho_mean()
        found = []
        for i in np.argsort(-density, kind="stable"):
            if density[i] < DENSEST * self.background.rho_mean():
                break
            if not free[i]:
                continue
            halo = self.halo(self.x[i])
            free[self.about(self.x[i], max(halo.radius_200m, distance[i]))[0]] = False
            if halo.mass_200m >= least:
                free[self.about(halo.centre, halo.radius_200m)[0]] = False
                found.append(halo)
        found.sort(key=lambda h: -h.mass_200m)
        kept: list[Halo] = []
        for halo in found:
            if all(np.linalg.norm(wrapped(halo.centre - k.centre, self.side)) > k.radius_200m for k in kept):
                kept.append(halo)
        return kept

    def concentration(self, halo: Halo, least: float, among: np.ndarray) -> float:
        """c200c of the NFW profile of most likelihood for the particles `among` (bool, (n,)) from `least` (Mpc; at least `profiles.FITTED_FROM` R200c) to R200c."""
        index, r = self.about(halo.centre, halo.radius_200c)
        own = among[index]
        low = max(profiles.FITTED_FROM, least / halo.radius_200c)
        return profiles.fitted_concentration(r[own] / halo.radius_200c, low, self.mass[index][own])


def wrapped(d: np.ndarray, side: float) -> np.ndarray:
    """Separations through the nearest wall of a periodic box."""
    return d - side * np.round(d / side)


def formation(
    kept: tuple[tuple[float, np.ndarray], ...], members: np.ndarray, mass: np.ndarray, final: float, side: float, rho: float
) -> float:
    """Scale factor at which the main progenitor of a halo had half of its mass.

    Args:
        kept: scale factor and positions (n, 3) at earlier times, by rising scale factor.
        members: indices of the halo's particles today.
        mass: Msun, (n,). final: M200m today, Msun. rho: comoving mean density, Msun/Mpc^3.
    Returns:
        Between the kept times linear in a; at most 1.
    """
    times, growing = [0.0], [0.0]
    for a, x in kept:
        own, m = x[members].astype(float), mass[members]
        tree = cKDTree(own, boxsize=side * (1 + 1e-6))
        centre = own[np.argmin(tree.query(own, k=[min(NEIGHBOURS, len(own))])[0][:, 0])]
        r = np.linalg.norm(wrapped(own - centre, side), axis=1)
        order = np.argsort(r)
        mean = np.cumsum(m[order]) / (4 * np.pi / 3 * np.maximum(r[order], 1e-9) ** 3)
        inside = np.flatnonzero(mean >= 200 * rho)
        times.append(a)
        growing.append(float(m[order][: inside[-1] + 1].sum()) if len(inside) else 0.0)
    times, growing = np.array([*times, 1.0]), np.array([*growing, final])
    last = np.flatnonzero(growing < 0.5 * final)[-1]  # the last time that it had less
    share = (0.5 * final - growing[last]) / (growing[last + 1] - growing[last])
    return float(times[last] + share * (times[last + 1] - times[last]))
