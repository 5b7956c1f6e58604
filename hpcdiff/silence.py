"""Ranks that fall silent: a suspended or frozen one ends the job, and is named. For the stages whose work has no beat of its own.

A thread of each rank sends rank 0 a datagram (UDP) every `interval` seconds, and rank 0 answers. What decides is silence alone, however long
the work takes: the thread goes on while its rank computes, waits for others or for a disk, and stops when the process is suspended, its
node is frozen or swaps to death, or a call holds Python's lock (opening an HDF5 file does; reading, writing and flushing one do not).
A disk that does not answer leaves the thread alive, so each rank also looks at how long its Python threads have been in one and the same
uninterruptible wait of the operating system, and says so.

With 10,000 ranks, 333 datagrams a second come to rank 0 at the default patience.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import platform
import secrets
import socket
import threading
import time
from pathlib import Path

from hpcdiff.blame import DESCRIBED, rank_names
from hpcdiff.ending import PATIENCE, AwakeClock, first_to_claim, kill, myself, place, say
from hpcdiff.world import World

INTERVAL = 30.0
"""Seconds between two datagrams of a rank, at most; a thirtieth of the patience if that is less."""
HELLO = 5.0
"""Seconds that the ranks have, at the start, to hear each other."""
GRACE = 0.6
"""Seconds in which the others hear why the job ends, before a suspended rank is killed and their calls to it fail."""


class Pulse:
    """Ends the job when a rank has been silent for `patience` seconds: one line on standard error, status file, exit status 1.

    Rank 0 watches the others, and they watch rank 0; it names a silent rank first, and the others name rank 0 by turns. Only the time that
    the watching process itself was awake counts: a job that the scheduler suspends does not hang. A rank is watched from its first
    datagram on: one that is not heard (a firewall) may be well, and rank 0 says at the start which these are.

    Creating it is collective, and takes `HELLO` seconds where datagrams do not come through. One process alone has nobody who could watch it.

    Args:
        world: the ranks; `world.pulse` becomes this one, and `launch.run_stage` closes it.
        stage: named in the line and in the status file.
        run_dir: where the status file stands.
        patience: seconds, above 0.
    """

    def __init__(self, world: World, stage: str, run_dir: str | Path, patience: float) -> None:
        self.world, self.stage, self.run_dir, self.patience = world, stage, Path(run_dir), patience
        self.interval = min(INTERVAL, max(0.05, patience / 30))
        self.awake, self.heard, self.gone, self.verdict = 0.0, {}, set(), None  # heard: rank -> (awake then, its address, what it said)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.bind(("", 0))
        self._me, self._waits = myself(), Waits()
        self._claim = self.run_dir / f".{stage}.hung"
        self._closed, self._met, self._work = threading.Event(), threading.Event(), threading.get_ident()
        invitation = [secrets.token_hex(16), self._socket.getsockname()[1], _names(), self._me] if world.main else None
        token, self._port, self._names, self._zero = world.broadcast(invitation)
        self._token, self._ways = token.encode(), []
        world.pulse = self
        threading.Thread(target=self._run, daemon=True).start()
        if world.main:
            self._met.set()
            with contextlib.suppress(OSError):
                self._claim.unlink(missing_ok=True)
        self._met.wait(HELLO)
        world.barrier()
        if world.main and (deaf := set(range(1, world.size)) - self.heard.keys()):
            text = f"nothing is heard of {rank_names(list(deaf))} by UDP (port {self._port}), so a silent rank is not noticed there"
            os.write(2, f"hpcdiff {stage}: {text}\n".encode())

    def lost(self, error: BaseException) -> None:
        """After an error: wait for the end where a rank is known or likely to hang, since the error comes of its death; else return."""
        while not self._closed.is_set() and (self.verdict is not None or self._silent(0) > 4 * self.interval):
            time.sleep(self.interval / 4)

    def close(self) -> None:
        """Leave in good order."""
        self._send(closed=True)
        self._closed.set()

    def _run(self) -> None:
        tick, due = self.interval / 4, 0.0
        clock = AwakeClock(tick)
        if not self.world.main:
            self._ways = _resolve(self._names, self._port, self._zero["node"] == self._me["node"])
        look, every = 0.0, self.interval * (1 - 0.25 * self.world.rank / self.world.size)  # not all at the same time
        while not self._closed.is_set():
            met = self._met.is_set() or self.awake > HELLO
            if self.awake >= due:
                self._send()
                due = self.awake + (every if met else min(tick, 0.25))
            self._listen(tick if met else min(tick, 0.25))
            self.awake += clock.step()
            if self.awake >= look or self.verdict is not None:
                look = self.awake + tick
                self.verdict = self.verdict or self.judge()
                if self.verdict is not None and not self._closed.is_set():
                    self._leave(self.verdict)

    def _listen(self, seconds: float) -> None:
        """Take all that has come, or wait so long for something."""
        with contextlib.suppress(BlockingIOError, TimeoutError):
            while True:
                self._socket.settimeout(seconds)  # this is poll(), which bears any number of open files
                data, sender = self._socket.recvfrom(4096)
                seconds = 0.0
                if data.startswith(self._token):  # nobody else's
                    self.take(json.loads(data[len(self._token) :]), sender)

    def take(self, said: dict, sender: tuple[str, int]) -> None:
        """A datagram of another rank's: rank 0 answers it."""
        rank = said["rank"]
        if said["closed"]:
            self.gone.add(rank)
        self.heard[rank] = (self.awake, sender, said)
        if self.world.main:
            self._tell(sender, self._entry(said["way"]))
        else:
            self._met.set()
            self._ways, self.verdict = [way for way in self._ways if way[0] == said["way"]] or self._ways, self.verdict or said["verdict"]

    def _send(self, closed: bool = False) -> None:
        for way, address in self._ways:
            self._tell(address, self._entry(way, closed))

    def _tell(self, address: tuple[str, int], entry: dict) -> None:
        with contextlib.suppress(OSError):  # a network that is away for a moment
            self._socket.sendto(self._token + json.dumps(entry).encode(), address)

    def _entry(self, way: int, closed: bool = False) -> dict:
        said = {"rank": self.world.rank, "way": way, "closed": closed, **self._me}
        if self.world.main:
            return {**said, "verdict": None}
        return {**said, "waits": self._waits.longest(self.awake), "at": place(self._work)}

    def _silent(self, rank: int) -> float:
        return self.awake - self.heard[rank][0] if rank in self.heard and rank not in self.gone else 0.0

    def judge(self) -> dict | None:
        """Who hangs: {"speaker": rank, "kill": processes, "text": sentence}, or None."""
        found = {}
        limit = self.patience
        if not self.world.main:  # rank 0 has the first word, then one after the other
            limit += 3 * self.interval + min(self.world.rank - 1, 32) * self.interval / 4
        silent = {r: s for r in self.heard if (s := self._silent(r)) > limit - 2 * self.interval}
        if any(s > limit for s in silent.values()):  # and those whose last datagrams came a little later
            found = {r: f"has been silent for {s:.0f} s" for r, s in silent.items()}
        if self.world.main:
            waits = {0: ({**self._me, "at": place(self._work)}, self._waits.longest(self.awake))}
            waits |= {r: (said, said["waits"]) for r, (_, _, said) in self.heard.items() if r not in self.gone}
            for r, (said, seconds) in waits.items():
                if seconds > limit and r not in found:
                    found[r] = f"has waited for the operating system for {seconds:.0f} s ({said['at']})"
        if not found:
            return None
        who = {r: self._me if r == self.world.rank else self.heard[r][2] for r in sorted(found)}
        text = "; ".join(f"rank {r} ({who[r]['host']}, pid {who[r]['pid']}) {found[r]}" for r in list(who)[:DESCRIBED])
        text += f"; {rank_names(list(who)[DESCRIBED:])} likewise" * (len(who) > DESCRIBED)
        victims = [{k: p[k] for k in ("node", "pid", "born")} for p in who.values()]
        return {"speaker": self.world.rank, "kill": victims, "text": f"hung: {text}; raise run.patience if that is no hang"}

    def _leave(self, verdict: dict) -> None:
        speaks = verdict["speaker"] == self.world.rank
        if speaks and first_to_claim(self._claim):
            say(self.stage, self.run_dir, verdict["text"])
        for _ in range(3):
            for _, address, said in list(self.heard.values()) if self.world.main else []:
                near = [v for v in verdict["kill"] if v["node"] == said["node"]]
                short = {**verdict, "text": "", "kill": near[:16]}  # a datagram holds no more
                self._tell(address, {**self._entry(said["way"]), "verdict": short})
            time.sleep(GRACE / 3)
        kill(verdict["kill"])
        with open(os.devnull, "w") as silence:
            faulthandler.dump_traceback_later(PATIENCE, exit=True, file=silence)  # should MPI's own end hang, with Python's lock held
            if speaks:
                self.world.abort(1)
        os._exit(1)


