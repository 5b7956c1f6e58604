"""Boxes dealt to ranks as these come free: a box is that rank's whose file of its number was there first.

A box takes minutes, and some three times as long as others of their mass, so in rounds ranks would wait for each other. No rank deals: rank 0 evolves
boxes too, and would answer late.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from hpcdiff import files
from hpcdiff.world import World

EVERY = 10.0
"""Seconds between two looks at what the other ranks do."""


class Claims:
    """The claims of one start of the run; those of an earlier one are removed. Collective.

    Args:
        draws: folder of the unfinished run.
    """

    def __init__(self, draws: Path, world: World) -> None:
        with world.together():
            if world.main:
                for old in draws.glob("claims-*"):
                    files.remove(old)
        self.folder = draws / f"claims-{world.broadcast(time.time_ns())}"
        with world.together():
            if world.main:
                self.folder.mkdir()
        self._seen = (-EVERY, 0, False)

    def take(self, boxes: Iterable[int]) -> Iterator[int]:
        """The boxes, in this order, that no other rank has taken, each taken when it is asked for; none once a rank has ended it."""
        for box in boxes:
            if (self.folder / "end").exists():
                return
            if files.made_first(self.folder / f"{box:06d}"):
                yield box

    def end(self) -> None:
        """No rank takes another box."""
        with contextlib.suppress(OSError):  # what ended this rank is the fault to tell
            files.made_first(self.folder / "end")

    def others(self) -> tuple[int, bool]:
        """How many boxes were taken so far by all ranks, and whether one has ended it; as it was seconds ago at most."""
        if time.monotonic() - self._seen[0] >= EVERY:
            there = os.listdir(self.folder)
            self._seen = time.monotonic(), sum(name != "end" for name in there), "end" in there
        return self._seen[1:]
