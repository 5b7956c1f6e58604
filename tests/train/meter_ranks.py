"""Every rank takes its share of 5 steps of 24 images, and rank 0 prints what the meter says: run by test_meter.py."""

import json

import torch

from hpcdiff.train.meter import Meter
from hpcdiff.world import join_world

STEPS, BATCH, FLOP, PEAK = 5, 24, 7e9, 3e12
TOPS = (3.0, 10.0)
"""Checkpoint seconds of two saves; each rank adds its number."""


def losses(numbers: torch.Tensor) -> torch.Tensor:
    """Each image's loss: two of them are not finite."""
    x = numbers.float() ** 2 / 8  # exact in float32, however it is vectorised
    x[numbers == 30], x[numbers == 77] = float("nan"), float("inf")
    return x


def quantiles(numbers: torch.Tensor) -> torch.Tensor:
    """Each image's noise quantile: none in the last of 8 bins."""
    return (numbers * 0.618034 % 1).float() * 0.87 + 0.001


def main() -> None:
    world = join_world("train")
    meter = Meter(world, world.device, FLOP, PEAK)
    local = BATCH // world.size
    for step in range(STEPS):
        first = step * BATCH + world.rank * local
        numbers = torch.arange(first, first + local)
        meter.step(losses(numbers), quantiles(numbers))
    for seconds in TOPS:
        meter.saved(seconds + world.rank)
    out = meter.numbers(1e-4, 0.9999, {"updates": 5, "skipped": 1, "skipped_in_a_row": 0, "gradient_norm": 0.5})
    everywhere = world.allgather(out)
    assert all(o == out for o in everywhere), everywhere
    empty = meter.numbers(1e-4, 0.9999, {"updates": 5, "skipped": 1, "skipped_in_a_row": 0, "gradient_norm": 0.5})
    world.print(json.dumps({"first": out, "second": empty}))
    world.close()


if __name__ == "__main__":
    main()
