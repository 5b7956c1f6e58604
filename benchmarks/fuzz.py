"""Damaged and malicious files of every kind that is read: exit 0 or 2 and one line, under 10 s and 2 GB, nothing written elsewhere.

    python benchmarks/fuzz.py [--inputs 500] [--seed 0] [--only KIND] [--write] [--minutes M]
    python benchmarks/fuzz.py --only KIND --input N        repeats one and shows what it said
    python benchmarks/fuzz.py --table                      what has been written, as Markdown

Each input is made from a whole one by a seeded mutation, and read by the stages' own `main` in a fork of one warmed process
(tests/fuzz). With --write, benchmarks/results/fuzz/KIND.json keeps the counts, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("", "tests", "tests/fuzz", "benchmarks")]

import fuzz_inputs  # noqa: E402
import report  # noqa: E402
from fuzz_kinds import KINDS, run_case  # noqa: E402

CRASH = re.compile("died of SIG(SEGV|ABRT|BUS|FPE)")
"""A library died of a damaged file, which Python cannot catch, and hpcdiff.scout did not foresee."""
FORESEEN = re.compile("the HDF5 library (crashes on it|does not come to an end)")
COLUMNS = ("inputs", "exit 0", "exit 2", "foreseen", "messages", "crashes", "faults")
"""`foreseen`: refused because HDF5 had died of the file, or gone in circles, in the process that opens it first; part of `exit 2`."""
RESULTS = ROOT / "benchmarks" / "results" / "fuzz"
BATCH = 25
"""Inputs after which the counts are written."""


def campaign(base: Path, work: Path, kind: str, options: argparse.Namespace) -> dict:
    """Counts of one kind, and its faults; goes on from what is written."""
    row = {"seed": options.seed, **dict.fromkeys(COLUMNS, 0), "slowest_s": 0.0, "found": [], "said": []}
    path, end = RESULTS / f"{kind}.json", time.monotonic() + 60 * options.minutes
    if options.write and path.exists() and (old := json.loads(path.read_text()))["seed"] == options.seed:
        row = old
    while row["inputs"] < options.inputs and time.monotonic() < end:
        number, began = row["inputs"], time.process_time() + sum(os.times()[2:4])
        case, outcome = run_case(base, work, kind, options.seed, number)
        row["slowest_s"] = max(row["slowest_s"], round(time.process_time() + sum(os.times()[2:4]) - began, 2))
        row["inputs"] += 1
        if outcome.fault:
            row["crashes" if CRASH.match(outcome.fault) else "faults"] += 1
            row["found"].append({"input": number, "what": case.what[:120], "fault": outcome.fault[:300]})
            print(f"{kind} --input {number}: {case.what[:100]}: {outcome.fault[:220]}", flush=True)
        else:
            row[f"exit {outcome.status}"] += 1
            if outcome.status == 2:
                said = re.sub(r"/\S+|\d+|'[^']*'", "_", outcome.stderr.strip().splitlines()[-1])[:60]
                row["said"] = sorted({*row["said"], said})
                row["foreseen"] += bool(FORESEEN.search(outcome.stderr))
        row["messages"] = len(row["said"])
        if options.write and (row["inputs"] % BATCH == 0 or row["inputs"] == options.inputs):
            RESULTS.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({**row, "machine": report.machine("h5py", "numpy", "torch")}, indent=1) + "\n")
    return row


def markdown() -> str:
    """The counts that have been written, as a table."""
    rows = {kind: json.loads((RESULTS / f"{kind}.json").read_text()) for kind in KINDS if (RESULTS / f"{kind}.json").exists()}
    head = ("kind", *COLUMNS, "slowest, s of processor")
    lines = [head, ["---"] * len(head), *([kind, *(row[c] for c in COLUMNS), row["slowest_s"]] for kind, row in rows.items())]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def main() -> int:
    """Run the campaign; the exit status says whether a fault or crash was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(KINDS), action="append", help="may be given several times")
    parser.add_argument("--input", type=int)
    parser.add_argument("--minutes", type=float, default=1e9, help="of each kind, after which no input is begun")
    parser.add_argument("--base", type=Path, help="folder of whole inputs, made if it is not there")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print(markdown())
        return 0
    fuzz_inputs.warm()
    with tempfile.TemporaryDirectory() as folder:
        base, work = options.base or Path(folder) / "whole", Path(folder) / "work"
        if not base.exists():
            fuzz_inputs.whole(base)
        fuzz_inputs.warm_kernels(base)
        work.mkdir()
        if options.input is not None:
            case, outcome = run_case(base, work, options.only[0], options.seed, options.input)
            print(f"{case.what}\n{case.said}\nexit {outcome.status} {outcome.fault}\n{outcome.stderr}")
            return bool(outcome.fault)
        rows = {kind: campaign(base, work, kind, options) for kind in options.only or KINDS}
    print(report.table(["kind", *COLUMNS], [[kind, *(str(row[c]) for c in COLUMNS)] for kind, row in rows.items()]))
    return any(row["faults"] or row["crashes"] for row in rows.values())


if __name__ == "__main__":
    sys.exit(main())
