"""The clock of a training loop that runs in a process of its own, and how that process talks with the benchmark.

A loop calls `Control.boundary` before each of its steps. There the process waits until steps are asked for (a line of JSON on its
input), and answers with the time that they took. So score_models' own loop is timed as it is, and ours in the same way.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time

import torch

from hpcdiff.train.flops import synchronise


class Control:
    """The clock and the talk of one process.

    Args:
        device: what has to finish its work before the clock is read.
        channel: where answers go (`answers`).
        hello: what is said first.
    """

    def __init__(self, device: torch.device, channel, hello: dict) -> None:
        self.device, self.channel, self.left, self.asked, self.warm = device, channel, 0, 0, 0
        self.say(hello)

    def say(self, answer: dict) -> None:
        """Send one line."""
        print(json.dumps(answer), file=self.channel, flush=True)

    def boundary(self) -> None:
        """Called before each step: goes on while steps are left, else answers and waits for more.

        A request {"steps": n, "warm": k} is for k steps that are not timed and n that are. Raises SystemExit where none comes.
        """
        if self.left == 0 and self.warm == 0:
            if self.asked:
                self._answer()
            line = sys.stdin.readline()
            if not line.strip():
                raise SystemExit(0)
            request = json.loads(line)
            self.asked = self.left = request["steps"]
            self.warm = request["warm"] + 1
        if self.warm:
            self.warm -= 1
            if self.warm:
                return
            self._start()
        self.left -= 1

    def _start(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        synchronise(self.device)
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def _answer(self) -> None:
        synchronise(self.device)
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        if self.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(self.device)
            torch.cuda.empty_cache()  # the other side's process needs it now
        else:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.say({"seconds": wall / self.asked, "cpu_seconds": cpu / self.asked, "peak_bytes": memory})


def answers():
    """This process's standard output, kept for answers alone; what libraries print goes to its standard error from now on."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return channel
