"""Mock clusters: NFW spheres with the velocities of their Jeans equation, and subhalos in them."""

from types import SimpleNamespace

import numpy as np

from hpcdiff.cosmology import G_MPC, Background
from hpcdiff.simulate import profiles

B = Background()
MASS, CONCENTRATION, NUMBER = 8e14, 6.0, 5000
RADIUS = float(B.radius(MASS))
PARTICLE = MASS / NUMBER
"""Msun of all matter for each dark-matter particle."""


def directions(rng, n):
    x = rng.normal(size=(n, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def ball(rng, n, radius, concentration):
    """n particles of an NFW sphere that ends at `radius` (Mpc): positions about its centre, and isotropic velocities (km/s) of its Jeans equation."""
    r = np.geomspace(1e-3, 1, 400) * radius
    rho = profiles.nfw_density(r * concentration / radius)
    inside = profiles.nfw_mass(r * concentration / radius) / profiles.nfw_mass(concentration) * n * PARTICLE
    pull = rho * G_MPC * inside / r**2
    weight = np.concatenate([[0], np.cumsum(0.5 * (pull[1:] + pull[:-1]) * np.diff(r))])
    sigma = np.sqrt((weight[-1] - weight) / rho)
    away = np.interp(rng.random(n), inside / inside[-1], r)
    return away[:, None] * directions(rng, n), np.interp(away, r, sigma)[:, None] * rng.normal(size=(n, 3))


def host(rng, n=NUMBER):
    return ball(rng, n, RADIUS, CONCENTRATION)


def clump(rng, n, r):
    """A subhalo of n particles at r R200m on the first axis, cut by the tides there, with a speed of its own; and where it is."""
    x, v = ball(rng, n, float(B.radius(n * PARTICLE)) * min(0.8 * r**0.7, 1), 8.0)
    centre = np.array([r * RADIUS, 0, 0])
    return x + centre, v + 600 * rng.normal(size=3), centre


def together(*parts):
    return tuple(np.concatenate(p) for p in zip(*parts, strict=True))


def snapshot_of(x, v, mass):
    """One cluster at the origin, of dark-matter particles of these masses, Msun."""
    halo = {"mass_200m": MASS, "radius_200m": RADIUS, "concentration_200m": CONCENTRATION, "formation_scale_factor": 0.6}
    return SimpleNamespace(
        background=B,
        m={"dm": mass},
        halos={k: np.array([value]) for k, value in halo.items()},
        v=v,
        about=lambda i, kind, radius: (np.flatnonzero(np.linalg.norm(x, axis=1) < radius), x[np.linalg.norm(x, axis=1) < radius]),
    )
