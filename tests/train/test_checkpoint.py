"""Checkpoints: shares, manifests, damage."""

import json

import pytest
import torch

from hpcdiff.errors import UserError
from hpcdiff.train import checkpoint
from hpcdiff.world import World


def tensors():
    return {f"t{i}": torch.full((i + 1, 3), float(i)) for i in range(7)}


def save(folder, images, keep=3):
    checkpoint.save(folder, images, tensors(), {"updates": images}, {"a": 1}, keep, World())


@pytest.mark.parametrize("size", [1, 2, 3, 11])
def test_shares_hold_every_tensor_once(size):
    shares = [checkpoint.share(tensors(), rank, size) for rank in range(size)]
    names = [name for s in shares for name in s]
    assert sorted(names) == sorted(tensors())
    if size == 2:
        loads = [sum(t.numel() for t in s.values()) for s in shares]
        assert max(loads) - min(loads) <= 21


def test_what_is_saved_comes_back(tmp_path):
    save(tmp_path, 40)
    manifest, loaded = checkpoint.load_newest(tmp_path, World())
    assert manifest["images"] == 40 and manifest["state"] == {"updates": 40} and manifest["config"] == {"a": 1}
    assert loaded.keys() == tensors().keys() and all(torch.equal(loaded[k], v) for k, v in tensors().items())


def test_only_the_newest_are_kept(tmp_path):
    for images in (10, 20, 30, 40):
        save(tmp_path, images, keep=2)
    assert checkpoint.whole_names(tmp_path) == ["000000000030", "000000000040"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "manifest", "missing", "renamed"])
def test_a_damaged_checkpoint_is_named_set_aside_and_the_one_before_is_taken(tmp_path, capsys, damage):
    save(tmp_path, 10)
    save(tmp_path, 20)
    newest = tmp_path / "000000000020"
    shard = next(newest.glob("shard-*"))
    data = bytearray(shard.read_bytes())
    if damage == "truncate":
        shard.write_bytes(data[:-5])
    elif damage == "flip":
        data[-1] ^= 1
        shard.write_bytes(data)
    elif damage == "manifest":
        (newest / "manifest.json").write_text('{"format": ')
    elif damage == "missing":
        shard.unlink()
    else:
        newest.rename(tmp_path / "000000000021")
    manifest, _ = checkpoint.load_newest(tmp_path, World())
    assert manifest["images"] == 10
    assert "is damaged" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*.damaged"))) == 1


def test_a_save_cut_short_does_not_count(tmp_path):
    save(tmp_path, 10)
    (tmp_path / "000000000020.partial").mkdir()
    assert checkpoint.load_newest(tmp_path, World())[0]["images"] == 10
    save(tmp_path, 20)
    assert not list(tmp_path.glob("*.partial"))


def test_no_checkpoint_at_all(tmp_path):
    assert checkpoint.load_newest(tmp_path / "none", World()) is None


def test_a_full_disk_is_said_and_leaves_the_old_ones(tmp_path, monkeypatch):
    save(tmp_path, 10)
    monkeypatch.setattr("hpcdiff.files.free_bytes", lambda path: 5)
    with pytest.raises(UserError, match="free"):
        save(tmp_path, 20)
    assert checkpoint.whole_names(tmp_path) == ["000000000010"]


def test_names_of_files_in_a_manifest_stay_in_its_folder(tmp_path):
    save(tmp_path, 10)
    path = tmp_path / "000000000010" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][0]["name"] = "../../outside.safetensors"
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError):
        checkpoint.check(path.parent)
