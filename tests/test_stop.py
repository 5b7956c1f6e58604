"""Reasons to stop: signals, the file, the end of the Slurm job; ranks that agree on the step; what the status file says."""

import contextlib
import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import LAUNCHERS, ROOT, environment, kill

from hpcdiff import launch
from hpcdiff.errors import UserError
from hpcdiff.stop import CAUSES, StopSign, StopVote
from hpcdiff.world import World

STEPS = """
import os, sys, time
from hpcdiff import launch
from hpcdiff.errors import Stopped
from hpcdiff.stop import StopVote
folder, how = sys.argv[1:3]

def say(world, text):
    os.write(1, f"rank {world.rank} {text}\\n".encode())  # whole lines, whoever writes beside

def work(config, world):
    vote = StopVote(world)
    world.barrier()
    say(world, f"pid {os.getpid()}")
    vote.cast()
    for step in range(100000):
        time.sleep(0.002 * (1 + world.rank))
        if vote.agreed():
            say(world, f"stops at {step}")
            if how == "saves":
                time.sleep(1)  # a second signal while saving changes nothing
            world.barrier()
            raise Stopped(f"saved at image {step}")
        vote.cast(how == "itself" and world.rank == 1 and step == 7)

sys.exit(launch.run_stage("train", lambda config: [], work, lambda config: [], [f"{folder}/c.yaml"]))
"""


@pytest.fixture
def job(tmp_path):
    """Start the steps above on some ranks; gives the process and its ranks' process ids. All are ended after the test."""
    (tmp_path / "steps.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{STEPS}")
    (tmp_path / "c.yaml").write_text(f"run: {{dir: {tmp_path / 'run'}}}\n")
    started = []

    def begin(ranks, how="", *options):
        launcher = LAUNCHERS["torchrun" if ranks > 1 else "alone"](ranks)
        process = subprocess.Popen(
            [*launcher, *options, str(tmp_path / "steps.py"), str(tmp_path), how],
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        pids = {}
        while len(pids) < ranks:
            words = process.stdout.readline().split()
            assert words, process.stderr.read()
            if words[2:3] == ["pid"]:
                pids[int(words[1])] = int(words[3])
        return process, pids

    yield begin
    for process in started:
        kill(process)


def ended(process, tmp_path):
    """The steps at which the ranks stopped, and the status file."""
    out, err = process.communicate(timeout=60)
    steps = [int(line.split()[-1]) for line in out.splitlines() if "stops at" in line]
    assert err.count("hpcdiff train: stopped by ") == 1, err
    return steps, json.loads((tmp_path / "run" / "train.status.json").read_text())


def test_a_signal_to_one_rank_stops_all_at_one_step(tmp_path, job):
    process, pids = job(3)
    os.kill(pids[1], signal.SIGTERM)
    steps, status = ended(process, tmp_path)
    assert len(steps) == 3 and len(set(steps)) == 1
    assert status == {"exit": 75, "reason": f"stopped by SIGTERM: saved at image {steps[0]}", "requeue": True}


def test_torchrun_forwards_usr1_where_the_job_scripts_tell_it_to(tmp_path, job):
    option = next(w for w in (ROOT / "jobs" / "requeue.sh").read_text().split() if w.startswith("--signals-to-handle"))
    process, _ = job(2, "saves", option)
    process.send_signal(signal.SIGUSR1)
    steps, status = ended(process, tmp_path)
    assert len(steps) == 2 and len(set(steps)) == 1 and status["exit"] == 75 and "SIGUSR1" in status["reason"]


@pytest.mark.parametrize(("content", "by", "requeue"), [("", "the file stop", False), ("requeue\n", "the job script", True)])
def test_the_file_stops_all_ranks_and_is_removed(tmp_path, job, content, by, requeue):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "stop").touch()  # left over: it must not stop the restart
    process, _ = job(2)
    assert not (tmp_path / "run" / "stop").exists()
    (tmp_path / "run" / "stop").write_text(content)
    steps, status = ended(process, tmp_path)
    assert len(steps) == 2 and len(set(steps)) == 1
    assert status == {"exit": 75, "reason": f"stopped by {by}: saved at image {steps[0]}", "requeue": requeue}
    assert not (tmp_path / "run" / "stop").exists()


def test_one_rank_may_ask_for_a_stop_of_its_own_and_the_vote_is_read_a_step_later(tmp_path, job):
    steps, status = ended(job(2, "itself")[0], tmp_path)
    assert steps == [8, 8] and status["exit"] == 75


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_one_process_alone(tmp_path, job, number):
    process, _ = job(1, "saves")
    process.send_signal(number)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)  # while it saves
    steps, status = ended(process, tmp_path)
    assert process.returncode == 75 and len(steps) == 1 and "stopped by SIG" in status["reason"]


