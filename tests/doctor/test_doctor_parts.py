"""What the doctor makes of what it finds: shared GPUs and cores, quotas, stripes, locks, libraries, needs, verdicts."""

import errno
import fcntl
import os
import time

import pytest

from hpcdiff.doctor import disk, folder, libraries, needs, network, ranks
from hpcdiff.doctor.clock import Clock
from hpcdiff.doctor.verdict import FIT, NOT, USABLE, Finding, verdict
from hpcdiff.doctor.verdict import lines as verdict_lines
from hpcdiff.world import World

SMI = """\
0, GPU-aaaa1111-x, 81559, NVIDIA H100 80GB HBM3
1, GPU-bbbb2222-x, 81559, NVIDIA H100 80GB HBM3
2, GPU-cccc3333-x, [N/A], NVIDIA H100 80GB HBM3
"""


def one(rank, cores=(0,), gpu=None, node="n1", **more):
    """A rank's own account."""
    about = {"rank": rank, "local_rank": rank, "host": node, "node": node, "pid": rank, "cores": list(cores), "threads": None}
    about |= {"gpus": [gpu] if gpu else [], "gpu": gpu, "visible": None, "memory_gb": 100.0, "shm_gb": 50.0, "open_files": 65536}
    return {**about, "memlock_gb": None, "seconds_left": None, **more}


def gpu(uuid, name="H100"):
    return {"index": 0, "uuid": uuid, "memory_gb": 80.0, "name": name}


@pytest.mark.parametrize(
    ("visible", "uuids"),
    [
        (None, ["GPU-a", "GPU-b", "GPU-c"]),
        ("2,0", ["GPU-c", "GPU-a"]),
        ("GPU-bbbb", ["GPU-b"]),
        ("", []),
        ("1,7,0", ["GPU-b"]),
        ("MIG-9", ["MIG-9"]),
    ],
)
def test_visible_devices_choose_and_order(visible, uuids):
    found = ranks.chosen(SMI, visible)
    assert [g["uuid"][: len(u)] for g, u in zip(found, uuids, strict=True)] == uuids
    if visible is None:
        assert found[0]["memory_gb"] == pytest.approx(85.52, abs=0.01) and found[2]["memory_gb"] is None


def test_two_ranks_on_one_gpu_are_marked_and_torch_cannot_work_so():
    table = [one(0, [0], gpu("GPU-a")), one(1, [1], gpu("GPU-a")), one(2, [2], gpu("GPU-b")), one(3, [0], gpu("GPU-a"), node="n2")]
    assert ranks.marks(table) == {0: ["GPU shared with rank 1"], 1: ["GPU shared with rank 0"]}
    (finding,) = ranks.judge(table, torch_ranks=True)
    assert finding.bad and "ranks 0-1 share GPUs" in finding.what
    assert not ranks.judge(table, torch_ranks=False)[0].bad  # simulate and project use no GPU
    assert sum("<- GPU shared" in line for line in ranks.lines(table)) == 2


def test_cores():
    bound = [one(0, [0, 1]), one(1, [2, 3]), one(2, [0, 1], node="n2")]
    assert ranks.marks(bound) == {}
    free = [one(r, range(8), threads=2) for r in range(4)]  # not bound, and enough for all
    assert ranks.marks(free) == {}
    assert ranks.marks([one(0, [0, 1]), one(1, [1, 2])]) == {0: ["cores shared with rank 1"], 1: ["cores shared with rank 0"]}
    assert set(ranks.marks([one(r, [0, 1]) for r in range(3)])) == {0, 1, 2}  # three on two cores
    crowd = [one(r, range(4), threads=4) for r in range(2)]
    assert ranks.marks(crowd)[0] == ["4 threads on 4 core(s) of 2 ranks"]
    assert [f.what for f in ranks.judge(crowd, True)] == ["ranks 0-1 have more threads than cores"]
    assert " 0-2,8,10-11 " in ranks.lines([one(0, [0, 1, 2, 8, 10, 11])])[1]


