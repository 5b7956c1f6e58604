"""One case: a fault in a run of a stage, then the same command again, and what came of it."""

from __future__ import annotations

import contextlib
import errno
import shutil
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from fault_harness import OWN, READ, STAGES, Ended, Harness
from fault_outcomes import difference, lost, our_traceback, pieces, refusal_fault

KINDS = {
    "killed": 3.0,
    "signal": 2.0,
    "full disk": 2.0,
    "write error": 2.0,
    "read error": 2.0,
    "short reads and writes": 0.7,
    "truncated file": 3.0,
    "flipped bit": 4.0,
    "zeroed block": 1.5,
    "hung rank": 0.4,
    "clock": 0.7,
    "host names": 0.4,
    "config file": 0.7,
}
"""Kinds of fault, and how often each is drawn."""
FINAL = ("halos.hdf5", "maps.h5", "model", "samples.h5")
SAME, REFUSED, FAILED = "same result", "refused", "failure"


@dataclass
class Case:
    """A fault, and where it strikes.

    Attributes:
        stage, kind, ranks. launcher: "fork" or "launcher". place: 0..1, the moment or the file's byte. pick: chooses a variant.
    """

    stage: str
    kind: str
    ranks: int = 1
    launcher: str = "fork"
    place: float = 0.5
    pick: int = 0

    @property
    def name(self) -> str:
        """Its parameters as a text."""
        return " ".join(str(v) for v in asdict(self).values())


@dataclass
class Outcome:
    """`result` is SAME, REFUSED or FAILED; `detail` says what was done and, of a failure, what is wrong."""

    result: str
    detail: str
    seconds: float = 0.0


class Failure(Exception):
    """What is wrong."""


def strike(harness: Harness, case: Case) -> Outcome:
    """Run the case in a folder of its own, which stays only after a failure."""
    began, said = time.monotonic(), []
    folder = harness.case(case.stage, case.ranks)
    mounted = None
    if case.kind == "full disk":
        files = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        own = _bytes_of(harness.base / str(case.ranks), case.stage)
        size = int((files + own * (0.05 + 1.1 * case.place)) / 1024) + 40
        shutil.rmtree(folder)
        folder.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", folder], capture_output=True).returncode:
            folder.rmdir()
            return Outcome("skipped", "no right to mount")
        mounted = folder
        harness.case(case.stage, case.ranks, folder)
        said.append(f"{size} kB")
    try:
        result = _strike(harness, case, folder, said)
    except Failure as failure:
        said.append(str(failure))
        result = FAILED
    if mounted:
        subprocess.run(["umount", "-l", mounted], check=True)
    if result != FAILED or mounted:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        said.append(folder.name)
    return Outcome(result, "; ".join(said), round(time.monotonic() - began, 2))


def _bytes_of(base: Path, stage: str) -> int:
    paths = [base / name for name in OWN[stage]]
    return sum(p.stat().st_size for path in paths if path.exists() for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file())


