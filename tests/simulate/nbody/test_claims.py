"""Who evolves which box: each is one rank's, the costly ones are taken first, and what ends is told to the others."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from hpcdiff.errors import Stopped, UserError
from hpcdiff.simulate.chunks import Folder
from hpcdiff.simulate.nbody import claims, work
from hpcdiff.simulate.nbody.claims import Claims
from hpcdiff.simulate.nbody.work import _Look
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


def test_a_rank_that_cannot_say_that_it_ends_hides_no_fault(ours):
    ours.folder.rmdir()
    ours.end()
    assert not ours.folder.exists()  # it could not be said, and nothing was raised


@pytest.mark.parametrize("fault", [UserError("a", "b", "c"), Stopped("a"), OSError(28, "no space left"), RuntimeError("something else")])
def test_a_fault_of_one_rank_is_told_to_the_others(tmp_path, monkeypatch, fault):
    """Which save and stop at their next look, however long their boxes take; the boxes that are there are counted."""

    def run_box(plan, folder, box, *rest):
        if box == 3:
            raise fault
        folder.chunk(box).touch()

    monkeypatch.setattr(work, "run_box", run_box)
    folder = Folder(tmp_path)
    folder.draws.mkdir(parents=True)
    folder.chunks.mkdir()
    with pytest.raises((UserError, Stopped, RuntimeError)):
        work._farm(SimpleNamespace(config=SimpleNamespace(dir=tmp_path)), folder, World(), [7, 3, 1], "{}", 1)
    (claimed,) = folder.draws.iterdir()
    other = Claims(tmp_path, Ranks(2))
    other.folder = claimed
    assert not list(other.take([1]))
    look = _Look(Ranks(2), SimpleNamespace(update=lambda n: None), other, folder, [7, 3, 1])
    with pytest.raises(Stopped, match="1 of 3 boxes done"):
        look.stop_if_told(None)


def test_the_bar_ends_with_all_boxes_and_never_goes_back(ours):
    """Rank 0's box stands for those of the others until all are there."""
    moved = []
    bar = SimpleNamespace(update=moved.append)
    look = _Look(Ranks(4), bar, ours, None, list(range(6)))
    for reached in (130, 90, 200, 600):
        look.show(reached)
    assert moved == [130, 0, 70, 400]


def test_an_earlier_run_s_claims_are_of_no_account(tmp_path):
    first = Claims(tmp_path, Ranks(1))
    assert list(first.take([1, 2])) == [1, 2]
    again = Claims(tmp_path, Ranks(1))
    assert list(again.take([1, 2])) == [1, 2] and list(tmp_path.iterdir()) == [again.folder]
