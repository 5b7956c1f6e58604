"""SWIFT's spatial index: every particle lies within the bounds of the cell that holds its row."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from dialect_files import BOX, physical, write

from hpcdiff.cosmology import Background
from hpcdiff.snapshot import open_snapshot

SIDE = 4
"""Cells along each side of the box."""


def write_cells(path, bounds: bool, files: int = 1, drift: float = 0.3, z: float = 0.0):
    """A SWIFT snapshot whose gas is ordered by cells, in C order within each of `files`, and has drifted since by `drift` Mpc."""
    data = physical(z, n=500)
    size = BOX / SIDE
    home = np.floor(data["gas"]["position"] / size).astype(int)
    cell = (home[:, 0] * SIDE + home[:, 1]) * SIDE + home[:, 2]
    file = cell % files  # neighbouring cells on different ranks
    order = np.lexsort((cell, file))
    data["gas"] = {name: values[order] for name, values in data["gas"].items()}
    free = data["gas"]["position"] + np.random.default_rng(3).uniform(-drift, drift, (500, 3))
    data["gas"]["position"] = free % BOX
    write("swift", path, z, data)
    number = np.arange(SIDE**3)
    count = np.bincount(cell, minlength=SIDE**3)
    offset = np.zeros(SIDE**3, int)
    for k in range(files):
        mine = number % files == k
        offset[mine] = np.cumsum(count[mine]) - count[mine]
    corner = np.stack(np.unravel_index(number, (SIDE,) * 3), axis=-1) * size
    with h5py.File(path, "r+") as f:
        f["Cells/Centres"] = corner + size / 2
        f.create_group("Cells/Meta-data").attrs.update({"dimension": [SIDE] * 3, "size": [size] * 3, "nr_cells": [SIDE**3]})
        f["Cells/Counts/PartType0"], f["Cells/OffsetsInFile/PartType0"] = count, offset
        f["Cells/Files/PartType0"] = number % files
        if bounds:
            first = np.concatenate([np.flatnonzero(cell[order] == c)[:1] if count[c] else [0] for c in number]).astype(int)
            low = [free[a : a + c].min(axis=0) if c else [0, 0, 0] for a, c in zip(first, count, strict=True)]
            high = [free[a : a + c].max(axis=0) if c else [0, 0, 0] for a, c in zip(first, count, strict=True)]
            f["Cells/MinPositions/PartType0"], f["Cells/MaxPositions/PartType0"] = np.array(low), np.array(high)
    return path


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("bounds", [True, False])
def test_cells_bound_their_particles(tmp_path, bounds, files):
    snapshot = open_snapshot(write_cells(tmp_path / "s.hdf5", bounds, files, z=1.0), Background())
    cells = snapshot.cells("gas")
    assert np.array_equal(cells.start[1:], cells.stop[:-1]) and (cells.start[0], cells.stop[-1]) == (0, 500)
    assert (cells.stop > cells.start).all() and 40 < len(cells.start) <= SIDE**3
    for a, b, low, high in zip(cells.start, cells.stop, cells.low, cells.high, strict=True):
        x = snapshot.read("gas", a, b, gas=False).position
        beyond = np.minimum((x - low) % BOX, (low - x) % BOX)  # 0 at the bound itself
        assert (((x - low + 1e-9) % BOX <= high - low + 2e-9) | (beyond < 1e-9)).all()
        assert (high - low <= (BOX / SIDE + 0.7 if bounds else 3 * BOX / SIDE + 1e-9)).all()


def test_older_names_and_no_files(tmp_path):
    path = write_cells(tmp_path / "s.hdf5", False)
    want = open_snapshot(path, Background()).cells("gas")
    with h5py.File(path, "r+") as f:
        f.move("Cells/OffsetsInFile", "Cells/Offsets")
        del f["Cells/Files"]
    got = open_snapshot(path, Background()).cells("gas")
    assert np.array_equal(got.start, want.start) and np.array_equal(got.low, want.low)


def test_an_index_that_does_not_cover_the_rows_is_not_used(tmp_path):
    path = write_cells(tmp_path / "s.hdf5", True)
    snapshot = open_snapshot(path, Background())
    assert snapshot.cells("dm") is None  # the index has no such type
    with h5py.File(path, "r+") as f:
        count, offset = f["Cells/Counts/PartType0"], f["Cells/OffsetsInFile/PartType0"][:]
        filled = np.flatnonzero(count[:])
        for cell in (filled[np.argmin(offset[filled])], filled[np.argmax(offset[filled])], filled[np.argmax(count[:][filled])]):
            count[cell] -= 1  # a row that no cell holds: behind the first, at the end, somewhere
            assert snapshot.cells("gas") is None
            count[cell] += 1
    assert snapshot.cells("gas") is not None
    assert open_snapshot(write("gadget2", tmp_path / "g.hdf5"), Background()).cells("gas") is None
