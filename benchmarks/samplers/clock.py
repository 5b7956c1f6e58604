"""The clock of a sampler that runs in a process of its own."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable

import torch


def serve(call: Callable[[int], object], device: torch.device, channel, hello: dict) -> None:
    """Answer requests {"steps": n, "warm": k} with the time of `call(n)`, a whole cluster with n steps, after an untimed `call(k)`.

    Args:
        call: draws the samples of one cluster. device: what has to finish its work before the clock is read.
        channel: where answers go, a line of JSON each (`training.control.answers`). hello: what is said first.
    """
    cuda = device.type == "cuda"
    print(json.dumps(hello), file=channel, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["warm"]:
            call(request["warm"])
        if cuda:
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        wall, cpu = time.perf_counter(), time.process_time()
        call(request["steps"])
        if cuda:
            torch.cuda.synchronize(device)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        memory = torch.cuda.max_memory_allocated(device) if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": wall, "cpu_seconds": cpu, "peak_bytes": memory}), file=channel, flush=True)