class Waits:
    """How long the Python threads of this process have been in one uninterruptible wait: a disk that does not answer.

    Such a thread is in state D and has not been switched away from since.
    """

    def __init__(self) -> None:
        self._since: dict[tuple[int, int], float] = {}

    def longest(self, now: float) -> float:
        """Seconds of the longest one, as seen by calls of this one at `now`."""
        before, self._since = self._since, {}
        for thread in threading.enumerate():
            with contextlib.suppress(OSError, ValueError):
                about = dict(line.split(":", 1) for line in Path(f"/proc/self/task/{thread.native_id}/status").read_text().splitlines())
                if about.get("State", "").strip().startswith("D"):
                    wait = (thread.native_id, int(about["voluntary_ctxt_switches"]))
                    self._since[wait] = before.get(wait, now)
        return now - min(self._since.values(), default=now)


def _names() -> list[str]:
    """What this node may be called by others: they resolve names better than itself, whose own name is often 127.0.1.1 to it."""
    names = [platform.node(), os.environ.get("SLURMD_NODENAME", ""), os.environ.get("MASTER_ADDR", "")]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; tells which address faces the network
        names.append(probe.getsockname()[0])
    return [name for name in dict.fromkeys(names) if name]


def _resolve(names: list[str], port: int, same_node: bool) -> list[tuple[int, tuple[str, int]]]:
    """The ways to rank 0, numbered: all are taken until it answers by one."""
    found = [("127.0.0.1", port)] if same_node else []
    for name in names:
        with contextlib.suppress(OSError, UnicodeError):
            found += [info[4] for info in socket.getaddrinfo(name, port, socket.AF_INET, socket.SOCK_DGRAM)]
    return list(enumerate(dict.fromkeys(found)))
