"""A watchdog over ranks that wait for each other: a hung collective call ends the job, with the ranks named that hang."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from pathlib import Path

from hpcdiff.blame import Blame, find
from hpcdiff.ending import AwakeClock, first_to_claim, kill, myself, place, say
from hpcdiff.errors import UserError
from hpcdiff.world import TIMEOUT, World

PATIENCE = 5.0
"""Seconds beyond five intervals without an answer of torch's store, after which its host is held to hang."""
_watchdogs = 0


class Watchdog:
    """Ends the job when the training thread has not beaten for too long: one line on standard error, status file, exit status 1.

    `beat(phase, images)` says what is done from now on, and is cheap. Two threads of each rank do the rest: one counts the time since the
    last beat (only the time that this process was awake: a job that the scheduler suspends does not hang); the other posts it to
    torch.distributed's store, with the number of collective calls begun. The first rank whose time is over reads what all have posted, twice:
    those whose posts have stopped hang (or are gone); else those that have begun the fewest collective calls, since the others wait in a
    later one; else those at the lowest image. Its sentence goes to the store; every rank reads it there and ends itself, and what cannot
    (a suspended process) is killed by the ranks of its node. Where the store itself does not answer, its host is named: rank 0 under srun,
    the launcher under torchrun.

    The process groups' own timeout (`world.TIMEOUT`, 2 h) is longer, so that NCCL's watchdog, which ends a process with pages about one
    collective call (TORCH_NCCL_ASYNC_ERROR_HANDLING=3, torch's default), does not come first. NCCL's heartbeat monitor
    (TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC, 8 minutes) looks only at whether NCCL's watchdog thread itself is stuck, and may stay on.
    A call that hangs while it holds Python's lock (a read of HDF5 from a dead disk) keeps this rank's threads from running: the other ranks
    then name it, but if it is the only one, nothing does.

    Args:
        world: the ranks; `world.watchdog` becomes this one, and `launch.run_stage` closes it.
        stage: named in the line and in the status file.
        run_dir: where the status file stands.
        first_timeout: seconds for the first beat of each phase: step, validation and others may compile.
        timeout: seconds for every later one; more where such a beat took more than a third of it before (never above `first_timeout`).
    Raises:
        UserError: a timeout is longer than that of torch.distributed.
    """

    def __init__(self, world: World, stage: str, run_dir: str | Path, first_timeout: float, timeout: float) -> None:
        longest = TIMEOUT.total_seconds() - 60
        if max(first_timeout, timeout) > longest:
            raise UserError(f"{stage}.timeout and first_timeout cannot be longer than {longest:.0f} s", "config", "lower it")
        self.world, self.stage, self.run_dir = world, stage, Path(run_dir)
        self.first_timeout, self.timeout = first_timeout, timeout
        self.interval = min(1.0, max(0.1, timeout / 20))
        self._now = (0, "start", 0)  # beats, phase, images: replaced as a whole, so that no lock is needed
        self._began, self._usual = time.monotonic(), {}  # seconds that a beat of each phase takes
        self._still, self._heard = (self._now, 0.0), time.monotonic()  # seconds since that beat
        self._verdict = self._look = self._zero = None
        self._lost = self._cleared = self._cut = False
        self._closed, self._training = threading.Event(), threading.get_ident()
        self._claim = self.run_dir / f".{stage}.hung"
        self._me = myself()
        if world.main:
            self._claim.unlink(missing_ok=True)
        world.watchdog = self
        self._board = Board(world.size) if world.size > 1 else None
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._watch, *[self._talk] * (world.size > 1))]
        for thread in self._threads:
            thread.start()

    def beat(self, phase: str, images: int = 0) -> None:
        """Say that work goes on, and what comes now: "step", "validate", "save", ..., at this image. Only the training thread calls it."""
        now, (beats, before, _) = time.monotonic(), self._now
        self._usual[before] = max(now - self._began, self._usual.get(before, 0.0) / 2)
        self._began, self._now = now, (beats + 1, phase, images)

    def lost(self, error: BaseException) -> None:
        """After a collective call failed: where another rank is gone, say which and end; return where all are there, or it is no such error."""
        if self._board is None or self._closed.is_set() or not _speaks_of_a_lost_rank(error):
            return
        self._lost, end = True, time.monotonic() + PATIENCE + 20 * self.interval
        while self._verdict is not None or (not self._cleared and time.monotonic() < end):
            time.sleep(self.interval / 4)  # the watching thread ends this process

    def close(self) -> None:
        """Stop watching, after good work or an error that has been said."""
        self._closed.set()
        for thread in self._threads:
            thread.join(2.0)

    def _limit(self) -> float:
        phase = self._now[1]
        usual = self._usual.get(phase)
        return self.first_timeout if usual is None else max(self.timeout, min(self.first_timeout, 3 * usual))

    def _stalled(self) -> float:
        """Seconds since the last beat; the time before it counts no more from the beat on, whenever this is asked."""
        beat, seconds = self._still
        return seconds if beat is self._now else 0.0

    def _over(self, more: float = 0.0) -> bool:
        limit = self._limit()  # before the time: a beat in between ends both
        return self._stalled() > limit + more

    def _watch(self) -> None:
        clock = AwakeClock(self.interval / 2)
        while not self._closed.wait(clock.tick):
            step, beat = clock.step(), self._now
            self._still = (beat, self._still[1] + step if beat is self._still[0] else 0.0)
            over = self._over()
            if self._verdict is None and over and self._board is None:
                entry = self._entry()
                self._verdict = {"speaker": 0, "kill": [], "text": f"hung: {Blame([0]).sentence({0: entry})}{self._hint()}"}
            if self._verdict is None and self._board is not None and (over or self._lost):
                mute = time.monotonic() - self._heard > PATIENCE + 5 * self.interval
                if mute or (self._lost and self._cut):
                    self._verdict = self._without_store()
            if self._verdict is not None:
                self._leave()

    def _talk(self) -> None:
        from torch.distributed import DistNetworkError

        posts = 0
        while True:
            closed = self._closed.wait(self.interval if posts else 0.0)
            posts += 1
            try:
                self._board.post(self.world.rank, {**self._entry(), "n": posts, "closed": closed})
                self._verdict = self._verdict or self._board.verdict()
                self._zero = self._zero or self._board.read([0])[0]
                # one after the other, so that a thousand ranks don't all read a thousand posts
                turn = min(self.world.rank, 32) * self.interval / 4
                if self._verdict is None and (self._lost or self._over(turn)):
                    self._judge()
                else:
                    self._look = None
                self._heard = time.monotonic()
            except DistNetworkError:  # the store is gone, with its host, and this connection never comes back
                self._cut = True
                return
            except RuntimeError:  # it took too long to answer: try again
                pass
            if closed:
                return

    def _judge(self) -> None:
        """Two looks at what all ranks have posted; after the second, the verdict, if there is one to give."""
        if self._look is not None and time.monotonic() - self._look[0] < 2.5 * self.interval:
            return
        entries = self._board.read(range(self.world.size))
        if self._look is None:
            self._look = (time.monotonic(), entries)
            return
        before, self._look = self._look[1], None
        blame = find(before, entries, self.world.rank, self._lost)
        self._cleared = self._lost and not blame.named
        if blame.named:
            kill = [{k: entries[r][k] for k in ("node", "pid", "born")} for r in blame.named if entries[r] and not entries[r]["closed"]]
            text = f"{'lost' if self._lost else 'hung'}: {blame.sentence(entries)}{'' if blame.silent or self._lost else self._hint()}"
            self._verdict = self._board.give({"speaker": self.world.rank, "kill": kill, "text": text})

    def _without_store(self) -> dict:
        agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        who = f"the launcher on {os.environ.get('MASTER_ADDR', '?')}" if agent else "rank 0"
        if self._zero and not agent:
            who += f" ({self._zero['host']}, pid {self._zero['pid']})"
        kill = [] if agent or not self._zero else [self._zero]
        doing = "{1}, image {2}".format(*self._now)
        text = f"{'lost' if self._lost else 'hung'}: {who}, which keeps torch.distributed's store, does not answer; rank {self.world.rank} waits for it in {doing}"
        return {"speaker": self.world.rank if first_to_claim(self._claim) else -1, "kill": kill, "text": text}

    def _leave(self) -> None:
        verdict = self._verdict
        if verdict["speaker"] == self.world.rank:
            say(self.stage, self.run_dir, verdict["text"])
        if self._board is not None:
            time.sleep(3 * self.interval)  # the others read the verdict before the store goes with its host
        kill(verdict["kill"])
        os._exit(1)

    def _hint(self) -> str:
        key = "first_timeout" if self._usual.get(self._now[1]) is None else "timeout"
        return f"; raise {self.stage}.{key} if that is no hang"

    def _entry(self) -> dict:
        beats, phase, images = self._now
        return {
            **self._me,
            "beats": beats,
            "phase": phase,
            "images": images,
            "stalled": self._stalled(),
            "over": self._over(),
            "at": place(self._training),
            "calls": collective_calls() if self._board is not None else 0,
            "closed": False,
        }


