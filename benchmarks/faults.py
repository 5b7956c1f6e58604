"""Random faults over the five stages: is the result the same after a rerun, or refused in one line?

    python benchmarks/faults.py [--count 200] [--seed 0] [--minutes M] [--workers 2] [--stage S] [--kind K]

Kind, stage, ranks, moment and byte follow from the seed and the number of the case. Finished cases stand in
benchmarks/results/faults.json and are not repeated, unless the seed is another; the table is printed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "faults")]
os.environ.setdefault("RUN", "runs/faults")

import numpy as np  # noqa: E402
from fault_cases import KINDS, draw  # noqa: E402
from fault_harness import STAGES, Harness  # noqa: E402
from fault_trial import FAILED, REFUSED, SAME, strike  # noqa: E402

from hpcdiff import files  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "faults.json"


def table(cases: dict[str, dict]) -> str:
    """Kind x stage in Markdown: same result / refused / failures."""
    lines = [f"| fault | {' | '.join(STAGES)} | runs | same result | refused | failures |", f"|---|{'---|' * (len(STAGES) + 4)}"]

    def counts(chosen: list[dict]) -> list[int]:
        return [sum(c["result"] == r for c in chosen) for r in (SAME, REFUSED, FAILED)]

    for kind in [*KINDS, "all"]:
        of_kind = [c for c in cases.values() if c["result"] != "skipped" and kind in (c["kind"], "all")]
        cells = [" / ".join(map(str, counts([c for c in of_kind if c["stage"] == s]))) for s in STAGES]
        cells = ["-" if cell == "0 / 0 / 0" else cell for cell in cells]
        lines.append(f"| {kind} | {' | '.join(cells)} | {len(of_kind)} | {' | '.join(map(str, counts(of_kind)))} |")
    return "\n".join(lines)


class Batch:
    """What is still to be done, dealt to threads, and what has been found."""

    def __init__(self, todo: list[tuple[str, int]], end: float, chosen: dict) -> None:
        self.todo, self.end, self.chosen, self.lock = todo, end, chosen, threading.Lock()
        self.cases: dict[str, dict] = json.loads(RESULTS.read_text())["cases"] if RESULTS.exists() else {}
        self.todo = [(name, seed) for name, seed in todo if name not in self.cases]

    def work(self, folder: Path) -> None:
        """One worker: a harness of its own, until all is done or the time is over."""
        harness = Harness(folder)
        harness.make_base()
        try:
            while time.monotonic() < self.end:
                with self.lock:
                    if not self.todo:
                        return
                    name, seed = self.todo.pop(0)
                number = int(name.rpartition("-")[2])
                case = draw(np.random.default_rng([seed, number]))
                if any(getattr(case, key) != value for key, value in self.chosen.items() if value):
                    continue
                outcome = strike(harness, case)
                with self.lock:
                    self.cases[name] = {**asdict(case), **asdict(outcome)}
                    RESULTS.parent.mkdir(exist_ok=True)
                    files.write_json(RESULTS, {"cases": self.cases})
                    print(f"{name:>8} {outcome.result:12} {outcome.seconds:6.1f} s  {case.name}: {outcome.detail}", flush=True)
        finally:
            harness.close()


def main() -> int:
    """Strike, and print the table; 1 if there was a failure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--stage", choices=STAGES)
    parser.add_argument("--kind", choices=list(KINDS))
    parser.add_argument("--scratch", type=Path, help="a folder for the cases; those that failed stay there")
    given = parser.parse_args()
    scratch = given.scratch or Path(tempfile.mkdtemp(prefix="hpcdiff-faults."))
    todo = [(f"{given.seed}-{n}", given.seed) for n in range(given.count)]
    batch = Batch(todo, time.monotonic() + 60 * given.minutes, {"stage": given.stage, "kind": given.kind})
    threads = [threading.Thread(target=batch.work, args=(scratch / f"worker{k}",)) for k in range(given.workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if given.scratch is None:
        shutil.rmtree(scratch, ignore_errors=True)
    mine = {name: case for name, case in batch.cases.items() if name.startswith(f"{given.seed}-")}
    print(f"\n{len(mine)} of {given.count} cases of seed {given.seed}\n\n{table(mine)}")
    return int(any(case["result"] == FAILED for case in mine.values()))


if __name__ == "__main__":
    sys.exit(main())
