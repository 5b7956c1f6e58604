"""Runs of neighbouring numbers as a short text, as Slurm and cpusets write them."""

from __future__ import annotations

from collections.abc import Iterable


def spans(numbers: Iterable[int], between: str = ",") -> str:
    """[0, 1, 2, 5] -> "0-2,5"; in any order, each number once; empty where there are none."""
    runs: list[list[int]] = []
    for n in sorted(set(numbers)):
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return between.join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
