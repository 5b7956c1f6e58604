"""What a cluster's hidden numbers do to its particles."""

import dataclasses

import numpy as np
import pytest

from hpcdiff.config import Config
from hpcdiff.simulate import particles, profiles
from hpcdiff.simulate.cluster import draw_cluster
from hpcdiff.simulate.plan import Plan


@pytest.fixture(scope="module")
def drawn():
    """A plan of one heavy cluster, and the cluster."""
    config = Config()
    config.simulate.clusters, config.simulate.mass_range, config.simulate.particle_mass = 8, [9e14, 1e15], 2e10
    plan = Plan(config)
    cell = int(np.flatnonzero(plan.halo_id >= 0)[0])
    return plan, draw_cluster(plan, cell, plan.rng(cell))


def subhalos(plan, cluster, seed):
    inner, _ = profiles.matter(plan.background, cluster.mass, cluster.concentration, 3 * cluster.radius)
    return particles._subhalos(plan, 30000, cluster, inner, np.random.default_rng(seed))


def test_turbulence_takes_thermal_pressure(drawn):
    plan, cluster = drawn
    gas = cluster.position + cluster.offset + np.outer(np.linspace(0.05, 1.5, 50) * cluster.radius, [1.0, 0, 0])
    calm, wild = (
        particles._pressure(plan, dataclasses.replace(cluster, turbulence=t, gas_axes=np.ones(3)), gas, np.random.default_rng(0))
        for t in (1.0, 1.6)
    )
    x = np.linspace(0.05, 1.5, 50)
    assert wild / calm == pytest.approx((1 - profiles.nonthermal(x, 1.6)) / (1 - profiles.nonthermal(x, 1.0)), rel=1e-6)


@pytest.mark.parametrize("filled", [0.0, 0.4, 0.65])
def test_the_halo_is_stretched_to_its_mass_whatever_else_is_there(drawn, filled):
    """Subhalos and neighbours that are within R200m already leave less to the halo itself."""
    plan, c = drawn
    rng = np.random.default_rng(2)
    n = int(1.5 * c.mass / (plan.m_dm + plan.m_gas))
    halo = [rng.normal(size=(n, 3)) * 0.5 * c.radius for _ in range(2)]  # dark matter and gas
    others = c.position + np.zeros((int(filled * c.mass / plan.m_dm), 3))
    scale = particles._scale_to_mass(plan, c, *halo, others, np.empty((0, 3)))
    within = [np.sum(np.linalg.norm(scale * x, axis=1) < c.radius) for x in halo]
    assert plan.m_dm * (within[0] + len(others)) + plan.m_gas * within[1] == pytest.approx(c.mass, rel=1e-3)


def test_light_subhalos_have_no_gas(drawn, monkeypatch):
    plan, cluster = drawn
    gas = {}
    for stripped in (0.0, particles.STRIPPED, np.inf):
        monkeypatch.setattr(particles, "STRIPPED", stripped)
        gas[stripped] = sum(len(subhalos(plan, cluster, seed)[1]) for seed in range(6))
    some = sorted(gas.values())
    assert gas[np.inf] == 0 and 0 < some[1] < 0.95 * gas[0.0]


def test_a_disturbed_cluster_has_one_more_large_subhalo(drawn):
    plan, cluster = drawn
    least = 0.05 * cluster.mass * (1 - plan.f_baryon) / plan.m_dm
    counts = [np.mean([len(subhalos(plan, dataclasses.replace(cluster, disturbed=d), s)[0]) for s in range(40)]) for d in (False, True)]
    assert counts[1] - counts[0] > least
