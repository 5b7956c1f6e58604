"""The map file: splits, checksums, restart, and what it refuses."""

from __future__ import annotations

import zlib

import h5py
import numpy as np
import pytest
from conftest import make_maps

from hpcdiff import maps
from hpcdiff.config import Split
from hpcdiff.errors import UserError
from hpcdiff.world import World

NPIX, N = 8, 6


def catalog(n: int = N) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: (10 * rng.random((n, *shape))).astype(kind) for name, (kind, shape) in maps.CATALOG.items()}


def writer(path, **attributes) -> maps.MapWriter:
    attributes = {"config": "a", "inputs": "b", **attributes}
    return maps.MapWriter(path, World(), catalog(), {"gas": {"units": "dimensionless"}, "dm": {}}, NPIX, attributes)


def some_maps(n: int = N) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: rng.random((n, NPIX, NPIX)).astype(np.float32) for name in ("gas", "dm")}


def part(data, a, b):
    return {name: values[a:b] for name, values in data.items()}


def test_the_final_name_appears_only_when_whole_and_what_is_done_is_known(tmp_path):
    path, data = tmp_path / "maps.h5", some_maps()
    w = writer(path)
    assert not w.done.any()
    w.write(2, part(data, 2, 4))
    w.write(0, None)
    w.close()
    assert not path.exists()
    with pytest.raises(UserError, match="not finished"):
        maps.MapFile(path)
    w = writer(path)
    assert np.array_equal(w.done, [0, 0, 1, 1, 0, 0])
    with pytest.raises(UserError, match="4 views did not reach the disk"):
        w.finish()
    with h5py.File(f"{path}.partial", "r+") as f:  # the disk lost a byte of a view that was there
        f["fields/gas"][3, 0, 0] += 1
    w = writer(path)
    assert np.array_equal(w.done, [0, 0, 1, 0, 0, 0])
    w.write(0, data)
    w.finish()
    assert path.exists() and not (tmp_path / "maps.h5.partial").exists()
    whole = maps.MapFile(path)
    for name, values in data.items():
        assert np.array_equal(whole.read(name, np.arange(N)), values)
        assert np.array_equal(whole.read(name, np.array([5, 0, 1])), values[[5, 0, 1]])
    assert whole.verify(np.arange(N)).size == 0
    crc = zlib.crc32(data["gas"][1].tobytes(), zlib.crc32(data["dm"][1].tobytes()))
    assert whole.catalog["checksum"][1] == crc
    with h5py.File(path) as f:
        assert f["fields/gas"].chunks is None and f["fields/gas"].attrs["units"] == "dimensionless"


def test_an_unfinished_file_of_another_config_is_kept_only_if_it_holds_views(tmp_path):
    path = tmp_path / "maps.h5"
    writer(path).close()
    w = writer(path, config="other")  # nothing was in it
    w.write(0, part(some_maps(), 0, 1))
    w.close()
    with pytest.raises(UserError, match="config was"):
        writer(path, config="third")


def test_damage_is_named(tmp_path):
    path = tmp_path / "maps.h5"
    make_maps(path, halos=12)
    whole = maps.MapFile(path)
    with h5py.File(path, "r+") as f:
        f["fields/sz"][4, 1, 1] = np.nan
        f["fields/gas"][7, 2, 2] += 1
    assert np.array_equal(whole.verify(np.arange(12)), [4, 7])
    with pytest.raises(UserError, match="not finite .view 4."):
        whole.read("sz", np.arange(12))
    with pytest.raises(UserError, match="did you mean 'xray'"):
        whole.require(["xrays"], "task.inputs")
    raw = path.read_bytes()
    for content in (b"", raw[: len(raw) // 2], b"text"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a whole HDF5 file"):
            maps.MapFile(path)


def test_a_full_disk_is_foreseen(tmp_path, monkeypatch):
    monkeypatch.setattr("hpcdiff.files.free_bytes", lambda path: 1000)
    with pytest.raises(UserError, match="free some space"):
        writer(tmp_path / "maps.h5")
    assert list(tmp_path.iterdir()) == []


def test_several_ranks_need_parallel_hdf5(tmp_path, monkeypatch):
    class Pair(World):
        size = 2

    monkeypatch.setattr("h5py.get_config", lambda: type("Serial", (), {"mpi": False}))
    with pytest.raises(UserError, match="no parallel HDF5, so 2 ranks cannot write.*one rank works"):
        maps.MapWriter(tmp_path / "maps.h5", Pair(), catalog(), {"gas": {}}, NPIX, {})
    assert list(tmp_path.iterdir()) == []


def test_splits_have_their_fractions_and_are_stable():
    split = Split(train=0.7, val=0.2, test=0.1, seed=3)
    ids = np.arange(20_000)
    parts = maps.split_ids(ids, split)
    assert np.bincount(parts) / 20_000 == pytest.approx([0.7, 0.2, 0.1], abs=0.01)
    assert np.array_equal(maps.split_ids(ids[::7], split), parts[::7])
    other = maps.split_ids(ids, Split(train=0.7, val=0.2, test=0.1, seed=4))
    assert np.mean(parts == other) == pytest.approx(0.49 + 0.04 + 0.01, abs=0.02)  # independent of the first
    assert set(maps.split_ids(ids, Split(train=1.0, val=0.0, test=0.0)).tolist()) == {0}
