"""A fault of each kind in each stage where it can strike, at a fixed place: the same result after a rerun, or exit 2 with one line.

`benchmarks/faults.py` draws many more at random.
"""

import contextlib
import faulthandler
import hashlib
import os
import shutil
import signal

import h5py
import numpy as np
import pytest
from conftest import make_maps
from fault_cases import Case
from fault_harness import Ended, Harness
from fault_outcomes import difference, refusal_fault
from fault_strikes import Failure, ended_well
from fault_trial import FAILED, REFUSED, SAME, strike

from hpcdiff import checked, errors, maps
from hpcdiff.errors import UserError

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="the shim needs gcc")


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    """A warmed harness with an undisturbed run."""
    it = Harness(tmp_path_factory.mktemp("faults"))
    it.make_base()
    yield it
    it.close()


CASES = [
    # kind, stage, ranks, place, pick, outcome
    ("killed", "simulate", 1, 0.7, 1, SAME),
    ("killed", "project", 1, 0.5, 1, SAME),
    ("killed", "train", 2, 0.6, 1, SAME),
    ("killed", "sample", 1, 0.5, 1, SAME),
    ("killed", "evaluate", 1, 0.5, 1, SAME),
    ("signal", "train", 2, 0.6, 0, SAME),
    ("full disk", "train", 1, 0.4, 0, SAME),
    ("write error", "simulate", 1, 0.5, 0, SAME),
    ("write error", "sample", 1, 0.5, 2, SAME),
    ("read error", "simulate", 1, 0.8, 0, SAME),
    ("read error", "project", 1, 0.5, 2, SAME),
    ("read error", "sample", 1, 0.5, 2, SAME),
    ("flipped bit", "project", 1, 0.6, 2, REFUSED),  # a chunk of the snapshot
    ("flipped bit", "sample", 1, 0.3, 0, REFUSED),  # maps.h5
    ("hung rank", "train", 2, 0.6, 1, SAME),
    ("hung rank", "simulate", 2, 0.5, 1, SAME),
    ("hung rank", "sample", 2, 0.5, 0, SAME),
]


@needs_gcc
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "stage", "ranks", "place", "pick", "outcome"), CASES)
def test_a_fault_changes_no_result(harness, kind, stage, ranks, place, pick, outcome):
    found = strike(harness, Case(stage, kind, ranks, "fork", place, pick))
    if found.result == "skipped":
        pytest.skip(found.detail)
    assert found.result == outcome, found.detail


@needs_gcc
@pytest.mark.slow
def test_the_harness_sees_wrong_results_and_lost_work(harness, monkeypatch):
    """With outputs that differ by one bit, and with a stage that forgets its finished pieces, a case fails."""
    base = harness.base / "1"
    chunk = sorted((base / "snapshot").iterdir())[0]
    with h5py.File(chunk, "r+") as f:
        f["PartType1/Masses"][3] *= 1.0000002
    try:
        found = strike(harness, Case("simulate", "killed", 1, "fork", 0.5, 1))
        assert found.result == FAILED and "WRONG RESULT" in found.detail
    finally:
        with h5py.File(chunk, "r+") as f:
            f["PartType1/Masses"][3] /= 1.0000002
    assert difference("simulate", base, base) is None
    monkeypatch.setattr("fault_trial.pieces", lambda *a: {"snapshot_000000.hdf5": (0, 0)})
    found = strike(harness, Case("simulate", "killed", 1, "fork", 0.7, 1))
    assert found.result == FAILED and "LOST" in found.detail


@needs_gcc
def test_a_flipped_bit_in_any_file_that_is_read_is_refused(harness):
    """Whole files are sampled byte by byte: what reads them never sees another number."""
    base, rng = harness.base / "1", np.random.default_rng(7)

    def content(path, group=None):
        with h5py.File(path) as f:
            found: dict = {}
            f.visititems(lambda name, item: found.update({name: item[()].tobytes()} if isinstance(item, h5py.Dataset) else {}))
            numbers = {k: v for k, v in f["Header"].attrs.items()} if "Header" in f else {}
            return found, {k: np.asarray(v).tobytes() for k, v in numbers.items()}

    for source in (sorted((base / "snapshot").iterdir())[2], base / "halos.hdf5", base / "maps.h5"):
        whole, data = None, source.read_bytes()
        copy = harness.folder / source.name
        read = content if source.name != "maps.h5" else _maps
        noticed = 0
        for place in [None, *rng.integers(len(data), size=150).tolist()]:
            spoiled = bytearray(data)
            if place is not None:
                spoiled[place] ^= 1 << (place % 8)
            copy.write_bytes(spoiled)
            now = _in_a_fork(read, copy)
            if now is None:  # refused; HDF5 1.10 itself may crash over damaged headers
                noticed += 1
                continue
            whole = whole or now
            assert now == whole, f"{source.name} at byte {place}"
        assert noticed > 50, source.name


def _in_a_fork(read, path):
    """SHA-256 of what a reader finds in a file; None if it refuses or crashes."""
    ours, theirs = os.pipe()
    if not (pid := os.fork()):
        faulthandler.disable()
        with contextlib.suppress(OSError, RuntimeError, KeyError, UserError):
            os.write(theirs, hashlib.sha256(repr(read(path)).encode()).digest())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as answer:
        found = answer.read()
    os.waitpid(pid, 0)
    return found or None


