"""The start of a box, and which of its halos the peak has become."""

from pathlib import Path

import numpy as np
import pytest

from hpcdiff.config import read_config
from hpcdiff.cosmology import Background
from hpcdiff.simulate.nbody import growth, peak
from hpcdiff.simulate.nbody.excursion import Excursion
from hpcdiff.simulate.nbody.halos import Halo, Matter
from hpcdiff.simulate.nbody.initial import with_peak
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


def test_the_peak_is_the_one_of_the_box_s_quantiles(plan, monkeypatch):
    """On the scale of the sphere, and the lattice moves towards it: it is denser there than without."""
    asked, sphere = [], 1.2 * float(plan.mass[1])

    def spy(waves, modes, spectrum, wanted):
        asked.append(wanted)
        return with_peak(waves, modes, spectrum, wanted)

    monkeypatch.setattr(peak, "with_peak", spy)
    state = peak.start(plan, 1, sphere, 16)
    radius = np.cbrt(3 * sphere / (4 * np.pi * plan.background.rho_mean()))
    (wanted,) = asked
    expected = Excursion(plan.background).peak(radius, *plan.quantiles[1])
    assert [getattr(wanted, k) for k in vars(expected)] == pytest.approx(list(vars(expected).values()), rel=1e-9)
    lattice = np.concatenate([_lattice(plan, 16) + offset * plan.cell / 16 for offset in (0.0, 0.5)]).reshape(-1, 3)
    moved = (state.x - lattice + plan.cell / 2) % plan.cell - plan.cell / 2
    out = lattice - plan.cell / 2
    r = np.linalg.norm(out, axis=1)
    near = (r > 0.5 * radius) & (r < radius)
    inward = -np.sum(moved * out, axis=1)[near] / r[near] ** 2
    grown = growth.growth(peak.START, plan.background.Om0)
    assert inward.mean() == pytest.approx(grown * wanted.height / 3, rel=0.25)


def test_a_box_begins_when_it_is_told_to(plan):
    """Later the same waves have moved the particles farther, as they grow."""
    sphere = 1.2 * float(plan.mass[0])
    early, late = (peak.start(plan, 0, sphere, 16, a=a) for a in (0.05, 0.1))
    assert (early.a, late.a) == (0.05, 0.1)
    lattice = np.concatenate([_lattice(plan, 16) + offset * plan.cell / 16 for offset in (0.0, 0.5)]).reshape(-1, 3)
    one, two = (((state.x - lattice + plan.cell / 2) % plan.cell - plan.cell / 2).ravel() for state in (early, late))
    assert (one @ two) / (one @ one) == pytest.approx(2.0, rel=0.03)


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
