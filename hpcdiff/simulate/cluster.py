"""One cluster's numbers: everything that is drawn once for a halo."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from hpcdiff.simulate import profiles
from hpcdiff.simulate.plan import Plan

SCATTER_C = 0.16
"""Scatter of the concentration, dex."""
SCATTER_P = 0.12
"""Scatter of the pressure's normalisation (standard deviation of its logarithm)."""


@dataclass(frozen=True)
class Cluster:
    """The latent numbers of a cluster; lengths comoving Mpc, masses Msun."""

    halo_id: int
    mass: float
    radius: float
    position: np.ndarray
    """In its cell, (3,)."""
    concentration: float
    axes: np.ndarray
    """Axis ratios of the dark matter, sorted, of product 1, (3,)."""
    gas_axes: np.ndarray
    """The same of the gas: rounder, (3,)."""
    rotation: np.ndarray
    """Columns: the axes' directions, (3, 3)."""
    gas_rotation: np.ndarray
    """The same of the gas: a little off, (3, 3)."""
    gas_fraction: float
    """Gas within R200m over the cosmic part of M200m."""
    core: float
    """Core radius of the gas over R200m."""
    cusp: float
    """Inner slope of the gas density: high in cool cores."""
    slope: float
    """3 beta of the gas."""
    scale: float
    """Radius over R200m beyond which the gas steepens."""
    pressure: float
    """Pressure over the debiased profile."""
    subhalo_fraction: float
    """Mass in subhalos over M200m, resolved or not."""
    offset: np.ndarray
    """Gas centre minus dark-matter centre, (3,)."""
    filaments: np.ndarray
    """Directions of infall, unit vectors, (3, 3)."""
    mass_500c: float
    radius_500c: float

    def columns(self) -> dict[str, float]:
        """Further columns of the halo catalogue."""
        return {
            "concentration_200m": self.concentration,
            "b_to_a": self.axes[1] / self.axes[2],
            "c_to_a": self.axes[0] / self.axes[2],
            "gas_fraction": self.gas_fraction,
            "gas_core": self.core,
            "gas_cusp": self.cusp,
            "pressure_factor": self.pressure,
            "subhalo_fraction": self.subhalo_fraction,
            "mass_500c": self.mass_500c,
            "radius_500c": self.radius_500c,
        }


def draw_cluster(plan: Plan, cell: int, rng: np.random.Generator) -> Cluster:
    """The first draws of a cell that has a cluster."""
    mass = float(plan.mass[cell])
    radius = float(plan.background.radius(mass))
    grid, median = median_concentration(plan.background, *plan.config.simulate.mass_range)
    c = float(np.exp(np.interp(np.log(mass), grid, median) + np.log(10) * SCATTER_C * np.clip(rng.normal(), -3, 3)))
    c = max(c, 2.0)
    b = np.clip(rng.normal(0.78, 0.1), 0.5, 1.0)
    ratios = np.array([b * np.clip(rng.normal(0.8, 0.1), 0.5, 1.0), b, 1.0])
    light = np.clip(np.log10(1e15 / mass), 0, 1.5)  # lighter clusters lose more of their gas, and more unevenly
    fraction = np.clip(0.9 * np.exp((0.1 + 0.1 * light) * rng.normal()), 0.35, 1.2)
    cool = rng.random() < 0.4
    rotation = _rotation(rng.normal(size=4))
    tilt = _rotation(np.array([1.0, *rng.normal(0, 0.1, 3)]))
    m500, r500 = profiles.critical(mass, radius, c, 500, plan.background)
    filaments = rng.normal(size=(3, 3))
    filaments[0] = rotation[:, 2] + 0.3 * filaments[0]  # halos point along their filament
    return Cluster(
        halo_id=int(plan.halo_id[cell]),
        mass=mass,
        radius=radius,
        position=plan.cell * (0.5 + rng.uniform(-0.1, 0.1, 3)),
        concentration=c,
        axes=ratios / np.cbrt(ratios.prod()),
        gas_axes=np.sqrt(ratios / np.cbrt(ratios.prod())),
        rotation=rotation,
        gas_rotation=tilt @ rotation,
        gas_fraction=float(fraction),
        core=float((0.05 if cool else 0.1) * np.exp(0.3 * rng.normal())),
        cusp=float(rng.uniform(0.2, 0.5) if cool else rng.uniform(0, 0.3)),
        slope=float(np.clip(rng.normal(2.0, 0.15), 1.6, 2.4)),
        scale=float(0.5 * np.exp(0.25 * rng.normal())),
        pressure=float(np.exp(SCATTER_P * rng.normal() - SCATTER_P**2 / 2)),
        subhalo_fraction=float(np.clip(0.1 * np.exp(0.4 * rng.normal()), 0.02, 0.3)),
        offset=0.025 * radius * rng.normal(size=3),
        filaments=filaments / np.linalg.norm(filaments, axis=1, keepdims=True),
        mass_500c=float(m500),
        radius_500c=float(r500),
    )


@functools.lru_cache(maxsize=4)
def median_concentration(background, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """ln M200m (Msun) and ln c200m of Diemer & Joyce 2019, on a grid."""
    from colossus.cosmology import cosmology
    from colossus.halo import concentration

    b = background
    numbers = {"H0": 100 * b.h, "Om0": b.Om0, "Ob0": b.Ob0, "sigma8": b.sigma8, "ns": b.ns, "Tcmb0": b.Tcmb0}
    cosmology.setCosmology("hpcdiff", {"flat": True, "relspecies": False, "persistence": "", **numbers})
    mass = np.geomspace(low, high, 24)
    return np.log(mass), np.log(concentration.concentration(mass * b.h, "200m", 0.0, model="diemer19"))


def _rotation(q: np.ndarray) -> np.ndarray:
    """Rotation matrix of a quaternion of any length."""
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
