"""Ranks that hang or die: the job ends on every rank, with one line that names the right ones; and no false alarm."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import LAUNCHERS, ROOT, environment, kill

from hpcdiff.blame import Blame, find, rank_names
from hpcdiff.errors import UserError
from hpcdiff.watchdog import Watchdog
from hpcdiff.world import World

RANK = """
import os, signal, sys, time
from hpcdiff import launch
from hpcdiff.watchdog import Watchdog
folder, who, what, first, timeout = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4]), float(sys.argv[5])

def work(config, world):
    if world.size > 1:
        import torch.distributed
    with open(f"{folder}/pid{world.rank}", "w") as f:
        f.write(str(os.getpid()))
    dog = Watchdog(world, "train", config.dir, first, timeout)
    for step in range(10):
        dog.beat("step", 64 * step)
        if step == 6 and world.rank == who:
            time.sleep(3 * dog.interval)  # what it does now has been posted
            if what == "sleeps":
                time.sleep(1000)
            elif what == "is slow":
                time.sleep(0.5 * timeout)
            elif what == "fails":
                raise ValueError("a bug")
            else:
                os.kill(os.getpid(), {"stopped": signal.SIGSTOP, "killed": signal.SIGKILL}[what])
        world.barrier()
    return "done"

sys.exit(launch.run_stage("train", lambda config: [], work, lambda config: [], [f"{folder}/c.yaml"]))
"""


def like_srun(command: list[str], ranks: int) -> tuple[str, list[int]]:
    """Run `ranks` processes with Slurm's variables alone, as plain `srun` does; what all said on stderr, and their statuses."""
    common = {"SLURM_STEP_NUM_TASKS": str(ranks), "SLURM_JOB_ID": str(time.time_ns() % 10000), "SLURM_STEP_NODELIST": "localhost"}
    started = [
        subprocess.Popen(
            command, cwd=ROOT, env=environment(**common, SLURM_PROCID=str(r), SLURM_LOCALID=str(r)), stderr=subprocess.PIPE, text=True
        )
        for r in range(ranks)
    ]
    try:
        said = [p.communicate(timeout=60)[1] for p in started]
    finally:
        for p in started:
            kill(p)
    return "".join(said), [p.returncode for p in started]


