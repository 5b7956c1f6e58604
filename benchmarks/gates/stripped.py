"""A snapshot whose gas has no clumps: what the inference gates are held against."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np

from gates.halos import Snapshot

REACH = 1.5
"""Clumps are taken away within this many R200m of a cluster."""
SHELL = 200
"""Gas particles of a shell."""
DENSEST = 2.0
"""A particle this many times denser than the median of its shell is in a clump."""


def strip(folder: Path, into: Path) -> None:
    """Copy a snapshot unless it is there, and thin the clumps of its clusters' gas to the median of their shells."""
    if (into / "halos.hdf5").exists():
        return
    s = Snapshot(folder)
    thinner = np.ones(len(s.density))
    for i, radius in enumerate(s.halos["radius_200m"]):
        which, x = s.about(i, "gas", REACH * radius)
        order = np.argsort(np.linalg.norm(x, axis=1))
        for shell in np.array_split(which[order], max(len(which) // SHELL, 1)):
            over = s.density[shell] / np.median(s.density[shell])
            thinner[shell] = np.where(over > DENSEST, 1 / over, 1.0)
    shutil.copytree(folder / "snapshot", into / "snapshot", dirs_exist_ok=True)
    first = 0
    for path in sorted((into / "snapshot").glob("*.hdf5")):
        with h5py.File(path, "r+") as f:
            gas = f["PartType0"]
            own = thinner[first : first + len(gas["Masses"])]
            first += len(own)
            for name in ("Masses", "Density"):
                gas[name][:] = (gas[name][:] * own).astype("<f4")
    shutil.copy(folder / "halos.hdf5", into)
