"""How large a sphere is taken for a cluster of a given mass: the search, on laws whose answer is known; and what a run keeps of it."""

import json
from pathlib import Path

import pytest

from hpcdiff.config import read_config
from hpcdiff.errors import Stopped
from hpcdiff.simulate.nbody import coarse
from hpcdiff.simulate.nbody.coarse import CoarseBoxes
from hpcdiff.simulate.nbody.evolve import FORMAT
from hpcdiff.simulate.nbody.plan import YIELD, Plan

CONFIG = Path(__file__).parents[3] / "configs" / "nbody.yaml"


@pytest.fixture
def plan():
    return Plan(read_config(CONFIG, ["simulate.clusters=2", "simulate.surroundings=null", "simulate.cell=60"]))


def searched(plan, monkeypatch, law, finer=None, finest=None):
    """The sphere over the target that is taken where a sphere of s targets makes a cluster of law(s) targets, finer(s) in the second boxes, finest(s) in the third; all that were tried."""
    tried, target = [], float(plan.mass[0])

    def mass(self, sphere, lattice):
        which = coarse.lattices(plan, 0).index(lattice)
        tried.append(sphere / target)
        return (law, finer or law, finest or finer or law)[which](sphere / target) * target

    monkeypatch.setattr(CoarseBoxes, "mass", mass)
    return coarse.sphere_of(CoarseBoxes(plan, 0)) / target, tried


@pytest.mark.parametrize(("yields", "slope"), [(0.8, 1.0), (0.45, 1.0), (1.2, 1.0), (0.5, 1.6), (0.6, 0.7)])
def test_the_mass_that_is_wanted_is_found(plan, monkeypatch, yields, slope):
    sphere, tried = searched(plan, monkeypatch, lambda s: yields * s**slope)
    assert yields * sphere**slope == pytest.approx(1, rel=0.06)
    assert tried[0] == pytest.approx(1 / YIELD) and len(tried) <= coarse.TRIES[0] + 2


def test_the_finer_boxes_decide(plan, monkeypatch):
    sphere, tried = searched(plan, monkeypatch, lambda s: 0.7 * s, lambda s: 0.5 * s**1.2)
    assert 0.5 * sphere**1.2 == pytest.approx(1, rel=0.06) and len(tried) <= 3 + coarse.TRIES[1]
    sphere, tried = searched(plan, monkeypatch, lambda s: 0.7 * s, lambda s: 0.6 * s, lambda s: 0.5 * s)
    assert 0.5 * sphere == pytest.approx(1, rel=0.06) and len(tried) <= 2 + sum(coarse.TRIES[1:])
    monkeypatch.setattr(plan, "lattice", coarse.pilot_lattice(plan, 0))  # nothing is finer
    assert 0.7 * searched(plan, monkeypatch, lambda s: 0.7 * s, lambda s: 0.5 * s)[0] == pytest.approx(1, rel=0.06)


def test_where_the_mass_jumps_the_nearest_is_taken(plan, monkeypatch):
    """Two halos merge: no sphere makes a cluster between 0.5 and 1.3 targets."""
    sphere, tried = searched(plan, monkeypatch, lambda s: 0.5 if s < 1.61 else 1.3)
    assert sphere >= 1.61 and len(tried) == sum(coarse.TRIES) and min(tried) >= 1 and max(tried) < 4
    sphere, _ = searched(plan, monkeypatch, lambda s: 0.9 if s < 1.61 else 1.6)
    assert sphere < 1.61


def test_no_sphere_is_larger_than_the_box(plan, monkeypatch):
    _, tried = searched(plan, monkeypatch, lambda s: 0.01)
    whole = plan.background.rho_mean() * plan.cell**3 / float(plan.mass[0])
    assert max(tried) <= 0.53 * whole and len(tried) == sum(coarse.TRIES)


def test_coarse_boxes_are_coarse_but_not_too_coarse(plan):
    light, heavy = sorted(range(2), key=lambda i: plan.mass[i])
    for box in (light, heavy):
        n = coarse.pilot_lattice(plan, box)
        particle = plan.background.rho_mean(component="dm") * (plan.cell / n) ** 3
        assert n % 2 == 0 and coarse.PILOT_LATTICE <= n <= plan.lattice // 2
        assert 0.85 * plan.mass[box] / particle > 0.95 * coarse.PILOT_PARTICLES


def test_what_coarse_boxes_gave_is_kept_and_the_last_is_not_evolved_twice(plan, tmp_path, monkeypatch):
    """A search that was stopped ends with the same sphere, and evolves only what it had not; a damaged file is of no account."""
    evolved, path = [], tmp_path / "kept.json"

    def evolve(self, sphere, lattice):
        if len(evolved) == stop:
            raise Stopped("as by a signal")
        evolved.append((sphere, lattice))
        mass = 0.6 * sphere**1.1 * float(plan.mass[0]) ** -0.1 * (1 + lattice / 400)
        return None, None, type("Halo", (), {"mass_200m": mass})

    monkeypatch.setattr(CoarseBoxes, "_evolve", evolve)
    stop = -1
    boxes = CoarseBoxes(plan, 0)
    sphere = coarse.sphere_of(boxes)
    boxes.evolved(sphere, coarse.lattices(plan, 0)[-1])
    whole, evolved[:] = list(evolved), []
    assert len(whole) == len(set(whole)) >= 4
    stop = 3
    with pytest.raises(Stopped):
        coarse.sphere_of(CoarseBoxes(plan, 0, kept=path))
    stop = -1
    assert coarse.sphere_of(CoarseBoxes(plan, 0, kept=path)) == sphere and evolved == whole
    assert coarse.sphere_of(CoarseBoxes(plan, 0, kept=path)) == sphere and evolved == whole
    known = json.loads(path.read_text())
    for damaged in (
        '{"format":',
        "[]",
        "3",
        json.dumps({**known, "format": FORMAT - 1}),
        json.dumps({"format": FORMAT, "masses": {"a": None}}),
    ):
        path.write_text(damaged)
        evolved.clear()
        assert coarse.sphere_of(CoarseBoxes(plan, 0, kept=path)) == sphere and evolved == whole
