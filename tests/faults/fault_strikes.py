"""The run that a fault strikes, one method a kind: what it does, how that run may end, and what it leaves for the rerun."""

from __future__ import annotations

import contextlib
import errno
import signal
import subprocess
from pathlib import Path

from fault_cases import Case
from fault_harness import OWN, READ, Ended, Harness
from fault_outcomes import our_traceback


class Failure(Exception):
    """What is wrong."""


class Strike:
    """The first run of a case.

    Args:
        said: takes what was done, a line a step.
    Attributes:
        damaged: the file that was damaged. again: the shim's variables for the rerun.
    """

    def __init__(self, harness: Harness, case: Case, folder: Path, said: list[str]) -> None:
        self.harness, self.case, self.folder, self.said = harness, case, folder, said
        self.count = harness.calls(case.stage, case.ranks)
        self.rank = str(case.pick % case.ranks)
        self.aimed = {"FAULT_RANK": self.rank} if case.ranks > 1 else {}
        self.damaged: Path | None = None
        self.again: dict[str, str] = {}

    def run(self, fault: dict | None = None, *words: str, **more: object) -> Ended:
        """A run of the stage, which must end and leave no process."""
        ended = self.harness.run(self.case.stage, self.folder, self.case.ranks, *words, fault=fault, launcher=self.case.launcher, **more)
        if ended.hung:
            raise Failure(f"a run did not end ({'with the fault' if fault else 'rerun'})")
        if ended.left:
            raise Failure(f"{len(ended.left)} processes were left")
        return ended

    def calls(self, ops: str, share: float = 1.0) -> int:
        """The case's place among so large a share of the calls that an undisturbed run makes."""
        return 1 + int(self.case.place * share * sum(self.count["rwx".index(op)] for op in ops))

    def at(self, ops: str) -> str:
        """The number of the call at which the fault strikes a rank."""
        return str(self.calls(ops, 1.0 if self.case.launcher == "fork" else 1 / self.case.ranks))

    def killed(self) -> None:
        """SIGKILL of one rank at a call, or of all at a time."""
        if self.case.ranks > 1 and self.case.pick % 3 == 2:
            self.run(at=(self.case.place * 3.0, signal.SIGKILL, "all"))
            self.said.append(f"all ranks after {self.case.place * 3:.2f} s")
            return
        ops = ("wx", "w", "x", "r")[self.case.pick % 4]
        self.run({"FAULT_OPS": ops, "FAULT_AT": self.at(ops), "FAULT_DO": "s9", **self.aimed})
        self.said.append(f"rank {self.rank} at its call {self.at(ops)} of {ops}")

    def signalled(self) -> None:
        """A signal that asks a rank to stop."""
        number = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)[self.case.pick % 3]
        ops = ("wx", "r")[self.case.pick % 2]
        first = self.run({"FAULT_OPS": ops, "FAULT_AT": self.at(ops), "FAULT_DO": f"s{int(number)}", **self.aimed})
        self.said.append(f"{number.name} to rank {self.rank} at its call {self.at(ops)} of {ops}: exit {first.status}")
        ended_well(first, {75})

    def full_disk(self) -> None:
        """`fault_trial.strike` has mounted a small one, which is larger for the rerun."""
        first = self.run()
        self.said.append(f"exit {first.status}")
        ended_well(first)
        subprocess.run(["mount", "-o", "remount,size=400m", self.folder], check=True)

    def write_error(self) -> None:
        """A write, rename or flush that fails."""
        self._refused_calls(("w", "x", "wx")[self.case.pick % 3], (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE))

    def read_error(self) -> None:
        """A read that fails."""
        self._refused_calls("r", (errno.EIO, errno.ESTALE))

    def _refused_calls(self, ops: str, numbers: tuple[int, ...]) -> None:
        number = numbers[self.case.pick // 3 % len(numbers)]
        sticky = {"FAULT_LAST": "0"} if self.case.pick // 2 % 2 else {}
        first = self.run({"FAULT_OPS": ops, "FAULT_AT": self.at(ops), "FAULT_DO": str(number), **sticky, **self.aimed})
        later = " and all later" * bool(sticky)
        self.said.append(f"{errno.errorcode[number]} at call {self.at(ops)} of {ops}{later}, rank {self.rank}: exit {first.status}")
        ended_well(first)

    def short_calls(self) -> None:
        """Every read and write moves half of what it was asked for."""
        first = self.run({"FAULT_OPS": "rw", "FAULT_AT": self.at("rw"), "FAULT_DO": "short", "FAULT_LAST": "0", **self.aimed})
        self.said.append(f"from call {self.at('rw')} on, rank {self.rank}: exit {first.status}")
        ended_well(first)
        if set(first.status) != {0}:
            raise Failure(f"short reads or writes are no fault: {first.errors}")

    def damaged_file(self) -> None:
        """A file that the stage reads, or that a killed run of it has left."""
        if self.case.pick % 2 or not READ[self.case.stage]:
            self.run({"FAULT_OPS": "wx", "FAULT_AT": str(max(8, int(self.at("wx")))), "FAULT_DO": "s9", **self.aimed})
        self.damaged = damage(self.case, self.folder, self.said)

    def hung_rank(self) -> None:
        """SIGSTOP of one rank: the job ends by itself, and one line names this rank."""
        stage, rank = self.case.stage, self.rank
        words = ["train.first_timeout=12", "train.timeout=3"] if stage == "train" else ["run.patience=5"]
        ops = "r" if stage == "evaluate" else "wx"  # there only rank 0 writes
        number = self.calls(ops, 0.45 if rank == "0" else 0.15)  # of the calls of all, each rank makes more than that
        first = self.run({"FAULT_OPS": ops, "FAULT_AT": str(number), "FAULT_DO": "s19", "FAULT_RANK": rank}, *words, limit=90.0)
        self.said.append(f"rank {rank} at its call {number} of {ops}: exit {first.status}")
        if set(first.status) == {0}:
            raise Failure("no rank was suspended")
        lines = [line for line in first.out.splitlines() if f"hpcdiff {stage}: hung: rank {rank} (" in line]
        if len(lines) != 1:
            raise Failure(f"the hung rank is named {len(lines)} times")

    def clock(self) -> None:
        """The clock jumps, and back for the rerun."""
        seconds = (-86400, 86400, -3, 400000000)[self.case.pick % 4]
        do = "s9" if self.case.pick % 3 else "clock"
        self.run({"FAULT_CLOCK": str(seconds), "FAULT_OPS": "wx", "FAULT_AT": self.at("wx"), "FAULT_DO": do, **self.aimed})
        self.said.append(f"a jump of {seconds} s of rank {self.rank}, and back")
        self.again = {"FAULT_CLOCK": str(-seconds), **self.aimed}

    def host_names(self) -> None:
        """Killed on one node, taken up on another."""
        self.run({"FAULT_HOST": "node08", "FAULT_OPS": "wx", "FAULT_AT": self.at("wx"), "FAULT_DO": "s9", **self.aimed})
        last = {"FAULT_RANK": str(self.case.ranks - 1)} if self.case.ranks > 1 else {}
        self.again = {"FAULT_HOST": "node07", **last}
        self.said.append(f"killed on node08, goes on on node07 (rank {self.case.ranks - 1})")


STRIKES = {
    "killed": Strike.killed,
    "signal": Strike.signalled,
    "full disk": Strike.full_disk,
    "write error": Strike.write_error,
    "read error": Strike.read_error,
    "short reads and writes": Strike.short_calls,
    **dict.fromkeys(("truncated file", "flipped bit", "zeroed block"), Strike.damaged_file),
    "hung rank": Strike.hung_rank,
    "clock": Strike.clock,
    "host names": Strike.host_names,
}
"""Each kind but a damaged config, which has no rerun."""


def ended_well(ended: Ended, also: frozenset | set = frozenset()) -> None:
    """After a fault that the process outlives: 0, or 2 with one line (one a rank where only some met it), or what else is allowed."""
    if trace := our_traceback(ended):
        raise Failure(f"traceback: {trace}")
    bad = [s for s in ended.status if s not in {0, 2, *also, -signal.SIGTERM, -signal.SIGINT, -signal.SIGUSR1, -signal.SIGKILL}]
    if bad and len(ended.status) > 1 and 2 in ended.status:
        bad = []  # the others were ended by the one that met it
    if bad and ended.launched and ended.status[0] > 0 and ended.errors:
        bad = []  # launchers have statuses of their own
    if bad and not (also and "stopped by" in ended.out):
        raise Failure(f"exit {ended.status}: {ended.out[-300:]}")
    if 2 in ended.status and len(ended.errors) != 1:
        raise Failure(f"{len(ended.errors)} error lines: {ended.errors}")


def damage(case: Case, folder: Path, said: list[str]) -> Path:
    """Truncate a file, flip one of its bits, or zero a block of 512 bytes."""
    own = [p for name in OWN[case.stage] for p in ([folder / name] if (folder / name).is_file() else (folder / name).rglob("*"))]
    read = [p for name in READ[case.stage] for p in ([folder / name] if (folder / name).is_file() else (folder / name).rglob("*"))]
    files = sorted(p for p in (own if case.pick % 2 or not read else read) if p.is_file() and p.stat().st_size) or sorted(
        p for p in folder.rglob("*") if p.is_file() and p.stat().st_size and not p.name.startswith(".")
    )
    path = files[case.pick // 2 % len(files)] if files else folder / "none"
    if not files:
        return path
    data = bytearray(path.read_bytes())
    where = min(int(case.place * len(data)), len(data) - 1)
    if case.kind == "truncated file":
        data = data[:where]
    elif case.kind == "flipped bit":
        data[where] ^= 1 << case.pick % 8
    else:
        data[where : where + 512] = bytes(len(data[where : where + 512]))
    with contextlib.suppress(OSError):
        path.write_bytes(data)
    said.append(f"{path.relative_to(folder)} at byte {where} of {path.stat().st_size}")
    return path
