"""What the training maps of each input were like, so that a model can say when it is shown others (`hpcdiff.seen`)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from hpcdiff import seen
from hpcdiff.train.data.stream import Stream
from hpcdiff.train.data.sums import shared_out, total
from hpcdiff.train.data.views import Views
from hpcdiff.world import World

CHUNK = 4
"""Maps described at once: they stay in the processor's cache, which halves the time."""


def bounds_seen(
    views: Views, inputs: list[str], observe: Callable[[str, torch.Tensor, np.ndarray], torch.Tensor], world: World
) -> dict[str, dict[str, list[float]]]:
    """The range of each quantity of each input over all training views, {field: {quantity: [low, high]}}. Collective.

    The views are dealt over the ranks, each described for itself: the same on every rank, to the bit, for any number of them.

    Args:
        observe: (field, maps (B, npix, npix) in its units, view numbers) -> the maps as the network is shown them, unturned.
    Raises:
        UserError: a map file cannot be read.
    """
    n = views.n_train
    names = sorted(seen.describe(np.zeros((1, views.files[0].npix, views.files[0].npix))))
    table = np.zeros((len(inputs), len(names), n))  # each column is one rank's, zero on all others
    with world.together():
        stream = Stream(views, inputs, {})  # as they stand in the file: not through a transform and back
        for block in shared_out(n, world.rank, world.size):
            maps = stream.take(block)
            for k, field in enumerate(inputs):
                shown = observe(field, maps[:, k], block).numpy()
                parts = list(stream.pool.map(seen.describe, [shown[i : i + CHUNK] for i in range(0, len(block), CHUNK)]))
                table[k][:, block] = [np.concatenate([part[name] for part in parts]) for name in names]
        stream.close()
    table = total(table, world)
    return {field: seen.bounds([dict(zip(names, table[k], strict=True))]) for k, field in enumerate(inputs)}