def test_limits_and_time(monkeypatch):
    said = {f.what.split(":")[0]: f for f in ranks.judge([one(0, shm_gb=0.064, open_files=256, seconds_left=300.0)], True)}
    assert (
        any("/dev/shm" in what for what in said)
        and any("256 open files" in what for what in said)
        and any("5 minutes" in what for what in said)
    )
    assert ranks.judge([one(0)], True) == []
    monkeypatch.setattr(ranks.Path, "exists", lambda path: str(path) == "/sys/class/infiniband")
    (finding,) = ranks.judge([one(0, memlock_gb=0.0655)], True)
    assert "0.066 GB of memory may be locked" in finding.what
    assert ranks.judge([one(0), one(1, [1], memlock_gb=64.0)], True) == []
    blind = [one(0, [0], gpu("GPU-a")), one(1, [1])]
    assert any(f.bad and "rank 1 see" in f.what for f in ranks.judge(blind, True))


@pytest.mark.parametrize(("said", "seconds"), [("1-02:03:04", 93784), ("02:03:04", 7384), ("5:00", 300), ("UNLIMITED", None), ("", None)])
def test_the_time_that_is_left_where_slurm_sets_no_variable(tmp_path, monkeypatch, said, seconds):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    stub(tmp_path, monkeypatch, "squeue", said)
    assert ranks.seconds_left(ask=True) == seconds and ranks.seconds_left(ask=False) is None
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 100))
    assert 95 < ranks.seconds_left(ask=False) <= 100


def test_many_ranks_are_a_short_table():
    table = [one(r, [r], node=f"n{r // 8}") for r in range(512)]
    table[100]["cores"] = [101]
    lines = ranks.lines(table)
    assert len(lines) == 1 + 64 + 2 + 1 and sum("cores shared" in line for line in lines) == 2  # a rank of each node; 100 and 101


def test_bus_bandwidth_is_what_a_ring_carries(monkeypatch):
    class Four(World):
        rank, size = 0, 4

        def allgather(self, value):
            return [value] * 4

    monkeypatch.setattr(network, "_timed", lambda world, call, repeats: 1.0 * repeats)
    rows = network.measure(Four(), Clock(lambda name, behind: None), lambda size: lambda: None)
    assert rows[0] == {"bytes": 4096, "seconds": pytest.approx(1.0), "bus_gb_s": pytest.approx(1.5 * 4096 / 1e9)}
    slow = network.judge({"nccl": rows}, 3.0)
    assert "nccl all-reduce" in slow[0].what and "clocks differ by 3.0 s" in slow[1].what
    fast = [{"bytes": 4096, "seconds": 0.001, "bus_gb_s": 0.01}, {"bytes": 2**27, "seconds": 0.001, "bus_gb_s": 150.0}]
    assert network.judge({"nccl": fast}, 0.001) == []
    asked = []
    monkeypatch.setattr(network, "_timed", lambda world, call, repeats: asked.append(repeats) or 0.004 * repeats)
    network.measure(Four(), Clock(lambda name, behind: None), lambda size: lambda: None)
    assert asked == [1, 100] * len(network.SIZES)  # 0.4 s each


def test_an_all_reduce_that_fails_is_a_line_and_no_traceback():
    def refuse():
        raise RuntimeError("Duplicate GPU detected :\n rank 0 and rank 1 both on CUDA device 1000")

    rows, fault = network.tried(World(), Clock(lambda name, behind: None), lambda size: refuse)
    assert rows == [] and fault == "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000"


LUSTRE = "/scratch 900000 1000000 2000000 - 1000 0 5000 -\n"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (LUSTRE, (1100000 * 1024 / 1e9, 4000)),
        ("/scratch 900000 1000000 0 - 1000 500 0 -\n", (100000 * 1024 / 1e9, -500)),  # soft limits alone
        ("/scratch 900000* 0 0 - 10 0 0 -\n", (None, None)),
        (
            "Disk quotas for user x (uid 1):\n  Filesystem blocks quota limit grace files quota limit grace\n/dev/sda1 100 0 200 0 5 0 17 0\n",
            (0.1024e-3, 12),
        ),
    ],
)
def test_quotas(text, left):
    found = folder.lustre_quota(text)
    assert found["free_gb"] == (pytest.approx(left[0]) if left[0] is not None else None) and found["free_files"] == left[1]


def test_nobody_says_a_quota():
    assert folder.lustre_quota("") is None and folder.lustre_quota("none\n") is None


