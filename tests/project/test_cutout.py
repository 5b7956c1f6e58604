"""Who sees which particle: against a search by brute force, across the edges of the box, and who reads which rows."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from scipy.spatial import cKDTree
from test_project import contents
from tiny_box import write_config, write_halos

from hpcdiff.project.__main__ import main
from hpcdiff.project.cutout import Reach, merge_runs, ranges, share_of_runs
from hpcdiff.project.members import Groups, Members
from hpcdiff.project.views import frames, sightlines
from hpcdiff.snapshot import Snapshot
from hpcdiff.snapshot.cells import Cells

sys.path.insert(0, str(Path(__file__).parents[1] / "snapshot"))
import dialect_files  # noqa: E402
from dialect_files import physical  # noqa: E402

BOX = 30.0


def reach_of(position: np.ndarray, directions: np.ndarray, axes: tuple[int, ...], wide: float, deep: float) -> Reach:
    """Every halo seen along the same sightlines and axes, half as wide and half as deep as given."""
    sightline, axis = np.repeat(directions, len(axes), axis=0), np.tile(np.array(axes), len(directions))
    frame = np.concatenate([frames(sightline, axis)] * len(position))
    n = len(sightline)
    full = np.ones(len(frame))
    return Reach.of_views(position, frame, wide * full, deep * full, n * np.arange(len(position)), BOX)


def cloud(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A table of index, position, h: clumps in a smooth background, kernels from tiny to wider than a map; and 40 clumps' centres."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, BOX, (40, 3))
    centres[:5] = [[0.01, 29.99, 15], [0.2, 29.5, 15.5], [29.9, 0.0, 0.0], [15, 15, 15], [15.3, 15.2, 14.8]]  # at edges, overlapping
    near = centres[rng.integers(40, size=n // 2)] + rng.normal(0, 1, (n // 2, 3))
    position = np.concatenate([near, rng.uniform(0, BOX, (n - n // 2, 3))]) % BOX
    return np.column_stack([np.arange(n), position, 10 ** rng.uniform(-2, 1.0, n)]), centres


def touching(table: np.ndarray, centre: np.ndarray, frame: np.ndarray, wide: float, deep: float) -> np.ndarray:
    """Rows of which some periodic image touches the view: its kernel the map, its centre within the depth."""
    touches = np.zeros(len(table), bool)
    for shift in np.stack(np.meshgrid(*[[-BOX, 0, BOX]] * 3), axis=-1).reshape(-1, 3):
        seen = (table[:, 1:4] + shift - centre) @ frame.T
        touches |= (np.abs(seen[:, 2]) < deep) & (np.abs(seen[:, :2]).max(axis=1) < wide + table[:, 4])
    return touches


@pytest.mark.parametrize(
    ("n_lines", "axes", "wide", "deep"), [(1, (0, 1, 2), 2.0, 2.0), (1, (2,), 1.0, 15.0), (3, (0, 2), 2.0, 1.0), (2, (1,), 1.0, 6.0)]
)
def test_no_particle_that_a_view_shows_is_missed(n_lines, axes, wide, deep):
    table, centres = cloud(4000)
    directions = sightlines(n_lines)
    halo, row = reach_of(centres, directions, axes, wide, deep).pairs("gas", table)
    found = np.zeros((40, len(table)), bool)
    found[halo, row] = True
    assert found.sum() == len(halo)  # no pair twice
    for m in range(40):
        for direction in directions:
            for axis in axes:
                frame = frames(direction[None], np.array([axis]))[0]
                assert not (touching(table, centres[m], frame, wide, deep) & ~found[m]).any()


@pytest.mark.parametrize("n_lines", [1, 3])
@pytest.mark.parametrize("n_halos", [1, 40, 3000])
def test_pairs_are_those_of_a_search_by_brute_force(n_halos, n_lines):
    table, centres = cloud(2000, seed=3)
    rng = np.random.default_rng(1)
    centres = np.concatenate([centres, rng.uniform(0, BOX, (max(n_halos - 40, 0), 3))])[:n_halos]
    reach = reach_of(centres, sightlines(n_lines), (0, 1, 2), 1.5, 3.0)
    halo, row = reach.pairs("gas", table)
    assert (np.diff(row) >= 0).all()
    for m in range(0, n_halos, max(1, n_halos // 40)):
        d = table[:, 1:4] - centres[m]
        d -= BOX * np.rint(d / BOX)
        limit = reach.near[m] + reach.slope[m] * table[:, 4:5]
        inside = (np.abs(d) < limit).all(axis=1)
        along = d @ reach.line[reach.first[m] : reach.first[m + 1]].T
        across2 = (d**2).sum(axis=1)[:, None] - along**2
        cylinder = ((np.abs(along) < 3.0 * (1 + 1e-9)) & (across2 < 2 * (1.5 * (1 + 1e-9) + table[:, 4:5]) ** 2)).any(axis=1)
        expected = np.flatnonzero(inside & (cylinder | (limit > BOX / 2).any(axis=1)))
        assert np.array_equal(row[halo == m], expected)


def test_threads_and_subsets_change_nothing():
    table, centres = cloud(30_000)
    reach = reach_of(centres, sightlines(2), (0, 1, 2), 1.5, 1.5)
    halo, row = reach.pairs("gas", table)
    for other in reach.pairs("gas", table, threads=3), reach.subset(np.arange(40)).pairs("gas", table):
        assert np.array_equal(halo, other[0]) and np.array_equal(row, other[1])
    some = np.array([0, 1, 17, 39])
    mine, rows = reach.subset(some).pairs("gas", table)
    for k, m in enumerate(some):
        assert np.array_equal(rows[mine == k], row[halo == m])


def test_deep_narrow_views_do_not_bring_the_whole_cube():
    """A column of 2 x 2 x 28 of the box, along z: what is sent is near the column's own volume."""
    rng = np.random.default_rng(0)
    table = np.column_stack([np.arange(50_000), rng.uniform(0, BOX, (50_000, 3)), np.full(50_000, 0.1)])
    halo, _ = reach_of(np.full((1, 3), 15.0), sightlines(1), (2,), 1.0, 14.0).pairs("gas", table)
    assert len(halo) / 50_000 == pytest.approx(2.2**2 * 28 / BOX**3, rel=0.15)