def _strike(harness: Harness, case: Case, folder: Path, said: list[str]) -> str:
    stage, ranks, launcher = case.stage, case.ranks, case.launcher
    base, words, damaged, again = harness.base / str(ranks), [], None, {}
    rank = str(case.pick % ranks)
    count = harness.calls(stage, ranks)

    def run(fault: dict | None = None, **more: object) -> Ended:
        ended = harness.run(stage, folder, ranks, *words, fault=fault, launcher=launcher, **more)
        if ended.hung:
            raise Failure(f"a run did not end ({'with the fault' if fault else 'rerun'})")
        if ended.left:
            raise Failure(f"{len(ended.left)} processes were left")
        return ended

    def at(ops: str) -> str:
        return str(1 + int(case.place * sum(count["rwx".index(op)] for op in ops) / (ranks if launcher != "fork" else 1)))

    aimed = {"FAULT_RANK": rank} if ranks > 1 else {}
    if case.kind == "killed":
        if ranks > 1 and case.pick % 3 == 2:
            first = run(at=(case.place * 3.0, signal.SIGKILL, "all"))
            said.append(f"all ranks after {case.place * 3:.2f} s")
        else:
            ops = ("wx", "w", "x", "r")[case.pick % 4]
            first = run({"FAULT_OPS": ops, "FAULT_AT": at(ops), "FAULT_DO": "s9", **aimed})
            said.append(f"rank {rank} at its call {at(ops)} of {ops}")
    elif case.kind == "signal":
        number = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)[case.pick % 3]
        ops = ("wx", "r")[case.pick % 2]
        first = run({"FAULT_OPS": ops, "FAULT_AT": at(ops), "FAULT_DO": f"s{int(number)}", **aimed})
        said.append(f"{number.name} to rank {rank} at its call {at(ops)} of {ops}: exit {first.status}")
        _ended_well(stage, first, folder, {75})
    elif case.kind == "full disk":
        first = run()
        said.append(f"exit {first.status}")
        _ended_well(stage, first, folder)
        subprocess.run(["mount", "-o", "remount,size=400m", folder], check=True)
    elif case.kind in ("write error", "read error", "short reads and writes"):
        ops = {"write error": ("w", "x", "wx"), "read error": ("r",), "short reads and writes": ("rw",)}[case.kind][
            case.pick % 3 if case.kind == "write error" else 0
        ]
        what = {"write error": (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE), "read error": (errno.EIO, errno.ESTALE)}.get(
            case.kind
        )
        do = "short" if what is None else str(what[case.pick // 3 % len(what)])
        sticky = {"FAULT_LAST": "0"} if case.pick // 2 % 2 or what is None else {}
        first = run({"FAULT_OPS": ops, "FAULT_AT": at(ops), "FAULT_DO": do, **sticky, **aimed})
        said.append(
            f"{errno.errorcode[int(do)] if what else do} at call {at(ops)} of {ops}{' and all later' * bool(sticky)}, rank {rank}: exit {first.status}"
        )
        _ended_well(stage, first, folder)
        if what is None and set(first.status) != {0}:
            raise Failure(f"short reads or writes are no fault: {first.errors}")
    elif case.kind in ("truncated file", "flipped bit", "zeroed block"):
        if case.pick % 2 or not READ[stage]:  # of the stage's own unfinished work
            run({"FAULT_OPS": "wx", "FAULT_AT": str(max(8, int(at("wx")))), "FAULT_DO": "s9", **aimed})
        damaged = damage(case, folder, said)
    elif case.kind == "hung rank":
        words += ["train.first_timeout=12", "train.timeout=3"] if stage == "train" else ["run.patience=5"]
        ops = "r" if stage == "evaluate" else "wx"  # there only rank 0 writes
        share = 0.45 if rank == "0" else 0.15  # of the calls of all, each rank makes more than that
        number = str(1 + int(case.place * share * sum(count["rwx".index(op)] for op in ops)))
        first = run({"FAULT_OPS": ops, "FAULT_AT": number, "FAULT_DO": "s19", "FAULT_RANK": rank}, limit=90.0)
        said.append(f"rank {rank} at its call {number} of {ops}: exit {first.status}")
        if set(first.status) == {0}:
            raise Failure("no rank was suspended")
        if len(lines := [line for line in first.out.splitlines() if f"hpcdiff {stage}: hung: rank {rank} (" in line]) != 1:
            raise Failure(f"the hung rank is named {len(lines)} times")
        words.clear()
    elif case.kind == "clock":
        seconds = (-86400, 86400, -3, 400000000)[case.pick % 4]
        again = {"FAULT_CLOCK": str(-seconds), **aimed}
        run({"FAULT_CLOCK": str(seconds), "FAULT_OPS": "wx", "FAULT_AT": at("wx"), "FAULT_DO": "s9" if case.pick % 3 else "clock", **aimed})
        said.append(f"a jump of {seconds} s of rank {rank}, and back")
    elif case.kind == "host names":
        again = {"FAULT_HOST": "node07", "FAULT_RANK": str(ranks - 1)} if ranks > 1 else {"FAULT_HOST": "node07"}
        run({"FAULT_HOST": "node08", "FAULT_OPS": "wx", "FAULT_AT": at("wx"), "FAULT_DO": "s9", **aimed})
        said.append(f"killed on node08, goes on on node07 (rank {again.get('FAULT_RANK', 0)})")
    elif case.kind == "config file":
        return _config(harness, case, folder, said)
    before = pieces(stage, folder, damaged)
    finished = damaged is not None and any((folder / name).exists() for name in OWN[stage] if name in FINAL)
    ended = run(again or None)
    logs = damaged is None or damaged.name != "stats.jsonl"
    if set(ended.status) == {0}:
        if trace := our_traceback(ended):
            raise Failure(f"traceback in the rerun: {trace}")
        if what := difference(stage, folder, base, logs):
            if finished:
                return _read_by_the_next(harness, case, folder, damaged, said)
            raise Failure(f"WRONG RESULT: {what}")
        if what := lost(stage, folder, before, ended.out):
            raise Failure(f"LOST: {what}")
        return SAME
    if what := refusal_fault(stage, ended, folder, damaged):
        raise Failure(f"rerun: {what}")
    said.append(ended.errors[0][:200].replace(str(folder), "RUN"))
    if damaged is None:
        raise Failure("the rerun is refused though nothing was damaged")
    return REFUSED


def _read_by_the_next(harness: Harness, case: Case, folder: Path, damaged: Path, said: list[str]) -> str:
    """A finished stage says so and does not read its files through: the next one must not take what is damaged."""
    stage = STAGES[STAGES.index(case.stage) + 1]
    for name in READ[stage]:
        if not (folder / name).exists():
            source = harness.base / str(case.ranks) / name
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, folder / name)
    ended = harness.run(stage, folder, 1)
    said.append(f"{case.stage} was finished; then {stage}: exit {ended.status}")
    if set(ended.status) == {0}:
        if what := difference(stage, folder, harness.base / str(case.ranks)):
            raise Failure(f"WRONG RESULT of the next stage: {what}")
        return SAME
    if what := refusal_fault(stage, ended, folder, damaged):
        raise Failure(f"next stage: {what}")
    return REFUSED


def _ended_well(stage: str, ended: Ended, folder: Path, also: frozenset | set = frozenset()) -> None:
    """After a fault that the process outlives: 0, or 2 with one line (one a rank where only some met it), or what else is allowed."""
    if trace := our_traceback(ended):
        raise Failure(f"traceback: {trace}")
    bad = [s for s in ended.status if s not in {0, 2, *also, -signal.SIGTERM, -signal.SIGINT, -signal.SIGUSR1, -signal.SIGKILL}]
    if bad and len(ended.status) > 1 and 2 in ended.status:
        bad = []  # the others were ended by the one that met it
    if bad and len(ended.status) == 1 and ended.status[0] > 0 and ended.errors:
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


def _config(harness: Harness, case: Case, folder: Path, said: list[str]) -> str:
    """A damaged config must not go on with what another one has begun: same, refused, or it asks for the same things."""
    from hpcdiff.config import read_config
    from hpcdiff.errors import UserError

    stage = case.stage
    harness.run(stage, folder, case.ranks, fault={"FAULT_OPS": "wx", "FAULT_AT": "12", "FAULT_DO": "s9"})
    text = bytearray(harness.config.read_bytes())
    where = int(case.place * len(text))
    if case.pick % 2:
        text[where] ^= 1 << case.pick % 8
    else:
        text = text[:where]
    config = folder / "config.yaml"
    config.write_bytes(text)
    said.append(f"config.yaml at byte {where}{'' if case.pick % 2 else ', truncated'}")
    before = set(folder.parent.iterdir()), set(Path.cwd().iterdir())
    ended = harness.run(stage, folder, case.ranks, f"run.dir={folder}", config=config)
    if ended.hung:
        raise Failure("a run did not end")
    if (set(folder.parent.iterdir()), set(Path.cwd().iterdir())) != before:
        raise Failure("something was written outside run.dir")
    if set(ended.status) == {0}:
        try:
            now, usual = (read_config(path, [f"run.dir={folder}"]).resolved() for path in (config, harness.config))
        except UserError as error:
            raise Failure(f"done with a config that cannot be read: {error}") from None
        if now == usual and (what := difference(stage, folder, harness.base / str(case.ranks), False)):
            raise Failure(f"WRONG RESULT: {what}")
        return SAME
    if what := refusal_fault(stage, ended, folder):
        raise Failure(what)
    return REFUSED


def draw(rng: np.random.Generator, mount: bool = True) -> Case:
    """A case at random."""
    kinds = [k for k in KINDS if mount or k != "full disk"]
    weights = np.array([KINDS[k] for k in kinds])
    kind = str(rng.choice(kinds, p=weights / weights.sum()))
    stage = str(rng.choice(STAGES, p=[0.22, 0.22, 0.25, 0.19, 0.12]))
    ranks = 2 if kind == "hung rank" else int(rng.choice([1, 2], p=[0.65, 0.35]))
    launcher = "launcher" if rng.random() < 0.05 else "fork"
    return Case(stage, kind, ranks, launcher, round(float(rng.random()), 6), int(rng.integers(1 << 16)))
