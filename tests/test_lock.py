"""One process at a time: with the kernel's locks, without them, after a requeue, after a death here or elsewhere."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT, environment

from hpcdiff import lock as locks
from hpcdiff.lock import Lock
from hpcdiff.mounts import Mount, mount_of

HOLD = """
import sys, time
from hpcdiff.lock import Lock
l = Lock(sys.argv[1])
print(l.acquire(), flush=True)
sys.stdin.readline()
l.release()
"""


def hold(path, **more):
    """Another process that takes the lock and keeps it until it is told or killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment(**more)
    )
    assert process.stdout.readline() == "True\n"
    return process


def elsewhere(path, **differs):
    """A lock file that a process on another node has left; returns the record."""
    record = {
        **locks._me(),
        "pid": 4711,
        "host": "node9",
        "node": "another boot",
        "born": "1",
        "since": "2026-01-01 00:00:00+00:00",
        **differs,
    }
    path.write_text(json.dumps(record) + "\n")
    return record


@pytest.fixture
def without_locks(monkeypatch):
    """A shared file system on which flock is refused."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "mount_of", lambda path: Mount("/scratch", "beegfs"))
    monkeypatch.setattr(locks, "SETTLE", 0.05)
    monkeypatch.setattr(locks, "STILL", 0.5)


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """A function that puts a `squeue` into the PATH, which says this of every job; and this process into job 8."""
    for name, value in {"JOB_ID": "8", "CLUSTER_NAME": "tiny", "RESTART_COUNT": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)

    def say(text, status=0):
        (tmp_path / "bin").mkdir(exist_ok=True)
        stub = tmp_path / "bin" / "squeue"
        stub.write_text(f"#!/bin/sh\necho '{text}' >&{2 if status else 1}\nexit {status}\n")
        stub.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    return say


def test_the_lock_is_exclusive_and_dies_with_its_holder(tmp_path):
    path = tmp_path / "l"
    holder = hold(path, SLURM_JOB_ID="7", SLURM_RESTART_COUNT="3")
    lock = Lock(path)
    assert not lock.acquire()
    for said in (f"pid {holder.pid} on {os.uname().nodename}", "job 7", "restart 3", "since 20"):
        assert said in lock.holder()
    holder.kill()
    holder.wait()
    assert lock.acquire() and f"pid {holder.pid}" in lock.took_over
    assert not Lock(path).acquire()
    lock.release()
    assert lock.holder() == "" and Lock(path).acquire()


def test_where_everybody_sees_the_kernels_lock_it_decides_alone(tmp_path, monkeypatch):
    """A rerun on another node after a crash need not wait for a heartbeat."""
    monkeypatch.setattr(Lock, "_beats", lambda *_: True)
    monkeypatch.setattr(locks, "mount_of", lambda path: Mount("/scratch", "lustre", frozenset({"flock"})))
    elsewhere(tmp_path / "l")
    lock = Lock(tmp_path / "l")
    assert lock.acquire() and "node9" in lock.took_over
    lock.release()


def test_a_lock_on_a_file_that_was_put_aside_is_none(tmp_path, monkeypatch):
    """Another takes over, with a new file, between our opening the old one and locking it."""
    path, flock, third = tmp_path / "l", fcntl.flock, Lock(tmp_path / "l")

    def late(*arguments):
        monkeypatch.setattr(fcntl, "flock", flock)
        path.unlink()
        assert third.acquire()
        flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", late)
    assert not Lock(path).acquire()
    third.release()


def test_let_go_in_good_order_it_is_nobodys(tmp_path):
    holder = hold(tmp_path / "l")
    holder.communicate("\n")
    lock = Lock(tmp_path / "l")
    assert lock.holder() == "" and lock.acquire() and lock.took_over == ""
    lock.release()


@pytest.mark.usefixtures("without_locks")
def test_without_the_kernels_locks_a_living_process_of_this_node_holds_it(tmp_path):
    path = tmp_path / "l"
    holder = hold(path)
    assert not Lock(path).acquire()
    holder.kill()  # a zombie from here on: its number is still there
    lock = Lock(path)
    deadline = time.monotonic() + 20
    while not lock.acquire():
        assert time.monotonic() < deadline
    assert f"pid {holder.pid}" in lock.took_over
    lock.release()
    holder.wait()
    record = elsewhere(path, node=locks.node(), pid=os.getpid(), born="1")  # the number was given to another process
    assert lock.acquire() and lock.took_over == locks.sentence(record)
    lock.release()


@pytest.mark.usefixtures("without_locks")
def test_of_two_that_come_at_once_one_gets_it(tmp_path, monkeypatch):
    """Both find it free, and the other's record is written later: then the file is the other's."""
    path, write = tmp_path / "l", Lock._write
    monkeypatch.setattr(Lock, "_write", lambda self, text: (write(self, text), elsewhere(path)))
    lock = Lock(path)
    assert not lock.acquire() and "node9" in lock.holder()
    monkeypatch.setattr(Lock, "_write", lambda self, text: (elsewhere(path), write(self, text)))
    path.unlink()
    assert lock.acquire() and f"pid {os.getpid()} " in lock.holder()
    lock.release()


@pytest.mark.usefixtures("without_locks")
def test_a_holder_elsewhere_lives_as_long_as_its_heart_beats(tmp_path):
    path = tmp_path / "l"
    elsewhere(path)
    end = threading.Event()

    def beat():
        while not end.wait(0.05):
            os.utime(path)

    heart = threading.Thread(target=beat)
    heart.start()
    said = []
    lock = Lock(path)
    assert not lock.acquire(said.append) and "node9" in lock.holder() and "node9" in said[0]
    end.set()
    heart.join()
    os.utime(path, (2e9, 2e9))  # from a node whose clock is years ahead
    assert lock.acquire() and "node9" in lock.took_over
    lock.release()


@pytest.mark.usefixtures("without_locks")
@pytest.mark.parametrize("another", [False, True])
def test_a_holder_elsewhere_that_lets_go_while_it_is_watched(tmp_path, monkeypatch, another):
    """Then it is ours, unless another has taken it meanwhile."""
    path, lock = tmp_path / "l", Lock(tmp_path / "l")
    monkeypatch.setattr(locks, "STILL", 3.0)
    elsewhere(path)
    assert lock.acquire(lambda line: elsewhere(path, host="node8") if another else path.write_text("")) == (not another)
    assert ("node8" in lock.holder()) == another
    lock.release()


def test_who_lets_go_leaves_what_another_has_written(tmp_path):
    lock = Lock(tmp_path / "l")
    assert lock.acquire()
    record = elsewhere(tmp_path / "l")
    lock.release()
    assert lock.record() == record


@pytest.mark.usefixtures("without_locks")
@pytest.mark.parametrize(
    ("state", "status", "free"),
    [("", 0, True), ("slurm_load_jobs error: Invalid job id specified", 1, True), ("PENDING", 0, True), ("SUSPENDED", 0, False)],
)
def test_slurm_knows_whether_a_job_is_gone(tmp_path, monkeypatch, slurm, state, status, free):
    slurm(state, status)
    monkeypatch.setattr(locks, "STILL", 0.0 if not free else 600.0)  # the heartbeat alone would say the opposite
    elsewhere(tmp_path / "l", job="7")
    lock = Lock(tmp_path / "l")
    assert lock.acquire() == free
    lock.release()


@pytest.mark.usefixtures("without_locks")
def test_another_clusters_job_number_says_nothing(tmp_path, slurm):
    slurm("SUSPENDED")
    elsewhere(tmp_path / "l", job="7", cluster="huge")
    lock = Lock(tmp_path / "l")
    assert lock.acquire()  # after its heart has stood still
    lock.release()


@pytest.mark.usefixtures("without_locks")
def test_a_requeued_job_takes_over_its_own(tmp_path, monkeypatch, slurm):
    slurm("RUNNING")
    monkeypatch.setattr(locks, "STILL", 600.0)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    elsewhere(tmp_path / "l", restart=1)
    lock = Lock(tmp_path / "l")
    assert lock.advice() == "wait for it or end it"
    assert lock.acquire() and "job 8, restart 1" in lock.took_over
    lock.release()
    monkeypatch.setattr(locks, "STILL", 0.3)
    elsewhere(tmp_path / "l", restart=2)  # the same restart, another node: a copy, whose heart is asked
    said = []
    assert "same job" in lock.advice() and lock.acquire(said.append) and said
    lock.release()


def test_a_requeued_job_takes_over_from_a_node_that_died_with_the_kernels_lock(tmp_path, monkeypatch):
    """A live flock whose holder does not beat any more, as a file system shows it that has not noticed the death yet."""
    path = tmp_path / "l"
    holder = hold(path, SLURM_JOB_ID="8", SLURM_CLUSTER_NAME="tiny", SLURM_RESTART_COUNT="0")
    monkeypatch.setattr(locks, "STILL", 0.3)
    lock = Lock(path)
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "tiny")
    for job, restart, got in (("9", "1", False), ("8", "0", False), ("8", "1", True)):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", restart)
        assert lock.acquire() == got, (job, restart)
    assert "job 8, restart 0" in lock.took_over and not Lock(path).acquire()
    lock.release()
    holder.kill()
    holder.wait()


def test_whoever_was_held_to_be_dead_ends_itself_when_it_wakes(tmp_path):
    path = tmp_path / "l"
    code = HOLD.replace("l = Lock", "import hpcdiff.lock; hpcdiff.lock.BEAT = 0.05; l = Lock")
    process = subprocess.Popen(
        [sys.executable, "-c", code, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(),
    )
    assert process.stdout.readline() == "True\n"
    elsewhere(path)
    process.wait(timeout=30)
    assert process.returncode == 1 and "taken over by pid 4711 on node9" in process.stderr.read()


def test_the_heart_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.02)
    lock = Lock(tmp_path / "l")
    assert lock.acquire()
    os.utime(tmp_path / "l", (1e9, 1e9))
    deadline = time.monotonic() + 20
    while os.stat(tmp_path / "l").st_mtime < 1.1e9:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lock.release()


def test_a_lock_file_of_an_earlier_version_or_a_damaged_one_is_nobodys(tmp_path):
    odd = json.dumps({**elsewhere(tmp_path / "l"), "job": ["7"]})
    for text in ("pid 12 on node1, job none\n", "[1]\n", '{"pid": 1}\n', "\x00\xff", "[" * 4000, odd):
        (tmp_path / "l").write_text(text, encoding="latin-1")
        lock = Lock(tmp_path / "l")
        assert lock.acquire()
        lock.release()


def test_which_file_systems_show_every_lock_to_everybody():
    yes = [Mount(kind="ext4"), Mount(kind="gpfs"), Mount(kind="lustre", options=frozenset({"rw", "flock"}))]
    no = [Mount(kind="lustre", options=frozenset({"rw", "localflock"})), Mount(kind="nfs4"), Mount(kind="fuse.beegfs"), Mount()]
    assert all(m.one_view_of_locks for m in yes) and not any(m.one_view_of_locks for m in no)


def test_the_file_system_of_a_path(monkeypatch):
    """The deepest mount above it; of two on one place the later; names with spaces are written in octal."""
    table = (
        "22 1 0:20 / / rw - ext4 /dev/sda rw\n"
        "23 22 0:21 / /scratch rw - nfs4 server:/a rw\n"
        "24 22 0:22 / /scratch rw,nosuid shared:1 - lustre mgs:/b rw,flock\n"
        "25 24 0:23 / /scratch/a\\040b rw - gpfs fs rw\n"
    )
    monkeypatch.setattr("hpcdiff.mounts.Path.read_text", lambda path: table)
    monkeypatch.setattr("hpcdiff.mounts.Path.exists", lambda path: True)
    monkeypatch.setattr(os.path, "realpath", str)
    places = {"/scratch/me": "lustre", "/scratch": "lustre", "/scratch/a b/c": "gpfs", "/scratch2/me": "ext4", "/": "ext4"}
    assert {place: mount_of(place).kind for place in places} == places
    assert {"nosuid", "flock"} <= mount_of("/scratch/me").options and mount_of("/scratch/me").source == "mgs:/b"
