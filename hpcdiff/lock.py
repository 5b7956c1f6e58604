"""One process at a time on a folder's outputs: a lock that says who holds it, and that a requeued job takes over.

Three things make it, each for what the others cannot do:

- The kernel's advisory lock (flock), which goes with its holder, however that dies. It is all where it is known to be seen by everybody
  (`mounts.Mount.one_view_of_locks`). Elsewhere it may reach no further than its node (Lustre mounted with `localflock`), or there may be
  none (ENOLCK, ENOSYS, EOPNOTSUPP).
- A record in the lock file: host, process and the time when it was started, Slurm job and its restart count, since when. Its holder is gone
  when no such process runs on this node; when this is the same job's later restart, since Slurm has ended the earlier one; or when Slurm
  no longer runs its job.
- A heartbeat: the holder sets the file's time every `BEAT` seconds. Where nothing else decides, the file is watched for `STILL` seconds;
  the clocks of the nodes do not matter. A holder that was held to be dead (suspended for long) finds another's record in the file when it
  wakes, and ends itself before it writes more.

Without a lock that everybody sees, two that come in the same moment each write their record; a second later the file names one of them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from hpcdiff.blame import born, node
from hpcdiff.mounts import mount_of

BEAT = 10.0
STILL = 120.0
"""Seconds without a heartbeat after which a holder is dead: a long HDF5 call keeps Python's threads from beating."""
SETTLE = 1.0
"""Seconds after which two records written at the same time have become one."""
TEXT = (str, type(None))
RECORD = {"pid": int, "host": str, "node": str, "born": str, "job": TEXT, "cluster": TEXT, "restart": int, "step": TEXT, "since": str}
"""What a lock file says of its holder."""
RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"}
"""Slurm's words for a job whose processes may be there."""


