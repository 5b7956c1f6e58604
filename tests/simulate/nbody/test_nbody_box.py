"""What the boxes are and what one box hands on: masses, seeds, cost, units, saved states, smoothing through the walls."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from hpcdiff.config import read_config
from hpcdiff.cosmology import G_MPC
from hpcdiff.errors import Stopped, UserError
from hpcdiff.simulate.chunks import Folder
from hpcdiff.simulate.nbody import box
from hpcdiff.simulate.nbody.coarse import CoarseBoxes
from hpcdiff.simulate.nbody.halos import wrapped
from hpcdiff.simulate.nbody.plan import Plan

CONFIG = Path(__file__).parents[3] / "configs" / "nbody.yaml"
SMALL = (
    "simulate.clusters=1",
    "simulate.mass_range=[3e14, 5e14]",
    "simulate.cell=45",
    "simulate.particle_mass=1.83e12",
    "simulate.accuracy=1",
)


def plan_of(*changes):
    return Plan(read_config(CONFIG, ["simulate.surroundings=null", "simulate.cell=60", *changes]))


def test_masses_are_flat_in_log_m_and_boxes_differ():
    plan = plan_of("simulate.clusters=400")
    place = np.log(np.sort(plan.mass) / 1.5e14) / np.log(1.2e15 / 1.5e14)
    assert np.abs(place - (np.arange(400) + 0.5) / 400).max() <= 0.5 / 400 and np.abs(np.corrcoef(plan.mass, np.arange(400))[0, 1]) < 0.2
    seeds = [plan.seed_of(i) for i in range(400)]
    assert len({*seeds, *map(plan_of("run.seed=1").seed_of, range(400))}) == 800
    assert (plan_of("simulate.clusters=400", "run.seed=1").mass != plan.mass).any()


def test_quantiles_of_the_peaks_fill_their_range_evenly_and_go_with_nothing():
    plan = plan_of("simulate.clusters=400")
    assert plan.quantiles.shape == (400, 2)
    assert (np.sort(np.floor(400 * plan.quantiles), axis=0) == np.arange(400)[:, None]).all()
    left = np.corrcoef([np.log(plan.mass), *plan.quantiles.T, np.arange(400)]) - np.eye(4)
    assert np.abs(left).max() < 0.2
    assert (plan_of("simulate.clusters=400", "run.seed=1").quantiles != plan.quantiles).all()


def test_cost_is_near_what_was_measured():
    """70 core seconds a cluster at the preset's particles in 45 Mpc; 33 kpc for them and lighter ones, more and fewer steps for heavier ones."""
    small = ("simulate.cell=45", "simulate.mass_range=[1.5e14, 5e14]")
    plan = plan_of(*small)
    assert plan.lattice == 32 and 3600 * plan.core_hours() / plan.boxes == pytest.approx(70, rel=0.2)
    fine, coarse = (plan_of(*small, f"simulate.particle_mass={m}") for m in (1.27e10, 8.08e11))
    assert fine.lattice == 62 and fine.softening == plan.softening == pytest.approx(0.033, rel=0.03)
    assert coarse.lattice == 16 and coarse.softening == pytest.approx(coarse.cell / coarse.lattice / 43, rel=0.03)
    assert fine.core_hours() == pytest.approx((62 / 32) ** 3 * plan.core_hours(), rel=0.05)
    assert 0.5 < coarse.core_hours() * 8 / plan.core_hours() < 0.9
    assert plan_of("simulate.softening=50").softening == 0.05
    gated = Plan(read_config(CONFIG))  # 183 core seconds a cluster were measured on four
    assert 3600 * gated.core_hours() / gated.boxes == pytest.approx(180, rel=0.1)
    assert plan.cost(int(np.argmax(plan.mass))) > plan.cost(int(np.argmin(plan.mass)))


@pytest.fixture
def first(tmp_path):
    """A plan of one small box, and the folders of its run."""
    folder = Folder(tmp_path)
    folder.draws.mkdir(parents=True)
    folder.chunks.mkdir()
    return plan_of(*SMALL), folder


