"""Peaks that clusters are begun from, against what became the halos of periodic boxes, in one run.

    python benchmarks/protohalos.py [--boxes 2] [--side 220] [--lattice 80] [--least 1.2e14] [--threads 1]

Writes benchmarks/results/protohalos.json. Random periodic boxes without any constraint are evolved as coarsely as coarse boxes are (about three minutes each on one
thread). Of each halo the place is found where its particles began, and what the linear density is there on the scale of the halo's mass: how far above 1.686, how
curved, and how dense in wider spheres. Beside it is the same of a peak that `simulate.nbody.excursion` draws for a cluster of that mass. The last columns are the
density projected around the halos today over the published one (as the gate of projected density): its mean, and its median, which the few with a neighbour don't move.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
from gates import protohalos
from report import machine, table, write

from hpcdiff.config import read_config
from hpcdiff.cosmology import Background
from hpcdiff.simulate.nbody.plan import Plan

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "nbody.yaml"
EDGES = (2e14, 4e14)
"""Between the bins of mass, Msun."""


def plan_of(side: float, lattice: int, least: float, seed: int) -> Plan:
    """One periodic box of this many particles of a type along its side (Mpc)."""
    particle = Background().rho_mean(component="dm") * side**3 / lattice**3
    more = [f"simulate.box={side}", f"simulate.particle_mass={particle}", f"simulate.mass_range=[{least}, 1e16]", f"run.seed={seed}"]
    return Plan(read_config(CONFIG, [*more, "simulate.surroundings=null"]))


def rows_of(found: protohalos.Found, least: float) -> list[dict]:
    """Means and standard deviations in bins of mass."""
    rows = []
    for low, high in zip((least, *EDGES), (*EDGES, np.inf), strict=True):
        there = (found.mass >= low) & (found.mass < high)
        if there.sum() < 2:
            continue
        one = {f.name: getattr(found, f.name)[there] for f in fields(found)}
        rows.append({"from": low, "halos": int(there.sum())})
        for name in ("barrier", "curvature"):
            for which in (name, f"drawn_{name}"):
                rows[-1][which] = [float(one[which].mean()), float(one[which].std(ddof=1))]
        for which in ("around", "drawn_around"):
            rows[-1][which] = one[which].mean(axis=0).tolist()
        rows[-1]["slope"] = float(np.sqrt(np.mean(one["slope"] ** 2)))
        rows[-1]["own"] = float(np.median(one["own"]))
        rows[-1]["rings"] = {
            "mean": one["rings"].mean(axis=0).tolist(),
            "error": (one["rings"].std(axis=0, ddof=1) / np.sqrt(there.sum())).tolist(),
            "median": np.median(one["rings"], axis=0).tolist(),
        }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boxes", type=int, default=2)
    parser.add_argument("--side", type=float, default=220.0, help="Mpc")
    parser.add_argument("--lattice", type=int, default=80, help="particles of a type along the side of a box")
    parser.add_argument("--least", type=float, default=1.2e14, help="least M200m, Msun")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    began = time.process_time()
    found = [
        protohalos.measured(plan_of(options.side, options.lattice, options.least, seed), options.threads) for seed in range(options.boxes)
    ]
    found = protohalos.Found(*(np.concatenate([getattr(one, f.name) for one in found]) for f in fields(protohalos.Found)))
    rows = rows_of(found, options.least)
    content = {"boxes": options.boxes, "side": options.side, "lattice": options.lattice, "seconds": round(time.process_time() - began)}
    content |= {
        "wider": protohalos.WIDER,
        "ring_edges": protohalos.RINGS.tolist(),
        "rows": rows,
        "machine": machine("numpy", "numba", "scipy"),
    }
    print(table(protohalos.HEADER, protohalos.cells(content)))
    print(write("protohalos", content))


if __name__ == "__main__":
    main()
