"""hpcdiff's training: its data, its prefetching and its engine's step, on a map file of the benchmark.

python -m training.ours '{"maps": "maps.h5", "channels": 128, "batch": 1, "threads": 2, "precision": "fp32", "compile": false}'
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from collections.abc import Iterator

import numpy as np
import torch

from hpcdiff.config import Config
from hpcdiff.denoiser import build_denoiser
from hpcdiff.train.data import Prefetcher, TrainingData
from hpcdiff.train.engines import base, build_engine
from hpcdiff.train.flops import STEP, forward_flops, peak_flops
from hpcdiff.world import join_world
from training.control import Control, answers

LR, EMA = 1.0e-4, 0.9999


def configure(setup: dict) -> Config:
    """The paper's network, loss and optimiser, with what one setup says: maps, channels, batch, precision, compile, engine, zero_stage."""
    config = Config()
    config.run.maps = setup["maps"]
    config.network.channels = setup["channels"]
    config.train.batch_size, config.train.precision, config.train.compile = setup["batch"], setup["precision"], setup["compile"]
    config.train.engine, config.train.zero_stage = setup.get("engine", "ddp"), setup.get("zero_stage", 0)
    config.train.lr, config.train.ema = LR, EMA
    return config


class Training:
    """Data, engine and prefetching of a run, as the training loop has them; `batch_size` is that of all ranks together."""

    def __init__(self, setup: dict, world, data: TrainingData | None = None) -> None:
        config = configure(setup)
        self.data = data or TrainingData(config, world)
        torch.manual_seed(0)
        denoiser = build_denoiser(config.resolved(), self.data.statistics)
        self.parameters = sum(p.numel() for p in denoiser.parameters())
        self.step_flops = STEP * forward_flops(denoiser, 2, self.data.npix, 2)
        with other_layout() if setup.get("other_layout") else contextlib.nullcontext():
            self.engine = build_engine(config.train, denoiser, world)
        self.numbers = image_numbers(setup["batch"], world)
        self.prefetcher = None

    def next(self):
        """The next batch, made beside the steps."""
        self.prefetcher = self.prefetcher or Prefetcher(self.data, self.numbers)
        return self.prefetcher.next()

    def make(self):
        """The next batch, made at once: to see what that takes."""
        return self.data.batch(next(self.numbers))

    def step(self, batch) -> torch.Tensor:
        """The engine's step; the losses of the images."""
        return self.engine.step(batch, LR, EMA)


@contextlib.contextmanager
def other_layout() -> Iterator[None]:
    """Engines that are built meanwhile take the layout of images that the project does not choose on their device."""
    chosen, layouts = base.memory_layout, {torch.channels_last: torch.contiguous_format, torch.contiguous_format: torch.channels_last}
    base.memory_layout = lambda device, precision: layouts[chosen(device, precision)]
    try:
        yield
    finally:
        base.memory_layout = chosen


def image_numbers(batch: int, world) -> Iterator[np.ndarray]:
    """The numbers of this rank's images, step after step."""
    local = batch // world.size
    return (np.arange(first, first + local) + world.rank * local for first in itertools.count(0, batch))


def main() -> None:
    """Train until nobody asks for more steps."""
    channel, setup = answers(), json.loads(sys.argv[1])
    torch.set_num_threads(setup["threads"])
    world = join_world("train")
    training = Training(setup, world)
    hello = {"parameters": training.parameters, "step_flops": training.step_flops}
    hello["peak_flops"] = peak_flops(world.device, setup["precision"])
    control = Control(world.device, channel, hello)
    while True:
        control.boundary()
        training.step(training.next())


if __name__ == "__main__":
    main()
