"""One input in a fork of a warmed process, with limits of time and memory, and a watch over what it opens, runs and loads."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hpcdiff import scout, scouting

SECONDS, BYTES = 10, 2 << 30
"""What one input may take: seconds of processor time, bytes of memory beyond the warmed process's own."""
PATIENCE = 120
"""Seconds on the clock, after which an input that waits for something is ended too."""
HARNESS, WATCHED = 98, 99
"""Exit statuses of a fault in the harness itself, and of something that a file must not make us do."""
CANARY = "fuzz_canary"
"""Stands in every text that would be run if somebody ran it."""
ERROR = re.compile(r"hpcdiff( \w+)?: error: \S.*")
BAR = re.compile(r"\d+ ?%\|.*\[.*\]|^\d+ .* \[[\d:]+, .*/s\]")
"""A progress bar, which is no message."""
_armed: Path | None = None


@dataclass
class Outcome:
    """How an input ended: exit status (negative: killed by that signal), standard error, and what is wrong with it (empty: nothing)."""

    status: int
    stderr: str
    fault: str = ""


def _watch(event: str, arguments: tuple) -> None:
    """The audit hook: ends the process where it does what no file may make it do; sleeps until a fork wakes it."""
    if _armed is None:
        return
    bad = None
    if event in ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "socket.connect") and not _numba():
        bad = event
    elif event == "subprocess.Popen" and os.path.basename(str(arguments[0])) != "git" and scout.CHILD not in arguments[1]:
        bad = f"runs {arguments[0]}"
    elif event == "compile" and CANARY in str(arguments[0]) and os.path.basename(sys._getframe(1).f_code.co_filename) != "ast.py":
        bad = "compiles a file's text"
    elif event == "open" and isinstance(arguments[0], (str, bytes)) and _writes(arguments[1], arguments[2]):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if not path.startswith((f"{_armed}/", f"{tempfile.gettempdir()}/")) and path != "/dev/null" and "/__pycache__" not in path:
            bad = f"opens {path} to write"
    elif event in ("os.remove", "os.rmdir", "os.mkdir", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod") and not _numba():
        places = str(_armed), tempfile.gettempdir()
        beside = arguments[1] if event in ("os.remove", "os.rmdir") and arguments[1] >= 0 else None  # an open folder: shutil.rmtree
        where = "" if beside is None else f"/proc/self/fd/{beside}"
        for name in arguments[:2] if event in ("os.rename", "os.link", "os.symlink") else arguments[:1]:
            path = (
                os.path.realpath(os.path.join(where, os.path.dirname(os.fsdecode(name)))) if isinstance(name, (str, bytes)) else str(_armed)
            )
            if not f"{path}/".startswith(tuple(f"{place}/" for place in places)) and not (event == "os.mkdir" and os.path.isdir(name)):
                bad = f"{event} of {name}"
    if bad:
        traceback.print_stack()
        os.write(2, f"\nfuzz: {bad}\n".encode())
        os._exit(WATCHED)


def _numba() -> bool:
    """Is numba at work, which keeps what it has compiled of our own code as pickles beside it?"""
    frame = sys._getframe(2)
    while frame is not None and "/numba/" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None


def _writes(mode: str | None, flags: int | None) -> bool:
    return bool(set(mode or "") & set("wax+")) or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR))


sys.addaudithook(_watch)


def listing(folder: Path, but: Path) -> dict[str, tuple]:
    """Size, times and target of all that lies below a folder, without what lies below `but`."""
    out = {}
    if folder == but:
        return out
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if os.path.join(where, name) != str(but)]
        for name in (*folders, *names):
            about = os.lstat(os.path.join(where, name))
            out[os.path.join(where, name)] = about.st_ino, about.st_mtime_ns if name in names else 0, about.st_size if name in names else 0
    return out


