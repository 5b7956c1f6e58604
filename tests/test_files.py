"""Atomic writes, hashes, removal, free space."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from hpcdiff import files
from hpcdiff.errors import UserError


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, {"b": 1, "a": 2})
    assert json.loads(path.read_text()) == {"a": 2, "b": 1}

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError):
        files.write_json(path, {"c": 3})
    assert json.loads(path.read_text()) == {"a": 2, "b": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_is_made_with_those_above_it_and_where_none_can_be_it_is_said(tmp_path):
    files.make_folder(tmp_path / "a" / "b")
    files.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    with pytest.raises(UserError, match="no folder can be made here, /proc/no_such/run, choose"):
        files.make_folder("/proc/no_such/run")


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", {"a": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_hashes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 1000)
    assert files.sha256_file(tmp_path / "a") == hashlib.sha256(b"abc" * 1000).hexdigest()
    assert files.sha256_text("abc") == hashlib.sha256(b"abc").hexdigest()


def test_remove_takes_files_folders_and_nothing(tmp_path):
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "f").touch()
    (tmp_path / "link").symlink_to(tmp_path / "d")
    for name in ("link", "f", "none"):
        files.remove(tmp_path / name)
    assert (tmp_path / "d" / "e").is_dir()
    files.remove(tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_free_bytes_of_a_path_that_is_not_there_yet(tmp_path):
    assert files.free_bytes(tmp_path / "x" / "y") > 0


def test_one_alone_makes_a_file_first(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        first = list(pool.map(lambda _: files.made_first(tmp_path / "a"), range(200)))
    assert sum(first) == 1 and (tmp_path / "a").stat().st_size == 0
    with pytest.raises(FileNotFoundError):
        files.made_first(tmp_path / "none" / "a")
