"""What fills a cell: how its points are chosen, and that it keeps out of the cluster."""

import numpy as np
import pytest

from hpcdiff.config import read_config
from hpcdiff.simulate import diffuse
from hpcdiff.simulate.cluster import draw_cluster
from hpcdiff.simulate.plan import Plan


def test_points_are_chosen_once_and_by_their_weights():
    rng, weight = np.random.default_rng(0), np.repeat([1.0, 3.0], 5000)
    chosen = diffuse._chosen(rng, weight, 200)
    assert len(np.unique(chosen)) == 200
    heavy = np.mean([np.mean(diffuse._chosen(rng, weight, 200) >= 5000) for _ in range(100)])
    assert heavy == pytest.approx(0.75, abs=0.02)
    assert len(diffuse._chosen(rng, weight, len(weight))) == len(weight)
    assert not np.isin(diffuse._chosen(rng, np.array([0.0, 1.0, 1.0]), 2), 0).any()


@pytest.fixture(scope="module")
def drawn():
    plan = Plan(read_config("configs/quickstart.yaml", ["simulate.clusters=8", "simulate.particle_mass=5e11"]))
    cell = int(np.flatnonzero(plan.halo_id >= 0)[0])
    cluster, n = draw_cluster(plan, cell, plan.rng(cell)), int(plan.n_background[cell])
    return plan, cluster, n, diffuse.background(plan, n, cell, cluster, np.random.default_rng(1))


def test_as_many_as_planned_groups_first(drawn):
    plan, _, n, (dm, gas, temperature) = drawn
    assert dm.shape == gas.shape == (n, 3) and temperature.shape == (n,)
    hot = temperature > 0
    assert hot.any() and not hot[np.argmin(hot) :].any()
    assert np.all(temperature[hot] > 1e5)  # virial temperatures of groups


def test_nothing_of_the_groups_centres_or_diffuse_matter_is_in_the_cluster(drawn):
    _, cluster, n, (dm, _, _) = drawn
    r = np.linalg.norm(dm - cluster.position, axis=1) / cluster.radius
    assert np.mean(r < 1) < 2e-3  # but edges of groups


def test_the_same_draws_give_the_same_matter(drawn):
    plan, cluster, n, first = drawn
    cell = int(np.flatnonzero(plan.halo_id >= 0)[0])
    again = diffuse.background(plan, n, cell, cluster, np.random.default_rng(1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
