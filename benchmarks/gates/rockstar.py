"""Subhalos as ROCKSTAR finds them (Behroozi, Wechsler & Wu 2013), whose catalogues the published mass function was calibrated on.

It is a program of its own, that is built beforehand: https://github.com/yt-project/rockstar, `make` (needs the headers of libtirpc, or of Sun's RPC).
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np

from gates import subhalos
from gates.halos import Snapshot
from gates.subhalos import Host
from hpcdiff.cosmology import Background

AROUND = 2.5
"""What lies within so many R200m of a cluster is given to it."""
SMALLEST = 20
"""Particles of the smallest halo that it says."""
CONFIG = """FILE_FORMAT = "ASCII"
SCALE_NOW = 1
h0 = {h}
Om = {Om}
Ol = {Ol}
BOX_SIZE = {side}
PARTICLE_MASS = {mass}
FORCE_RES = {softening}
MIN_HALO_OUTPUT_SIZE = {smallest}
"""


def hosts(s: Snapshot, softening: float, binary: Path) -> list[Host]:
    """Every cluster of a snapshot that has velocities, and its subhalos: what is bound within their virial radii.

    Args:
        softening: of gravity, Mpc. binary: the program.
    Raises:
        RuntimeError: it failed; what it said.
    """
    found = []
    for i in range(len(s.halos["mass_200m"])):
        m, r = subhalos.virial(s, i)
        which, x = subhalos.light(s, i, AROUND * s.halos["radius_200m"][i])
        with tempfile.TemporaryDirectory() as folder:
            at, mass = run(x, s.v[which], subhalos.particle(s), softening, s.background, binary, Path(folder))
        away = np.linalg.norm(at, axis=1)
        inside = np.flatnonzero(away < r)
        subs = inside[np.argsort(-mass[inside])][1:]  # the heaviest is the cluster
        found.append(Host(mass[subs] / m, away[subs] / r, *subhalos.expectation(s, i)))
    return found


def run(
    x: np.ndarray, v: np.ndarray, mass: float, softening: float, background: Background, binary: Path, folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    """The halos among some particles: where they are, Mpc, (halos, 3), and what is bound within their virial radii, Msun, (halos,).

    Args:
        x, v: about any point, Mpc and km/s, (n, 3). mass: of a particle, Msun. folder: for its files.
    """
    h = background.h
    side = 2 * float(np.abs(x).max()) * h + 2
    np.savetxt(
        folder / "particles.ascii", np.column_stack([x * h + side / 2, v, np.arange(len(x))]), fmt=["%.6f"] * 3 + ["%.3f"] * 3 + ["%d"]
    )
    values = {"h": h, "Om": background.Om0, "Ol": 1 - background.Om0, "side": side, "mass": mass * h}
    (folder / "config").write_text(CONFIG.format(**values, softening=softening * h, smallest=SMALLEST))
    command = [str(binary.resolve()), "-c", "config", "particles.ascii"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    path = folder / "halos_0.0.ascii"
    if done.returncode or not path.exists():
        raise RuntimeError(f"{binary} ended with status {done.returncode}: {(done.stderr or done.stdout).strip()[-500:]}")
    with open(path) as f:
        names = f.readline().lstrip("#").split()
        rows = np.array([line.split() for line in f if not line.startswith("#")], float).reshape(-1, len(names))
    column = {name: rows[:, i] for i, name in enumerate(names)}
    return (np.stack([column[k] for k in "xyz"], axis=1) - side / 2) / h, column["mbound_vir"] / h
