"""For which configs the gates of `benchmarks/simulation_gates.py` were run, and which of them are not met: results carry it in the engine's name."""

from __future__ import annotations

import math

from hpcdiff.config import Config
from hpcdiff.sections import Cosmology

MASSES = (1.5e14, 1.2e15)
"""Lowest and highest target mass (Msun) of the clusters that the gates were run on; with all else those of `configs/quickstart.yaml` and `configs/nbody.yaml`."""
PARTICLE = {"halo_model": 1.5e11, "nbody": 1.01e11}
"""Their dark-matter particle, Msun."""
CELL, SURROUNDINGS = {"halo_model": 24.0, "nbody": 40.0}, 114.0
"""Their cells and the N-body engine's boxes, comoving Mpc."""
ACCURACY = 0.2
"""Their `simulate.accuracy`; a smaller one has shorter steps."""
SOFTENING = 33.0
"""Their `simulate.softening`, that of the preset's particles where none is given, kpc."""
ALIKE = 0.1
"""Largest difference (ln) of a particle's mass, and of the halo model's cell, on which its environment depends."""
NOT_MET: dict[str, tuple[str, ...]] = {"halo_model": (), "nbody": ()}
"""Groups of gates of which at least one is not met (docs/simulation.md)."""


def engine(config: Config, particle: float) -> str:
    """What the results of a config call its engine: with the gates that are not met, or experimental where they were not run.

    Args:
        particle: dark-matter particle of the run, Msun.
    """
    s, name = config.simulate, config.simulate.engine
    run = [
        config.cosmology == Cosmology(),
        abs(math.log(particle / PARTICLE[name])) < ALIKE,
        MASSES[0] <= s.mass_range[0] and s.mass_range[1] <= MASSES[1],
    ]
    if name == "nbody":
        run += [
            s.device != "cuda" and s.softening in (None, SOFTENING) and s.accuracy <= ACCURACY,
            s.box is None and s.cell >= CELL[name] and s.surroundings is not None and s.surroundings >= SURROUNDINGS,
        ]
    else:
        run.append(abs(math.log(s.cell / CELL[name])) < ALIKE)
    if not all(run):
        return f"{name} (experimental: gates not run)"
    return f"{name} (gates not met: {', '.join(NOT_MET[name])})" if NOT_MET[name] else name
