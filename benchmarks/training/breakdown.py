"""Where the time of a step goes, by kind of work, from torch.profiler."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from hpcdiff.train.flops import synchronise
from training.kinds import KINDS, OTHER, RANGE, kernel_kind, kind_within


def named(method: Callable, kind: str) -> Callable:
    """The method, with a range of the benchmark about it."""

    def within(*arguments):
        with record_function(RANGE + kind):
            return method(*arguments)

    return within


def seconds_by_kind(make: Callable, step: Callable, device: torch.device, steps: int) -> dict:
    """Profile some steps.

    Args:
        make: gives a batch; step: takes it.
    Returns:
        `step`: seconds of one step under the profiler; `kinds`: seconds of each kind in it; `idle`: what is left (Python, waiting).
        On a GPU they are those of its kernels, on a CPU those of operations without what they call.
    """
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities, record_shapes=True) as recorded:
        synchronise(device)
        began = time.perf_counter()
        for _ in range(steps):
            with record_function(RANGE + "data and noise"):
                batch = make()
            step(batch)
        synchronise(device)
        wall = (time.perf_counter() - began) / steps
    totals = (on_gpu if cuda else on_cpu)(recorded.events())
    kinds = {kind: totals.get(kind, 0.0) / steps * 1e-6 for kind in KINDS}
    return {"step": wall, "kinds": kinds, "idle": max(wall - sum(kinds.values()), 0.0)}


def on_cpu(events) -> dict[str, float]:
    """Microseconds of the operations themselves, by kind."""
    totals: dict[str, float] = {}
    for event in events:
        kind = _kind(event) or OTHER
        totals[kind] = totals.get(kind, 0.0) + event.self_cpu_time_total
    return totals


def on_gpu(events) -> dict[str, float]:
    """Microseconds of kernels by kind: that of the operation that launched them, or by their names where that is compiled or unknown."""
    totals: dict[str, float] = {}
    left: dict[str, float] = {}
    for event in events:
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation:
            left[event.name] = left.get(event.name, 0.0) + event.self_device_time_total
    for event in events:
        for kernel in event.kernels if event.device_type == DeviceType.CPU else ():
            if kernel.name in left and not kernel.name.startswith("triton_"):
                kind = _kind(event) or kernel_kind(kernel.name)
                totals[kind] = totals.get(kind, 0.0) + kernel.duration
                left[kernel.name] -= kernel.duration
    for name, microseconds in left.items():
        kind = kernel_kind(name)
        totals[kind] = totals.get(kind, 0.0) + max(microseconds, 0.0)
    return totals


def _kind(event) -> str | None:
    """The kind of an operation, from itself and what it stands in."""
    names = []
    while event is not None:
        names.append((event.name, event.input_shapes))
        event = event.cpu_parent
    return kind_within(names)
