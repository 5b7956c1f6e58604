"""How large a sphere is taken for a cluster of a given mass: the search, on laws whose answer is known; and what a run keeps of it."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_nbody_box import plan_of

from hpcdiff.config import read_config
from hpcdiff.errors import Stopped
from hpcdiff.simulate.nbody import coarse
from hpcdiff.simulate.nbody.coarse import CoarseBoxes, also_fine, lattices, pilot_lattice
from hpcdiff.simulate.nbody.evolve import FORMAT
from hpcdiff.simulate.nbody.plan import YIELD, Plan
from hpcdiff.simulate.nbody.zoom import levels

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


def test_coarse_boxes_have_both_kinds_too():
    """On each of their lattices, which are finer and finer; their mass is the box's."""
    for wide in (84.0, 90.0):
        of = plan_of("simulate.cell=42", f"simulate.surroundings={wide}", "simulate.mass_range=[1.5e14, 2e14]", "simulate.clusters=1")
        found = lattices(of, 0)
        assert len(found) == 3 and found == sorted(found) and found[0] == pilot_lattice(of, 0) and found[-1] <= of.lattice
        for n in found:
            both = levels(of, of.mass[0], n)
            assert n % 4 == 0 and 0 < both.fine < n**3 / 2 and both.n > both.fine
            assert both.masses(of).sum() == pytest.approx((of.m_dm + of.m_gas) * of.lattice**3, rel=1e-12)


def test_cells_that_fall_in_are_fine_with_their_neighbours_also_through_the_walls(monkeypatch):
    """Those of the region alone add none."""
    plan = Plan(read_config(CONFIG, ["simulate.clusters=1"]))
    n, sphere = plan.lattice // 2, 5e14
    fell = np.zeros((n, n, n), bool)
    of, matter = SimpleNamespace(cells_of=lambda which, cells: fell), SimpleNamespace(about=lambda centre, reach: (None, None))
    monkeypatch.setattr(CoarseBoxes, "evolved", lambda *args: (of, matter, SimpleNamespace(centre=None, radius_200m=1.0)))
    fell |= levels(plan, sphere, plan.lattice).inside
    assert also_fine(CoarseBoxes(plan, 0), sphere) is None
    fell[0, 3, n - 1] = True
    added = also_fine(CoarseBoxes(plan, 0), sphere)
    assert added.sum() == 27 and added[np.ix_([n - 1, 0, 1], [2, 3, 4], [n - 2, n - 1, 0])].all()
