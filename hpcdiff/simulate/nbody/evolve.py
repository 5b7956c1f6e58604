"""Particles through time: kick, drift, kick in comoving coordinates, with steps that shrink as the accelerations grow.

A long step, before and after which the mesh's smooth part of gravity kicks, is cut into 1, 2, 4 or 8 short ones for the pairs' part (Tuckerman, Berne & Martyna
1992). A particle that is pulled less is kicked in every second, fourth or eighth of them alone (Springel 2005), so that most forces are not calculated at all.
"""

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

FORMAT = 5
"""Of what a run keeps of unfinished boxes, and of finished ones until all are there; what has another is made anew."""
LONGEST = 0.02
"""Longest step in ln a."""
DEEPEST = 3
"""How often at most a long step is halved."""
FASTEST, FASTEST_FINE = 99.0, 98.0
"""The shortest step follows this percentile of the accelerations; of the fine particles alone where there are coarser ones, and a sixth of them is the cluster."""


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

    A short step is `accuracy` times sqrt(2 softening / acceleration), the time to fall through the softening, of the particles that are pulled most; the others have
    the same in their own longer ones. A long one is at most `longest` in ln a. What they are depends on the state alone, so that a run taken up from a saved
    state goes through the same ones.

    Args:
        mass: of the particles, any unit, (n,).
        keep: scale factors after which the positions are kept.
        after: called after each long step; what it raises ends the run.
        fine: bool (n,), the particles whose accelerations the shortest step follows; all if not given.
    """
    far, near = gravity.far(state.x, mass), gravity.near(state.x, mass)
    fine = np.ones(len(state.x), bool) if fine is None else fine
    share = FASTEST if fine.all() else FASTEST_FINE
    while state.a < until:
        pull = np.linalg.norm(far + near, axis=1) / state.a**3  # d2x/dt2
        fall = accuracy * math.sqrt(2 * softening) * float(growth.efunc(state.a, Om0)) / np.sqrt(np.maximum(pull, 1e-30))  # in ln a
        shortest = float(np.percentile(fall[fine], 100 - share))
        left = math.log(until / state.a)
        number = math.ceil(left / min(longest, 2**DEEPEST * shortest))
        end = until if number == 1 else state.a * math.exp(left / number)
        halved = np.ceil(np.log2(left / number / np.maximum(fall, shortest))).clip(0, DEEPEST).astype(int)
        middle = math.sqrt(state.a * end)
        p = state.p + growth.kick(state.a, middle, Om0) * far
        x, near, deep = _pairs(state.x, p, near, mass, gravity, (state.a, end), halved, Om0)
        far = gravity.far(x, mass)
        p += growth.kick(middle, end, Om0) * far
        kept = state.kept
        if any(state.a < k <= end for k in keep):
            kept = (*kept, (end, x.astype(np.float32)))
        state = replace(state, a=end, x=x, p=p, steps=state.steps + deep, kept=kept)
        if after is not None:
            after(state)
    return state


def _pairs(
    x, p, near, mass, gravity: Gravity, span: tuple[float, float], halved: np.ndarray, Om0: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """A long step under the pairs' part of gravity: positions and forces at its end, and the number of short ones; p is changed.

    Args:
        near: forces at its begin. halved: how often it is halved for each particle, (n,).
    """
    deepest = int(halved.max())
    short = 2**deepest
    times = np.geomspace(*span, short + 1)
    times[0], times[-1] = span
    for now in range(short + 1):
        # those whose own step ends or begins now; a whole number of short ones
        own = [short >> level for level in range(deepest + 1)]
        here = np.array([now % size == 0 for size in own])
        on = here[halved]
        if now:
            x = (x + growth.drift(times[now - 1], times[now], Om0) * p) % gravity.side
            x[x >= gravity.side] = 0.0  # the remainder of a tiny negative number
            near[on] = gravity.near(x, mass, None if on.all() else on)
        kicks = np.zeros(deepest + 1)
        for level in np.flatnonzero(here):
            for other in (now - own[level], now + own[level]):
                if 0 <= other <= short:
                    half = math.sqrt(times[now] * times[other])
                    kicks[level] += growth.kick(*sorted((times[now], half)), Om0)
        p[on] += kicks[halved[on], None] * near[on]
    return x, near, short


def energies(state: State, mass: np.ndarray, gravity: Gravity) -> tuple[float, float]:
    """Kinetic and potential energy per mass in physical coordinates, (Mpc H0)^2: sum m v^2/2 with v = a dx/dt, and sum m phi / 2a."""
    m = mass / mass.sum()
    kinetic = 0.5 * float(m @ np.sum(state.p**2, axis=1)) / state.a**2
    return kinetic, 0.5 * float(m @ gravity.potential(state.x, mass)) / state.a
