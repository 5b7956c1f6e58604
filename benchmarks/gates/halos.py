"""What the particles of each halo say: density, pressure, gas fraction, Compton signal, X-ray luminosity, subhalos."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.spatial import cKDTree

from hpcdiff import cosmology
from hpcdiff.cosmology import Background
from hpcdiff.simulate import profiles

EDGES = np.array([0.1, 0.2, 0.35, 0.5, 0.7, 1.0])
"""Of shells, over R200m (density) or R200c (pressure)."""
FIT = (0.05, 0.8)
"""Radii over R200m between which the concentration is fitted."""


class Snapshot:
    """Particles in Mpc, Msun, (km/s)^2, and the halo catalogue.

    Attributes:
        halos: the catalogue's columns. x: {"gas", "dm"}: (n, 3). m: {"gas", "dm"}: mass of a particle. density, u: of the gas.
    """

    def __init__(self, folder: Path) -> None:
        with h5py.File(folder / "halos.hdf5") as f:
            self.halos = {k: v[:] for k, v in f.items()}
        paths = sorted((folder / "snapshot").glob("*.hdf5"))
        with h5py.File(paths[0]) as f:
            head = dict(f["Header"].attrs)
            kinds = {"gas": "PartType0", "dm": "PartType1"}
            h = head["HubbleParam"]
            self.m = {k: float(f[g]["Masses"][0]) * 1e10 / h for k, g in kinds.items()}
        self.side = head["BoxSize"] / 1e3 / h
        parts = {k: [] for k in ("gas", "dm", "density", "u")}
        for path in paths:
            with h5py.File(path) as f:
                for kind, group in kinds.items():
                    parts[kind].append(f[group]["Coordinates"][:] / 1e3 / h)
                parts["density"].append(f["PartType0/Density"][:].astype(float) * 1e10 / h * (1e3 * h) ** 3)
                parts["u"].append(f["PartType0/InternalEnergy"][:].astype(float))
        self.x = {k: np.concatenate(parts[k]) % self.side for k in kinds}
        self.density, self.u = np.concatenate(parts["density"]), np.concatenate(parts["u"])
        self.trees = {k: cKDTree(x, boxsize=self.side) for k, x in self.x.items()}
        self.background = Background(head["Omega0"], head["OmegaBaryon"], h)

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
    r200 = profiles.critical(mass, radius, s.halos["concentration_200m"][i], 200, s.background)[1]
    _, dm = s.about(i, "dm", radius)
    which, gas = s.about(i, "gas", radius)
    r_dm, r_gas = (np.linalg.norm(x, axis=1) for x in (dm, gas))
    c = fitted_concentration(r_dm / radius)
    nfw = (mass - s.m["gas"] * len(gas)) * np.diff(profiles.nfw_mass(EDGES * c)) / profiles.nfw_mass(c)
    thermal = 2 / 3 * s.u[which] * s.m["gas"] * profiles.MU / profiles.MU_E  # electron pressure times volume
    x = np.linspace(0.01, 1, 400) * r200 / r500
    p500 = profiles.electron_p500(m500, r500, s.background)
    shell = 4 * np.pi * (x * r500) ** 2 * p500 * profiles.debiased_pressure(x)
    expected = [np.trapezoid(np.where((x * r500 >= a * r200) & (x * r500 <= b * r200), shell, 0), x * r500) for a, b in zip(EDGES[:-1], EDGES[1:], strict=True)]  # fmt: skip
    inside = r_gas < r500
    temperature = 2 / 3 * s.u[which] * profiles.MU * cosmology.M_P / cosmology.K_B * 1e10
    luminosity = s.m["gas"] * s.density[which] * np.sqrt(temperature)
    moments = [np.sqrt(np.linalg.eigvalsh(y[n < 0.6 * radius].T @ y[n < 0.6 * radius])) for y, n in ((dm, r_dm), (gas, r_gas))]
    return {
        "mass": mass,
        "m500": m500,
        "m200m_found": len(dm) * s.m["dm"] + len(gas) * s.m["gas"],
        "c": c,
        "density": np.histogram(r_dm / radius, EDGES)[0] * s.m["dm"] / nfw,
        "pressure": np.histogram(r_gas / r200, EDGES, weights=thermal)[0] / expected,
        "f_gas": inside.sum() * s.m["gas"] / m500 * s.background.Om0 / s.background.Ob0,
        "y500": thermal[inside].sum(),
        "l500": luminosity[inside].sum(),
        "t500": np.average(temperature[inside], weights=luminosity[inside]),
        "roundness": moments[0][0] / moments[0][2],
        "gas_roundness": moments[1][0] / moments[1][2],
        "offset": np.linalg.norm(gas[r_gas < 0.3 * radius].mean(0) - dm[r_dm < 0.3 * radius].mean(0)) / radius,
    }


def fitted_concentration(x: np.ndarray) -> float:
    """c200m of most likelihood for radii x = r/R200m of particles, within `FIT`."""
    low, high = FIT
    x = x[(x > low) & (x < high)]

    def minus_ln(ln_c: float) -> float:
        c = np.exp(ln_c)
        return -np.log(c**3 * x**2 * profiles.nfw_density(c * x)).sum() + len(x) * np.log(
            profiles.nfw_mass(c * high) - profiles.nfw_mass(c * low)
        )

    return float(np.exp(minimize_scalar(minus_ln, bounds=(np.log(1), np.log(40)), method="bounded").x))


def relation(mass: np.ndarray, value: np.ndarray) -> tuple[float, float, np.ndarray]:
    """ln value = a + slope ln mass: slope, scatter (standard deviation of what is left), and what is left."""
    x, y = np.log(mass), np.log(value)
    slope, a = np.polyfit(x, y, 1)
    left = y - slope * x - a
    return float(slope), float(left.std(ddof=2)), left
