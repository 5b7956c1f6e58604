"""One cluster's numbers: everything that is drawn once for a halo."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from hpcdiff.cosmology import Background, colossus_cosmology
from hpcdiff.simulate import history, profiles
from hpcdiff.simulate.plan import Plan

SCATTER_C = 0.13
"""Scatter of the concentration, dex, at which NFW profiles fitted to whole halos, whose subhalos add to it, scatter by 0.18 (the gates measure it)."""
SCATTER_P = 0.12
"""Scatter of the pressure's normalisation (standard deviation of its logarithm), beside that of the turbulence."""
SCATTER_X = 0.3
"""Scatter of the X-ray luminosity at given gas mass and class (standard deviation of its logarithm)."""
SCATTER_TURBULENCE = 0.3
"""Scatter of the turbulent part of the pressure (standard deviation of its logarithm)."""


@dataclass(frozen=True)
class Cluster:
    """The latent numbers of a cluster; lengths comoving Mpc, masses Msun."""

    halo_id: int
    formation: float
    """Formation time, standard normal; above 0 is early."""
    cool_core: bool
    disturbed: bool
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
    """Pressure, thermal and turbulent, over that of the mean cluster."""
    turbulence: float
    """Turbulent part of the pressure over that of the mean cluster."""
    subhalo_fraction: float
    """Mass in subhalos above 1e-4 of the virial mass over the virial mass, within the virial radius, resolved or not; the mean over many such clusters."""
    offset: np.ndarray
    """Gas centre minus dark-matter centre, (3,)."""
    surroundings: float
    """What is clustered about the cluster over the mean of its mass."""
    filaments: np.ndarray
    """Directions of infall, unit vectors, (3, 3)."""
    mass_500c: float
    radius_500c: float

    def columns(self) -> dict[str, float]:
        """Further columns of the halo catalogue."""
        return {
            "formation_time": self.formation,
            "formation_scale_factor": history.formation_scale_factor(self.formation),
            "cool_core": float(self.cool_core),
            "disturbed": float(self.disturbed),
            "concentration_200m": self.concentration,
            "b_to_a": self.axes[1] / self.axes[2],
            "c_to_a": self.axes[0] / self.axes[2],
            "gas_fraction": self.gas_fraction,
            "gas_core": self.core,
            "gas_cusp": self.cusp,
            "pressure_factor": self.pressure,
            "turbulence_factor": self.turbulence,
            "gas_offset": float(np.linalg.norm(self.offset)),
            "subhalo_fraction": self.subhalo_fraction,
            "surroundings": self.surroundings,
            "mass_500c": self.mass_500c,
            "radius_500c": self.radius_500c,
        }


def draw_cluster(plan: Plan, cell: int, rng: np.random.Generator) -> Cluster:
    """The first draws of a cell that has a cluster."""
    mass = float(plan.mass[cell])
    radius = float(plan.background.radius(mass))
    formation, x = history.draw_history(rng)
    disturbed, cool = formation < history.DISTURBED, x["cool_core"] > NormalDist().inv_cdf(1 - history.COOL_CORES)
    grid, median = median_concentration(plan.background, *plan.config.simulate.mass_range)
    c = float(np.exp(np.interp(np.log(mass), grid, median) + np.log(10) * SCATTER_C * x["concentration"]))
    c = max(c, 2.0)
    b = np.clip(0.78 + 0.1 * x["roundness"], 0.5, 1.0)
    ratios = np.array([b * np.clip(0.8 + 0.06 * x["roundness"] + 0.08 * rng.normal(), 0.5, 1.0), b, 1.0])
    fraction = np.clip(0.9 * np.exp(profiles.gas_scatter(mass) * x["gas_fraction"]), 0.35, 1.2)
    tilt = _rotation(np.array([1.0, *rng.normal(0, 0.1, 3)]))
    m500, r500 = profiles.critical(mass, radius, c, 500, plan.background)
    axes = plan.environment.axes(plan.corner(cell) + plan.place[cell])
    filaments = np.array([1, -1, 1])[:, None] * axes[[0, 0, 1]] + 0.3 * rng.normal(size=(3, 3))
    rotation = _toward_axis(_rotation(rng.normal(size=4)), axes[0] + 0.3 * rng.normal(size=3))  # halos point along their filament
    cusp, slope = float(rng.uniform(0.2, 0.5) if cool else rng.uniform(0, 0.3)), float(np.clip(rng.normal(2.0, 0.15), 1.6, 2.4))
    scale, core = float(0.5 * np.exp(0.25 * rng.normal())), 0.06 if cool else 0.1
    core = profiles.core_of_luminosity(core, cusp, slope, scale, np.exp(SCATTER_X * x["xray"]))
    offset = 0.04 * radius * np.exp(0.5 * x["offset"]) * (2 if disturbed else 1)
    direction = rng.normal(size=3)
    return Cluster(
        halo_id=int(plan.halo_id[cell]),
        formation=formation,
        cool_core=bool(cool),
        disturbed=bool(disturbed),
        mass=mass,
        radius=radius,
        position=plan.place[cell],
        concentration=c,
        axes=ratios / np.cbrt(ratios.prod()),
        gas_axes=np.sqrt(ratios / np.cbrt(ratios.prod())),
        rotation=rotation,
        gas_rotation=tilt @ rotation,
        gas_fraction=float(fraction),
        core=core,
        cusp=cusp,
        slope=slope,
        scale=scale,
        pressure=float(np.exp(SCATTER_P * x["compton_y"] - SCATTER_P**2 / 2)),
        turbulence=float(np.exp(SCATTER_TURBULENCE * x["turbulence"] - SCATTER_TURBULENCE**2 / 2)),
        subhalo_fraction=float(np.clip(0.152 * np.exp(0.4 * x["subhalos"]), 0.03, 0.4)),
        offset=offset * direction / np.linalg.norm(direction),
        surroundings=float(plan.surroundings[cell]),
        filaments=filaments / np.linalg.norm(filaments, axis=1, keepdims=True),
        mass_500c=float(m500),
        radius_500c=float(r500),
    )


@functools.lru_cache(maxsize=4)
def median_concentration(background: Background, low: float, high: float, mdef: str = "200m") -> tuple[np.ndarray, np.ndarray]:
    """ln M200m (Msun) and ln c200m of Diemer & Joyce 2019, on a grid; with `mdef` "200c" of M200c, as they were measured."""
    from colossus.halo import concentration

    colossus_cosmology(background)
    mass = np.geomspace(low, high, 24)
    return np.log(mass), np.log(concentration.concentration(mass * background.h, mdef, 0.0, model="diemer19"))


def _toward_axis(rotation: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """The rotation whose last column, the longest axis, points along `axis`, and which is otherwise as the given one."""
    z = axis / np.linalg.norm(axis)
    x = rotation[:, 0] - z * (z @ rotation[:, 0])
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z], 1)


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
