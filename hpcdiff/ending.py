"""How a rank ends a job that hangs: one line, the status file, SIGKILL to what hears nothing else. For `watchdog` and `silence`."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from hpcdiff import files
from hpcdiff.blame import born, node

PATIENCE = 5.0
"""Seconds that disk and terminal get, which may hang too."""


class AwakeClock:
    """Counts the time that this process was awake: a job that the scheduler suspends for hours does not hang.

    Args:
        tick: seconds between two readings; a longer gap counts as two ticks.
    """

    def __init__(self, tick: float) -> None:
        self.tick, self._last = tick, time.monotonic()

    def step(self) -> float:
        """Seconds awake since the last reading."""
        now = time.monotonic()
        step, self._last = min(now - self._last, 2 * self.tick), now
        return step


def myself() -> dict:
    """This process as the others name it, and know it from a later one of the same number."""
    return {"host": platform.node(), "pid": os.getpid(), "node": node(), "born": born(os.getpid())}


def within(seconds: float, work: Callable[[], object]) -> None:
    """Do this in a thread, and go on without it when it takes longer."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)


def first_to_claim(path: Path) -> bool:
    """Is this the first rank that makes this file, and so the one that speaks? Where the disk fails or hangs, each is."""
    first = [True]

    def claim() -> None:
        with contextlib.suppress(OSError):
            first[0] = files.made_first(path)

    within(PATIENCE, claim)
    return first[0]


def say(stage: str, run_dir: Path, text: str) -> None:
    """One line on standard error, and the status file unless there is one: the first fault counts."""

    def work() -> None:
        os.write(2, f"hpcdiff {stage}: {text}\n".encode())
        status = run_dir / f"{stage}.status.json"
        if not status.exists():
            with contextlib.suppress(OSError):
                files.write_json(status, {"exit": 1, "reason": text})

    within(PATIENCE, work)


def kill(victims: Iterable[dict]) -> None:
    """SIGKILL to those of these processes (`myself`) that are on this node: a suspended one hears nothing else."""
    for victim in victims:
        if victim["node"] == node() and victim["pid"] != os.getpid() and born(victim["pid"]) == victim["born"]:
            with contextlib.suppress(OSError):
                os.kill(victim["pid"], signal.SIGKILL)


def place(thread: int) -> str:
    """Where a thread is: the innermost line of ours, else the innermost at all."""
    frame = innermost = sys._current_frames().get(thread)
    home = str(Path(__file__).parent)
    while frame is not None and not frame.f_code.co_filename.startswith(home):
        frame = frame.f_back
    frame = frame or innermost
    return "?" if frame is None else f"{frame.f_code.co_filename.removeprefix(home + os.sep)}:{frame.f_lineno}, {frame.f_code.co_name}"
