"""A process that opens HDF5 files before this one does: over a damaged file the library may crash, or never come to an end, which Python cannot catch.

Rank 0 has one such child (`scouting.py`), started when the first file is opened, given the path of each new one, and gone after some seconds
without work; another rank has one only for files that it alone opens. It is started by vfork and exec, which share none of the memory that an interconnect has registered, and without the launcher's
variables, so that it joins no job. Where none can be started, files are opened all the same.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hpcdiff.errors import UserError
from hpcdiff.guards import without_launcher

if TYPE_CHECKING:
    from hpcdiff.world import World

PATIENCE_MS = 60_000
"""How long the child may take to start, and for one file; what takes longer is a slow disk, not damage."""
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
CHILD = "import sys; sys.path.insert(0, sys.argv[1]); from hpcdiff import scouting; scouting.serve()"
HOW = "make it again, or copy it again from where it is whole"


def start() -> subprocess.Popen:
    """A child, which says `ready` when it is."""
    command = [sys.executable, "-c", CHILD, str(Path(__file__).resolve().parent.parent)]
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, env={**without_launcher(os.environ), **one}, **pipes)


class Scout:
    """The child, and what it has found.

    Args:
        begin: starts a child.
    Attributes:
        on: can files be looked at?
        first: is this rank 0, or one process alone? It looks for all ranks.
    """

    def __init__(self, begin: Callable[[], subprocess.Popen] = start) -> None:
        self.on, self.first, self.begin, self.child = True, True, begin, None
        self._found: dict[tuple, str] = {}
        self._turn = threading.Lock()

    def look(self, path: str | Path, own: bool = False) -> str:
        """What HDF5 does to a process that reads this file, in words; empty if it bears it, or if nobody can know.

        Args:
            own: does no other rank open it? Then this one looks, whichever it is.
        """
        if not self.on or not (self.first or own):
            return ""
        try:
            about = os.stat(path)
        except (OSError, ValueError):  # who opens it says why
            return ""
        if not stat.S_ISREG(about.st_mode):
            return ""
        written = about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns
        with self._turn:
            if written not in self._found:
                self._found[written] = self._ask(os.path.abspath(path))
            return self._found[written]

    def _ask(self, path: str) -> str:
        for _ in range(2):  # a child that has nothing to do may go in this very moment
            if self.child is None or self.child.poll() is not None:
                self.rest()
                try:
                    self.child = self.begin()
                except (OSError, ValueError):  # no process or memory left, or none allowed
                    self.on = False
                    return ""
                if self._answer() != "ready":
                    break
            with contextlib.suppress(OSError):
                self.child.stdin.write(json.dumps(path).encode() + b"\n")
                self.child.stdin.flush()
            if self._answer() == "seen":
                return ""
            status = self.rest()
            if -status in CRASHES:
                return f"the HDF5 library crashes on it ({signal.Signals(-status).name})"
            if -status == signal.SIGPROF:
                return "the HDF5 library does not come to an end with it"
            if -status == signal.SIGKILL:  # by us, as it took too long, or by whoever had to find memory
                break
        self.rest()
        self.on = False
        return ""

    def _answer(self) -> str:
        """A line of the child's; empty if it has ended, or takes too long, and is ended."""
        line, out = b"", self.child.stdout.fileno()
        waiting = select.poll()
        waiting.register(out, select.POLLIN)
        while not line.endswith(b"\n"):
            if not waiting.poll(PATIENCE_MS):
                self.child.kill()
                return ""
            if not (more := os.read(out, 64)):
                return ""
            line += more
        return line.decode().strip()

    def rest(self) -> int:
        """End the child; its exit status, 0 if there is none."""
        child, self.child = self.child, None
        if child is None:
            return 0
        child.kill()  # one that has ended by itself has its status already
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        return child.wait()


SCOUT = Scout()
"""This process's."""
atexit.register(lambda: SCOUT.rest())


def refuse_crashing(path: str | Path, what: str = "file") -> None:
    """Raise a UserError if HDF5 crashes over a file, or never comes to an end; looked at once, until it is written to."""
    if found := SCOUT.look(path):
        raise UserError(f"the {what} is damaged: {found}", path, HOW)


def go_ahead(world: World, paths: Iterable[str | Path], what: str = "file") -> None:
    """Look at files on rank 0, before all ranks open them. Collective.

    Raises:
        UserError: on every rank, as `refuse_crashing`.
    """
    with world.together():
        if world.main:
            for path in paths:
                refuse_crashing(path, what)