def _maps(path):
    file = maps.MapFile(path)
    file.refuse_damaged(np.arange(file.n_views))
    with h5py.File(path) as f:
        about = {k: np.asarray(v).tobytes() for k, v in f.attrs.items() if not isinstance(v, str)}
    return (
        {k: v.tobytes() for k, v in file.catalog.items()},
        {k: file.read(k, np.arange(file.n_views)).tobytes() for k in file.fields},
        about,
    )


def test_blocks_have_checksums_and_an_error_in_closing_is_raised(tmp_path, monkeypatch):
    values = np.random.default_rng(0).normal(size=(70000, 3))
    with checked.create(tmp_path / "a.h5") as f:
        data = checked.put(f, "x/y", values)
        assert data.fletcher32 and data.chunks[0] * 24 <= checked.BLOCK_BYTES
        checked.put(f, "empty", np.zeros((0, 3)))
    with h5py.File(tmp_path / "a.h5") as f:
        checked.read_through(f)
        assert np.array_equal(f["x/y"][:], values) and f["empty"].shape == (0, 3)
        place = f["x/y"].id.get_chunk_info(2).byte_offset + 11
    spoiled = bytearray((tmp_path / "a.h5").read_bytes())
    spoiled[place] ^= 16
    (tmp_path / "a.h5").write_bytes(spoiled)
    with h5py.File(tmp_path / "a.h5") as f, pytest.raises(OSError):
        checked.read_through(f)
    monkeypatch.setattr(h5py.File, "flush", lambda self: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"), checked.closing(h5py.File(tmp_path / "b.h5", "w")) as f:
        f["x"] = 1


def test_a_changed_catalogue_is_refused(tmp_path):
    make_maps(tmp_path / "maps.h5", halos=12)
    with h5py.File(tmp_path / "maps.h5", "r+") as f:
        f["catalog/split"][0] = (f["catalog/split"][0] + 1) % 3
    with pytest.raises(UserError, match="the catalogue differs from its checksum"):
        maps.MapFile(tmp_path / "maps.h5")
    with h5py.File(tmp_path / "maps.h5", "r+") as f:
        del f.attrs["crc32"]
    maps.MapFile(tmp_path / "maps.h5")


def test_a_disk_that_does_not_answer_is_the_users_matter():
    said = errors.disk_error(OSError(5, "Input/output error", "/scratch/maps.h5"))
    assert "Input/output error" in said and "/scratch/maps.h5" in said and "same command again" in said
    assert errors.disk_error(OSError("Can't read data (file read failed: errno = 5)")) is not None
    assert errors.disk_error(ValueError("file read failed")) is None


def test_a_disk_error_is_said_of_the_file_that_it_names_and_of_the_folder_only_if_it_was_written_there():
    reading = OSError(5, "Can't synchronously read data (file read failed: filename = '/data/maps.h5', errno = 5)")
    assert ", /data/maps.h5, " in errors.disk_error(reading, "/scratch/run")
    assert "/scratch/run" not in errors.disk_error(OSError(5, "Input/output error"), "/scratch/run")
    assert errors.disk_error(OSError(28, "No space left on device"), "/scratch/run").startswith("the disk is full, /scratch/run, ")
    assert errors.disk_error(OSError(28, "No space left on device")).startswith("the disk is full, free some space")


def test_a_refusal_must_name_the_file(tmp_path):
    ended = Ended([2], "hpcdiff train: error: damaged, /x/maps.h5, make it again\n", False, 1.0)
    assert refusal_fault("train", ended, tmp_path, tmp_path / "maps.h5") is None
    assert "not named" in refusal_fault("train", ended, tmp_path, tmp_path / "halos.hdf5")
    ended.status = [1]
    assert "exit" in refusal_fault("train", ended, tmp_path)


def test_after_a_fault_only_a_launcher_may_end_otherwise():
    line = "hpcdiff train: error: the disk is full, x, free some space\n"
    ended_well(Ended([2], line, False, 1.0))
    ended_well(Ended([1], line, False, 1.0, launched=True))
    ended_well(Ended([75], "hpcdiff train: stopped by SIGTERM\n", False, 1.0), {75})
    for wrong in ([1], [-signal.SIGSEGV], [0, 1]):
        with pytest.raises(Failure, match="exit"):
            ended_well(Ended(wrong, line, False, 1.0))
    with pytest.raises(Failure, match="2 error lines"):
        ended_well(Ended([2], 2 * line, False, 1.0))


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_tensorboards_thread_prints_no_traceback_of_a_full_disk(tmp_path, capfd):
    from hpcdiff.train.monitor import Monitor

    monitor = Monitor(tmp_path, 0, [])
    monitor.write(12, {"loss": 1.0})
    shutil.rmtree(tmp_path / "tensorboard")
    (tmp_path / "tensorboard").write_text("in the way")  # what its thread writes to is no folder any more
    with pytest.raises(OSError):
        for images in range(24, 60, 12):
            monitor.write(images, {"loss": 1.0})
    monitor.close()
    assert "Traceback" not in capfd.readouterr().err
