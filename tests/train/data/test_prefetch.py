"""The prefetcher: the same batches in the same order, errors where they are asked for, and it ends when told."""

import threading
import time

import numpy as np
import pytest
import torch

from hpcdiff.train.data import Batch, Prefetcher


class Made:
    """Batches that hold their numbers; number 99 fails."""

    device = torch.device("cpu")

    def __init__(self):
        self.made = 0

    def batch(self, numbers):
        if 99 in numbers:
            raise OSError("the disk is gone")
        self.made += 1
        x = torch.tensor(numbers, dtype=torch.float32)
        return Batch(x, x, x, x)


def steps(n, size=2):
    return (np.arange(k * size, (k + 1) * size) for k in range(n))


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_batches_come_in_order_and_then_an_end(depth):
    data = Prefetcher(Made(), steps(20), depth)
    seen = [data.next().u.tolist() for _ in range(20)]
    assert seen == [[2.0 * k, 2.0 * k + 1] for k in range(20)]
    for _ in range(2):
        with pytest.raises(StopIteration):
            data.next()
    data.close()
    assert data.waited_s >= 0


@pytest.mark.parametrize("depth", [0, 2])
def test_what_goes_wrong_comes_out_of_next_after_the_good_ones(depth):
    data = Prefetcher(Made(), iter([np.array([1]), np.array([2]), np.array([99])]), depth)
    assert [data.next().u.item() for _ in range(2)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        data.next()
    data.close()


def test_it_works_ahead_by_its_depth_and_no_more():
    made = Made()
    data = Prefetcher(made, steps(1000), 2)
    deadline = time.time() + 20
    while made.made < 3 and time.time() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    assert made.made == 3  # two wait, one is in its hand
    data.close()


def test_closing_ends_the_thread_whatever_it_does():
    before = threading.active_count()
    for numbers in (steps(1000), steps(0), iter([np.array([99])])):
        data = Prefetcher(Made(), numbers, 2)
        data.close()
        assert not data.thread.is_alive()
    assert threading.active_count() == before


def test_waiting_is_counted():
    class Slow(Made):
        def batch(self, numbers):
            time.sleep(0.05)
            return super().batch(numbers)

    data = Prefetcher(Slow(), steps(4), 2)
    for _ in range(4):
        data.next()
    assert data.waited_s > 0.15
    data.close()
