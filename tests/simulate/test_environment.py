"""The shared density field: its spectrum, its peaks, and what it does to matter."""

import numpy as np
import pytest
from scipy import fft

from hpcdiff.config import Config
from hpcdiff.cosmology import Background
from hpcdiff.simulate import diffuse
from hpcdiff.simulate.cluster import colossus_cosmology
from hpcdiff.simulate.environment import PEAK, REACH, SMOOTHING, Environment
from hpcdiff.simulate.particles import draw_cell
from hpcdiff.simulate.plan import Plan

SIDE, CELL = 160.0, 40.0


def field(seed=0, peaks=()):
    return Environment(Background(), SIDE, CELL, np.array(peaks, float).reshape(-1, 3), np.random.default_rng(seed))


def test_spectrum_is_the_linear_one_smoothed():
    fields = [field(seed) for seed in range(4)]
    n = fields[0].n
    k = 2 * np.pi * fft.fftfreq(n, SIDE / n)
    k = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    found = np.mean([np.abs(fft.fftn(f.density) / n**3) ** 2 for f in fields], axis=0) * SIDE**3
    for low, high in ((0.2, 0.3), (0.3, 0.5), (0.5, 0.7)):
        ring = (k > low) & (k < high)
        h = 0.7
        linear = colossus_cosmology(Background()).matterPowerSpectrum(k[ring] / h) / h**3
        expected = linear * np.exp(-((k[ring] * SMOOTHING) ** 2)) * (1 - np.exp(-((k[ring] * CELL / np.pi) ** 4)))
        assert found[ring].mean() == pytest.approx(expected.mean(), rel=5 / np.sqrt(4 * ring.sum() / 2))


def test_clusters_stand_on_peaks():
    peaks = np.random.default_rng(1).uniform(0, SIDE, (30, 3))
    f = field(2, peaks)
    assert f._at(peaks, f.density) == pytest.approx(PEAK, abs=0.01)
    around = peaks[:, None] + 8.0 * np.random.default_rng(3).normal(size=(30, 200, 3))
    assert f.overdensity((around % SIDE).reshape(-1, 3)).mean() < 0.6 * PEAK
    far = np.abs(f.density - field(2).density)  # where no peak is near, the field is the free one
    grid = np.stack(np.meshgrid(*[np.arange(f.n) * f.spacing] * 3, indexing="ij"), -1)
    d = grid[..., None, :] - peaks
    nearest = np.linalg.norm(d - SIDE * np.round(d / SIDE), axis=-1).min(-1)
    assert far[nearest > 25].mean() < 0.3 * far[nearest < 5].mean()


def test_matter_falls_in_where_it_is_dense():
    """The divergence of the displacement is minus the linear overdensity (Zel'dovich 1970), as long as nothing is cut."""
    f = field(4)
    f.cell = 1e3  # nothing is
    x, h = np.random.default_rng(0).uniform(0, SIDE, (400, 3)), f.spacing
    divergence = sum(((f.displacement(x + h * e) - f.displacement(x - h * e)) @ e) / (2 * h) for e in np.eye(3))
    assert np.corrcoef(divergence, f.overdensity(x))[0, 1] < -0.97
    assert np.polyfit(f.overdensity(x), divergence, 1)[0] == pytest.approx(-1, abs=0.15)


def test_displacements_are_bounded_and_periodic():
    f = field(5, [[20.0, 20, 20]])
    x = np.random.default_rng(0).uniform(0, SIDE, (2000, 3))
    assert np.linalg.norm(f.displacement(x), axis=1).max() < REACH * CELL
    assert f.displacement(x + SIDE) == pytest.approx(f.displacement(x), abs=1e-4)


def test_filaments_are_where_least_falls_in():
    """Between two peaks the axis of least infall points from one to the other."""
    f = field(6, [[60.0, 80, 80], [100.0, 80, 80]])
    f.density, f.shift = (a - b for a, b in ((f.density, field(6).density), (f.shift, field(6).shift)))
    assert abs(f.axes(np.array([80.0, 80, 80]))[0] @ [1, 0, 0]) > 0.9
    assert f.axes(np.array([71.0, 33, 50])) @ f.axes(np.array([71.0, 33, 50])).T == pytest.approx(np.eye(3), abs=1e-6)


def test_neighbours_are_shared(monkeypatch):
    """The background of one cell goes on in the next: no step at the wall between them."""
    monkeypatch.setattr(diffuse, "IN_GROUPS", 0.0)  # single groups are noise here
    config = Config()
    config.simulate.clusters, config.simulate.particle_mass, config.simulate.mass_range = 8, 2e10, [1e14, 3e14]
    plan = Plan(config)
    first, second = (draw_cell(plan, c).dm[int(plan.n_halo[c]) :] for c in (0, 4))  # neighbours along x
    both = np.concatenate([first, second])
    edges = np.linspace(0, plan.cell, 5)
    sides = []
    for low, high in ((plan.cell - 2.0, plan.cell), (plan.cell, plan.cell + 2.0)):
        x = both[(both[:, 0] > low) & (both[:, 0] < high)]
        sides.append(np.histogram2d(x[:, 1], x[:, 2], [edges, edges])[0].ravel())
    assert np.corrcoef(*sides)[0, 1] > 0.8
    assert sides[0].sum() == pytest.approx(sides[1].sum(), rel=0.15)
    assert (first[:, 0] > plan.cell).any() and (second[:, 0] < plan.cell).any()
