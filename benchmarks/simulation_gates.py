"""What the embedded simulation must be like, measured in its particles and maps: a table of gates.

    python benchmarks/simulation_gates.py            # 216 clusters, 2 minutes on 2 cores

Simulates and projects in a folder of its own (--folder), twice: once as it is, and once with subhalos that have no gas. Each row is
a number, what it must be, and whether it is. Written to benchmarks/results/simulation_gates.json; docs/simulation.md explains it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import report
from gates import figure, halos, inference

from hpcdiff.simulate.cluster import median_concentration

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "quickstart.yaml"
STAGE = "import sys; import hpcdiff.simulate.particles as p; p.STRIPPED = {stripped}; import importlib; sys.exit(importlib.import_module('hpcdiff.{stage}.__main__').main(sys.argv[1:]))"  # fmt: skip


def make(folder: Path, clusters: int, stripped: str) -> float:
    """Simulate and project into `folder` unless it is there; seconds of the simulation."""
    began = time.perf_counter()
    seconds = 0.0
    for stage in ("simulate", "project"):
        command = [sys.executable, "-c", STAGE.format(stripped=stripped, stage=stage), str(CONFIG), f"run.dir={folder}", f"simulate.clusters={clusters}", "project.split={train: 0.6, val: 0.05, test: 0.35}"]  # fmt: skip
        subprocess.run(
            command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        seconds = seconds or time.perf_counter() - began
    return seconds


def gates(snapshot: halos.Snapshot, of: dict[str, np.ndarray]) -> list[dict]:
    """Rows of the table: what, the number, its bounds."""
    rows = []

    def gate(what: str, value: float, low: float, high: float) -> None:
        rows.append({"what": what, "value": round(float(value), 4), "low": low, "high": high, "holds": bool(low <= value <= high)})

    gate("M200m in the particles over the drawn one, worst", np.abs(of["m200m_found"] / of["mass"] - 1).max(), 0, 0.03)
    grid, median = median_concentration(snapshot.background, float(of["mass"].min()), float(of["mass"].max()))
    ratio = of["c"] / np.exp(np.interp(np.log(of["mass"]), grid, median))
    for name, part in (("lighter half", of["mass"] < np.median(of["mass"])), ("heavier half", of["mass"] >= np.median(of["mass"]))):
        gate(f"c200m, dark matter, over Diemer & Joyce 2019, {name}", np.median(ratio[part]), 0.9, 1.1)
    gate("scatter of c200m, dex", np.log10(ratio).std(), 0.12, 0.22)
    for k, (a, b) in enumerate(zip(halos.EDGES[:-1], halos.EDGES[1:], strict=True)):
        gate(f"dark matter over NFW, {a:g}-{b:g} R200m", np.median(of["density"][:, k]), 0.85, 1.15)
    for k, (a, b) in enumerate(zip(halos.EDGES[:-1], halos.EDGES[1:], strict=True)):
        gate(f"pressure over the debiased profile, {a:g}-{b:g} R200c", np.median(of["pressure"][:, k]), 0.8, 1.2)
    light = of["mass"] < 3e14
    gate("gas fraction within R500c over cosmic, M200m < 3e14", np.median(of["f_gas"][light]), 0.55, 0.95)
    gate("gas fraction within R500c over cosmic, M200m >= 3e14", np.median(of["f_gas"][~light]), 0.6, 1.0)
    for name, key, slope, low, high in (("Y500 - M500c", "y500", 5 / 3, 0.10, 0.25), ("L_X - M500c", "l500", 4 / 3, 0.25, 0.60)):
        found, scatter, _ = halos.relation(of["m500"], of[key])
        gate(f"slope of {name}", found, slope - 0.2, slope + 0.2)
        gate(f"scatter of {name} (ln)", scatter, low, high)
    gate("gas rounder than the dark matter: axis ratio, gas - dm", np.median(of["gas_roundness"] - of["roundness"]), 0.02, 0.4)
    return rows


def correlations(snapshot: halos.Snapshot, of: dict[str, np.ndarray]) -> tuple[list[str], np.ndarray]:
    """Correlation matrix of what is left of each measured quantity after its trend with mass, and of the formation time."""
    left = {"formation": snapshot.halos["formation_time"]}
    for key in ("c", "roundness", "offset", "f_gas", "y500", "l500", "t500"):
        left[key] = halos.relation(of["m500"], of[key])[2]
    return list(left), np.corrcoef(list(left.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clusters", type=int, default=216)
    parser.add_argument("--folder", type=Path, help="kept, and taken up again; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        seconds = make(folder / "as it is", options.clusters, "p.STRIPPED")
        make(folder / "no gas", options.clusters, "float('inf')")
        snapshot = halos.Snapshot(folder / "as it is")
        of = halos.measure(snapshot)
        rows = gates(snapshot, of)
        maps = folder / "as it is" / "maps.h5"
        r, shuffled = inference.coherence(maps), inference.coherence(maps, shuffled=True)
        bare = inference.coherence(folder / "no gas" / "maps.h5")

    def gate(what: str, value: float, low: float, high: float) -> None:
        rows.append({"what": what, "value": round(value, 4), "low": low, "high": high, "holds": bool(low <= value <= high)})

    gate("Wiener map, dark matter, r(k > 2 h/Mpc)", r["dm"][0], 0.6, 0.9)
    gate("the same of what is not round, less that with other halos' inputs", r["dm"][1] - shuffled["dm"][1], 0.05, 0.9)
    gate("by how much the subhalos' gas raises the former", r["dm"][1] - bare["dm"][1], 0.0, 0.9)
    names, matrix = correlations(snapshot, of)
    header = ["gate (halo_model)", "measured", "from", "to", "holds"]
    print(
        report.table(
            header, [[g["what"], f"{g['value']:.3f}", f"{g['low']:g}", f"{g['high']:g}", "yes" if g["holds"] else "NO"] for g in rows]
        )
    )
    print("\ncorrelation of what is left after the trend with M500c")
    print(report.table(["", *names], [[n, *(f"{v:+.2f}" for v in line)] for n, line in zip(names, matrix, strict=True)]))
    print(f"\n{seconds:.0f} s for {options.clusters} clusters (simulate, one process)")
    content = {
        "machine": report.machine("numpy", "colossus"),
        "clusters": options.clusters,
        "seconds_simulate": round(seconds, 1),
        "gates": rows,
        "correlations": {"names": names, "matrix": matrix.round(3).tolist()},
        "coherence": {"as it is": r, "other halos' inputs": shuffled, "subhalos without gas": bare},
    }
    path = report.write("simulation_gates", content)
    grid, median = median_concentration(snapshot.background, float(of["mass"].min()), float(of["mass"].max()))
    figure.draw(of, snapshot.halos["formation_time"], (np.exp(grid), np.exp(median)), path.with_suffix(".png"))


if __name__ == "__main__":
    main()
