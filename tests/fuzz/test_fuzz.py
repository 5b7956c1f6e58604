"""Damaged and malicious inputs of every kind: exit 0 or 2 and one line, and nothing is written elsewhere.

The long campaign is `python benchmarks/fuzz.py`; these are the first of its inputs.
"""

import os
import subprocess
import sys

from conftest import ROOT

INPUTS = 20
"""Of each kind, as many as a test suite has time for."""
KINDS = ("config", "catalogue", "snapshot", "maps", "samples", "checkpoint", "model", "images", "import", "sweep")


def test_mutated_inputs_are_accepted_or_refused_in_one_line(tmp_path):
    """In a process of its own: forks want one without threads."""
    command = [sys.executable, ROOT / "benchmarks" / "fuzz.py", "--inputs", str(INPUTS), "--base", tmp_path / "whole"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, (
        f"repeat with python benchmarks/fuzz.py --only KIND --input N\n{done.stdout[-3000:]}\n{done.stderr[-2000:]}"
    )
    counts = [line.split()[:2] for line in done.stdout.splitlines()[-len(KINDS) :]]
    assert counts == [[kind, str(INPUTS)] for kind in KINDS]
