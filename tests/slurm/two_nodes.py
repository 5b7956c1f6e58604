"""A real Slurm of two nodes for the tests beside this file, and what they do with it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from conftest import ROOT, environment

# what a shell starts in the background may be deaf to interrupts, and Slurm would outlive its tests
signal.signal(signal.SIGINT, signal.default_int_handler)

SCRIPT = ROOT / "jobs" / "local_slurm.sh"
TASKS = ("--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=1")


def control(word: str, folder: Path, **more: str) -> subprocess.CompletedProcess:
    """`bash jobs/local_slurm.sh WORD FOLDER`."""
    return subprocess.run(["bash", SCRIPT, word, folder], env=environment(**more), capture_output=True, text=True, timeout=300)


class TwoNodes:
    """A running one: commands in its environment, and waiting for its jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        said = control("env", folder).stdout.removeprefix("export ").split()
        self.variables = dict(word.split("=", 1) for word in said)

    def call(self, *words: object, limit: float = 300, check: bool = True, **more: str) -> subprocess.CompletedProcess:
        """Run a command of a user's; an unwanted exit status fails the test with what was said."""
        env = environment(**{**self.variables, **more})
        done = subprocess.run([*map(str, words)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=limit)
        assert done.returncode == 0 or not check, f"{words}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done

    def submit(self, script: str, log: Path, *words: object, options: tuple[str, ...] = TASKS, **more: str) -> int:
        """sbatch; the job's number."""
        return int(self.call("sbatch", "--parsable", f"--output={log}", *options, ROOT / "jobs" / script, *words, **more).stdout)

    def queue(self) -> str:
        """What squeue lists, a job a line: number, state, reason."""
        return self.call("squeue", "-h", "-o", "%i %T %r").stdout

    def job(self, number: int, field: str) -> str:
        """One field of `scontrol show job`."""
        return re.search(rf"\b{field}=(\S*)", self.call("scontrol", "-o", "show", "job", number).stdout)[1]

    def wait(self, until, what: str, limit: float = 600) -> None:
        """Poll until it is so; after `limit` seconds the test fails and shows the queue and the logs."""
        end = time.monotonic() + limit
        while not until():
            if time.monotonic() > end:
                logs = "\n".join(f"{p}\n{p.read_text(errors='replace')[-1500:]}" for p in self.folder.parent.glob("*/*.log"))
                pytest.fail(f"not within {limit} s: {what}\n{self.queue()}\n{logs}")
            time.sleep(0.2)

    def wait_empty(self, limit: float = 600) -> None:
        """Until no job waits or runs."""
        self.wait(lambda: not self.queue().strip(), "the queue is empty", limit)

    def kill_node(self, node: str) -> None:
        """As a machine that loses its power: the node's daemon, its jobs' daemons and all that they have started."""
        pids = {int((self.folder / f"slurmd.{node}.pid").read_text())}
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                variables = (path / "environ").read_bytes().split(b"\0")
                if f"SLURM_CONF={self.folder}/slurm.conf".encode() in variables and f"SLURMD_NODENAME={node}".encode() in variables:
                    parent = Path("/proc", re.search(r"PPid:\s*(\d+)", (path / "status").read_text())[1])
                    daemon = (parent / "comm").read_text().startswith("slurmstepd")
                    pids |= {int(path.name), *([int(parent.name)] if daemon else [])}
        for pid in sorted(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def start_node(self, node: str) -> None:
        """The machine comes back."""
        self.call("slurmd", "-N", node, "-f", self.folder / "slurm.conf", PATH=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@pytest.fixture(scope="module")
def nodes():
    """Two nodes, stopped whatever happens; skipped where Slurm neither is nor can be installed."""
    place = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path: it holds sockets
    done = control("start", place / "s")
    try:
        if done.returncode:
            pytest.skip(done.stderr.strip().splitlines()[-1])
        yield TwoNodes(place / "s")
    finally:
        control("stop", place / "s")
        shutil.rmtree(place, ignore_errors=True)