def test_members_and_groups_see_their_own():
    rng = np.random.default_rng(0)
    number = rng.integers(0, 9, 500)
    number.sort()
    length = np.bincount(number, minlength=9)
    start = np.cumsum(length) - length
    members = Members({"dm": start}, {"dm": length})
    index = np.sort(rng.choice(500, 300, replace=False))  # some rows were left out, as winds are
    table = np.column_stack([index, np.zeros((300, 5)), number[index]])
    for cutout in members, Groups(np.arange(9)):
        some = np.array([7, 2, 3])
        halo, row = cutout.subset(some).pairs("dm", table)
        for k, m in enumerate(some):
            assert np.array_equal(row[halo == k], np.flatnonzero(number[index] == m))
    runs = members.subset(np.array([2, 3, 7])).runs(SimpleNamespace(), "dm")
    assert runs.tolist() == [[start[2], start[4]], [start[7], start[8]]]


SIDE = BOX / 10


def indexed(position: np.ndarray, has_h: bool) -> tuple[SimpleNamespace, np.ndarray]:
    """A snapshot with an index of 10^3 cells that bound their particles tightly, and its particles' positions cell by cell."""
    cell = (position // SIDE).astype(int) @ [100, 10, 1]
    position, cell = position[np.argsort(cell, kind="stable")], np.sort(cell)
    start = np.flatnonzero(np.diff(cell, prepend=-1))
    low, high = np.minimum.reduceat(position, start), np.maximum.reduceat(position, start)
    cells = Cells(start, np.append(start[1:], len(position)), low, high, np.full(3, SIDE))
    about = {"has_h": {"dm": has_h}, "columns": {"dm": {"support": None} if has_h else {}}, "box": BOX}
    return SimpleNamespace(cells=lambda kind: cells, count=lambda kind: len(position), **about), position


def lumps(rng: np.random.Generator) -> np.ndarray:
    """Particles of 1000 cells: 64 or 65 in a point, or in two opposite corners, or a few hundred everywhere in the cell."""
    parts = []
    for corner in np.ndindex(10, 10, 10):
        n, shape = (rng.integers(64, 66), rng.integers(3)) if rng.random() < 0.9 else (rng.integers(100, 300), 2)
        inside = rng.uniform(0, 0.01, (n, 3)) + [0.0, 0.3, 0.6][rng.integers(3)] if shape == 0 else rng.random((n, 3))
        if shape == 1:
            inside = 0.01 * inside + np.where(np.arange(n) < n // 2, 0.0, 0.98)[:, None]
        parts.append((np.array(corner) + inside) * SIDE)
    return np.concatenate(parts)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2,)])
