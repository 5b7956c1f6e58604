"""`maps clear`: the damaged views, and they alone, are computed again, to the same bytes."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from conftest import make_maps
from tiny_box import BOX, particles, write_config, write_halos, write_snapshot

from hpcdiff.lock import Lock
from hpcdiff.maps import MapFile
from hpcdiff.maps.__main__ import main


@pytest.fixture
def path(tmp_path):
    make_maps(tmp_path / "maps.h5", halos=10, npix=8, axes=3, val=0.4, test=0.0)
    return tmp_path / "maps.h5"


def test_project_computes_the_cleared_views_alone(tmp_path, capsys):
    """Damage, verify, clear, project: the bytes of the first run, the same fingerprint, and only the damaged halo's views made."""
    from hpcdiff.project.__main__ import main as project

    centres = np.random.default_rng(5).uniform(0, BOX, (9, 3))
    write_snapshot(tmp_path / "s.hdf5", particles(centres=centres))
    write_halos(tmp_path / "halos.hdf5", centres)
    split = {"train": 0.4, "val": 0.3, "test": 0.3, "seed": 4}
    config = str(write_config(tmp_path / "c.yaml", tmp_path / "run", tmp_path / "s.hdf5", tmp_path / "halos.hdf5", split=split))
    path = tmp_path / "run" / "maps.h5"
    assert project([config]) == 0
    whole, first = path.read_bytes(), MapFile(path)
    assert main(["verify", str(path)]) == 0
    with h5py.File(path, "r+") as f:
        f["fields/gas"][13, 5, 5] *= 2
    assert main(["verify", str(path)]) == 2
    assert main(["clear", str(path)]) == 0
    assert "1 of 27 views are cleared (row 13)" in capsys.readouterr().out
    partial = path.with_name("maps.h5.partial")
    assert not path.exists() and main(["verify", str(partial)]) == 0
    assert "26 of 27 views are whole, 1 are not written yet" in capsys.readouterr().out
    with h5py.File(partial, "r+") as f:  # a mark on a view that must not be made again: it would be lost
        f.attrs["mark"] = 1
    assert project([config]) == 0
    again = MapFile(path)
    assert again.fingerprint == first.fingerprint and again.attributes["mark"] == 1
    for name in first.fields:
        with h5py.File(path) as f:
            offset = f["fields"][name].id.get_offset()
        n = 27 * first.npix**2 * 4
        assert path.read_bytes()[offset : offset + n] == whole[offset : offset + n]
    assert main(["verify", str(path)]) == 0


def test_named_views(path, capsys):
    assert main(["clear", str(path), "--rows=5,17", "--halos", "3"]) == 0
    assert "5 of 30 views are cleared (rows 5, 9, 10, 11, 17)" in capsys.readouterr().out
    with h5py.File(f"{path}.partial") as f:
        assert np.flatnonzero(f["catalog/checksum"][:] == 0).tolist() == [5, 9, 10, 11, 17]


def test_a_whole_file_is_left_alone(path, capsys):
    before = path.read_bytes()
    assert main(["clear", str(path)]) == 0
    assert "nothing was changed" in capsys.readouterr().out and path.read_bytes() == before


def test_what_is_refused(path, tmp_path, capsys):
    before = path.read_bytes()

    def error(*words: str) -> str:
        assert main(["clear", *words]) == 2
        return capsys.readouterr().err

    assert "there is no row 30" in error(str(path), "--rows", "2,30")
    assert "there is no halo 10" in error(str(path), "--halos", "10")
    lock = Lock(tmp_path / ".project.lock")
    assert lock.acquire()
    assert "a project is at work (pid" in error(str(path), "--rows", "2")
    lock.release()
    partial = tmp_path / "maps.h5.partial"
    partial.write_bytes(b"")
    assert "an unfinished map file stands beside it" in error(str(path), "--rows", "2")
    partial.unlink()
    assert path.read_bytes() == before
    with h5py.File(path, "r+") as f:
        f.attrs["config"] = "import: {}\n"
    assert "import them again with --overwrite" in error(str(path), "--rows", "2")
    with h5py.File(path, "r+") as f:
        f.attrs["config"] = "project: {}\n"
        f["catalog/axis"][3] = 7
        del f.attrs["crc32"]
        f["fields/sz"][4] = 0
    assert "more than its maps is damaged" in error(str(path))
    path.rename(partial)
    assert "not finished" in error(str(path))
    for words in ((), ("--rows", "2")):
        assert "not finished" in error(str(partial), *words)
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["maps.h5.partial"]