def stub(tmp_path, monkeypatch, name, text):
    (tmp_path / "bin").mkdir(exist_ok=True)
    (tmp_path / "bin" / name).write_text(f"#!/bin/sh\ncat <<'E'\n{text}\nE\n")
    (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


def about(**more):
    one = {
        "path": "/scratch/x",
        "asked": "/scratch/x",
        "kind": "ext4",
        "mounted_at": "/",
        "options": [],
        "locks_seen_by_all_nodes": True,
        "free_gb": 100.0,
    }
    return {**one, "size_gb": 1000.0, "free_files": 10**6, "stripes": None, "quota": None, **more}


GOOD = {"works": True, "error": None, "across": True}


def test_lustre_with_one_stripe(tmp_path, monkeypatch):
    stub(tmp_path, monkeypatch, "lfs", "stripe_count:  1 stripe_size:   1048576 pattern: 0 stripe_offset: -1")
    stripes = folder.stripes_of(tmp_path)
    assert stripes == {"count": 1, "size": 2**20}
    lustre = about(kind="lustre", stripes=stripes)
    (finding,) = folder.judge(lustre, GOOD, None, "", True, {"gb": 30.0}, 2)
    assert "one stripe" in finding.what and "lfs setstripe" in finding.how
    assert folder.judge(lustre, GOOD, None, "", True, {"gb": 3.0}, 2) == []
    assert "stripes: 1 of 1 MiB" in "\n".join(folder.lines(lustre, GOOD, None, "", {}))


def test_a_folder_that_is_not_there_yet_is_said_not_to_be(tmp_path):
    """A misspelt one must not look as if it had been measured."""
    found = folder.about(tmp_path / "scrach" / "me")
    assert found["path"] == str(tmp_path)
    assert f"folder: {tmp_path} ({tmp_path}/scrach/me is not there yet), " in folder.lines(found, None, None, "", {})[0]
    assert "not there" not in folder.lines(folder.about(tmp_path), None, None, "", {})[0]


def test_room_and_files():
    assert folder.judge(about(), GOOD, None, "", True, {"gb": 99.0, "files": 10}, 1) == []
    (full,) = folder.judge(about(), GOOD, None, "", True, {"gb": 101.0}, 1)
    assert full.bad and "needs 101 GB and 100 GB are free" in full.what
    quota = about(quota={"free_gb": 1.5, "free_files": 50})
    said = folder.judge(quota, GOOD, None, "", True, {"gb": 2.0, "files": 100}, 1)
    assert [f.bad for f in said] == [True, True] and "50 more files" in said[1].what


def test_locks_that_do_not_work_are_no_hindrance_but_said(tmp_path, monkeypatch):
    assert folder.locks(World(), tmp_path, "n1") == {"works": True, "error": None, "across": None}

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    found = folder.locks(World(), tmp_path, "n1")
    assert found == {"works": False, "error": "No locks available", "across": None}
    (finding,) = folder.judge(about(), found, None, "", True, {}, 2)
    assert not finding.bad and "heartbeat" in finding.how
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)  # as if every lock were granted
    assert folder.locks(World(), tmp_path, "n1")["works"] is False
    local = {"works": True, "error": None, "across": False}
    assert "within a node alone" in folder.judge(about(), local, None, "", True, {}, 2)[0].what
    assert "NFS" in folder.judge(about(kind="nfs4"), GOOD, None, "", True, {}, 2)[0].what
    assert folder.judge(about(kind="nfs4"), GOOD, None, "", True, {}, 1) == []


MPI = {"mpi4py": "4.1", "mpi": "Open MPI 5", "h5py": "3.16", "hdf5": "1.14", "parallel": True, "loaded": ["/a/libmpi.so.40"]}
TORCH = {"torch": "2.13+cu126", "cuda": "12.6", "hip": None, "nccl": "2.27", "devices": 4, "gloo": True, "bf16": True}