@pytest.fixture(scope="module")
def evolved(tmp_path_factory):
    """That box evolved to the end: plan, folders, what the gas rule was told, and the last state."""
    folder, plan, told, states = Folder(tmp_path_factory.mktemp("evolved")), plan_of(*SMALL), [], []
    folder.draws.mkdir(parents=True)
    folder.chunks.mkdir()

    def settle(*args):
        told.extend(args)
        return real(*args)

    real = box.settle
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(box, "settle", settle)
        box.run_box(plan, folder, 0, "{}", 1, states.append)
    return plan, folder, told, states[-1]


def test_potential_and_binding_have_units(evolved):
    """phi climbs by what G M/r^2 says, and the binding energy is about that of an NFW halo, G M200c/R200c."""
    plan, folder, told, _ = evolved
    (halo, formed, retention, power), x, phi, _, particle, side, b = told[0][0], *told[1:]
    rows = np.load(folder.rows(0))
    assert 0.3 < formed < 1 and rows["retention"][0] == retention and rows["polytropic_index"][0] == power
    assert power == box.index(formed, box.scatter(plan.seed, 0, 1)[1][0]) != box.index(formed)
    assert folder.chunk(0).exists() and not folder.draw(0).exists()
    r = np.linalg.norm(wrapped(x - halo.centre, side), axis=1)
    order = np.argsort(r)
    mass = particle * b.Om0 / b.Ob0 * (np.arange(len(r)) + 1)
    climb = np.cumsum(G_MPC * mass[:-1] / np.maximum(r[order][:-1], 0.1) ** 2 * np.diff(r[order]))
    middle, edge = (np.flatnonzero(np.abs(r[order] / halo.radius_200m - at) < 0.1) for at in (0.5, 1.2))
    assert np.mean(phi[order][edge]) - np.mean(phi[order][middle]) == pytest.approx(np.mean(climb[edge]) - np.mean(climb[middle]), rel=0.15)
    assert 0.65 < halo.depth / (G_MPC * halo.mass_200c / halo.radius_200c) < 1.3


def test_velocities_are_those_that_bind_the_cluster(evolved):
    """Each particle has its own, in km/s: twice their energy within R200c is the binding energy, and some more for what falls in; none of all."""
    plan, folder, _, state = evolved
    with h5py.File(folder.chunk(0)) as f:
        x, v = (np.concatenate([f[f"PartType{k}/{name}"][:].astype(float) for k in (0, 1)]) for name in ("Coordinates", "Velocities"))
    with np.load(folder.rows(0)) as row:
        centre, radius, mass = (row[k][0] for k in ("position", "radius_200c", "mass_200c"))
    b = plan.background
    near = np.linalg.norm(wrapped(x / 1e3 / b.h - centre, plan.cell), axis=1) < radius
    weight = np.repeat([plan.m_gas, plan.m_dm], plan.n_box)
    assert v == pytest.approx(70 * np.concatenate([state.p[plan.n_box :], state.p[: plan.n_box]]), rel=1e-6)
    own = v[near] - np.average(v[near], axis=0, weights=weight[near])
    assert 0.7 < np.average(np.sum(own**2, axis=1), weights=weight[near]) / (G_MPC * mass / radius) < 2
    assert np.linalg.norm(np.average(v, axis=0, weights=weight)) < 0.01 * np.sqrt(np.mean(own**2))


def test_a_box_is_saved_on_the_way_and_taken_up_there(first, monkeypatch):
    plan, folder = first
    monkeypatch.setattr(box, "SAVE_EVERY", 0.0)
    steps = []

    def after(state):
        steps.append((state.steps, folder.draw(0).exists()))
        if state.steps == 4:
            folder.draw(0).rename(folder.draws / "kept")
            monkeypatch.setattr(box.State, "save", lambda *args: None)  # as killed: nothing more is written
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        box.run_box(plan, folder, 0, "{}", 1, after)
    assert steps == [(1, True), (2, True), (3, True), (4, True)]
    (folder.draws / "kept").rename(folder.draw(0))
    monkeypatch.setattr(box, "sphere_of", None)  # a box that has begun needs no coarse ones

    def stop(state):
        steps.append(state.steps)
        raise UserError("far enough", "here", "-")

    with pytest.raises(UserError):
        box.run_box(plan, folder, 0, "{}", 1, stop)
    assert steps[-1] == 4  # the state after step 3 was the last that was written


