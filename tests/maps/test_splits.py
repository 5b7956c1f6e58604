"""Splits: their fractions, and that they are stable."""

from __future__ import annotations

import numpy as np
import pytest

from hpcdiff import maps
from hpcdiff.sections import Split


def test_splits_have_their_fractions_and_are_stable():
    split = Split(train=0.7, val=0.2, test=0.1, seed=3)
    ids = np.arange(20_000)
    parts = maps.split_ids(ids, split)
    assert np.bincount(parts) / 20_000 == pytest.approx([0.7, 0.2, 0.1], abs=0.01)
    assert np.array_equal(maps.split_ids(ids[::7], split), parts[::7])
    other = maps.split_ids(ids, Split(train=0.7, val=0.2, test=0.1, seed=4))
    assert np.mean(parts == other) == pytest.approx(0.49 + 0.04 + 0.01, abs=0.02)  # independent of the first
    assert set(maps.split_ids(ids, Split(train=1.0, val=0.0, test=0.0)).tolist()) == {0}