def job(tmp_path, launcher: str, ranks: int, who: int, what: str, first: float = 30.0, timeout: float = 2.0) -> tuple[str, dict]:
    """Run the ranks above; what was said, and the status file. Nobody may be left."""
    (tmp_path / "rank.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{RANK}")
    (tmp_path / "c.yaml").write_text(f"run: {{dir: {tmp_path / 'run'}}}\n")
    script = [str(tmp_path / "rank.py"), str(tmp_path), str(who), what, str(first), str(timeout)]
    if launcher == "srun":
        said, codes = like_srun([sys.executable, *script], ranks)
        assert all(codes) == (what != "is slow")
    else:
        process = subprocess.Popen(
            [*LAUNCHERS[launcher](ranks), *script], cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            said = process.communicate(timeout=60)[1]
        finally:
            kill(process)
    pids = [int((tmp_path / f"pid{r}").read_text()) for r in range(ranks)]
    left = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "a rank was left"
    return said, json.loads((tmp_path / "run" / "train.status.json").read_text())


@pytest.mark.parametrize(
    ("launcher", "ranks", "who", "what"),
    [
        ("torchrun", 3, 1, "sleeps"),
        ("torchrun", 2, 0, "stopped"),
        ("torchrun", 2, 1, "killed"),
        ("srun", 3, 2, "stopped"),
        ("srun", 2, 0, "stopped"),
        ("srun", 2, 0, "killed"),
        ("srun", 2, 1, "fails"),
    ],
)
def test_a_rank_that_hangs_or_dies_ends_all_and_is_named_once(tmp_path, launcher, ranks, who, what):
    said, status = job(tmp_path, launcher, ranks, who, what)
    lines = [line for line in said.splitlines() if line.startswith("hpcdiff train: ")]
    assert len(lines) == 1, said
    store_away = launcher == "srun" and who == 0  # rank 0 keeps the store, so nobody knows what it did
    assert f"rank {who} (" in lines[0] and f"pid {(tmp_path / f'pid{who}').read_text()}" in lines[0]
    assert store_away or f": rank {who} (" in lines[0], "the first rank named must be the one at fault"
    assert "step, image 384" in lines[0] and "wait" in lines[0]
    assert ("for 2 s" in lines[0] or "for 3 s" in lines[0]) == (what == "sleeps")
    assert status["exit"] == 1
    if what == "fails":  # it has said itself what went wrong; the others add no tracebacks
        assert status["reason"] == "ValueError: a bug" and said.count("Traceback") == 1
    else:
        assert f"hpcdiff train: {status['reason']}" == lines[0]
        assert launcher == "torchrun" or "Traceback" not in said


def test_a_rank_that_is_slower_than_most_is_no_hang(tmp_path):
    said, status = job(tmp_path, "srun", 2, 1, "is slow", timeout=5.0)
    assert status["exit"] == 0 and "hung" not in said


def alone(code: str) -> subprocess.Popen:
    """One process that does this; `w` is its world."""
    lines = f"import os, time\nfrom hpcdiff.watchdog import Watchdog\nfrom hpcdiff.world import World\nw = World()\n{code}"
    return subprocess.Popen(
        [sys.executable, "-c", lines], cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_one_process_alone_is_ended_too_and_the_first_fault_stays_in_the_status_file(tmp_path):
    code = f"dog = Watchdog(w, 'train', {str(tmp_path)!r}, 20, 0.5)\nfor n in range(9): dog.beat('step', n)\ntime.sleep(100)"
    first = alone(code)
    said = first.communicate(timeout=60)[1]
    assert first.returncode == 1 and said.startswith(
        f"hpcdiff train: hung: rank 0 ({os.uname().nodename}, pid {first.pid}) has been in step, image 8"
    )
    assert said.count("\n") == 1 and "(<string>:7, <module>)" in said
    assert json.loads((tmp_path / "train.status.json").read_text()) == {"exit": 1, "reason": said.strip().removeprefix("hpcdiff train: ")}
    (tmp_path / "train.status.json").write_text("of before")
    second = alone(code)
    assert second.wait(60) == 1 and (tmp_path / "train.status.json").read_text() == "of before"


def test_a_job_that_the_scheduler_suspends_does_not_hang(tmp_path):
    """`scontrol suspend` stops every process for hours; the time asleep is not counted."""
    code = f"""dog = Watchdog(w, 'train', {str(tmp_path)!r}, 20, 1.5)
for n in range(9): dog.beat('step', n)
time.sleep(0.5)
print('begun', flush=True)
time.sleep(0.4)
for n in range(30): time.sleep(0.02)
print('through', flush=True)
dog.close()
print('end', flush=True)"""
    process = alone(code)
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(3.0)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == ("through\nend\n", "", 0)


def test_the_first_beat_of_each_phase_may_compile_and_later_ones_what_they_took_before(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("hpcdiff.watchdog.time.monotonic", lambda: clock[0])
    dog = Watchdog(World(), "train", tmp_path, 1800.0, 300.0)
    try:
        limits = []
        for seconds in (1500, 1, 1, 1, 1, 1):
            dog.beat("step")
            limits.append(dog._limit())
            clock[0] += seconds
        dog.beat("validate")
        assert dog._limit() == 1800  # validation compiles too
        assert limits[0] == limits[1] == 1800 and limits[-1] == 300
        clock[0] += 200
        dog.beat("validate")
        assert dog._limit() == 600  # a validation of 200 s is none that hangs at 300 s
        dog.beat("step")
        assert dog._limit() == 300
    finally:
        dog.close()


def test_what_a_beat_has_ended_is_not_held_against_the_next_phase(tmp_path):
    """A first validation may take longer than a step may; what is posted right after it must not say that the step hangs."""
    dog = Watchdog(World(), "train", tmp_path, 30.0, 0.4)
    try:
        for phase in ("step", "step", "validate"):
            dog.beat(phase)
        time.sleep(0.9)
        before = dog._entry()
        dog.beat("step")
        after = dog._entry()
    finally:
        dog.close()
    assert before["stalled"] > 0.5 and not before["over"], "the first validation has its own, longer limit"
    assert after["stalled"] == 0 and not after["over"]


def test_a_timeout_above_torchs_own_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"train\.timeout"):
        Watchdog(World(), "train", tmp_path, 8000.0, 300.0)


def entry(calls=5, images=64, n=1, over=True, closed=False, pid=7):
    keys = {"host": "node7", "pid": pid, "phase": "step", "stalled": 300.2, "at": "train/loop.py:9, train"}
    return {"calls": calls, "images": images, "n": n, "over": over, "closed": closed, **keys}


def looks(**changed):
    """Two looks at four ranks that all wait for nothing; r2={"calls": 4} makes rank 2 differ, n=1 in it makes it silent."""
    before = {r: entry() for r in range(4)}
    return before, {r: entry(**{"n": 2, **changed.get(f"r{r}", {})}) for r in range(4)}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"r2": {"calls": 4}}, [2]),
        ({"r2": {"calls": 4, "images": 999}, "r1": {"images": 0}}, [2]),  # calls count before images
        ({"r1": {"images": 0}, "r3": {"images": 0}}, [1, 3]),
        ({}, [0, 1, 2, 3]),
        ({"r3": {"n": 1}, "r2": {"calls": 4}}, [3]),  # silent counts before late
        ({"r0": {"n": 1}}, [1, 2, 3, 0]),  # the rank that looks is not silent
        ({"r2": {"calls": 4, "over": False}}, []),  # it may take its time
        ({"r2": {"calls": 4, "closed": True}, "r1": {"calls": 4}}, [1]),
    ],
)
def test_who_hangs(changed, named):
    assert sorted(find(*looks(**changed), 0, False).named) == sorted(named)