@pytest.mark.parametrize("has_h", [True, False])
def test_rows_that_no_halo_can_see_are_not_read(has_h, axes):
    """Every particle that is seen lies in a run that is read: kernels as wide as a cell, or found from neighbours."""
    rng = np.random.default_rng(0)
    snapshot, position = indexed(lumps(rng), has_h)
    h = rng.uniform(0, SIDE, len(position)) if has_h else cKDTree(position, boxsize=BOX).query(position, k=[65])[0][:, 0]
    if has_h:
        h[::10] = SIDE
    seen, shares = 0, []
    for centre in rng.uniform(0, BOX, (30, 3)):
        reach = reach_of(centre[None], sightlines(1), axes, 1.0, 1.0)
        runs = reach.runs(snapshot, "dm")
        read = np.zeros(len(position), bool)
        read[ranges(runs[:, 0], runs[:, 1])] = True
        _, row = reach.pairs("dm", np.column_stack([np.arange(len(position)), position, h]))
        assert read[row].all()
        seen += len(row)
        shares.append(read.mean())
    assert seen > 3_000 and np.mean(shares) < (0.2 if has_h else 0.75)


@pytest.mark.parametrize(("n", "further", "read"), [(64, 0.0, True), (65, 0.0, True), (65, 0.4, False)])
def test_a_kernel_reaches_to_the_other_corner_of_its_cell(n, further, read):
    """33 particles in one corner and the rest in the opposite one: with 65 kernels are sqrt(3) cells wide, with 64 some are wider.

    The cell is read where a halo sees such a kernel, and not where it is just out of reach.
    """
    position = 15 + SIDE * np.where(np.arange(n) < 33, 0.01, 0.99)[:, None] + np.linspace(0, 1e-6, n)[:, None] * np.ones(3)
    far = 1.0 + np.linspace(0, 0.5, 200)[:, None] * np.ones(3)
    snapshot, position = indexed(np.concatenate([position, far]), False)
    h = cKDTree(position, boxsize=BOX).query(position, k=[65])[0][:, 0]
    reach = reach_of(np.array([[15.03 - 5.9 - further, 15.03, 15.03]]), sightlines(1), (0, 1, 2), 1.0, 1.0)
    runs, mine = reach.runs(snapshot, "dm"), np.flatnonzero(position[:, 0] > 10)
    _, row = reach.pairs("dm", np.column_stack([np.arange(len(position)), position, h]))
    assert np.isin(mine[0], ranges(runs[:, 0], runs[:, 1])) == read and np.isin(mine, row).any() == read


def test_many_halos_leave_out_the_same_cells():
    """All halos at once read what each of them reads; what was found is kept for the next call."""
    rng = np.random.default_rng(1)
    snapshot, _ = indexed(rng.uniform(0, BOX, (30_000, 3)) ** 1.5 / BOX**0.5, False)
    centres = rng.uniform(0, 8, (50, 3))
    every = reach_of(centres, sightlines(1), (0, 1, 2), 0.5, 0.5)
    parts = [reach_of(c[None], sightlines(1), (0, 1, 2), 0.5, 0.5).runs(snapshot, "dm") for c in centres]
    wanted = np.unique(np.concatenate([ranges(p[:, 0], p[:, 1]) for p in parts]))
    runs = every.runs(snapshot, "dm")
    assert np.array_equal(ranges(runs[:, 0], runs[:, 1]), wanted) and 0.1 < len(wanted) / 30_000 < 0.95
    assert every.runs(snapshot, "dm") is runs and every.runs(indexed(np.full((64, 3), 25.0), False)[0], "dm").tolist() == [[0, 64]]


def test_without_an_index_or_a_bound_all_is_read():
    snapshot, position = indexed(np.random.default_rng(0).uniform(0, BOX, (5000, 3)), True)
    everything, reach = [[0, 5000]], reach_of(np.full((1, 3), 3.0), sightlines(1), (0, 1, 2), 1.0, 1.0)
    assert reach.runs(snapshot, "dm").tolist() != everything
    snapshot.columns["dm"].clear()  # then kernels follow from volumes
    assert reach.subset(np.array([0])).runs(snapshot, "dm").tolist() == everything
    snapshot.cells = lambda kind: None
    assert reach.subset(np.array([0])).runs(snapshot, "dm").tolist() == everything


