"""Ranks that fall silent in stages without a watchdog: the job ends on every rank, one line names the right ones; and no false alarm."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import LAUNCHERS, ROOT, environment, kill

from hpcdiff import launch
from hpcdiff.blame import born
from hpcdiff.ending import AwakeClock, first_to_claim, myself, say
from hpcdiff.ending import kill as kill_all
from hpcdiff.silence import Pulse, Waits, _resolve
from hpcdiff.world import World

RANK = """
import ctypes, os, signal, sys, threading, time
sys.path.insert(0, ROOT)
from hpcdiff import launch
stage, folder, who, what = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
if os.environ.get("SLURM_PROCID") == os.environ.get("DEAF", "none"):  # no datagram of this rank's comes through
    import hpcdiff.silence
    hpcdiff.silence._resolve = lambda *way: []

def work(config, world):
    with open(f"{folder}/pid{world.rank}.tmp", "w") as f:
        f.write(str(os.getpid()))
    os.rename(f"{folder}/pid{world.rank}.tmp", f"{folder}/pid{world.rank}")
    world.barrier()  # the test finds the numbers of all
    if world.rank == who and what == "suspended":
        os.kill(os.getpid(), signal.SIGSTOP)
    if world.rank == who and what == "holds Python's lock":
        ctypes.PyDLL(None).sleep(1000)
    if world.rank == who and what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if world.rank == who and what == "waits for a disk":
        sys.path.insert(0, f"{ROOT}/tests")
        from test_silence import wait_as_for_a_disk
        wait_as_for_a_disk(f"{folder}/fifo")
    if what == "waits for a file":
        while not os.path.exists(f"{folder}/go"):
            time.sleep(0.01)
    world.barrier()
    return "done"

sys.exit(launch.run_stage(stage, lambda config: [], work, lambda config: [], [f"{folder}/c.yaml", *sys.argv[5:]]))
"""


def wait_as_for_a_disk(fifo):
    """Uninterruptible, and without Python's lock: a process that is to be started opens a pipe that nobody writes to."""
    libc = ctypes.CDLL(None)
    actions, pid = ctypes.create_string_buffer(256), ctypes.c_int()
    with contextlib.suppress(FileExistsError):
        os.mkfifo(fifo)
    libc.posix_spawn_file_actions_init(actions)
    libc.posix_spawn_file_actions_addopen(actions, 0, os.fsencode(fifo), os.O_RDONLY, 0)
    words = (ctypes.c_char_p * 2)(b"true", None)
    assert libc.posix_spawnp(ctypes.byref(pid), b"true", actions, None, words, None) == 0
    os.waitpid(pid.value, 0)


def begin(tmp_path, stage: str, launcher: str, ranks: int, who: int, what: str, *words: str, **more: str) -> list[subprocess.Popen]:
    """Start the ranks above; what they say goes to the files err0, ..."""
    (tmp_path / "rank.py").write_text(RANK.replace("ROOT", repr(str(ROOT)), 1).replace("{ROOT}", str(ROOT)))
    (tmp_path / "c.yaml").write_text(f"run: {{dir: {tmp_path / 'run'}}}\n")
    script = [str(tmp_path / "rank.py"), stage, str(tmp_path), str(who), what, *words]
    common = {**more, "SLURM_STEP_NUM_TASKS": str(ranks), "SLURM_JOB_ID": str(time.time_ns() % 10000), "SLURM_STEP_NODELIST": "localhost"}
    started = []
    for r in range(ranks if launcher == "srun" else 1):
        command = [sys.executable, *script] if launcher == "srun" else [*LAUNCHERS[launcher](ranks), *script]
        env = environment(**common, SLURM_PROCID=str(r), SLURM_LOCALID=str(r)) if launcher == "srun" else environment()
        with open(tmp_path / f"err{r}", "w") as err:
            started.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=err, start_new_session=True))
    return started


def end(tmp_path, started: list[subprocess.Popen], ranks: int) -> tuple[str, dict, list[int]]:
    """What was said, the status file, the exit statuses. No rank may be left."""
    try:
        codes = [p.wait(90) for p in started]
    finally:
        for p in started:
            kill(p)
    left = []
    for r in range(ranks):
        pid = int((tmp_path / f"pid{r}").read_text())
        until = time.monotonic() + 10
        while (alive := Path(f"/proc/{pid}").exists()) and time.monotonic() < until:
            time.sleep(0.02)
        left += [pid] * alive
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):  # who waits for the pipe outlives its rank
        os.close(os.open(tmp_path / "fifo", os.O_WRONLY | os.O_NONBLOCK))
    assert not left, "a rank was left"
    said = "".join((tmp_path / f"err{r}").read_text() for r in range(len(started)))
    return said, json.loads(next((tmp_path / "run").glob("*.status.json")).read_text()), codes


