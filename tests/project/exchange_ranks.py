"""Run by test_exchange.py on several ranks: every rank gets each particle that its halos see, once, within the bound.

mpirun -n N python exchange_ranks.py SNAPSHOT MEMORY_GB
"""

from __future__ import annotations

import sys

import numpy as np
from tiny_box import BOX

from hpcdiff.cosmology import Background
from hpcdiff.project.balance import Budget
from hpcdiff.project.cutout import Reach
from hpcdiff.project.exchange import Destinations, exchange, windows
from hpcdiff.project.fields import carried, weights
from hpcdiff.project.source import Ledger, Source
from hpcdiff.project.views import frames
from hpcdiff.sections import Project
from hpcdiff.snapshot import open_snapshot
from hpcdiff.world import World, join_world

END = np.iinfo(np.int64).max
HALOS = 12


def source_of(snapshot, reach: Reach, world: World, budget: Budget, ledger: Ledger) -> Source:
    """A source without spheres, with one pixel size."""
    about = np.full(HALOS, 0.1), 64, reach.position, np.zeros((HALOS, 0))
    return Source(snapshot, reach, Project(), world, 1, {}, *about, budget, ledger)


def main(where: str, memory: float) -> None:
    """Three overlapping groups of halos, dealt so that overlaps lie on one rank and on several."""
    world, rng = join_world("project"), np.random.default_rng(5)
    position = rng.uniform(0, BOX, (HALOS, 3))
    position[:4] = [[0.1, 39.9, 20], [0.4, 39.5, 20.5], [39.8, 0.3, 19], [1, 1, 21]]
    eye = frames(np.tile([0.0, 0, 1], (HALOS, 1)), np.full(HALOS, 2))
    reach = Reach.of_views(position, eye, np.full(HALOS, 4.0), np.full(HALOS, 8.0), np.arange(HALOS), BOX)
    snapshot = open_snapshot(where, Background())
    budget, ledger = Budget.of(memory), Ledger()
    source = source_of(snapshot, reach, world, budget, ledger)
    census = source.scan(["gas", "dm"])
    scanned = source.rows_read
    assert sum(world.allgather(scanned)) == 9000  # each row once
    halo = np.concatenate([np.arange(HALOS), [0, 0, 5]])  # two halos are wanted by several ranks
    rank = np.concatenate([np.arange(HALOS) * 7 % world.size, [world.size - 1, 0, 0]])
    to = Destinations.of(halo, rank, HALOS, world.size)
    for kind in ("gas", "dm"):
        whole = snapshot.read(kind, 0, snapshot.count(kind))
        where_ = np.column_stack([whole.index, whole.position, whole.h])
        pairs, rows = reach.pairs(kind, where_)
        assert np.array_equal(census.rows[kind], np.bincount(pairs, minlength=HALOS))
        mine = np.unique(rows[np.isin(pairs, halo[rank == world.rank])])
        names = carried(Project().fields, kind)
        expected = np.column_stack([where_, weights(whole, names, Project())])[mine]
        spans = windows(source, kind, to, world, budget.received)
        assert [low for low, _ in spans[1:]] == [high for _, high in spans[:-1]]
        got, last = [], -1.0
        for low, high in spans:
            tables = exchange(source.parts(kind, to.wanted, low, high, final=False), to, expected.shape[1], world, budget, ledger)
            part = np.concatenate([expected[:0], *tables])
            part = part[np.argsort(part[:, 0])]
            assert not len(part) or part[0, 0] > last  # windows ascend
            last = part[-1, 0] if len(part) else last
            got.append(part)
            assert part.nbytes <= budget.received
            ledger.set("received", 0)
        assert np.array_equal(np.concatenate(got), expected)
    assert 0 < ledger.peak <= budget.total
    read_again = source.rows_read > scanned
    kept = all(block.table is not None for block in source.blocks)
    facts = world.allgather((kept, read_again, len(spans)))
    if world.main:
        print("kept" if all(k for k, _, _ in facts) else "dropped", "windows", facts[0][2], "again", any(a for _, a, _ in facts))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
