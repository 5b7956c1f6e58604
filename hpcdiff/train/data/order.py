"""Which view each image of training is: a function of (seed, image number), whatever the ranks, the batch and where the maps wait.

Every epoch is a full permutation, for maps that are held and for maps that are streamed alike: single rows of a contiguous map file,
read in the order of the file by a few threads, cost 2-3 times as much as runs of 32 rows (`benchmarks/data_wait.py`), which a read
ahead hides, whereas runs would be read whole on every node though each needs a few rows of them alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from hpcdiff.maps import splitmix64

ROUND = 64
"""Images over which several files are shuffled among each other."""
FILE_STEP = 2**40
"""Between the numbers of the epochs of one file and of the next."""
FINE = 2**24
"""Weights given as fractions are rounded to multiples of their sum over this."""


def images_of(numbers: np.ndarray, n: int, seed: int, file: int = 0) -> np.ndarray:
    """Which of a file's n training views its images `numbers` (0, 1, ... from the start of training) are: every epoch shuffles anew."""
    out = np.empty(len(numbers), np.int64)
    for epoch in np.unique(numbers // n):
        chosen = numbers // n == epoch
        out[chosen] = _permutation(n, seed, int(epoch) + FILE_STEP * file)[numbers[chosen] % n]
    return out


@lru_cache(maxsize=16)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(n)
    order.setflags(write=False)
    return order


class Order:
    """Which view of several files each image is.

    Images come in rounds of 64. How many of a round a file gives is what its weight demands, rounded so that no file is ever ahead or
    behind by as much as one image for each file before it; within the round files are shuffled. Weights that are numbers of views
    show every view once an epoch.

    Args:
        sizes: training views of each file, each above 0.
        seed: the run's.
        weights: how often each file is drawn from, each above 0; None = by size.
    """

    def __init__(self, sizes: Sequence[int], seed: int, weights: Sequence[float] | None = None) -> None:
        self.sizes, self.seed = [int(n) for n in sizes], seed
        shares = self.sizes if weights is None else [max(1, round(w / sum(weights) * FINE)) for w in weights]
        self.shares = np.array(shares, np.int64)
        self.first = np.cumsum([0, *self.sizes[:-1]])

    def views(self, numbers: np.ndarray) -> np.ndarray:
        """Views of the images `numbers`, int64 (B,): file after file, in [0, sum(sizes))."""
        numbers = np.asarray(numbers, np.int64)
        if len(self.sizes) == 1:
            return images_of(numbers, self.sizes[0], self.seed)
        file, drawn = self._files(numbers)
        out = np.empty_like(numbers)
        for f in np.unique(file):
            out[file == f] = self.first[f] + images_of(drawn[file == f], self.sizes[f], self.seed, int(f))
        return out

    def weights(self) -> np.ndarray:
        """How often each view is shown, over the mean, float64 (sum(sizes),); exactly 1 where files are weighted by their views."""
        total, n = int(self.shares.sum()), sum(self.sizes)
        each = [share * n / (total * size) for share, size in zip(self.shares.tolist(), self.sizes, strict=True)]
        return np.repeat(each, self.sizes)

    def _files(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The file of each image, and how many images that file has given before it."""
        file, drawn = np.empty_like(numbers), np.empty_like(numbers)
        for number in np.unique(numbers // ROUND):
            begin, end = self._given(number * ROUND), self._given((number + 1) * ROUND)
            files = np.repeat(np.arange(len(self.sizes)), end - begin)
            files = np.random.Generator(np.random.Philox(key=[self.seed, int(number) + 2**62])).permutation(files)
            before = np.cumsum(files[:, None] == np.arange(len(self.sizes)), 0)[np.arange(ROUND), files] - 1
            chosen = numbers // ROUND == number
            at = numbers[chosen] % ROUND
            file[chosen], drawn[chosen] = files[at], begin[files[at]] + before[at]
        return file, drawn

    def _given(self, images: int) -> np.ndarray:
        """How many of the first `images` each file gives: the first its share of all, the next its share of what is left, and so on."""
        given, left, shares = np.zeros(len(self.shares), np.int64), int(images), int(self.shares.sum())
        for f, share in enumerate(self.shares.tolist()):
            given[f] = left * share // shares
            left, shares = left - int(given[f]), shares - share
        return given


def subset(halo_id: np.ndarray, fraction: float) -> np.ndarray:
    """Which views a fraction of the halos has, bool (n,): the halos of lowest hash, at least one, so that smaller fractions are part of larger.

    The hash has no seed: runs that differ in `run.seed` alone train on the same halos.
    """
    ids = np.unique(halo_id)
    ranked = ids[np.argsort(splitmix64(splitmix64(ids.astype(np.int64).view(np.uint64))), kind="stable")]
    return np.isin(halo_id, ranked[: max(1, round(fraction * len(ids)))])