class ForkedScout:
    """What `scout.start` starts, as a fork of this warmed process: it need not import anything."""

    def __init__(self) -> None:
        (read, answer), (ask, write) = os.pipe(), os.pipe()
        self.pid, self.status = os.fork(), None
        if self.pid == 0:
            try:
                os.dup2(ask, 0)
                os.dup2(answer, 1)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                os.closerange(3, 1024)  # as exec does: a lock must go with its owner
                sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
                scouting.serve()
            finally:
                os._exit(0)
        os.close(ask)
        os.close(answer)
        self.stdin, self.stdout = os.fdopen(write, "wb"), os.fdopen(read, "rb")

    def poll(self) -> int | None:
        """Exit status, None while it is alive."""
        if self.status is None:
            pid, ended = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(ended) if pid else None
        return self.status

    def wait(self) -> int:
        """Exit status."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def kill(self) -> None:
        """SIGKILL."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def in_fork(work: Callable[[], int], run_dir: Path, around: Path, log: Path, seconds: int = SECONDS, real_scout: bool = False) -> Outcome:
    """Run `work` in a fork; it may write below `run_dir` alone, and nothing else below `around` may change.

    Args:
        work: returns the exit status, as a stage's `main` does.
        run_dir: where a stage may write. around: a folder that holds `run_dir` and all else that is looked after.
        log: where standard output and error go; not below `around`.
        seconds: of processor time.
        real_scout: are HDF5 files looked at by a process of its own (`scout.start`), and not by a fork?
    """
    global _armed
    scratch = log.with_suffix(".tmp").resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    before = listing(around, run_dir)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = HARNESS
        faulthandler.disable()  # pytest's: a fork that crashes is counted, and needs no pages in the log
        try:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(out, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.stdout, sys.stderr = (os.fdopen(n, "w", 1, errors="backslashreplace", closefd=False) for n in (1, 2))
            os.chdir(run_dir.parent)
            tempfile.tempdir = str(scratch)
            for number in (signal.SIGALRM, signal.SIGXCPU, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            used = next(
                int(line.split()[1]) << 10 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData")
            )
            resource.setrlimit(resource.RLIMIT_DATA, (used + BYTES, used + BYTES))
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 28, 1 << 28))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            signal.alarm(PATIENCE * seconds // SECONDS)
            scout.SCOUT.__init__(scout.start if real_scout else ForkedScout)
            _armed = run_dir.resolve()
            status = work()
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else HARNESS
        except BaseException:  # noqa: BLE001, a fork must never come back
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                sys.stderr.flush()
            os._exit(status if isinstance(status, int) else HARNESS)
    _, ended = os.waitpid(pid, 0)
    said = log.read_text(errors="replace") if log.exists() else ""
    outcome = Outcome(os.waitstatus_to_exitcode(ended), said)
    after = listing(around, run_dir)
    changed = [name for name in dict.fromkeys((*before, *after)) if before.get(name) != after.get(name)]
    outcome.fault = _fault(outcome, changed, seconds)
    return outcome


def _fault(outcome: Outcome, changed: list[str], seconds: int) -> str:
    """What is wrong with how an input ended; empty if nothing is."""
    lines = [line for line in re.split(r"[\r\n]+", outcome.stderr) if line.strip() and not BAR.search(line)]
    if changed:
        return f"changed outside run.dir: {', '.join(changed[:3])}"
    if outcome.status < 0:
        name = signal.Signals(-outcome.status).name
        return {"SIGXCPU": f"over {seconds} s", "SIGALRM": f"waits for ever ({PATIENCE} s)"}.get(name, f"died of {name}")
    if outcome.status == WATCHED:
        return lines[-1] if lines else "watched"
    if outcome.status not in (0, 2):
        return f"exit {outcome.status}: {lines[-1] if lines else ''}"
    if "Traceback (most recent call last)" in outcome.stderr:
        return "a traceback"
    if outcome.status == 2 and not (len(lines) == 1 and ERROR.fullmatch(lines[0])):
        return f"exit 2 with {len(lines)} lines: {' | '.join(lines[:3])}"
    return ""
