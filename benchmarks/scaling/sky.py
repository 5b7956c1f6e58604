"""Clusters of the largest boxes: masses from a mass function, positions in a log-normal density field."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from colossus.cosmology import cosmology
from colossus.lss import bias, mass_function

from hpcdiff.cosmology import Background
from hpcdiff.snapshot import Halos

LOWEST = 1e14
"""Msun, M200m."""


@dataclass
class Sky:
    """A box of clusters, and where its matter is.

    Attributes:
        box: comoving Mpc.
        halos: of it.
        density: float64 (n, n, n), matter over the mean by cell.
    """

    box: float
    halos: Halos
    density: np.ndarray


def below(background: Background, low: float = LOWEST, high: float = 5e15) -> tuple[np.ndarray, np.ndarray]:
    """Masses, Msun, and the number density of clusters from `low` to each, per comoving Mpc^3 (Tinker et al. 2008, z = 0)."""
    b = background
    numbers = {"H0": 100 * b.h, "Om0": b.Om0, "Ob0": b.Ob0, "sigma8": b.sigma8, "ns": b.ns, "Tcmb0": b.Tcmb0}
    cosmology.setCosmology("scaling", {"flat": True, "relspecies": False, "persistence": "", **numbers})
    edges = np.geomspace(low, high, 2001)
    middle = np.sqrt(edges[1:] * edges[:-1])
    density = mass_function.massFunction(middle * b.h, 0.0, mdef="200m", model="tinker08", q_out="dndlnM") * b.h**3
    return edges, np.concatenate([[0], np.cumsum(density * np.diff(np.log(edges)))])


def sky(n: int, cells: int = 128, seed: int = 0) -> Sky:
    """`n` clusters in the box that is expected to have so many, drawn from a log-normal field with their bias."""
    background, rng = Background(), np.random.default_rng(seed)
    edges, cumulative = below(background)
    box = float(np.cbrt(n / cumulative[-1]))
    mass = np.interp(rng.random(n) * cumulative[-1], cumulative, edges)
    field = _gaussian(box, cells, background.h, rng)
    b = float(bias.haloBias(np.median(mass) * background.h, 0.0, "200m", model="tinker10"))
    chance = np.exp(b * field).ravel().cumsum()
    cell = np.searchsorted(chance, rng.random(n) * chance[-1])
    position = (np.stack(np.unravel_index(cell, field.shape), axis=-1) + rng.random((n, 3))) * (box / cells)
    halos = Halos(np.arange(n), position, mass, background.radius(mass), np.arange(n))
    halos.radii = {"R200m": halos.radius_200m}
    matter = np.exp(field)
    return Sky(box, halos, matter / matter.mean())


def _gaussian(box: float, cells: int, h: float, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian field of the linear power spectrum on a grid of cells, whose exponential is the density."""
    side = box / cells
    k = 2 * np.pi * np.fft.fftfreq(cells, side)
    kz = 2 * np.pi * np.fft.rfftfreq(cells, side)
    k = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + kz**2)
    power = np.zeros_like(k)
    power[k > 0] = cosmology.getCurrent().matterPowerSpectrum(k[k > 0] / h) / h**3
    noise = np.fft.rfftn(rng.normal(size=(cells,) * 3))
    return np.fft.irfftn(noise * np.sqrt(power / side**3), s=(cells,) * 3, axes=(0, 1, 2))
