"""The start of a box, and which of its halos the peak has become."""

from pathlib import Path

import numpy as np
import pytest

from hpcdiff.config import read_config
from hpcdiff.cosmology import Background
from hpcdiff.simulate.nbody import peak
from hpcdiff.simulate.nbody.halos import Halo, Matter
from hpcdiff.simulate.nbody.plan import Plan

CONFIG = Path(__file__).parents[3] / "configs" / "nbody.yaml"


@pytest.fixture
def plan():
    return Plan(read_config(CONFIG, ["simulate.clusters=2", "simulate.surroundings=null", "simulate.cell=60"]))


def test_the_same_waves_at_any_lattice(plan):
    """A coarse box is the same piece of the universe: its particles lie where those of the fine one do."""
    sphere = 1.2 * float(plan.mass[0])
    coarse, fine = (peak.start(plan, 0, sphere, n) for n in (8, 16))
    a = coarse.x[: 8**3].reshape(8, 8, 8, 3)
    b = fine.x[: 16**3].reshape(16, 16, 16, 3)[::2, ::2, ::2]
    gap, moved = (plan.cell * ((d / plan.cell + 0.5) % 1 - 0.5) for d in (a - b, b - _lattice(plan, 8)))
    assert np.std(gap) < 0.5 * np.std(moved)  # what differs are the waves that the coarse one does not have


def _lattice(plan, n):
    return plan.cell / n * np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), -1)


def test_the_cluster_is_what_has_most_of_the_sphere():
    """Not the heaviest halo, nor the one nearest to the box's centre."""
    at, rng = np.array([2.0, 22.0, 30.0]), np.random.default_rng(0)
    x = np.concatenate([np.full(3, a) + 0.1 * rng.normal(size=(n, 3)) for a, n in zip(at, (400, 100, 300), strict=True)])
    matter = Matter(x, np.ones(len(x)), np.zeros(len(x)), 45.0, Background())
    halos = [Halo(np.full(3, a), m, 2.0, m, 1.0, m, 1.3, 1e6) for a, m in zip(at, (4e15, 1e15, 3e15), strict=True)]
    sphere = np.concatenate([np.arange(20), np.arange(400, 500, 3), np.arange(500, 800, 4)])
    assert peak.central(halos, matter, sphere) == 2
    assert peak.central(halos, matter, np.arange(450)) == 0 and peak.central(halos, matter, np.arange(350, 480)) == 1
    assert peak.central(halos, matter, np.array([], int)) is None and peak.central([], matter, sphere) is None
