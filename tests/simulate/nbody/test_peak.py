"""How large a sphere is taken for a cluster of a given mass: the search, on laws whose answer is known."""

from pathlib import Path

import numpy as np
import pytest

from hpcdiff.config import read_config
from hpcdiff.simulate.nbody import peak
from hpcdiff.simulate.nbody.halos import Halo
from hpcdiff.simulate.nbody.plan import YIELD, Plan

CONFIG = Path(__file__).parents[3] / "configs" / "nbody.yaml"


@pytest.fixture
def plan():
    return Plan(read_config(CONFIG, ["simulate.clusters=2"]))


def searched(plan, monkeypatch, law, finer=None):
    """The sphere over the target that is taken where a sphere of s targets makes a cluster of law(s) targets, or finer(s) in the second boxes; all that were tried."""
    tried, target, n = [], float(plan.mass[0]), peak.pilot_lattice(plan, 0)

    def coarse(plan, box, sphere, threads, lattice):
        assert lattice == n or 1.4 * n < lattice < 1.6 * n
        tried.append(sphere / target)
        return ((finer or law) if lattice > n else law)(sphere / target) * target

    monkeypatch.setattr(peak, "coarse_mass", coarse)
    return peak.sphere_of(plan, 0, 1) / target, tried


@pytest.mark.parametrize(("yields", "slope"), [(0.8, 1.0), (0.45, 1.0), (1.2, 1.0), (0.5, 1.6), (0.6, 0.7)])
def test_the_mass_that_is_wanted_is_found(plan, monkeypatch, yields, slope):
    sphere, tried = searched(plan, monkeypatch, lambda s: yields * s**slope)
    assert yields * sphere**slope == pytest.approx(1, rel=0.06)
    assert tried[0] == pytest.approx(1 / YIELD) and len(tried) <= peak.TRIES + 1


def test_the_finer_boxes_decide(plan, monkeypatch):
    sphere, tried = searched(plan, monkeypatch, lambda s: 0.7 * s, lambda s: 0.5 * s**1.2)
    assert 0.5 * sphere**1.2 == pytest.approx(1, rel=0.06) and len(tried) <= 2 + peak.FINER_TRIES
    monkeypatch.setattr(plan, "lattice", peak.pilot_lattice(plan, 0))  # nothing is finer
    assert 0.7 * searched(plan, monkeypatch, lambda s: 0.7 * s, lambda s: 0.5 * s)[0] == pytest.approx(1, rel=0.06)


def test_where_the_mass_jumps_the_nearest_is_taken(plan, monkeypatch):
    """Two halos merge: no sphere makes a cluster between 0.5 and 1.3 targets."""
    sphere, tried = searched(plan, monkeypatch, lambda s: 0.5 if s < 1.61 else 1.3)
    assert sphere >= 1.61 and len(tried) == peak.TRIES + peak.FINER_TRIES and min(tried) >= 1 and max(tried) < 4
    sphere, _ = searched(plan, monkeypatch, lambda s: 0.9 if s < 1.61 else 1.6)
    assert sphere < 1.61


def test_no_sphere_is_larger_than_the_box(plan, monkeypatch):
    _, tried = searched(plan, monkeypatch, lambda s: 0.01)
    whole = plan.background.rho_mean() * plan.cell**3 / float(plan.mass[0])
    assert max(tried) <= 0.53 * whole and len(tried) == peak.TRIES + peak.FINER_TRIES


def test_coarse_boxes_are_coarse_but_not_too_coarse(plan):
    light, heavy = sorted(range(2), key=lambda i: plan.mass[i])
    for box in (light, heavy):
        n = peak.pilot_lattice(plan, box)
        particle = plan.background.rho_mean(component="dm") * (plan.cell / n) ** 3
        assert n % 2 == 0 and peak.PILOT_LATTICE <= n <= plan.lattice // 2
        assert 0.85 * plan.mass[box] / particle > 0.95 * peak.PILOT_PARTICLES


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


def test_the_cluster_is_the_heaviest_halo_near_the_peak():
    far, near, lesser = (Halo(np.full(3, at), m, 2.0, m, 1.0, m, 1.3, 1e6) for at, m in ((2.0, 2e15), (22.0, 1e15), (24.0, 1e14)))
    assert peak.central([far, near, lesser], 45.0) == 1 and peak.central([far], 45.0) == 0
