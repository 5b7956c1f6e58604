"""The processes of both sides, asked for steps by turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from training.environment import for_process

BENCHMARKS = Path(__file__).resolve().parent.parent
ROOT = BENCHMARKS.parent


class Failed(Exception):
    """A process ended before it answered: its last words."""

    @property
    def of_memory(self) -> bool:
        """Was there too little memory on the GPU?"""
        return "out of memory" in str(self).lower()


class Side:
    """One training in a process of its own.

    Args:
        module: `training.ours` or `training.theirs`; setup: its argument; folders: importable besides the benchmark's and the project's.
    Attributes:
        hello: what it said first.
    """

    def __init__(self, module: str, setup: dict, *folders: Path) -> None:
        handle, name = tempfile.mkstemp(suffix=".log")
        self.errors = Path(name)
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(setup)],
            cwd=BENCHMARKS,
            env=for_process(setup["threads"], setup["device"], ROOT, *folders),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=handle,
            text=True,
        )
        os.close(handle)
        self.hello = self._read()

    def ask(self, steps: int, warm: int = 0) -> dict:
        """Seconds of one of `steps` steps after `warm` untimed ones, CPU seconds, peak memory."""
        print(json.dumps({"steps": steps, "warm": warm}), file=self.process.stdin, flush=True)
        return self._read()

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise Failed(self.errors.read_text()[-4000:])
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.unlink()


def once(command: list[str], setup: dict, *folders: Path) -> dict:
    """Run a command of Python that answers with one line of JSON. Raises Failed."""
    done = subprocess.run(
        [sys.executable, *command, json.dumps(setup)],
        cwd=BENCHMARKS,
        env=for_process(setup["threads"], setup["device"], ROOT, *folders),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Failed(done.stderr[-4000:])
    return json.loads(done.stdout.splitlines()[-1])
