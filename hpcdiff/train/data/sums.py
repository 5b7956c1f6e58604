"""Sums over all views that have the same bits for any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from hpcdiff.world import World

BLOCK = 64
"""Views that are read and summed at once."""
GROUPS = 16
"""Blocks k, k + 16, k + 32, ... are summed on one rank in this order, and these 16 sums in theirs: float64 adds up alike on any number of ranks."""


def blocks(n: int) -> list[np.ndarray]:
    """0 .. n-1 in blocks."""
    return [np.arange(i, min(i + BLOCK, n)) for i in range(0, n, BLOCK)]


def shared_out(n: int, rank: int, size: int) -> Iterator[np.ndarray]:
    """This rank's blocks."""
    yield from blocks(n)[rank::size]


def summed(n: int, of: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], world: World) -> np.ndarray:
    """Sum over n views, float64, the same bits for any number of ranks. Collective.

    Args:
        of: a block of view numbers -> its sum, float64 of `shape`.
    Raises:
        UserError: `of` raised it on some rank.
    """
    mine = {}
    with world.together():
        for group in range(world.rank, GROUPS, world.size):
            mine[group] = np.zeros(shape)
            for block in blocks(n)[group::GROUPS]:
                mine[group] += of(block)
    out = np.zeros(shape)
    for group in range(GROUPS):
        out += total(mine.get(group, np.zeros(shape)), world)
    return out


def total(values: np.ndarray, world: World) -> np.ndarray:
    """Sum over the ranks, element by element; exact for whole numbers, and where one rank alone has other than zeros. Collective."""
    if world.size == 1:
        return values
    import torch.distributed

    tensor = torch.from_numpy(np.ascontiguousarray(values).copy())
    torch.distributed.all_reduce(tensor)
    return tensor.numpy()
