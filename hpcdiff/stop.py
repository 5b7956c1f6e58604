"""Reasons to stop in good order: a signal, the file `stop` in run.dir, the end of the Slurm job; and the ranks' vote on it.

Nothing here ends anything: a reason is only noted, and the stage acts on it where all is whole.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcdiff.world import World

CAUSES = ("", "the stage itself", "SIGUSR1", "SIGINT", "SIGTERM", "the job script", "Slurm's time limit", "the file stop")
"""Who asks to stop, in the order in which one counts before another: the user's own file wins, since it means no requeue."""
ITSELF, SCRIPT, LIMIT, FILE = (CAUSES.index(name) for name in ("the stage itself", "the job script", "Slurm's time limit", "the file stop"))
MARGIN = 300.0
"""Seconds before the end of a Slurm job, beside the duration of a save, at which a stage stops: at most a tenth of the job's time."""
EVERY = 1.0
"""Seconds between two looks at the file and the clock: a look at a shared file system may cost milliseconds."""


class StopSign:
    """What asks this process to stop: an index into `CAUSES`, 0 as long as nothing does.

    - SIGTERM, SIGINT, SIGUSR1, on any rank.
    - The file `run.dir/stop`, looked at by rank 0. Empty, it is the user's (`touch`), who wants the stage ended and left so;
      with `requeue JOB` in it, it is the job script's. It is removed when it has been obeyed, and when a stage starts: a file that
      was left over must not stop the restart. To keep a pending job from running, cancel the job; a file touched then has no effect.
      This job's own `requeue` stays at the start: its script removes an older one, so the signal came while the stage was starting.
    - SLURM_JOB_END_TIME (unix seconds): rank 0 stops when less is left than `MARGIN` (a tenth of the job's time, if that is less)
      and `save_seconds` together. A limit that is changed while the job runs is not seen here; the job script's signal follows it.
    """

    def __init__(self) -> None:
        self.signalled = 0
        self.seen = 0
        self.path: Path | None = None
        self.save_seconds = 0.0
        """How long the last save took; the stage sets it."""
        end, start = (os.environ.get(f"SLURM_JOB_{name}_TIME", "") for name in ("END", "START"))
        start = float(start) if start.isdigit() else 0.0
        self.end = float(end) if end.isdigit() and float(end) > start else float("inf")  # 0: Slurm says so where there is no end
        self.margin = min(MARGIN, 0.1 * (self.end - start))
        self._next = 0.0

    def signal(self, number: int) -> None:
        """Note a signal (SIGTERM, SIGINT, SIGUSR1)."""
        self.signalled = max(self.signalled, CAUSES.index(signal.Signals(number).name))

    def catch(self) -> None:
        """Note these signals from now on; the second Ctrl-C does not wait."""

        def handle(number, frame) -> None:
            if self.signalled and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signal(number)

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, handle)

    def watch(self, run_dir: str | Path) -> bool:
        """Look for `stop` in this folder from now on, on rank 0; a file that was left over there is removed. Was there one?"""
        self.path = Path(run_dir) / "stop"
        with contextlib.suppress(OSError):
            if self.path.read_text(errors="replace").split() == ["requeue", os.environ.get("SLURM_JOB_ID")]:
                return False
        return self.obeyed()

    def obeyed(self) -> bool:
        """Remove the file; was there one?"""
        if self.path is None or not self.path.is_file():
            return False
        self.path.unlink(missing_ok=True)
        return True

    def look(self, main: bool) -> int:
        """Who asks to stop; the file and the clock are looked at on rank 0 (`main`) alone, once a second at most."""
        now = time.monotonic()
        if main and now >= self._next:
            self._next = now + EVERY
            if time.time() > self.end - self.margin - self.save_seconds:
                self.seen = max(self.seen, LIMIT)
            try:
                if self.path is not None:
                    self.seen = max(self.seen, SCRIPT if "requeue" in self.path.read_text(errors="replace") else FILE)
            except OSError:
                pass  # there is none, or the disk is away for a moment
        return max(self.signalled, self.seen)


class StopVote:
    """The ranks' vote on stopping, one small all-reduce a step that travels while the step is computed.

    Cast at one step's beginning and read at its end, it costs the step nothing, and every rank reads the same answer at the same step:

        vote = StopVote(world)
        vote.cast()
        while ...:
            ...                     # the step
            if vote.agreed():
                ...                 # save and leave; nothing is under way any more
            vote.cast()

    `poll` does both, for the places between batches of a validation: every rank must call it equally often. The votes have a gloo group
    of their own, so that collective calls of other threads cannot come between; they need no device, and wait for none. A rank that dies
    ends the vote with an error on all others, also where the gradients travel by NCCL, which would not notice for long.
    One process alone makes no collective call. Creating it is collective.
    """

    def __init__(self, world: World) -> None:
        self.world, self.cause = world, 0
        self._group = self._ballot = self._work = None
        if world.size > 1:
            import torch.distributed

            from hpcdiff.world import TIMEOUT

            self._group = torch.distributed.new_group(backend="gloo", timeout=TIMEOUT)

    def cast(self, stop: bool = False) -> None:
        """Say whether this rank wants to stop: for a reason of the world's, or because the stage itself wants it (`stop`). Does not wait."""
        assert self._ballot is None, "the vote before this one has not been read"
        cause = max(self.world.sign.look(self.world.main), ITSELF if stop else 0)
        if self._group is None:
            self._ballot = cause
            return
        import torch

        self._ballot = torch.tensor([cause], dtype=torch.int32)
        self._work = torch.distributed.all_reduce(self._ballot, torch.distributed.ReduceOp.MAX, group=self._group, async_op=True)

    def agreed(self) -> bool:
        """Did any rank want to stop when the last vote was cast? The same on every rank. False where none is under way."""
        if self._work is not None:
            self._work.wait()
        if self._ballot is not None:
            self.cause = max(self.cause, int(self._ballot))
        self._ballot = self._work = None
        return self.cause > 0

    def poll(self) -> bool:
        """Read the last vote and cast the next one, unless it is agreed already. Every rank must call this equally often."""
        if not self.agreed():
            self.cast()
        return self.cause > 0