class Board:
    """What the ranks post for each other in torch.distributed's store, over a connection of its own.

    Errors of the connection are RuntimeError; a store whose host is suspended makes a call wait without end.
    """

    def __init__(self, size: int) -> None:
        global _watchdogs
        import torch.distributed

        _watchdogs += 1  # the same on every rank
        store = torch.distributed.distributed_c10d._get_default_store().clone()
        self.store, self.size = torch.distributed.PrefixStore(f"hpcdiff/watchdog/{_watchdogs}", store), size

    def post(self, rank: int, entry: dict) -> None:
        """Say how this rank is."""
        self.store.set(str(rank), json.dumps(entry))

    def read(self, ranks) -> dict[int, dict | None]:
        """How these ranks are; None for one that has said nothing yet."""
        keys = [str(r) for r in ranks]
        if self.store.check(keys):
            return {int(k): json.loads(v) for k, v in zip(keys, self.store.multi_get(keys), strict=True)}
        return {int(k): json.loads(self.store.get(k)) if self.store.check([k]) else None for k in keys}

    def verdict(self) -> dict | None:
        """What a rank has found, if one has."""
        return json.loads(self.store.get("verdict")) if self.store.check(["verdict"]) else None

    def give(self, verdict: dict) -> dict:
        """Give a verdict; returns the one that counts, which is the first."""
        return json.loads(self.store.compare_set("verdict", "", json.dumps(verdict)))


def collective_calls() -> int:
    """How many collective calls this rank has begun in all process groups; equal on ranks that run the same program in step."""
    import torch.distributed

    calls = 0
    for group in list(torch.distributed.distributed_c10d._world.pg_map):
        with contextlib.suppress(RuntimeError):  # a backend without numbers
            calls += group._get_sequence_number_for_group()
    return calls


def _speaks_of_a_lost_rank(error: BaseException) -> bool:
    words = r"gloo|NCCL|onnection (was )?(closed|reset|refused)|Broken pipe|DistNetworkError|remote worker"
    return isinstance(error, (RuntimeError, OSError)) and re.search(words, f"{type(error).__name__} {error}") is not None
