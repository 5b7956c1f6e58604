"""Which ranks hang, from what all ranks have posted of themselves; pure functions, and names for processes."""

from __future__ import annotations

import contextlib
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

from hpcdiff.spans import spans

DESCRIBED = 4
"""So many ranks are described one by one; the line names the others by number alone."""


@dataclass
class Blame:
    """The ranks at fault; of them, those whose posts have stopped (`silent`), and those that have ended (`closed`)."""

    named: list[int]
    silent: list[int] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)

    def sentence(self, entries: dict[int, dict | None]) -> str:
        """What they were doing and who waits for them, in one line; `entries`: what each rank has posted, by rank."""
        said = []
        for r in self.named[:DESCRIBED]:
            e = entries[r]
            if e is None:
                said.append(f"rank {r} has not been heard of")
                continue
            doing = f"{e['phase']}, image {e['images']}"
            verb = f"has been in {doing}, for {e['stalled']:.0f} s ({e['at']})"
            if r in self.closed:
                verb = f"has ended, last in {doing}"
            elif r in self.silent:
                verb = f"does not answer (suspended, or gone), last in {doing}"
            said.append(f"rank {r} ({e['host']}, pid {e['pid']}) {verb}")
        if len(self.named) > DESCRIBED:
            said.append(f"{rank_names(self.named[DESCRIBED:])} likewise")
        if len(self.named) == len(entries) > 1 and not self.silent and not self.closed:
            said.append("none is behind the others, so a device or the network hangs")
        if waiting := [r for r in entries if r not in self.named and not (entries[r] and entries[r]["closed"])]:
            said.append(f"{rank_names(waiting)} wait{'s' * (len(waiting) == 1)} for {'it' if len(self.named) == 1 else 'them'}")
        return "; ".join(said)


def find(before: dict[int, dict | None], now: dict[int, dict | None], me: int, lost: bool) -> Blame:
    """Who hangs (or, with `lost`, who is gone), from two looks at the posts, some intervals apart; nobody may be.

    Those whose posts have stopped; else those that have begun the fewest collective calls, since the others wait in a later one; else those at
    the lowest image; else all. Nobody, while one of them is within its own time: the first validation on one rank, for which the others wait.

    Args:
        before, now: rank -> what it posted: `n` (counts the posts), `calls`, `images`, `over` (its time is over), `closed`; None = nothing yet.
        me: the rank that looks, which is not silent.
        lost: a collective call has failed here, so a rank that has ended is at fault too, and one that merely waits is not.
    """
    closed = [r for r, e in now.items() if e and e["closed"]]
    silent = [r for r, e in now.items() if r != me and r not in closed and (e is None or (before[r] or {"n": 0})["n"] == e["n"])]
    if lost:
        return Blame(sorted(silent + closed), silent, closed)
    if silent:
        return Blame(silent, silent)
    entries = {r: e for r, e in now.items() if r not in closed}
    for key in ("calls", "images"):
        lowest = min(e[key] for e in entries.values())
        named = [r for r, e in entries.items() if e[key] == lowest]
        if len(named) < len(entries):
            break
    return Blame(named if all(entries[r]["over"] for r in named) else [])


def rank_names(ranks: list[int]) -> str:
    """[0, 1, 2, 4] -> "ranks 0-2, 4"; empty where there are none."""
    return f"rank{'s' * (len(set(ranks)) > 1)} {spans(ranks, ', ')}" if ranks else ""


def node() -> str:
    """A name of this node and its process numbers: containers of one machine count their own."""
    with contextlib.suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    return platform.node()


def born(pid: int) -> str:
    """When a process was started, in the kernel's ticks, so that its number given to another is told apart; empty if it is gone."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    return ""