def test_masses_of_coarse_boxes_are_kept_until_the_box_is_there(first, evolved, monkeypatch):
    """A run that was stopped in its second coarse box goes on with that one; a finished box leaves none of them."""
    plan, folder = first
    made, real = [], CoarseBoxes._evolve

    def evolve(self, sphere, lattice):
        made.append((sphere, lattice))
        return real(self, sphere, lattice)

    def stop(state):
        raise Stopped("as by a signal")

    monkeypatch.setattr(CoarseBoxes, "_evolve", evolve)
    with pytest.raises(Stopped):
        box.run_box(plan, folder, 0, "{}", 1, stop, lambda state: stop(state) if len(made) == 2 else None)
    kept = folder.draw(0).with_name("coarse_000000.json")
    assert len(json.loads(kept.read_text())["masses"]) == 1 and not folder.draw(0).exists()
    with pytest.raises(Stopped):
        box.run_box(plan, folder, 0, "{}", 1, stop)
    assert made[2] == made[1] and len(set(made)) == len(made) - 1 == len(json.loads(kept.read_text())["masses"])
    _, done, _, _ = evolved
    assert list(done.draws.iterdir()) == [done.rows(0)]


def test_smoothing_lengths_know_no_walls():
    x = np.random.default_rng(1).uniform(0, 1, (800, 3)) ** 1.5 * 10
    h, number = box._smoothing(x, 10.0, True, 1)
    other, again = box._smoothing((x + [4.0, 5.0, 9.0]) % 10, 10.0, True, 1)
    assert h == pytest.approx(other, rel=1e-5) and number == pytest.approx(again, rel=1e-4)


def test_of_one_box_the_halos_in_range_are_taken_by_falling_mass_and_of_a_clusters_box_its_own():
    """As they are where the gas has settled: there the first is out of the range, and the third in it."""
    began = [box.Halo(np.full(3, at), m, 2.0, m, 1.0, m, 1.3, 1e6) for at, m in ((2.0, 1.4e15), (22.0, 6e14), (40.0, 4e14), (50.0, 1e14))]
    settled = {2.0: 1.6e15, 22.0: 7e14, 40.0: 9e14, 50.0: 1e14}
    written = SimpleNamespace(at=lambda centre: replace(began[0], centre=centre, mass_200m=settled[centre[0]]))
    each = [(halo, 0.5, -1.0, 1.2) for halo in began]
    one_box = plan_of("simulate.box=60", "simulate.mass_range=[5e14, 1.5e15]")
    rows = box._as_written(one_box, written, each)
    assert [(row[0].centre[0], row[0].mass_200m, row[1:]) for row in rows] == [(x, settled[x], (0.5, -1.0, 1.2)) for x in (40.0, 22.0)]
    (own,) = box._as_written(plan_of(*SMALL), written, [each[0]])
    assert own[0].mass_200m == 1.6e15
    with pytest.raises(UserError, match="no halo of 5e\\+14 to 1.5e\\+15 Msun, its heaviest has 1.6e\\+15"):
        box._as_written(one_box, written, [each[0], each[3]])


def test_gas_differs_between_halos_boxes_and_seeds_and_comes_again():
    """What a halo kept knows nothing of how flat its core is."""
    drawn = {(seed, number): np.array(box.scatter(seed, number, 200)) for seed in (1, 2) for number in (0, 1, 2)}
    assert len(np.unique(np.concatenate(list(drawn.values())))) == 6 * 2 * 200
    assert np.array_equal(drawn[2, 1][:, :5], box.scatter(2, 1, 5))
    assert all(abs(x.mean()) < 0.3 and 0.8 < x.std() < 1.2 for pair in drawn.values() for x in pair)
    assert abs(np.corrcoef(np.concatenate(list(drawn.values()), axis=1))[0, 1]) < 0.1
