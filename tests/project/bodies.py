"""Bodies of particles whose maps are known in closed form, and the catalogue rows of views on them."""

from __future__ import annotations

import numpy as np
from scipy.stats import qmc

from hpcdiff.config import Config
from hpcdiff.cosmology import Background
from hpcdiff.project.fields import carried, weights
from hpcdiff.project.render import HaloMaps
from hpcdiff.project.views import frames
from hpcdiff.sections import Project
from hpcdiff.snapshot import Particles
from hpcdiff.strict import Places, build

BOX = 60.0
"""Comoving Mpc."""
CENTRE = np.array([58.0, 31.0, 4.0])
"""Of the body: its maps cross the edges of the box."""


def project(**keys: object) -> Project:
    """The config's section `project`, as if read from YAML."""
    return build(Config, {"project": keys}, set(), Places("test")).project


def views(width: float, depth: float, sightlines=((0.0, 0.0, 1.0),), axes=(2,), z: float = 0.0, **columns: object) -> dict[str, np.ndarray]:
    """Catalogue rows of every sightline with every axis, of one halo at CENTRE."""
    sightline = np.repeat(np.asarray(sightlines, np.float64), len(axes), axis=0)
    axis = np.tile(np.asarray(axes, np.int8), len(sightlines))
    n = len(axis)
    rows = {"halo_id": np.zeros(n, np.int64), "sightline": sightline, "axis": axis, "frame": frames(sightline, axis)}
    rows |= {"position": np.tile(CENTRE, (n, 1)), "redshift": np.full(n, z)}
    return rows | {name: np.full(n, value, np.float64) for name, value in {"width_mpc": width, "depth_mpc": depth, **columns}.items()}


def cloud(offset: np.ndarray, mass: np.ndarray, h: np.ndarray, **gas: np.ndarray) -> Particles:
    """Particles about CENTRE (comoving Mpc); scalars hold for all."""
    n = len(offset)
    full = {name: np.broadcast_to(np.asarray(v), (n,)).copy() for name, v in {"mass": mass, "h": h, **gas}.items()}
    return Particles(index=np.arange(n), position=(CENTRE + offset) % BOX, **full)


def render(
    p: Project, rows: dict[str, np.ndarray], bodies: dict[str, Particles], z: float = 0.0, box: float = BOX, pieces: int = 1, threads=1
):
    """Maps of the views, {field: (n, npix, npix)}."""
    maps = HaloMaps(p, Background(), z, box, rows, threads)
    for kind, body in bodies.items():
        table = np.column_stack([body.index, body.position, body.h, weights(body, carried(p.fields, kind), p)])
        for part in np.array_split(table, pieces):
            maps.add(kind, part)
    return maps.finish()


def ball(n_log2: int, radius: np.ndarray, enclosed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A spherical body of equal masses, sampled evenly (Sobol): offsets (n, 3) and distances (n,).

    Args:
        radius, enclosed: the mass within each radius, in any unit.
    """
    u = qmc.Sobol(3, seed=1).random_base2(n_log2)
    r = np.interp(u[:, 0] * enclosed[-1], enclosed, radius)
    z, phi = 2 * u[:, 1] - 1, 2 * np.pi * u[:, 2]
    rho = np.sqrt(1 - z**2)
    return np.stack([rho * np.cos(phi), rho * np.sin(phi), z], axis=-1) * r[:, None], r


def pixel_centres(npix: int, width: float, fine: int = 1) -> np.ndarray:
    """Distance of every (sub)pixel's centre from the map's centre, (npix * fine, npix * fine)."""
    x = (np.arange(npix * fine) + 0.5) / (npix * fine) * width - width / 2
    return np.hypot(x[:, None], x)


def averaged(values: np.ndarray, fine: int) -> np.ndarray:
    """Averages over fine x fine pixels."""
    n = len(values) // fine
    return values.reshape(n, fine, n, fine).mean(axis=(1, 3))