@pytest.mark.parametrize(
    ("stage", "launcher", "ranks", "who", "what"),
    [
        ("simulate", "mpirun", 3, 1, "suspended"),
        ("project", "mpirun", 3, 0, "suspended"),
        ("project", "mpirun", 2, 1, "holds Python's lock"),
        ("simulate", "mpirun", 2, 1, "waits for a disk"),
        ("simulate", "mpirun", 2, 0, "waits for a disk"),
        ("sample", "torchrun", 2, 1, "suspended"),
        ("evaluate", "srun", 3, 0, "suspended"),
        ("sample", "srun", 2, 1, "suspended"),
    ],
)
def test_a_rank_that_freezes_ends_all_and_is_named_once(tmp_path, stage, launcher, ranks, who, what):
    said, status, codes = end(tmp_path, begin(tmp_path, stage, launcher, ranks, who, what, "run.patience=3"), ranks)
    lines = [line for line in said.splitlines() if line.startswith("hpcdiff ")]
    assert len(lines) == 1, said
    pid = (tmp_path / f"pid{who}").read_text()
    assert lines[0].startswith(f"hpcdiff {stage}: hung: rank {who} ({os.uname().nodename}, pid {pid}) has ") and said.count("hung:") == 1
    assert ("has waited for the operating system for " in lines[0]) == (what == "waits for a disk"), lines[0]
    assert "; raise run.patience if that is no hang" in lines[0] and all(f"rank {r} (" not in lines[0] for r in range(ranks) if r != who)
    assert status == {"exit": 1, "reason": lines[0].removeprefix(f"hpcdiff {stage}: ")} and all(codes)
    assert "Traceback" not in said or launcher == "torchrun"  # its own


def test_a_job_that_the_scheduler_suspends_goes_on(tmp_path):
    started = begin(tmp_path, "evaluate", "srun", 2, -1, "waits for a file", "run.patience=3")
    try:
        until = time.monotonic() + 60
        while not all((tmp_path / f"pid{r}").exists() for r in range(2)) and time.monotonic() < until:
            time.sleep(0.02)
        for number, seconds in ((signal.SIGSTOP, 5.0), (signal.SIGCONT, 0.7)):  # longer than the patience; then several intervals
            for p in started:
                p.send_signal(number)
            time.sleep(seconds)
        (tmp_path / "go").write_text("")
    finally:
        said, status, codes = end(tmp_path, started, 2)
    assert (said, status["exit"], codes) == ("", 0, [0, 0])


def test_a_rank_that_no_datagram_reaches_is_said_and_ends_with_the_others(tmp_path):
    """Nobody can tell it the verdict: it learns from its next call to the others."""
    said, status, codes = end(tmp_path, begin(tmp_path, "sample", "srun", 3, 1, "suspended", "run.patience=3", DEAF="2"), 3)
    lines = [line for line in said.splitlines() if line.startswith("hpcdiff ")]
    assert lines[0].startswith("hpcdiff sample: nothing is heard of rank 2 by UDP (port ") and all(codes), said
    assert [line.split(" (")[0] for line in lines[1:]] == ["hpcdiff sample: hung: rank 1"] and "rank 1 (" in status["reason"]


def test_where_no_datagram_comes_through_the_work_goes_on(tmp_path):
    said, status, codes = end(tmp_path, begin(tmp_path, "sample", "srun", 2, -1, "goes on", DEAF="1"), 2)
    assert said.count("\n") == 1 and "nothing is heard of rank 1 by UDP" in said and status["exit"] == 0 and codes == [0, 0]


class Ranks(World):
    """Rank 0 of several, of whom nothing is heard but what a test says."""

    def __init__(self, size: int, rank: int = 0) -> None:
        super().__init__()
        self.size, self.rank = size, rank

    def allgather(self, value):
        return [value if self.main else ["t" * 32, 9, [], myself()]] * self.size


def pulse_of(tmp_path, size: int, rank: int = 0, patience: float = 1e6) -> Pulse:
    """A pulse whose own clock stands still, nearly: the tests set `awake`."""
    return Pulse(Ranks(size, rank), "project", tmp_path, patience)


def said_by(rank: int, **more) -> dict:
    return {
        "rank": rank,
        "way": 0,
        "closed": False,
        "waits": 0.0,
        "at": "files.py:27, write_atomic",
        **myself(),
        "host": f"n{rank}",
        **more,
    }


HERE = ("127.0.0.1", 9)


