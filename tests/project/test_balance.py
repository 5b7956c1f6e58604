"""The plan: every view once, ranks that work alike, nobody above the bound of memory."""

from __future__ import annotations

import numpy as np
import pytest

from hpcdiff.errors import UserError
from hpcdiff.project.balance import Budget, Load, make_plan, size_text, time_text

ROW = 96


def load_of(n: int, seed: int = 0, views: int = 9, slope: float = 1.3, canvas=500_000, map_bytes=250_000) -> Load:
    """A heavy-tailed catalogue: particles and cost follow a mass of Pareto's law, up to 100 times the smallest."""
    mass = np.minimum(np.random.default_rng(seed).pareto(slope, n) + 1, 100)
    rows = (2000 * mass).astype(np.int64)
    return Load(np.full(n, views), np.full(n, 3), rows, rows * ROW, rows * 2e-7, np.full(n, canvas), map_bytes)


def covered(load: Load, plan) -> None:
    """Every view of every halo is in one unit."""
    seen = [np.zeros(n, int) for n in load.views]
    for halo, first, last in zip(plan.halo, plan.first, plan.last, strict=True):
        assert first < last
        seen[halo][first:last] += 1
    assert all((s == 1).all() for s in seen)


@pytest.mark.parametrize("ranks", [1, 2, 7, 64])
def test_every_view_is_dealt_once(ranks):
    load = load_of(500)
    plan = make_plan(load, ranks, Budget.of(0.05))
    covered(load, plan)
    units = np.concatenate([plan.units(rank, turn) for turn in range(plan.turns) for rank in range(ranks)])
    assert np.array_equal(units, np.arange(len(plan.halo)))
    assert (plan.flush < plan.flushes[plan.turn]).all()
    for turn in range(plan.turns):
        assert set(plan.flush[plan.turn == turn]) == set(range(plan.flushes[turn]))


@pytest.mark.parametrize(("n", "ranks", "most"), [(5000, 64, 1.03), (200, 16, 1.05), (9, 2, 1.1), (370_000, 10_000, 1.05)])
def test_ranks_work_alike_on_a_heavy_tailed_catalogue(n, ranks, most):
    """The dearest halo is worth many of a rank's shares in the last case, and is split."""
    load = load_of(n)
    plan = make_plan(load, ranks, Budget.of(4.0))
    assert 1 <= plan.balance < most
    busy = np.zeros((ranks, plan.turns))
    np.add.at(busy, (plan.rank, plan.turn), plan.seconds)
    assert busy.max(axis=0).sum() / busy.mean(axis=0).sum() <= plan.balance * (1 + 1e-9)
    sent = plan.received().sum() / load.row_bytes.sum()
    assert sent < 4  # splitting sends particles more than once, but not without need


def test_halos_without_particles_are_dealt_too():
    load = load_of(6)
    load.rows[:], load.row_bytes[:], load.seconds[:] = 0, 0, 0.0
    covered(load, make_plan(load, 4, Budget.of(1.0)))


def test_a_giant_is_split_by_its_sightlines():
    load = load_of(50, views=96)
    load.rows[7] = load.rows.sum() * 20
    load.seconds[7] = load.seconds.sum() * 200
    plan = make_plan(load, 16, Budget.of(8.0))
    covered(load, plan)
    parts = plan.halo == 7
    assert len(set(plan.rank[parts])) == 16 and plan.balance < 1.1
    assert (plan.first[parts] % 3 == 0).all()  # the three axes of a sightline stay together
    assert (np.bincount(plan.halo)[load.seconds < np.median(load.seconds)] == 1).all()


def test_more_ranks_than_views():
    load = load_of(2, views=3)
    plan = make_plan(load, 10, Budget.of(1.0))
    covered(load, plan)
    assert len(set(plan.rank)) == 6 and plan.turns == 1


@pytest.mark.parametrize("memory", [0.004, 0.02, 0.2])
def test_particles_and_maps_stay_within_the_bound(memory):
    load, budget, ranks = load_of(400, canvas=200_000, map_bytes=100_000), Budget.of(memory), 3
    plan = make_plan(load, ranks, budget)
    covered(load, plan)
    assert plan.received()[~plan.streamed].max() <= budget.received
    needed = plan.received()[~plan.streamed].sum() / (ranks * budget.received)
    assert (~plan.streamed).sum() <= 1.5 * needed + 1  # and no more passes than that takes
    n_views = plan.last - plan.first
    assert (n_views * 200_000 <= budget.canvas).all()
    for turn in range(plan.turns):
        for rank in range(ranks):
            mine = plan.units(rank, turn)
            maps = np.bincount(plan.flush[mine], plan.map_bytes[mine])
            assert maps.max(initial=0) <= budget.maps
            if plan.streamed[turn]:
                assert n_views[mine].sum() * 200_000 <= budget.canvas  # all of them are open at once
    giants = np.unique(plan.halo[plan.streamed[plan.turn]])
    assert np.array_equal(giants, np.flatnonzero(load.row_bytes > budget.received))
    assert len(giants) or memory > 0.01


def test_a_bound_below_one_view_is_refused_and_names_what_would_do():
    load = load_of(3, canvas=8_000_000, map_bytes=4_000_000)
    with pytest.raises(UserError, match="project.memory_gb") as said:
        make_plan(load, 2, Budget.of(0.01))
    enough = float(str(said.value).split("at least ")[1])
    covered(load, make_plan(load, 2, Budget.of(enough)))


def test_the_plan_is_the_same_whoever_makes_it():
    a, b = (make_plan(load_of(300), 12, Budget.of(0.05)) for _ in range(2))
    assert all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("halo", "first", "rank", "turn", "flush"))


def test_shares_of_the_memory_are_no_more_than_all_of_it():
    budget = Budget.of(1.0)
    assert sum(vars(budget).values()) - budget.total <= budget.total == 10**9


def test_numbers_for_people():
    assert (size_text(2.5e9), size_text(1500), time_text(7300), time_text(0.25)) == ("2.5 GB", "1.5 kB", "2.03 h", "0.25 s")