def test_who_is_lost():
    assert find(*looks(), 0, True).named == []
    assert find(*looks(r1={"calls": 0}), 0, True).named == []  # it merely waits
    before, now = looks(r2={"closed": True}, r3={"n": 1})
    blame = find(before, now, 0, True)
    assert (blame.named, blame.silent, blame.closed) == ([2, 3], [3], [2])
    assert "rank 2 (node7, pid 7) has ended" in blame.sentence(now) and blame.sentence(now).endswith("; ranks 0-1 wait for them")
    now[3] = None
    assert "rank 3 has not been heard of" in find(before, now, 0, True).sentence(now)


def test_the_sentence_names_ranks_and_what_they_did():
    said = Blame([3]).sentence({r: entry(images=12800) for r in range(8)})
    assert said == "rank 3 (node7, pid 7) has been in step, image 12800, for 300 s (train/loop.py:9, train); ranks 0-2, 4-7 wait for it"
    many = Blame(list(range(1024))).sentence({r: entry() for r in range(1024)})
    assert "ranks 4-1023 likewise; none is behind the others" in many and len(many) < 600 and "wait for" not in many
    assert [rank_names(r) for r in ([], [3], [0, 1], [5, 0, 2, 1])] == ["", "rank 3", "ranks 0-1", "ranks 0-2, 5"]


def test_only_errors_of_a_connection_speak_of_a_lost_rank():
    from hpcdiff.watchdog import _speaks_of_a_lost_rank as speaks

    assert speaks(RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:25508"))
    assert speaks(RuntimeError("NCCL error: remote process exited or there was a network error"))
    assert not speaks(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) and not speaks(ValueError("gloo"))
