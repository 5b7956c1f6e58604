"""Blocks of rows dealt over the ranks, their results handed to every rank in the order of the blocks.

The blocks don't depend on the number of ranks, and whoever adds the results up adds them in this order: so sums have the
same bits for any number of ranks.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator

import numpy as np

from hpcdiff.errors import Stopped
from hpcdiff.world import World


def pack(arrays: dict[str, np.ndarray]) -> dict:
    """Arrays as JSON values that keep every bit."""
    packed = {}
    for name, value in arrays.items():
        value = np.ascontiguousarray(value, "<f8")
        packed[name] = [list(value.shape), base64.b64encode(value.tobytes()).decode()]
    return packed


def unpack(packed: dict) -> dict[str, np.ndarray]:
    """The inverse of `pack`: float64 arrays."""
    return {name: np.frombuffer(base64.b64decode(data), "<f8").reshape(shape) for name, (shape, data) in packed.items()}


def in_blocks(
    world: World, rows: np.ndarray, work: Callable[[np.ndarray], dict[str, np.ndarray]], what: str, size: int = 8
) -> Iterator[dict[str, np.ndarray]]:
    """Yield work(block) for each block of `size` rows, in order, on every rank; each block is worked on by one rank. Collective.

    Raises:
        UserError: on every rank, if `work` raises it on any.
        Stopped: a signal asked to stop, between two rounds.
    """
    blocks = [rows[i : i + size] for i in range(0, len(rows), size)]
    with world.progress(len(rows), what) as bar:
        for start in range(0, len(blocks), world.size):
            if world.stop_agreed():
                raise Stopped("nothing is half-written; the same command starts the evaluation again")
            packed = None
            with world.together():
                if start + world.rank < len(blocks):
                    packed = pack(work(blocks[start + world.rank]))
            for offset, result in enumerate(world.allgather(packed)):
                if result is not None:
                    yield unpack(result)
                    bar.update(len(blocks[start + offset]))
