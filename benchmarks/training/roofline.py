"""Where the time of our step goes, against what the machine can do.

python -m training.roofline SETUP      # a setup of `training.ours`, and "steps": how many are profiled
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator

import torch

from hpcdiff.train.flops import peak_flops, synchronise
from hpcdiff.world import join_world
from training.breakdown import named, seconds_by_kind
from training.control import answers
from training.kinds import PARTS
from training.ours import Training
from training.tally import Tally


def bandwidth(device: torch.device) -> float:
    """Bytes/s of a copy of large tensors, read and written; the best of several."""
    n = (1 << 28) if device.type == "cuda" else (1 << 25)
    source, out, best = torch.ones(n, device=device), torch.empty(n, device=device), float("inf")
    for _ in range(8):
        synchronise(device)
        began = time.perf_counter()
        out.copy_(source)
        synchronise(device)
        best = min(best, time.perf_counter() - began)
    return 2 * 4 * n / best


@contextlib.contextmanager
def parts(engine, within: Callable) -> Iterator[None]:
    """Meanwhile, the engine's methods that are one kind of work each run as `within(method, kind)`."""
    for method, kind in PARTS.items():
        setattr(engine, method, within(getattr(engine, method), kind))
    yield
    for method in PARTS:
        delattr(engine, method)


def main() -> None:
    """Warm up, profile, count; one line of JSON."""
    channel, setup = answers(), json.loads(sys.argv[1])
    torch.set_num_threads(setup["threads"])
    world = join_world("train")
    device = world.device
    rates = {"matrix": peak_flops(device, setup["precision"]), "bandwidth": bandwidth(device)}
    training = Training(setup, world)
    for _ in range(3 if device.type == "cuda" else 1):
        training.step(training.make())
    tally = Tally()
    with parts(training.engine, tally.within), torch.compiler.set_stance("force_eager"):
        make = tally.within(training.make, "data and noise")
        with tally:
            training.step(make())
    with parts(training.engine, named):
        seconds = seconds_by_kind(training.make, training.step, device, setup["steps"])
    print(json.dumps({**rates, **seconds, "flops": tally.flops, "bytes": tally.bytes}), file=channel, flush=True)


if __name__ == "__main__":
    main()