def test_a_vote_without_other_ranks():
    world = World()
    vote = StopVote(world)
    assert not vote.agreed() and not vote.poll() and not vote.poll()
    world.sign.signal(signal.SIGTERM)
    assert not vote.agreed()  # cast before the signal
    vote.cast()
    with pytest.raises(AssertionError):
        vote.cast()
    assert vote.agreed() and vote.poll() and CAUSES[vote.cause] == "SIGTERM"


@pytest.mark.parametrize(
    ("long", "left", "save_seconds", "wants"),
    [
        (7200, 301, 0, False),
        (7200, 299, 0, True),
        (7200, 399, 100, True),  # time for a save is kept
        (7200, 401, 100, False),
        (600, 61, 0, False),  # a tenth of a short job: five minutes would be half of it
        (600, 59, 0, True),
        (None, 301, 0, False),
        (None, 299, 0, True),
        (None, None, 0, False),
        (1_800_000_000, -1_800_000_000, 0, False),  # END is 0: no end
    ],
)
def test_the_end_of_the_slurm_job(monkeypatch, long, left, save_seconds, wants):
    now = 1_800_000_000
    monkeypatch.setattr("hpcdiff.stop.time.time", lambda: float(now))
    for name, at in {"END": left, "START": None if long is None else left - long}.items():
        monkeypatch.delenv(f"SLURM_JOB_{name}_TIME", raising=False)
        if at is not None:
            monkeypatch.setenv(f"SLURM_JOB_{name}_TIME", str(now + at))
    world = World()
    world.sign.save_seconds = save_seconds
    assert StopSign().look(main=False) == 0  # rank 0's clock alone decides
    assert world.stop == wants
    assert not wants or CAUSES[world.sign.look(True)] == "Slurm's time limit"


def test_the_file_is_looked_at_once_a_second_at_most(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("hpcdiff.stop.time.monotonic", lambda: clock[0])
    sign = StopSign()
    assert sign.watch(tmp_path) is False
    assert sign.look(True) == 0
    (tmp_path / "stop").touch()
    clock[0] += 0.5
    assert sign.look(True) == 0
    clock[0] += 0.6
    assert sign.look(False) == 0  # no other rank looks
    assert CAUSES[sign.look(True)] == "the file stop"
    assert sign.obeyed() and not (tmp_path / "stop").exists() and not sign.obeyed()


@pytest.mark.parametrize(
    ("content", "job", "kept"),
    [("requeue 42\n", "42", True), ("requeue 41\n", "42", False), ("", "42", False), ("requeue 42\n", None, False)],
)
def test_a_signal_that_came_while_the_stage_was_starting_is_not_lost(tmp_path, monkeypatch, content, job, kept):
    """torchrun takes many seconds; what the job script wrote meanwhile is this job's, and all else was left over."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    (tmp_path / "stop").write_text(content)
    sign = StopSign()
    assert sign.watch(tmp_path) != kept and (tmp_path / "stop").exists() == kept
    assert CAUSES[sign.look(True)] == ("the job script" if kept else "")


def test_the_users_file_counts_before_all_else(tmp_path):
    sign = StopSign()
    sign.watch(tmp_path)
    sign.signal(signal.SIGTERM)
    sign.signal(signal.SIGUSR1)
    assert CAUSES[sign.signalled] == "SIGTERM"
    (tmp_path / "stop").touch()
    assert CAUSES[sign.look(True)] == "the file stop"


def test_stop_agreed_sees_the_file_too(tmp_path):
    """Sampling, projection and evaluation ask through the world alone."""
    world = World()
    world.sign.watch(tmp_path)
    (tmp_path / "stop").touch()
    assert world.stop and world.stop_agreed()
    world = World()
    assert not world.stop_agreed()
    world.stop = True
    assert world.stop_agreed() and int(world.largest(np.array([world.sign.look(True)]))[0]) == CAUSES.index("the stage itself")


def test_a_precision_that_the_device_lacks_is_refused_by_its_name(monkeypatch):
    import torch

    launch.refuse_precision("bf16", "cpu")
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    for able in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, able=able: able or including_emulation)
        launch.refuse_precision("fp32", "cuda:1")
        if able:
            launch.refuse_precision("bf16", "cuda:1")
        else:
            with pytest.raises(UserError, match=r"Tesla V100 \(cuda:1\) has no bf16, train.precision, take"):
                launch.refuse_precision("bf16", "cuda:1")