def test_a_rank_that_was_never_heard_is_not_blamed_and_rank_0_says_so(tmp_path, capfd):
    pulse = pulse_of(tmp_path, 4, patience=900)
    for rank in (1, 3):
        pulse.take(said_by(rank), HERE)
    pulse.awake = 899
    assert pulse.judge() is None
    pulse.awake = 901
    verdict = pulse.judge()
    pulse.close()
    assert verdict["text"] == (
        f"hung: rank 1 (n1, pid {os.getpid()}) has been silent for 901 s; rank 3 (n3, pid {os.getpid()}) has been silent for 901 s"
        "; raise run.patience if that is no hang"
    )
    assert len(verdict["kill"]) == 2 and verdict["speaker"] == 0
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("hpcdiff project: nothing is heard of ranks 1-3 by UDP")


def test_those_whose_last_words_came_a_little_later_are_named_too(tmp_path):
    pulse = pulse_of(tmp_path, 4, patience=900)
    for rank, heard in ((1, 0.0), (2, 50.0), (3, 100.0)):
        pulse.awake = heard
        pulse.take(said_by(rank), HERE)
    pulse.awake = 901
    text = pulse.judge()["text"]
    pulse.close()
    assert "rank 1 (n1" in text and "rank 2 (n2" in text and "rank 3" not in text


def test_a_rank_takes_the_way_that_is_answered_and_the_first_verdict(tmp_path, monkeypatch):
    monkeypatch.setattr("hpcdiff.silence.HELLO", 0.0)
    left = []
    monkeypatch.setattr(Pulse, "_leave", lambda self, verdict: left.append(verdict))
    pulse = pulse_of(tmp_path, 2, 1, 900)
    assert pulse.interval == 30 and pulse_of(tmp_path, 2, patience=3).interval == pytest.approx(0.1)
    pulse._ways = [(0, ("127.0.0.1", 9)), (1, ("192.0.2.7", 9))]
    pulse.take({**said_by(0), "way": 1, "verdict": None}, HERE)
    assert pulse._ways == [(1, ("192.0.2.7", 9))] and pulse._met.is_set()
    pulse.close()
    for speaker in (0, 1):
        pulse.take({**said_by(0), "verdict": {"speaker": speaker, "kill": [], "text": ""}}, HERE)
    assert pulse.verdict["speaker"] == 0 and pulse._ways == [(1, ("192.0.2.7", 9))]


def test_only_the_process_that_is_meant_is_killed(tmp_path):
    process = subprocess.Popen(["sleep", "1000"])
    right = {**myself(), "pid": process.pid, "born": born(process.pid)}
    kill_all([{**right, "node": "another boot"}, {**right, "born": "1"}, myself()])
    assert process.poll() is None
    kill_all([right])
    assert process.wait(30) == -signal.SIGKILL


def test_the_first_fault_counts(tmp_path, capfd):
    (tmp_path / "sample.status.json").write_text('{"exit": 2}')
    for stage in ("sample", "project"):
        say(stage, tmp_path, "hung: rank 1")
        assert capfd.readouterr().err == f"hpcdiff {stage}: hung: rank 1\n"
    assert json.loads((tmp_path / "sample.status.json").read_text()) == {"exit": 2}
    assert json.loads((tmp_path / "project.status.json").read_text()) == {"exit": 1, "reason": "hung: rank 1"}


def test_who_has_left_is_not_silent_and_who_speaks_again_neither(tmp_path):
    pulse = pulse_of(tmp_path, 8, patience=900)
    for rank in range(1, 8):
        pulse.take(said_by(rank), HERE)
    pulse.take(said_by(1, closed=True), HERE)
    pulse.awake = 880
    pulse.take(said_by(2), HERE)
    pulse.awake = 905
    text = pulse.judge()["text"]
    assert "rank 1 " not in text and "rank 2 " not in text and "rank 6 (" in text and "; rank 7 likewise;" in text
    for rank in range(3, 8):
        pulse.take(said_by(rank), HERE)
    assert pulse.judge() is None
    pulse.take(said_by(5, waits=901.0), HERE)
    assert (
        f"hung: rank 5 (n5, pid {os.getpid()}) has waited for the operating system for 901 s (files.py:27, write_atomic);"
        in pulse.judge()["text"]
    )
    pulse.close()


def test_rank_0_has_the_first_word_and_the_others_speak_by_turns(tmp_path, monkeypatch):
    monkeypatch.setattr("hpcdiff.silence.HELLO", 0.0)
    first = []
    for rank in (1, 2):
        pulse = pulse_of(tmp_path, 3, rank, 900)
        pulse.awake = 5000.0
        assert pulse.judge() is None, "rank 0 was never heard"
        pulse.take({**said_by(0), "verdict": None}, HERE)
        while pulse.judge() is None:
            pulse.awake += 1
        first.append(pulse.awake - 5000)
        pulse.close()
    assert 980 < first[0] < first[1] < 1100


