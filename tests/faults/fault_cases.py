"""A case: which fault, in which run, and where it strikes; also at random."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from fault_harness import STAGES

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


def draw(rng: np.random.Generator) -> Case:
    """A case at random."""
    weights = np.array(list(KINDS.values()))
    kind = str(rng.choice(list(KINDS), p=weights / weights.sum()))
    stage = str(rng.choice(STAGES, p=[0.22, 0.22, 0.25, 0.19, 0.12]))
    ranks = 2 if kind == "hung rank" else int(rng.choice([1, 2], p=[0.65, 0.35]))
    launcher = "launcher" if rng.random() < 0.05 else "fork"
    return Case(stage, kind, ranks, launcher, round(float(rng.random()), 6), int(rng.integers(1 << 16)))
