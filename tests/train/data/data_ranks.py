"""Run by torchrun: the training data of a config; prints what it gives, or stops in the middle to be killed.

data_ranks.py CONFIG MODE [overrides], MODE one of `digest`, `hold` and `fill`
"""

import hashlib
import sys
import time
from pathlib import Path

import numpy as np

from hpcdiff.config import read_config
from hpcdiff.errors import UserError
from hpcdiff.train.data import TrainingData
from hpcdiff.train.data.stream import Stream
from hpcdiff.world import TorchWorld


def say(line):
    sys.stdout.write(line + "\n")  # in one piece: other ranks write too
    sys.stdout.flush()


def rest(world, words):
    world.barrier()
    say(f"rank {world.rank} {words}")
    time.sleep(300)


def main():
    world, mode = TorchWorld(), sys.argv[2]
    if mode == "fill":
        read = Stream.read

        def slow(self, numbers):
            if self.transforms:  # the pass that checks has none
                rest(world, "fills")
            return read(self, numbers)

        Stream.read = slow
    try:
        data = TrainingData(read_config(sys.argv[1], sys.argv[3:]), world)
    except UserError as error:
        say(f"rank {world.rank} error {error}")
        world.barrier()
        world.close()
        return
    if mode == "hold":
        rest(world, "holds")
    parts = [*data.statistics.values(), *vars(data.batch(np.arange(24))).values(), *vars(data.validation(np.arange(5))).values()]
    digest = hashlib.sha256(b"".join(x.numpy().tobytes() for x in parts))
    digest.update(repr([data.transforms, data.noise_range, data.seen]).encode())
    inodes = [line.split()[4] for line in Path("/proc/self/maps").read_text().splitlines() if "/dev/shm/hpcdiff-" in line]
    say(f"rank {world.rank} digest {digest.hexdigest()} memory {','.join(inodes)}")
    world.barrier()
    data.close()
    world.close()


main()