class Lock:
    """A lock on what is written beside the file `path`.

    `acquire` is False where another process holds it; `holder` says who, and `took_over` whom this one has followed without being let.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self.file, self.took_over = Path(path), None, ""
        self._released, self._heart = threading.Event(), None

    def acquire(self, say: Callable[[str], object] = lambda line: None) -> bool:
        """Take the lock and write who holds it; False if somebody else does.

        Args:
            say: hears why it takes long, if it does: up to two minutes where only the heartbeat can tell.
        Raises:
            OSError: the file cannot be made or written.
        """
        sure, began = mount_of(self.path).one_view_of_locks, time.monotonic()
        while self._flocked_by_another():
            other = self.record()
            if other is None or not _own_earlier(other) or time.monotonic() > began + 2 * STILL or self._beats(other, say):
                self._close()
                return False
            # its node died with the kernel's lock, and the file system has not noticed: a new file has a new lock
            self._close()
            self.path.unlink(missing_ok=True)
            self.took_over = sentence(other)
        other = self.record()
        if other is not None:
            if not sure and self._lives(other, say):
                self._close()
                return False
            self.took_over = sentence(other)
        self._me = {**_me(), "since": datetime.now(UTC).isoformat(" ", "seconds")}
        self._write(json.dumps(self._me) + "\n")
        if not sure:
            time.sleep(SETTLE)
            if self.record() != self._me:
                self._close()
                return False
        self._released.clear()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()
        return True

    def record(self) -> dict | None:
        """What the holder wrote of itself; None if nobody holds it."""
        with contextlib.suppress(OSError, ValueError, RecursionError), open(self.path, "rb") as f:
            record = json.loads(f.read(4096).decode().partition("\n")[0])
            if isinstance(record, dict) and all(isinstance(record.get(name), kind) for name, kind in RECORD.items()):
                return record
        return None

    def holder(self) -> str:
        """Who holds it, as a text; empty if nobody does."""
        record = self.record()
        return "" if record is None else sentence(record)

    def advice(self) -> str:
        """What one who does not get it may do."""
        record, me = self.record(), _me()
        if record is not None and me["job"] is not None and all(record[k] == me[k] for k in ("job", "cluster", "restart")):
            return "it is of this same job: does srun start mpirun or torchrun more than once? else wait for it or end it"
        return "wait for it or end it"

    def release(self) -> None:
        """Let go. The empty file stays: to remove it could take the lock from a third process."""
        if self.file is None:
            return
        self._released.set()
        self._heart.join(2.0)
        if self.record() == self._me:
            with contextlib.suppress(OSError):
                os.ftruncate(self.file, 0)
        self._close()

    def _flocked_by_another(self) -> bool:
        while True:
            self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    return True
            with contextlib.suppress(OSError):
                if os.path.samestat(os.stat(self.path), os.fstat(self.file)):
                    return False
            self._close()  # another has put a new file there

    def _write(self, text: str) -> None:
        data = text.encode()
        os.pwrite(self.file, data, 0)  # in place, for the kernel's lock is on this file; a reader takes its first line
        os.ftruncate(self.file, len(data))
        with contextlib.suppress(OSError):
            os.fsync(self.file)  # other nodes see it

    def _close(self) -> None:
        if self.file is not None:
            os.close(self.file)
            self.file = None

    def _lives(self, other: dict, say: Callable[[str], object]) -> bool:
        if other["node"] == node():
            return _runs(other)
        if _own_earlier(other):
            return False
        state = _job_state(other)
        if state is not None and state not in RUNNING:
            return False
        return state == "SUSPENDED" or self._beats(other, say)

    def _beats(self, other: dict, say: Callable[[str], object]) -> bool:
        """Watch the file: does the holder still set its time? False also where the lock is let go meanwhile."""
        say(f"{self.path} is held by {sentence(other)}; waiting up to {STILL:.0f} s for a sign of life")
        first, end = _time_of(self.path), time.monotonic() + STILL
        while time.monotonic() < end:
            time.sleep(min(1.0, STILL / 10))
            if self.record() != other:
                return self.record() is not None
            if _time_of(self.path) != first:
                return True
        return False

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            other = self.record()
            if other is not None and other != self._me and not self._released.is_set():
                os.write(
                    2, f"hpcdiff: {self.path} was taken over by {sentence(other)}, so this process ends before it writes more\n".encode()
                )
                os._exit(1)
            with contextlib.suppress(OSError):
                os.utime(self.file)


def sentence(record: dict) -> str:
    """A record as a text: "pid 12 on node1, job 7, restart 1, since 2026-11-21 00:20:11+00:00"."""
    job = "no Slurm job" if record["job"] is None else f"job {record['job']}, restart {record['restart']}"
    return f"pid {record['pid']} on {record['host']}, {job}, since {record['since']}"


def _me() -> dict:
    about = os.environ
    restart = about.get("SLURM_RESTART_COUNT", "")
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "node": node(),
        "born": born(os.getpid()),
        "job": about.get("SLURM_JOB_ID"),
        "cluster": about.get("SLURM_CLUSTER_NAME"),
        "restart": int(restart) if restart.isdigit() else 0,
        "step": about.get("SLURM_STEP_ID"),
    }


def _own_earlier(record: dict) -> bool:
    """Is it this job's, of before its last requeue?"""
    me = _me()
    return me["job"] is not None and (record["job"], record["cluster"]) == (me["job"], me["cluster"]) and record["restart"] < me["restart"]


def _runs(record: dict) -> bool:
    """Is there such a process on this node? One that has ended and that nobody has asked about is none."""
    with contextlib.suppress(OSError, IndexError):
        ended = Path(f"/proc/{record['pid']}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
        return not ended and born(record["pid"]) == record["born"]
    return False


def _job_state(record: dict) -> str | None:
    """Slurm's word for a record's job, empty if Slurm knows it no more; None if it cannot be asked, or is another cluster's."""
    if record["job"] is None or record["cluster"] != os.environ.get("SLURM_CLUSTER_NAME"):
        return None
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        asked = subprocess.run(["squeue", "-h", "-j", record["job"], "-o", "%T"], capture_output=True, text=True, timeout=20)
        if asked.returncode == 0 or "Invalid job id" in asked.stderr:
            return asked.stdout.strip()
    return None


def _time_of(path: Path) -> int:
    try:
        with open(path, "rb") as f:  # opening makes NFS ask its server
            return os.fstat(f.fileno()).st_mtime_ns
    except OSError:
        return 0