@pytest.mark.parametrize("bounds", [True, False])
def test_maps_with_and_without_the_index_are_the_same(tmp_path, monkeypatch, bounds):
    """SWIFT's gas with its own kernels, and dark matter whose kernels come from neighbours, in lumps: half of it is not read."""
    rng = np.random.default_rng(4)
    data = physical(0.0, n=3000, seed=2)
    data["gas"]["h"] = rng.uniform(0.1, 4.0, 3000)
    position = lumps(rng) * dialect_files.BOX / BOX
    n = len(position)
    data["dm"] = {"position": position, "mass": np.full(n, 5e9), "ids": np.arange(n), "h": np.ones(n)}
    index = {}
    for kind, number in (("gas", 0), ("dm", 1)):
        cell = (data[kind]["position"] // 4.0).astype(int) @ [100, 10, 1]
        order = np.argsort(cell, kind="stable")
        data[kind] = {name: values[order] for name, values in data[kind].items()}
        count = np.bincount(cell, minlength=1000)
        index[f"Counts/PartType{number}"], index[f"OffsetsInFile/PartType{number}"] = count, np.cumsum(count) - count
        if bounds:
            first, x = np.minimum(np.cumsum(count) - count, len(cell) - 1), data[kind]["position"]
            index[f"MinPositions/PartType{number}"] = np.minimum.reduceat(x, first)
            index[f"MaxPositions/PartType{number}"] = np.maximum.reduceat(x, first)
    index["Centres"] = np.array(list(np.ndindex(10, 10, 10))) * 4.0 + 2.0
    for name in ("without", "with"):
        dialect_files.write("swift", tmp_path / f"{name}.hdf5", 0.0, data)
    with h5py.File(tmp_path / "with.hdf5", "r+") as f:
        for name, values in index.items():
            f[f"Cells/{name}"] = values
        f.create_group("Cells/Meta-data").attrs.update({"dimension": [10] * 3, "size": [4.0] * 3, "nr_cells": [1000]})
    write_halos(tmp_path / "halos.hdf5", np.array([[13.0, 9.0, 38.5], [12.0, 12.5, 36.0]]))
    read, rows = Snapshot.read, {}

    def counted(self, kind, start, stop, *a, **k):
        rows[self.paths[0].stem, kind] = rows.get((self.paths[0].stem, kind), 0) + stop - start
        return read(self, kind, start, stop, *a, **k)

    monkeypatch.setattr(Snapshot, "read", counted)
    keys = {"fields": ["dm", "sz"], "width": 2.0, "depth": 2.0, "split": {"train": 1.0, "val": 0.0, "test": 0.0}}
    for name in ("without", "with"):
        config = write_config(tmp_path / "c.yaml", tmp_path / name, tmp_path / f"{name}.hdf5", tmp_path / "halos.hdf5", **keys)
        assert main([str(config)]) == 0
    assert contents(tmp_path / "with/maps.h5") == contents(tmp_path / "without/maps.h5")
    assert rows["with", "gas"] < (0.2 if bounds else 0.4) * rows["without", "gas"]
    if bounds:
        assert rows["with", "dm"] < 0.85 * rows["without", "dm"]


def test_shares_are_disjoint_equal_and_in_order():
    runs = merge_runs([[50, 60], [3, 9], [9, 20], [15, 18], [7, 7], [100, 223]])
    assert runs.tolist() == [[3, 20], [50, 60], [100, 223]]
    for size, stripes in ((1, 1), (2, 1), (7, 1), (200, 1), (1, 5), (2, 5), (7, 3), (200, 2)):
        shares = [share_of_runs(runs, rank, size, 8, stripes) for rank in range(size)]
        pieces = sorted(p for share in shares for p in share)
        rows = np.concatenate([np.arange(a, b) for a, b in pieces])
        assert np.array_equal(rows, ranges(runs[:, 0], runs[:, 1]))
        assert all(0 < b - a <= 8 for a, b in pieces)
        assert all(share == sorted(share) for share in shares)
        counts = [sum(b - a for a, b in share) for share in shares]
        assert max(counts) - min(counts) <= stripes
    owner = [rank for _, rank in sorted((p, rank) for rank in (0, 1) for p in share_of_runs(runs, rank, 2, 8, 5))]
    assert np.count_nonzero(np.diff(owner)) == 9  # they take turns
    assert share_of_runs(merge_runs([]), 0, 2, 8) == []
