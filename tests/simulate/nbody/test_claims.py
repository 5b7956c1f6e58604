"""Who evolves which box: each is one rank's, the costly ones are taken first, and what ends is told to the others."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from hpcdiff.simulate.nbody import claims
from hpcdiff.simulate.nbody.claims import Claims
from hpcdiff.world import World


class Ranks(World):
    """Rank 0 of several."""

    def __init__(self, size):
        super().__init__()
        self.size = size


@pytest.fixture
def ours(tmp_path):
    return Claims(tmp_path, Ranks(4))


def test_each_box_is_taken_once_in_the_order_that_is_given(ours):
    todo = [5, 2, 9, 0]
    one, other = ours.take(todo), ours.take(todo)
    assert [next(one), next(other), next(other), next(one)] == todo
    assert not list(one) and not list(other)


def test_ranks_that_ask_at_once_take_no_box_twice(ours):
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: list(ours.take(range(400))), range(8)))
    assert sorted(box for part in taken for box in part) == list(range(400))


def test_who_has_a_long_box_takes_fewer(ours):
    """Ranks in turns, of which one is busy for eight of them with its first."""
    ranks, taken, busy = [ours.take(range(12)) for _ in range(2)], [[], []], [0, 0]
    for _ in range(20):
        for rank in (0, 1):
            if busy[rank]:
                busy[rank] -= 1
            elif (box := next(ranks[rank], None)) is not None:
                taken[rank].append(box)
                busy[rank] = 8 if box == 0 else 0
    assert sorted(sum(taken, [])) == list(range(12)) and len(taken[0]) < 3 < len(taken[1])


def test_none_is_taken_after_an_end_and_the_others_see_it(ours, monkeypatch):
    boxes = ours.take(range(5))
    assert next(boxes) == 0 and ours.others() == (1, False)
    ours.end()
    ours.end()
    assert list(boxes) == [] and ours.others() == (1, False)  # not looked at each time
    monkeypatch.setattr(claims, "EVERY", 0.0)
    assert ours.others() == (1, True)


def test_an_earlier_run_s_claims_are_of_no_account(tmp_path):
    first = Claims(tmp_path, Ranks(1))
    assert list(first.take([1, 2])) == [1, 2]
    again = Claims(tmp_path, Ranks(1))
    assert list(again.take([1, 2])) == [1, 2] and list(tmp_path.iterdir()) == [again.folder]
