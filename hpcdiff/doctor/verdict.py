"""From findings to one verdict."""

from __future__ import annotations

from dataclasses import dataclass

FIT, USABLE, NOT = "fit", "usable, but", "not usable"


@dataclass(frozen=True)
class Finding:
    """Something that does not fit: does it keep a run from its end (`bad`), what it is, and how to mend it."""

    bad: bool
    what: str
    how: str


def verdict(findings: list[Finding]) -> str:
    """`FIT`, `USABLE` or `NOT`: the worst finding decides."""
    return NOT if any(f.bad for f in findings) else USABLE if findings else FIT


def lines(findings: list[Finding]) -> list[str]:
    """The verdict and what to mend, worst first."""
    said = verdict(findings)
    if not findings:
        return [f"verdict: {said}"]
    ordered = sorted(findings, key=lambda f: not f.bad)
    return [f"verdict: {said}{'' if said == USABLE else ':'}", *(f"  {'!' if f.bad else '-'} {f.what} -> {f.how}" for f in ordered)]
