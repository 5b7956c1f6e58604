"""What the particles of each halo say: density, pressure, gas fraction, Compton signal, X-ray luminosity, subhalos."""

from __future__ import annotations

import functools
from pathlib import Path

import h5py
import numpy as np
from scipy.spatial import cKDTree

from gates import projected
from hpcdiff import cosmology
from hpcdiff.cosmology import Background
from hpcdiff.simulate import profiles
from hpcdiff.simulate.profiles import FITTED_FROM

EDGES = np.array([0.1, 0.2, 0.35, 0.5, 0.7, 1.0])
"""Of shells, over R200c."""
RINGS = np.array([0.2, 0.35, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0])
"""Of rings in projection, over R200m."""
HALF_DEPTH = 6.4
"""Mpc: of what is projected, as of the maps."""


class Snapshot:
    """Particles in Mpc, Msun, (km/s)^2, and the halo catalogue.

    Attributes:
        halos: the catalogue's columns. x, m: {"gas", "dm"}: positions (n, 3), masses (n,). density, u: of the gas.
        least: radius (Mpc) within which the softening of gravity is felt. paths: of the snapshot's files.
    """

    def __init__(self, folder: Path, least: float = 0.0) -> None:
        self.least = least
        with h5py.File(folder / "halos.hdf5") as f:
            self.halos = {k: v[:] for k, v in f.items()}
        self.paths = paths = sorted((folder / "snapshot").glob("*.hdf5"))
        with h5py.File(paths[0]) as f:
            head = dict(f["Header"].attrs)
            kinds = {"gas": "PartType0", "dm": "PartType1"}
            h = head["HubbleParam"]
        self.side = head["BoxSize"] / 1e3 / h
        parts = {k: [] for k in ("gas", "dm", "gas mass", "dm mass", "density", "u")}
        for path in paths:
            with h5py.File(path) as f:
                for kind, group in kinds.items():
                    parts[kind].append(f[group]["Coordinates"][:] / 1e3 / h)
                    parts[f"{kind} mass"].append(f[group]["Masses"][:].astype(float) * 1e10 / h)
                parts["density"].append(f["PartType0/Density"][:].astype(float) * 1e10 / h * (1e3 * h) ** 3)
                parts["u"].append(f["PartType0/InternalEnergy"][:].astype(float))
        self.x = {k: np.concatenate(parts[k]) % self.side for k in kinds}
        self.m = {k: np.concatenate(parts[f"{k} mass"]) for k in kinds}
        self.density, self.u = np.concatenate(parts["density"]), np.concatenate(parts["u"])
        self.trees = {k: cKDTree(x, boxsize=self.side) for k, x in self.x.items()}
        self.background = Background(head["Omega0"], head["OmegaBaryon"], h)

    @functools.cached_property
    def v(self) -> np.ndarray | None:
        """Peculiar velocities of the dark matter, km/s, (n, 3); None where the snapshot has none."""
        parts = []
        for path in self.paths:
            with h5py.File(path) as f:
                if "Velocities" not in f["PartType1"]:
                    return None
                parts.append(f["PartType1/Velocities"][:])
        return np.concatenate(parts)

    def about(self, i: int, kind: str, radius: float) -> tuple[np.ndarray, np.ndarray]:
        """Particles within a radius (Mpc) of halo i: their numbers and positions about it."""
        centre = self.halos["position"][i] % self.side
        which = np.array(self.trees[kind].query_ball_point(centre, radius), int)
        x = self.x[kind][which] - centre
        return which, x - self.side * np.round(x / self.side)


