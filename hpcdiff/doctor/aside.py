"""Programs beside the ranks: started on rank 0 without the launcher's variables, and given up when they take too long."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from hpcdiff.guards import without_launcher

TIMEOUT, FAILED = "took too long", "failed"


UNBOUND = """
import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, range(os.cpu_count()))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""A rank is often bound to one core, on which several programs at once would take long; the job's own bounds stay."""


def start(arguments: list[str]) -> subprocess.Popen:
    """Start Python with these arguments; it takes itself for one process alone."""
    command = [sys.executable, "-c", UNBOUND, *arguments]
    environment = without_launcher(os.environ)
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def collect(processes: dict[str, subprocess.Popen], until: float) -> dict[str, tuple[str, str]]:
    """What each wrote, and an error in one line (empty, `TIMEOUT`, or its last line); `until`: time.monotonic() at which all are ended."""
    found = {}
    for name, process in processes.items():
        try:
            out, err = process.communicate(timeout=max(0.1, until - time.monotonic()))
            last = (err.strip().splitlines() or [FAILED])[-1][:200]
            found[name] = (out, "" if process.returncode == 0 else last)
        except subprocess.TimeoutExpired:
            process.kill()
            found[name] = ("", TIMEOUT)
    return found