@pytest.mark.parametrize(
    ("mpi", "torch", "gpus", "bad", "says"),
    [
        ({}, {}, True, None, None),
        ({"loaded": ["/a/libmpi.so.40", "/b/libmpi.so.12"]}, {}, True, True, "two MPI libraries"),
        ({"parallel": False}, {}, True, False, "no parallel HDF5"),
        ({"mpi4py": None, "mpi4py_error": "ImportError: libmpi.so"}, {}, True, False, "one rank alone"),
        ({"h5py": None, "h5py_error": "ImportError: x"}, {}, True, True, "h5py cannot be imported"),
        ({"error": "took too long"}, {}, True, False, "mpi took too long to load"),
        ({"error": "Segmentation fault"}, {}, True, True, "cannot be loaded together"),
        ({}, {"devices": 0}, True, True, "torch (2.13+cu126, built for CUDA 12.6) sees none"),
        ({}, {"devices": 0, "cuda": None}, True, True, "built without CUDA"),
        ({}, {"devices": 0, "cuda": None}, False, None, None),
        ({}, {"error": "ModuleNotFoundError: torch"}, True, True, "torch cannot be imported"),
    ],
)
def test_libraries(mpi, torch, gpus, bad, says):
    found = {"mpi": {**MPI, **mpi}, "torch": {**TORCH, **torch}}
    said = libraries.judge(found, 4, gpus)
    assert [f.bad for f in said] == ([] if bad is None else [bad]), said
    if says:
        assert says in said[0].what
    lines = libraries.lines(found)
    assert lines and ("ANOTHER MPI" in " ".join(lines)) == (len(found["mpi"]["loaded"]) > 1)


def test_needs_out_of_the_plans():
    simulate = "# simulate:\n#   512 clusters in 8^3 cells\n#   64 chunk files, 0.31 GB (0.512 GB while at work)\n"
    project = "# project:\n#   views: 3 a halo; maps.h5: 0.2 MiB a halo\n#   the snapshot x is not there yet\n"
    train = "# train:\n#   ncsnpp: 842456 parameters; a checkpoint has 13.5 MB, 3 are kept\n"
    found = needs.read({"simulate": simulate, "project": project, "train": train})
    assert found["gb"] == pytest.approx(0.31 + 512 * 0.2 * 2**20 / 1e9 + 4 * 0.0135) and found["files"] == 164
    there = "# project:\n#   snapshot: 64 file(s), box 248\n#   maps.h5: 4 fields of 64^2 pixels, 99.0 MiB\n"
    assert needs.read({"simulate": simulate, "project": there, "train": ""})["gb"] == pytest.approx(99 * 2**20 / 1e9)
    assert needs.read({})["gb"] is None


def test_the_plans_still_say_what_is_read_out_of_them(tmp_path):
    """A wording that changes in a stage must not make the doctor silent."""
    (tmp_path / "c.yaml").write_text(f"run: {{dir: {tmp_path / 'run'}}}\n")
    found = needs.collect(needs.start(tmp_path / "c.yaml", ["network.channels=8"]), time.monotonic() + 200)
    assert found["failed"] == [] and [line.split()[0] for line in found["lines"]] == ["snapshot", "maps.h5", "checkpoints"]
    assert found["gb"] > 0.01


def test_a_disk_that_refuses_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    found = {"file_a_node": disk.file_a_node(World(), tmp_path, 0.1, True, 1)}
    assert "disk is full" in found["file_a_node"]["refused"] and list(tmp_path.iterdir()) == []
    assert disk.judge(found)[0].bad and "disk is full" in "\n".join(disk.lines(found, 1, 1))


def test_writes_are_as_large_as_they_say_and_bounded_by_the_room(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(disk, "_plain", lambda path, size: written.append(size))
    monkeypatch.setattr(disk.files, "free_bytes", lambda path: 20 * 3 * disk.CALL)
    found = disk.file_a_node(World(), tmp_path, 1e9, True, 1)
    assert written == [disk.PILOT, 3 * disk.CALL] and found["bytes"] == 3 * disk.CALL
    assert disk.judge({"one_file": {"gb_s": 0.01}})[0].what == "one file written by all ranks: 10 MB/s"
    small = disk.small_files(World(), tmp_path, 0.05)
    assert small["files"] > 0 and list(tmp_path.iterdir()) == []


def test_the_worst_finding_decides():
    light, bad = Finding(False, "slow", "wait"), Finding(True, "broken", "mend")
    assert [verdict(f) for f in ([], [light], [light, bad])] == [FIT, USABLE, NOT]
    assert verdict_lines([light, bad]) == ["verdict: not usable:", "  ! broken -> mend", "  - slow -> wait"]
    assert verdict_lines([]) == ["verdict: fit"]