def measure(snapshot: Snapshot) -> dict[str, np.ndarray]:
    """Numbers of every halo, (halos, ...)."""
    rows = [_halo(snapshot, i) for i in range(len(snapshot.halos["mass_200m"]))]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _halo(s: Snapshot, i: int) -> dict:
    mass, radius = s.halos["mass_200m"][i], s.halos["radius_200m"][i]
    m500, r500 = s.halos["mass_500c"][i], s.halos["radius_500c"][i]
    if "radius_200c" in s.halos:
        m200, r200 = s.halos["mass_200c"][i], s.halos["radius_200c"][i]
    else:
        m200, r200 = profiles.critical(mass, radius, s.halos["concentration_200m"][i], 200, s.background)
    of_dm, dm = s.about(i, "dm", radius)
    which, gas = s.about(i, "gas", radius)
    m_dm, m_gas = s.m["dm"][of_dm], s.m["gas"][which]
    r_dm, r_gas = (np.linalg.norm(x, axis=1) for x in (dm, gas))
    least = max(FITTED_FROM, s.least / r200)
    c = profiles.fitted_concentration(r_dm / r200, least, m_dm)
    nfw = m_dm[r_dm < r200].sum() * np.diff(profiles.nfw_mass(EDGES * c)) / profiles.nfw_mass(c)
    thermal = 2 / 3 * s.u[which] * m_gas * profiles.MU / profiles.MU_E  # electron pressure times volume
    x = np.linspace(0.01, 1, 400) * r200 / r500
    p500 = profiles.electron_p500(m500, r500, s.background)
    shell = 4 * np.pi * (x * r500) ** 2 * p500 * profiles.debiased_pressure(x)
    expected = [np.trapezoid(np.where((x * r500 >= a * r200) & (x * r500 <= b * r200), shell, 0), x * r500) for a, b in zip(EDGES[:-1], EDGES[1:], strict=True)]  # fmt: skip
    inside = r_gas < r500
    temperature = 2 / 3 * s.u[which] * profiles.MU * cosmology.M_P / cosmology.K_B * 1e10
    luminosity = m_gas * s.density[which] * np.sqrt(temperature)
    shapes = [_axes(y[n < 0.6 * radius], m[n < 0.6 * radius]) for y, n, m in ((dm, r_dm, m_dm), (gas, r_gas, m_gas))]
    centres = [np.average(y[n < 0.3 * radius], axis=0, weights=m[n < 0.3 * radius]) for y, n, m in ((dm, r_dm, m_dm), (gas, r_gas, m_gas))]
    return {
        "mass": mass,
        "m500": m500,
        "m200c": m200,
        "m200m_found": m_dm.sum() + m_gas.sum(),
        "c": c,
        "density": np.where(EDGES[:-1] < least, np.nan, np.histogram(r_dm / r200, EDGES, weights=m_dm)[0] / nfw),
        "projected": _projected(s, i, c * radius / r200, least * r200),
        "pressure": np.histogram(r_gas / r200, EDGES, weights=thermal)[0] / expected,
        "f_gas": m_gas[inside].sum() / m500 * s.background.Om0 / s.background.Ob0,
        "y500": thermal[inside].sum(),
        "l500": luminosity[inside].sum(),
        "t500": np.average(temperature[inside], weights=luminosity[inside]),
        "roundness": shapes[0][0] / shapes[0][2],
        "gas_roundness": shapes[1][0] / shapes[1][2],
        "offset": np.linalg.norm(centres[1] - centres[0]) / radius,
        "off_centre": np.linalg.norm(np.average(dm, axis=0, weights=m_dm)) / radius,
    }


def _projected(s: Snapshot, i: int, c: float, least: float) -> np.ndarray:
    """Surface density of the dark matter in `RINGS` over what it should be for this c200m, mean of three lines of sight; NaN within `least` (Mpc)."""
    mass, edges = s.halos["mass_200m"][i], RINGS * s.halos["radius_200m"][i]
    which, x = s.about(i, "dm", float(np.hypot(HALF_DEPTH, edges[-1])))
    found = projected.rings(x, s.m["dm"][which], edges, HALF_DEPTH).mean(axis=0)
    of_dm = 1 - s.background.Ob0 / s.background.Om0
    return np.where(edges[:-1] < least, np.nan, found / of_dm / projected.expected(mass, c, edges, HALF_DEPTH, s.background))


def _axes(x: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Half-axes of the second moments, rising, up to a factor."""
    return np.sqrt(np.linalg.eigvalsh((mass[:, None] * x).T @ x))


def relation(mass: np.ndarray, value: np.ndarray) -> tuple[float, float, np.ndarray]:
    """ln value = a + slope ln mass: slope, scatter (standard deviation of what is left), and what is left."""
    x, y = np.log(mass), np.log(value)
    slope, a = np.polyfit(x, y, 1)
    left = y - slope * x - a
    return float(slope), float(left.std(ddof=2)), left
