"""A whole case: a run with a fault, then the same command again, and what came of it."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from fault_cases import Case
from fault_harness import OWN, READ, STAGES, Harness
from fault_outcomes import difference, lost, our_traceback, pieces, refusal_fault
from fault_strikes import STRIKES, Failure, Strike

FINAL = ("halos.hdf5", "maps.h5", "model", "samples.h5")
SAME, REFUSED, FAILED = "same result", "refused", "failure"


@dataclass
class Outcome:
    """`result` is SAME, REFUSED or FAILED; `detail` says what was done and, of a failure, what is wrong."""

    result: str
    detail: str
    seconds: float = 0.0


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
    if case.kind == "config file":
        return _config(harness, case, folder, said)
    stage, base, first = case.stage, harness.base / str(case.ranks), Strike(harness, case, folder, said)
    STRIKES[case.kind](first)
    damaged = first.damaged
    before = pieces(stage, folder, damaged)
    finished = damaged is not None and any((folder / name).exists() for name in OWN[stage] if name in FINAL)
    ended = first.run(first.again or None)
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
