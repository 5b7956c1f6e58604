"""For which configs the gates of `benchmarks/simulation_gates.py` were run, and which of them are not met: results carry it in the engine's name."""

from __future__ import annotations

import math

from hpcdiff.config import Config
from hpcdiff.sections import Cosmology

PARTICLE = 1.01e11
"""Dark-matter particle (Msun) of the clusters that the gates were run on, that of `configs/nbody.yaml`."""
MASSES = (1.5e14, 1.2e15)
"""Their lowest and highest target mass, Msun."""
CELL, SURROUNDINGS = 40.0, 114.0
"""Their cells and boxes, comoving Mpc: what is gated has them as wide or wider."""
ACCURACY = 0.2
"""Their `simulate.accuracy`; a smaller one has shorter steps."""
NOT_MET: tuple[str, ...] = ()
"""Groups of gates of which at least one is not met (docs/simulation.md)."""


def engine(config: Config, particle: float) -> str:
    """What the results of a config call the engine: with the gates that are not met, or experimental where they were not run.

    Args:
        particle: dark-matter particle of the run, Msun.
    """
    s = config.simulate
    run = [
        s.device != "cuda" and s.softening is None and s.accuracy <= ACCURACY,
        s.box is None and s.cell >= CELL and s.surroundings is not None and s.surroundings >= SURROUNDINGS,
        config.cosmology == Cosmology(),
        abs(math.log(particle / PARTICLE)) < 0.1,
        MASSES[0] <= s.mass_range[0] and s.mass_range[1] <= MASSES[1],
    ]
    if not all(run):
        return "nbody (experimental: gates not run)"
    return f"nbody (gates not met: {', '.join(NOT_MET)})" if NOT_MET else "nbody"
