"""Shards: the virtual dataset shows what was drawn, wherever it is moved; what is missing, damaged or foreign is said."""

import os
import shutil

import h5py
import numpy as np
import pytest

from hpcdiff.config import Config
from hpcdiff.errors import UserError
from hpcdiff.sample import shards as shards_module
from hpcdiff.sample.deal import PIXELS, SHARES, batch_rows, batches_left
from hpcdiff.sample.shards import Shards, boxes
from hpcdiff.samples import find_shards, verify_shard

VIEWS, S, NPIX = np.array([3, 8, 9, 20, 31]), 4, 6
FIELDS = ["gas", "dm"]
EXEMPT = ("run.dir", "sample.batch_size")


def whole_maps() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(len(VIEWS), S, NPIX, NPIX)).astype(np.float32) for name in FIELDS}


def header(seed: int = 0) -> dict:
    config = Config()
    config.run.seed = seed
    return {"config": config.resolved("run", "sample"), "inputs": {"maps": "a", "model": "b"}}


def shards_of(folder, seed: int = 0) -> Shards:
    return Shards(folder, header(seed), EXEMPT, FIELDS, VIEWS, (S, NPIX, NPIX))


def write(shards: Shards, positions: np.ndarray) -> None:
    maps = {name: m.reshape(-1, NPIX, NPIX)[positions] for name, m in whole_maps().items()}
    shards.write(VIEWS[positions // S], positions % S, maps)


def written(folder, size: int = 7, seed: int = 0) -> Shards:
    """All samples in shards of `size` rows, not published."""
    shards = shards_of(folder, seed)
    shards.open()
    for batch in batches_left(np.zeros((len(VIEWS), S), bool), size):
        write(shards, batch)
    return shards


def read(path) -> dict[str, np.ndarray]:
    with h5py.File(path) as f:
        return {name: f["samples"][name][:] for name in f["samples"]}


@pytest.mark.parametrize("size", [1, 3, 4, 7, 11, 20, 64])
def test_the_virtual_dataset_is_what_was_drawn(tmp_path, size):
    run = tmp_path / "run"
    run.mkdir()
    written(run, size).publish({"seed": 0})
    assert not (run / "samples.partial").exists()
    shutil.move(run, tmp_path / "moved")
    os.symlink(tmp_path / "moved", tmp_path / "link")
    os.symlink(tmp_path / "moved" / "samples.h5", tmp_path / "linked.h5")
    for path in (tmp_path / "moved" / "samples.h5", tmp_path / "link" / "samples.h5", tmp_path / "linked.h5"):
        maps = read(path)
        assert maps.keys() == set(FIELDS)
        for name, expected in whole_maps().items():
            assert maps[name].dtype == np.float32 and np.array_equal(maps[name], expected)
        assert len(find_shards(path)) == -(-len(VIEWS) * S // size)
        for shard in find_shards(path):
            verify_shard(shard)


def test_rows_out_of_order_and_with_holes_find_their_place():
    rng = np.random.default_rng(1)
    for _ in range(50):
        positions = rng.permutation(len(VIEWS) * S)[: rng.integers(1, 20)]
        if rng.random() < 0.5:
            positions = np.sort(positions)
        target = np.full((len(VIEWS), S), -1)
        for box, rows in boxes(positions, S):
            target[box] = np.arange(len(positions))[rows].reshape(target[box].shape)
        assert np.array_equal(target.ravel()[positions], np.arange(len(positions)))
        assert (target >= 0).sum() == len(positions)


def test_a_missing_or_shortened_shard_is_an_error_and_no_number(tmp_path):
    written(tmp_path).publish({})
    path = tmp_path / "samples.h5"
    shard = find_shards(path)[1].path
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    with pytest.raises(UserError, match="bytes"):
        find_shards(path)
    shard.unlink()
    with pytest.raises(UserError, match=f"missing.*{shard.name}"):
        find_shards(path)
    assert np.isnan(read(path)["gas"]).sum() == 7 * NPIX**2
    shutil.rmtree(tmp_path / "samples.shards")
    with pytest.raises(UserError, match="missing"):
        find_shards(path)


def test_a_flipped_bit_and_a_shard_of_another_run_have_another_checksum(tmp_path):
    for name, seed in (("ours", 0), ("theirs", 1)):
        (tmp_path / name).mkdir()
        written(tmp_path / name, seed=seed).publish({})
    path = tmp_path / "ours" / "samples.h5"
    shards = find_shards(path)
    unfinished = shards_of(tmp_path)
    unfinished.open()
    shutil.copy(shards[0].path, unfinished.folder)
    assert unfinished.finished().sum() == 7
    shutil.copy(find_shards(tmp_path / "theirs" / "samples.h5")[1].path, unfinished.folder)
    with pytest.raises(UserError, match="another run"):
        unfinished.finished()
    with h5py.File(shards[0].path, "r+") as f:
        f["samples/dm"][2, 1, 1] += 1
    with pytest.raises(UserError, match="checksum"):
        verify_shard(shards[0])
    verify_shard(shards[1])
    with h5py.File(shards[1].path, "r+") as f:
        f["catalog/sample"][0] += 1
    with pytest.raises(UserError, match="checksum"):
        verify_shard(shards[1])


def test_a_file_without_shards_has_none(tmp_path):
    with h5py.File(tmp_path / "samples.h5", "w") as f:
        f["samples/gas"] = np.zeros((1, 1, 2, 2), np.float32)
    assert find_shards(tmp_path / "samples.h5") == []


def test_what_is_whole_is_kept_and_the_rest_drawn_again(tmp_path):
    written(tmp_path)
    paths = sorted((tmp_path / "samples.partial").glob("part-*"))
    paths[0].write_bytes(paths[0].read_bytes()[:200])
    with h5py.File(paths[2], "r+") as f:
        f["samples/gas"][0, 0, 0] += 1
    (tmp_path / "samples.partial" / f".{paths[1].name}.77.tmp").write_bytes(b"half")
    shards = shards_of(tmp_path)
    shards.open()
    have = shards.finished()
    expected = np.zeros(len(VIEWS) * S, bool)
    expected[7:14] = True
    assert np.array_equal(have.ravel(), expected)
    assert [p.name for p in (tmp_path / "samples.partial").iterdir() if p.name != "run.json"] == [paths[1].name]
    with pytest.raises(UserError, match="13 samples are missing"):
        shards.publish({})
    assert not (tmp_path / "samples.h5").exists()
    for batch in batches_left(have, 5):  # another batch size
        write(shards, batch)
    shards.publish({})
    for name, expected in whole_maps().items():
        assert np.array_equal(read(tmp_path / "samples.h5")[name], expected)


def test_killed_before_the_last_rename_nothing_is_drawn_again(tmp_path):
    written(tmp_path).publish({})
    (tmp_path / "samples.h5").unlink()
    shards = shards_of(tmp_path)
    shards.open()
    assert shards.finished().all() and not (tmp_path / "samples.shards").exists()


def test_many_shards_become_few_since_a_reader_holds_them_all_open(tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "MOST", 6)
    (tmp_path / "ours").mkdir()
    written(tmp_path / "ours", 1).publish({})
    shards = find_shards(tmp_path / "ours" / "samples.h5")
    assert len(shards) == 5  # of 20
    for shard in shards:
        verify_shard(shard)
    for name, expected in whole_maps().items():
        assert np.array_equal(read(tmp_path / "ours" / "samples.h5")[name], expected)
    (tmp_path / "killed").mkdir()
    unfinished = written(tmp_path / "killed", 1)
    many = sorted(unfinished.folder.glob("part-*"))
    shutil.copy(shards[1].path, unfinished.folder)  # as a kill between a join and the removal of what was joined leaves it
    os.truncate(many[9], 100)
    have = unfinished.finished()
    assert (~have.ravel()).nonzero()[0].tolist() == [9]
    assert not any(path.exists() for path in many[5:8]) and many[4].exists()
    write(unfinished, np.array([9]))
    os.truncate(many[-1], 100)
    with pytest.raises(UserError, match=many[-1].name):
        unfinished.publish({})
    unfinished.finished()
    write(unfinished, np.array([19]))
    unfinished.publish({})
    for name, expected in whole_maps().items():
        assert np.array_equal(read(tmp_path / "killed" / "samples.h5")[name], expected)


def test_a_damaged_shard_is_not_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "MOST", 2)
    unfinished = written(tmp_path, 3)
    path = sorted(unfinished.folder.glob("part-*"))[1]
    with h5py.File(path, "r+") as f:
        f["samples/gas"][0, 0, 0] += 1
    with pytest.raises(UserError, match=f"checksum.*{path.name}"):
        unfinished.publish({})
    assert path.exists() and not (tmp_path / "samples.h5").exists()


def test_other_settings_are_refused_by_name(tmp_path):
    written(tmp_path)
    with pytest.raises(UserError, match="run.seed was 0 and is now 1"):
        shards_of(tmp_path, seed=1).open()
    (tmp_path / "samples.partial" / "run.json").write_text("[]")
    with pytest.raises(UserError, match="cannot be read"):
        shards_of(tmp_path).open()


def test_batches_are_the_same_for_any_ranks_and_no_sample_is_lost():
    assert batch_rows(10000, 64, 128) == 64 and batch_rows(10, 64, 16) == 10
    for total, npix in ((4, 128), (30, 128), (1000, 128), (200, 64)):
        size = batch_rows(total, 64, npix)
        assert size * npix**2 <= max(PIXELS, total * npix**2 // SHARES + npix**2)  # few views are shared by many ranks
        assert -(-total // size) >= min(total, SHARES) * min(1, npix**2 / PIXELS) * 0.9
    have = np.zeros((5, 4), bool)
    have[1, 2:] = have[3] = True
    left = batches_left(have, 3)
    assert np.array_equal(np.concatenate(left), np.flatnonzero(~have.ravel())) and max(map(len, left)) <= 3
    undisturbed = batches_left(np.zeros((5, 4), bool), 3)
    assert all(any(set(part) <= set(batch) for batch in undisturbed) for part in left)