def test_an_error_waits_for_the_verdict_only_where_a_rank_may_hang(tmp_path, monkeypatch):
    monkeypatch.setattr("hpcdiff.silence.HELLO", 0.0)
    monkeypatch.setattr(Pulse, "_leave", lambda self, verdict: None)
    pulse = pulse_of(tmp_path, 2, 1, 30)
    pulse.lost(OSError("mine"))  # rank 0 was never heard: returns
    pulse.take({**said_by(0), "verdict": None}, HERE)
    pulse.lost(OSError("mine"))  # nor now, when it has just been heard

    def waits(change):
        change()
        thread = threading.Thread(target=pulse.lost, args=[OSError("of a rank that is gone")], daemon=True)
        thread.start()
        thread.join(0.3)
        waiting = thread.is_alive()
        pulse.close()
        thread.join(30 * pulse.interval)
        assert not thread.is_alive()
        pulse._closed.clear()
        return waiting

    assert not waits(lambda: None)
    assert waits(lambda: setattr(pulse, "awake", pulse.awake + 5 * pulse.interval))
    pulse.take({**said_by(0), "verdict": None}, HERE)
    assert waits(lambda: setattr(pulse, "verdict", {"speaker": 0}))
    pulse.close()


def test_the_wait_for_a_disk_is_seen_and_ends(tmp_path):
    waits, clock = Waits(), time.monotonic
    thread = threading.Thread(target=wait_as_for_a_disk, args=(tmp_path / "fifo",))
    assert waits.longest(clock()) == 0.0
    thread.start()
    until, seen = clock() + 30, 0.0
    while seen < 0.2 and clock() < until:
        seen = waits.longest(clock())
        time.sleep(0.01)
    (tmp_path / "fifo").write_text("")
    thread.join()
    assert seen >= 0.2
    assert waits.longest(clock()) == 0.0


def test_many_short_waits_are_no_long_one(monkeypatch):
    waits, said, seen = Waits(), [""], []
    monkeypatch.setattr("hpcdiff.silence.Path.read_text", lambda path: said[0])
    for now, (switches, state) in enumerate(((5, "D"), (5, "D"), (6, "D"), (6, "S"), (6, "D"))):
        said[0] = f"Name:\tpython\nState:\t{state} (as it is)\nvoluntary_ctxt_switches:\t{switches}\n"
        seen.append(waits.longest(float(now)))
    assert seen == [0, 1, 0, 0, 0]


def test_time_asleep_does_not_count(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("hpcdiff.ending.time.monotonic", lambda: now[0])
    clock, seconds = AwakeClock(0.5), []
    for now[0] in (0.4, 1.2, 3601.2, 3601.5):
        seconds.append(clock.step())
    assert seconds == pytest.approx([0.4, 0.8, 1.0, 0.3])


def test_one_rank_speaks_and_each_where_the_folder_is_away(tmp_path):
    assert [first_to_claim(tmp_path / ".x.hung") for _ in range(3)] == [True, False, False]
    assert [first_to_claim(tmp_path / "away" / ".x.hung") for _ in range(2)] == [True, True]


def test_other_nodes_resolve_names_themselves_and_an_unknown_one_harms_nothing():
    ways = _resolve(["no.such.host.invalid", "localhost", "192.0.2.7"], 4321, same_node=True)
    assert ways == [(0, ("127.0.0.1", 4321)), (1, ("192.0.2.7", 4321))]
    assert _resolve(["192.0.2.7"], 4321, same_node=False) == [(0, ("192.0.2.7", 4321))]


def test_a_datagram_of_somebody_else_is_passed_over(tmp_path):
    import socket

    pulse = pulse_of(tmp_path, 2)
    port = pulse._socket.getsockname()[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        for token in (b"", b"x" * 32, pulse._token):
            other.sendto(token + json.dumps(said_by(1 + (token == b""))).encode(), ("127.0.0.1", port))
        other.settimeout(30)
        answer = other.recv(4096)
    assert list(pulse.heard) == [1] and answer.startswith(pulse._token) and json.loads(answer[32:])["rank"] == 0
    pulse.close()


@pytest.mark.parametrize(
    ("stage", "size", "patience", "watched"), [("sample", 2, 9, 1), ("sample", 2, 0, 0), ("sample", 1, 9, 0), ("train", 2, 9, 0)]
)
def test_which_runs_are_watched(tmp_path, monkeypatch, stage, size, patience, watched):
    world = World() if size == 1 else Ranks(size)
    monkeypatch.setattr(launch, "join_world", lambda stage: world)
    (tmp_path / "c.yaml").write_text(f"run: {{dir: {tmp_path / 'run'}, patience: {patience}}}\n")
    seen = []
    assert launch.run_stage(stage, lambda c: [], lambda c, w: seen.append(w.pulse) or "done", lambda c: [], [str(tmp_path / "c.yaml")]) == 0
    assert (seen[0] is not None) == bool(watched)
    assert not watched or seen[0]._closed.is_set()
