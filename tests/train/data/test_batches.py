"""Symmetries and noise levels of a batch."""

import numpy as np
import torch

from hpcdiff.train.data import level_quantiles, turn
from hpcdiff.train.data.batch import keys_of, symmetries


def test_turns_are_the_eight_symmetries_of_the_square():
    x = torch.arange(9.0).reshape(1, 1, 3, 3).expand(8, -1, -1, -1).contiguous()
    seen = {tuple(y.flatten().tolist()) for y in turn(x, torch.arange(8))}
    assert len(seen) == 8
    assert all(y[4] == 4 and sorted(y) == list(range(9)) for y in seen)
    assert all(sorted([y[0], y[2], y[6], y[8]]) == [0, 2, 6, 8] for y in seen)


def test_a_turn_is_quarter_turns_then_a_flip():
    x = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    for s, (a, b) in enumerate(zip(x, turn(x, torch.arange(8)), strict=True)):
        wanted = torch.rot90(a, s % 4, (1, 2))
        assert torch.equal(b, wanted.flip(2) if s >= 4 else wanted)


def test_all_symmetries_are_as_frequent():
    counts = torch.bincount(symmetries(keys_of(np.arange(8000), 0)), minlength=8)
    assert len(counts) == 8 and (counts - 1000).abs().max() < 120


def test_levels_cover_the_unit_interval_evenly_from_the_first_batch():
    u = level_quantiles(np.arange(1000, 1064), seed=5).double()
    counts = torch.histc(u, 16, 0, 1)
    assert counts.min() >= 3 and counts.max() <= 5
    assert (u > 0).all() and (u < 1).all()
