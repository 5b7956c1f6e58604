"""Writing a map file: the final name, restart, several runs of rows and ranks, and what is refused."""

from __future__ import annotations

import subprocess
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import LAUNCHERS, environment
from small_file import NPIX, N, catalog, part, some_maps, writer

from hpcdiff import maps
from hpcdiff.errors import UserError
from hpcdiff.world import World


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


def test_what_is_written_has_left_the_process(tmp_path):
    """A run that is killed at any moment keeps its views: bytes of maps and checksums stand in the file after each round."""
    data, path = some_maps(), tmp_path / "maps.h5"
    w = writer(path)
    w.write(1, part(data, 1, 3))
    expected = {"fields/gas": data["gas"][1:3].tobytes()}
    crc = [maps.view_checksum({name: values[k] for name, values in data.items()}) for k in (1, 2)]
    expected["catalog/checksum"] = np.array(crc, "<u4").tobytes()
    raw = path.with_name("maps.h5.partial").read_bytes()
    for name, content in expected.items():
        start = w.file[name].id.get_offset() + w.file[name][:1].nbytes
        assert raw[start : start + len(content)] == content, name
    w.close()


def test_a_view_whose_checksum_is_0_can_be_finished(tmp_path):
    """0 marks a view that was not written, and is also what one view in 2^32 has: the last pixel is chosen so."""
    data = some_maps()
    before = zlib.crc32(data["gas"][2].tobytes()[:-4], zlib.crc32(data["dm"][2].tobytes()))
    data["gas"][2].reshape(-1).view(np.uint32)[-1] = before ^ 0x6DD90A9D  # CRC-32 of the bytes 9d 0a d9 6d is 0
    assert maps.view_checksum({name: values[2] for name, values in data.items()}) == 0
    w = writer(tmp_path / "maps.h5")
    w.write(0, data)
    w.finish()
    assert (tmp_path / "maps.h5").exists()


RUNS = [[(7, 2), (0, 3), (11, 1)], [(3, 4)], [], [(9, 2), (12, 8)]]
"""Runs of rows (first, number) that cover 20 rows between them, unordered, some neighbours."""


@pytest.mark.parametrize("bytes_a_call", [2**31 - 1, 4 * NPIX**2 * 3])
def test_several_runs_of_rows_in_one_round(tmp_path, monkeypatch, bytes_a_call):
    """Whatever the runs and the size of a call, the rows hold what was brought for them, and only they."""
    monkeypatch.setattr("hpcdiff.maps.writer.CALL_BYTES", bytes_a_call)
    data, path = some_maps(20), tmp_path / "maps.h5"
    w = writer(path, 20)
    w.write_many([(a, part(data, a, a + n)) for a, n in RUNS[0]])
    w.write_many([])
    w.close()
    w = writer(path, 20)
    assert np.flatnonzero(w.done).tolist() == [0, 1, 2, 7, 8, 11]
    w.write_many([(a, part(data, a, a + n)) for turn in RUNS[1:] for a, n in turn])
    w.finish()
    whole = maps.MapFile(path)
    for name, values in data.items():
        assert np.array_equal(whole.read(name, np.arange(20)), values)


def test_runs_that_overlap_or_leave_the_file_are_a_fault(tmp_path):
    data, w = some_maps(), writer(tmp_path / "maps.h5")
    for runs in ([(0, 3), (2, 2)], [(5, 2)], [(-1, 2)]):
        with pytest.raises(AssertionError):
            w.write_many([(a, part(data, 0, n)) for a, n in runs])
    assert not maps.layout.intact(w.file, np.arange(N), np.full(N, 1, np.uint32)).any()


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_same_bytes_from_any_number_of_ranks(tmp_path, ranks):
    """Runs dealt to the ranks in turn, so that some have several and some none; in calls of at most three rows."""
    command = [*(LAUNCHERS["mpirun"] if ranks > 1 else LAUNCHERS["alone"])(ranks), "-m", "write_ranks", str(tmp_path / "maps.h5")]
    done = subprocess.run(command, cwd=Path(__file__).parent, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    whole = maps.MapFile(tmp_path / "maps.h5")
    for name, values in some_maps(20).items():
        assert np.array_equal(whole.read(name, np.arange(20)), values)
    assert whole.verify(np.arange(20)).size == 0


@pytest.mark.parametrize("call", ["flush", "close"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_one_rank_whose_disk_refuses_ends_all(tmp_path, ranks, call):
    """The others have come through the same collective call, and wait in no further one."""
    command = [*(LAUNCHERS["mpirun"] if ranks > 1 else LAUNCHERS["alone"])(ranks), "-m", "write_ranks", str(tmp_path / "maps.h5"), call]
    done = subprocess.run(command, cwd=Path(__file__).parent, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and ("disk quota is used up" if call == "close" else "the file cannot be written") in done.stdout
    assert not (tmp_path / "maps.h5").exists()
    w = writer(tmp_path / "maps.h5", 20)
    assert w.done.all()
    w.finish()
