"""Particles through time: kick, drift, kick in comoving coordinates, with one step for all that shrinks as the accelerations grow."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hpcdiff import files
from hpcdiff.checked import DAMAGED
from hpcdiff.simulate.nbody import growth
from hpcdiff.simulate.nbody.gravity import Gravity

FORMAT = 2
"""Of what a run keeps of unfinished boxes, and of finished ones until all are there; what has another is made anew."""
LONGEST = 0.02
"""Longest step in ln a."""
FASTEST, FASTEST_FINE = 99.0, 98.0
"""The step follows this percentile of the accelerations; of the fine particles alone where there are coarser ones, and a sixth of them is the cluster."""


@dataclass
class State:
    """Where the particles are at a scale factor.

    Attributes:
        a: scale factor. steps: how many were made.
        x: positions within the box, comoving Mpc; p: a^2 dx/dt, Mpc H0; float64 (n, 3) each.
        kept: scale factor and positions, float32, at each of the times to be kept so far.
        sphere: mass of the overdense sphere that the cluster is made from, Msun. also_fine: coarse cells that hold fine particles beside those of its region (`zoom`).
    """

    a: float
    x: np.ndarray
    p: np.ndarray
    steps: int = 0
    kept: tuple[tuple[float, np.ndarray], ...] = ()
    sphere: float = 0.0
    also_fine: np.ndarray | None = None

    def save(self, path: Path) -> None:
        """Write the state whole or not at all."""
        temporary = path.with_suffix(".tmp")
        arrays = {f"kept{i}": x for i, (_, x) in enumerate(self.kept)} | ({} if self.also_fine is None else {"also_fine": self.also_fine})
        with open(temporary, "wb") as f:
            times = np.array([a for a, _ in self.kept])
            np.savez(f, format=FORMAT, a=self.a, steps=self.steps, sphere=self.sphere, x=self.x, p=self.p, times=times, **arrays)
        files.sync(temporary)
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> State | None:
        """Read what `save` wrote; None if there is none, it is damaged, or another version of the program wrote it."""
        try:
            with np.load(path) as f:
                if int(f["format"]) != FORMAT:
                    return None
                kept = tuple((float(a), f[f"kept{i}"]) for i, a in enumerate(f["times"]))
                return cls(float(f["a"]), f["x"], f["p"], int(f["steps"]), kept, float(f["sphere"]), f.get("also_fine"))
        except DAMAGED:
            return None


def evolve(
    state: State,
    mass: np.ndarray,
    gravity: Gravity,
    Om0: float,
    softening: float,
    accuracy: float,
    until: float = 1.0,
    keep: tuple[float, ...] = (),
    after: Callable[[State], None] | None = None,
    longest: float = LONGEST,
    fine: np.ndarray | None = None,
) -> State:
    """Evolve the particles to the scale factor `until`.

    A step is at most `longest` in ln a, and `accuracy` times sqrt(2 softening / acceleration), the time to fall through the softening.
    What it is depends on the state alone, so that a run taken up from a saved state goes through the same ones.

    Args:
        mass: of the particles, any unit, (n,).
        keep: scale factors after which the positions are kept.
        after: called after each step; what it raises ends the run.
        fine: bool (n,), the particles whose accelerations the step follows; all if not given.
    """
    force = gravity.forces(state.x, mass)
    fine = np.ones(len(state.x), bool) if fine is None else fine
    share = FASTEST if fine.all() else FASTEST_FINE
    while state.a < until:
        pull = np.percentile(np.linalg.norm(force[fine], axis=1), share) / state.a**3  # d2x/dt2
        step = accuracy * math.sqrt(2 * softening / max(pull, 1e-30)) * float(growth.efunc(state.a, Om0))
        step = min(step, longest)
        left = math.log(until / state.a)
        end = until if left < 1.5 * step else state.a * math.exp(step)
        middle = math.sqrt(state.a * end)
        p = state.p + growth.kick(state.a, middle, Om0) * force
        x = (state.x + growth.drift(state.a, end, Om0) * p) % gravity.side
        x[x >= gravity.side] = 0.0  # the remainder of a tiny negative number
        force = gravity.forces(x, mass)
        p += growth.kick(middle, end, Om0) * force
        kept = state.kept
        if any(state.a < k <= end for k in keep):
            kept = (*kept, (end, x.astype(np.float32)))
        state = replace(state, a=end, x=x, p=p, steps=state.steps + 1, kept=kept)
        if after is not None:
            after(state)
    return state


def energies(state: State, mass: np.ndarray, gravity: Gravity) -> tuple[float, float]:
    """Kinetic and potential energy per mass in physical coordinates, (Mpc H0)^2: sum m v^2/2 with v = a dx/dt, and sum m phi / 2a."""
    m = mass / mass.sum()
    kinetic = 0.5 * float(m @ np.sum(state.p**2, axis=1)) / state.a**2
    return kinetic, 0.5 * float(m @ gravity.potential(state.x, mass)) / state.a
