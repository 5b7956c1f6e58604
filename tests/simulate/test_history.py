"""The hidden history: what hangs on the formation time, in what is drawn and in the clusters."""

import numpy as np
import pytest

from hpcdiff.config import Config
from hpcdiff.simulate import history, profiles
from hpcdiff.simulate.cluster import draw_cluster
from hpcdiff.simulate.plan import Plan


@pytest.fixture(scope="module")
def clusters():
    config = Config()
    config.simulate.clusters = 1000
    plan = Plan(config)
    return [draw_cluster(plan, k, plan.rng(k)) for k in np.flatnonzero(plan.halo_id >= 0)]


def test_correlations_are_the_stated_ones():
    rng = np.random.default_rng(0)
    drawn = [history.draw_history(rng) for _ in range(20000)]
    names, matrix = history.correlations()
    found = np.corrcoef([[t, *x.values()] for t, x in drawn], rowvar=False)
    assert names == ["formation", *drawn[0][1]]
    assert found == pytest.approx(matrix, abs=0.03)
    assert np.linalg.eigvalsh(matrix).min() > 0


def test_early_halos_are_concentrated_round_and_smooth(clusters):
    t = np.array([c.formation for c in clusters])

    def correlation(values):
        return np.corrcoef(t, values)[0, 1]

    mass = np.log([c.mass for c in clusters])
    ln_c = np.log([c.concentration for c in clusters])
    assert correlation(ln_c - np.polyval(np.polyfit(mass, ln_c, 2), mass)) == pytest.approx(0.7, abs=0.06)
    assert correlation([c.axes[0] / c.axes[2] for c in clusters]) > 0.3
    assert correlation(np.log([c.subhalo_fraction for c in clusters])) == pytest.approx(-0.6, abs=0.07)
    assert correlation(np.log([np.linalg.norm(c.offset) / c.radius for c in clusters])) < -0.5
    assert correlation(np.log([c.turbulence for c in clusters])) == pytest.approx(-0.6, abs=0.07)
    assert abs(correlation([c.gas_fraction for c in clusters])) < 0.12
    assert correlation([history.formation_scale_factor(c.formation) for c in clusters]) < -0.97


def test_classes(clusters):
    cool = np.array([c.cool_core for c in clusters])
    disturbed = np.array([c.disturbed for c in clusters])
    assert cool.mean() == pytest.approx(0.4, abs=0.05)
    assert disturbed.mean() == pytest.approx(0.184, abs=0.04)  # a normal number below -0.9
    assert cool[disturbed].mean() < 0.6 * cool[~disturbed].mean()


def test_emission_measure_has_the_wanted_factor():
    """The core that is found gives gas of the same mass the wanted sum of squared density."""
    x = np.geomspace(1e-3, 1.0, 4000)

    def emission(core):
        density = (x / core) ** -0.3 / (1 + (x / core) ** 2) ** (1.0 - 0.15) / (1 + (x / 0.5) ** 3) ** (1 / 3)
        mass, squared = (np.trapezoid(x**2 * density**n, x) for n in (1, 2))
        return squared / mass**2

    for factor in (0.6, 1.0, 1.7):
        core = profiles.core_of_luminosity(0.08, 0.3, 2.0, 0.5, factor)
        assert emission(core) / emission(0.08) == pytest.approx(factor, rel=0.03)


def test_turbulence_rises_outward():
    x = np.array([0.0, 0.5, 1.0, 3.0])
    assert profiles.nonthermal(x, 1.0)[[0, 2, 3]] == pytest.approx([0.10, 0.35, 0.35])
    assert (np.diff(profiles.nonthermal(x, 1.0)) >= 0).all()
    assert profiles.nonthermal(x, 1.3) == pytest.approx(1.3 * profiles.nonthermal(x, 1.0))
