"""Which view comes when: a function of (seed, image number) alone; epochs, weights, subsets."""

import numpy as np
import pytest

from hpcdiff.train.data.batch import level_quantiles
from hpcdiff.train.data.order import ROUND, Order, images_of, subset


def test_every_epoch_shows_every_view_once_in_another_order():
    order = images_of(np.arange(30), 10, seed=1).reshape(3, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in order.tolist())
    assert not np.array_equal(order[0], order[1])
    assert not np.array_equal(order[0], images_of(np.arange(10), 10, seed=2))


def test_one_file_is_a_plain_permutation():
    numbers = np.arange(100)
    assert np.array_equal(Order([13], 4, [2.5]).views(numbers), images_of(numbers, 13, 4))


@pytest.mark.parametrize("sizes", [[70, 30], [1, 50, 7], [64, 64, 64, 64, 5]])
def test_by_default_an_epoch_shows_every_view_of_every_file_once(sizes):
    n = sum(sizes)
    rounds = Order(sizes, 3).views(np.arange(ROUND * n))
    assert np.bincount(rounds, minlength=n).tolist() == [ROUND] * n  # where epochs and rounds end together, exactly
    for f, size in enumerate(sizes):  # and of each file on its own, always
        first = sum(sizes[:f])
        mine = rounds[(rounds >= first) & (rounds < first + size)][: size * 5].reshape(5, size)
        assert all(sorted(epoch) == list(range(first, first + size)) for epoch in mine.tolist())


def test_weights_are_kept_from_the_first_rounds_on():
    weights = np.array([5.0, 1.0, 0.3])
    views = Order([40, 40, 40], 0, weights.tolist()).views(np.arange(50_000))
    file = views // 40
    for images in (3 * ROUND, 1000, 20_000, 50_000):
        found = np.bincount(file[:images], minlength=3)
        assert np.abs(found - images * weights / weights.sum()).max() < 4 + ROUND * (images % ROUND > 0), images
    assert np.abs(np.bincount(file[: 64 * 300], minlength=3) - 64 * 300 * weights / weights.sum()).max() < 3


def test_files_are_mixed_within_a_round():
    file = Order([40, 40], 0, [1, 3]).views(np.arange(400 * ROUND)).reshape(400, ROUND) // 40
    assert np.abs(file.mean(0) - 0.75).max() < 0.1  # in whatever place of a round
    assert np.abs(file[:, :8].sum(1) - 6).max() < 6 and (file[0] != file[1]).any()


def test_no_file_gets_favoured_noise_levels():
    """The golden section of files: a plain low-discrepancy sequence of them would march in step with the levels."""
    numbers = np.arange(20_000)
    first = Order([2584, 1597], 0).views(numbers) < 2584
    u = level_quantiles(numbers, 0).numpy()
    for chosen in (first, ~first):
        counts = np.histogram(u[chosen], 10, (0, 1))[0] / chosen.sum()
        assert np.abs(counts - 0.1).max() < 0.01


def test_order_depends_on_nothing_but_the_number():
    order = Order([30, 20], 7, [1, 2])
    whole = order.views(np.arange(1000))
    scattered = np.random.default_rng(0).permutation(1000)
    assert np.array_equal(order.views(scattered), whole[scattered])
    assert np.array_equal(Order([30, 20], 7, [1, 2]).views(np.arange(990, 1000)), whole[990:])
    assert not np.array_equal(Order([30, 20], 8, [1, 2]).views(np.arange(1000)), whole)


def test_subsets_are_nested_whole_halos_and_never_empty():
    halo = np.repeat(np.arange(200) * 7 + 3, 5)
    parts = [subset(halo, fraction) for fraction in (1e-9, 0.01, 0.1, 0.5, 0.9, 1.0)]
    assert [len(np.unique(halo[p])) for p in parts] == [1, 2, 20, 100, 180, 200]
    for smaller, larger in zip(parts, parts[1:], strict=False):
        assert not (smaller & ~larger).any()
    assert all(p.reshape(200, 5).all(1).sum() == p.sum() / 5 for p in parts)
