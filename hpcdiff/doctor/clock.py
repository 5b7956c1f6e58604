"""No measurement takes longer than it may: an end to each, and one to all."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hpcdiff import files
from hpcdiff.blame import rank_names
from hpcdiff.world import World

ALL = 52.0
"""Seconds for everything, with what a launcher needs to start and end still under a minute."""
FLOOR = 5.0
"""Seconds that a measurement has even where the others took long."""
GRACE = 5.0
"""Seconds that rank 0 has for its last words; a C call that keeps Python's lock is ended after as many more."""


class Clock:
    """Ends this process with status 2 where a measurement hangs; rank 0 then says what it has, and which ranks hang.

    Each rank writes how far it is into a file of the doctor's folder, where there is one: ranks that are behind the others hang, and where
    none is, the network or the disk does. Two threads see to the end: Python's own, and faulthandler's, which also ends a process whose
    C call never comes back (then with status 1, and the place where it was).

    Args:
        last_words: measurement, ranks that are behind (a text) -> None; called on rank 0.
        seconds: for all measurements together.
    """

    def __init__(self, last_words: Callable[[str, str], None], seconds: float = ALL) -> None:
        self.last_words, self.end = last_words, time.monotonic() + seconds
        self.world: World | None = None
        self.folder: Path | None = None
        self.passed = 0

    def left(self) -> float:
        """Seconds left for all."""
        return self.end - time.monotonic()

    def enough(self, seconds: float) -> bool:
        """Is there time for a measurement that takes this long? The same answer on every rank. Collective."""
        return bool(self.world.broadcast(self.left() > seconds))

    @contextlib.contextmanager
    def limit(self, name: str, seconds: float) -> Iterator[None]:
        """A measurement: it ends within `seconds`, or this process does."""
        self.passed += 1
        seconds = max(min(seconds, FLOOR), min(seconds, self.left()))
        timer = threading.Timer(seconds, self._give_up, [name])
        timer.daemon = True
        timer.start()
        faulthandler.dump_traceback_later(seconds + 2 * GRACE, exit=True)
        self._post()
        try:
            yield
        finally:
            timer.cancel()
            faulthandler.cancel_dump_traceback_later()

    def _post(self) -> None:
        if self.folder is not None and self.world.size > 1:
            with contextlib.suppress(OSError):
                files.write_atomic(self.folder / f"rank-{self.world.rank:06d}", f"{self.passed}\n")

    def behind(self) -> str:
        """Ranks that have begun fewer measurements than others; empty if none has."""
        passed = {}
        for rank in range(self.world.size if self.folder is not None else 0):
            with contextlib.suppress(OSError, ValueError):
                passed[rank] = int((self.folder / f"rank-{rank:06d}").read_text())
        late = [rank for rank, n in passed.items() if n < max(passed.values())]
        return rank_names(late)

    def _give_up(self, name: str) -> None:
        if self.world is None or self.world.main:
            thread = threading.Thread(target=self._speak, args=[name], daemon=True)
            thread.start()
            thread.join(GRACE)
        else:
            time.sleep(GRACE + 1)  # launchers end the whole job with the first rank
        os._exit(2)

    def _speak(self, name: str) -> None:
        self.last_words(name, "" if self.world is None else self.behind())
        sys.stdout.flush()
        sys.stderr.flush()
        if self.folder is not None:
            with contextlib.suppress(OSError):
                files.remove(self.folder)
