"""Training, validation and test parts: a hash deals halos or groups, so that the split is stable when halos are added."""

from __future__ import annotations

import numpy as np

from hpcdiff.errors import UserError
from hpcdiff.sections import Split

PARTS = ("train", "val", "test")
"""What 0, 1, 2 of `/catalog/split` mean."""


def splitmix64(x: np.ndarray) -> np.ndarray:
    """The splitmix64 mixing function on uint64 arrays (Steele et al. 2014): every input bit moves every output bit."""
    with np.errstate(over="ignore"):
        x = np.asarray(x, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def split_ids(ids: np.ndarray, split: Split) -> np.ndarray:
    """Deal ids to 0, 1, 2 = train, val, test by a hash of (split.seed, id): stable when halos are added.

    Args:
        ids: int64 (n,), halo or group ids; equal ids get equal parts.
        split: fractions and seed.
    Returns:
        int8 (n,).
    """
    seed = splitmix64(np.array([split.seed], np.uint64))
    u = splitmix64(np.asarray(ids, np.int64).view(np.uint64) ^ seed) / 2.0**64
    return np.searchsorted(np.cumsum([split.train, split.val]), u, side="right").astype(np.int8)


def deal(ids: np.ndarray, split: Split, where: str = "project.split") -> np.ndarray:
    """`split_ids`, refusing an empty part whose fraction is not zero and naming a seed that fills all.

    Raises:
        UserError: a part is empty.
    """
    wanted = [k for k, fraction in enumerate((split.train, split.val, split.test)) if fraction > 0]
    parts = split_ids(ids, split)
    empty = sorted(set(wanted) - set(parts.tolist()))
    if empty:
        others = (Split(**{**vars(split), "seed": s}) for s in range(1000))
        seed = next((s.seed for s in others if set(wanted) <= set(split_ids(ids, s).tolist())), None)
        how = f"try {where}.seed={seed}" if seed is not None else "give more halos or other fractions"
        raise UserError(f"no halo falls into the {PARTS[empty[0]]} part ({len(np.unique(ids))} in all)", where, how)
    return parts
