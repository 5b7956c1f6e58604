"""The gates of the N-body engine: clusters of the preset, and one periodic box with its halos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from gates import abundance, clusters, convergence, dynamics, figure, formation, halos, inference, rockstar, stripped, subhalos
from gates.table import Table
from hpcdiff.config import read_config
from hpcdiff.maps import deal
from hpcdiff.sections import Split
from hpcdiff.simulate.nbody.box import RESOLVED
from hpcdiff.simulate.nbody.plan import Plan

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "nbody.yaml"
BOX, BOX_PARTICLE, BOX_HALOS = 120.0, 5.42e11, 7e13
"""Side (Mpc), dark-matter particle and least halo (Msun) of the one periodic box: 48^3 particles of a type, halos of 110 of them or more."""
RELAXED = 0.07
"""Largest distance of the most bound particle from the centre of mass, over R200m, of a halo that is called relaxed (Neto et al. 2007)."""
OF_RELAXED = 5.26 / 4.67, 0.01
"""Concentration of relaxed halos over that of all at M200c of 1e14 Msun/h, and by which power of the mass it grows (their equations 4 and 5)."""
JUMPED = 0.3
"""A cluster whose mass is farther from its target than this (ln) has merged with a neighbour that a smaller sphere leaves outside, or the reverse."""
CONVERGED = 12
"""Boxes, those of the lightest clusters, that are evolved again with shorter steps and less softening."""


def overrides(count: int, seed: int) -> list[str]:
    """Config of the run of so many clusters, beside the preset's."""
    parts = {"train": 0.6, "val": 0.2, "test": 0.2}
    split = next(s for s in range(1000) if len(set(deal(np.arange(count), Split(**parts, seed=s)))) == 3)
    return [f"run.seed={seed}", f"simulate.clusters={count}", f"project.split={{train: 0.6, val: 0.2, test: 0.2, seed: {split}}}"]


def measured(folder: Path, softening: float) -> tuple[dict[str, np.ndarray], halos.Snapshot]:
    """Numbers of every halo of a run with this softening (Mpc)."""
    s = halos.Snapshot(folder, RESOLVED * softening)
    return {**halos.measure(s), **{k: s.halos[k] for k in ("target_mass", "formation_scale_factor", "steps", "coarse_fraction")}}, s


def gates(table: Table, of: dict[str, np.ndarray], plan: Plan) -> None:
    """The rows of the table that only evolved clusters have."""
    ratio = of["mass"] / of["target_mass"]
    table.median("masses", "M200m over its target", ratio, 0.9, 1.1)
    table.gate("masses", "M200m in the particles over the catalogue's, worst", np.abs(of["m200m_found"] / of["mass"] - 1).max(), 0, 0.03)
    off = np.log(ratio)
    table.gate("masses", "M200m over its target (ln), half of the middle 68 %", 0.5 * np.ptp(np.percentile(off, [16, 84])), 0, 0.1)
    table.gate(
        "masses",
        f"clusters of more than {np.exp(JUMPED):.2f} times their target or less than its inverse, part of all",
        (np.abs(off) > JUMPED).mean(),
        0,
        0.1,
    )
    table.gate(
        "masses",
        "flatness in log M: largest distance of the distributions",
        flatness(of["mass"], *plan.config.simulate.mass_range),
        0,
        1.36 / np.sqrt(len(ratio)),
    )
    table.gate("masses", "mass within R200m in heavy particles, worst cluster", of["coarse_fraction"].max(), 0, 0.01)
    relaxed = of["off_centre"] < RELAXED
    more, power = OF_RELAXED
    c = clusters.concentrations(of, plan.background) / (more * (of["m200c"] * plan.background.h / 1e14) ** power)
    what = f"c200c, dark matter, relaxed ({relaxed.sum()}), over Diemer & Joyce 2019 and how much more such have in Neto et al. 2007"
    table.median("c(M)", what, c[relaxed], 0.9, 1.1)


def flatness(mass: np.ndarray, low: float, high: float) -> float:
    """Largest distance between the distribution of the masses and one flat in log M between these two (Kolmogorov, Smirnov)."""
    n, place = len(mass), np.log(np.sort(mass) / low) / np.log(high / low)
    return float(np.maximum(np.abs(place - np.arange(n) / n), np.abs(place - (np.arange(n) + 1) / n)).max())


def gravity_gates(table: Table, folder: Path, plan: Plan) -> dict[str, list[list[float]]]:
    """Momentum, energy, and what steps, softening and rounding do to the power spectra about light clusters; folder: of the finished run."""
    energy, momentum = dynamics.conserved(Plan(read_config(CONFIG, list(dynamics.ONE))), folder / "energy and momentum.json")
    one = "of a box of 4.2e14 Msun"
    table.gate("energy and momentum", f"cosmic energy equation {one}, error over the potential energy", energy, 0, 0.01)
    table.gate("energy and momentum", f"what gravity adds to the sum of the momenta {one}, over the sum of their sizes", momentum, 0, 1e-4)
    found = convergence.changes(plan, folder / "snapshot", folder / "P(k)", CONVERGED)
    for what, ratio in found.items():
        mean, error = ratio.mean(axis=0), ratio.std(axis=0, ddof=1) / np.sqrt(len(ratio))
        for low, high in ((0, 3), (3, 5)):
            k = f"{convergence.BANDS[low]:g}-{convergence.BANDS[high]:g} h/Mpc"
            worst = low + int(np.argmax(np.abs(mean[low:high] - 1)))
            change = "of the box moved by 1e-9 Mpc" if what == "rounding" else f"with half of the {what}"
            of = f"P(k) over that {change}, worst of the bands of {k}, {len(ratio)} boxes: difference"
            table.gate("P(k)", of, abs(mean[worst] - 1), 0, 0.05, error[worst])
    return {what: ratio.round(4).tolist() for what, ratio in found.items()}


def inference_gates(table: Table, maps: Path, bare: Path) -> dict:
    """What a linear filter makes of the maps, and of maps whose gas has no clumps."""
    found = {
        "as it is": inference.coherence(maps, folds=inference.FOLDS),
        "other halos' inputs": inference.coherence(maps, shuffled=True, folds=inference.FOLDS),
        "gas without clumps": inference.coherence(bare, folds=inference.FOLDS),
    }
    inference.gates(table, *found.values())
    return found


def box_gates(table: Table, folder: Path) -> list[dict]:
    """The mass function of the one periodic box."""
    snapshot = halos.Snapshot(folder)
    edges = np.array([BOX_HALOS, 1.2e14, 2.2e14, 1e16])
    found, expected = abundance.counts(snapshot.halos["mass_200m"], snapshot.background, edges, BOX)
    rows = []
    for low, high, n, m in zip(edges[:-1], edges[1:], found, expected, strict=True):
        noise = 0.05 + 2 / np.sqrt(m)
        name = f"{low:.2g}-{high:.2g}" if high < 1e16 else f"above {low:.2g}"
        what = f"halos over Tinker et al. 2008, M200m {name} ({n} halos; 5 % and twice the noise)"
        table.gate("mass function", what, n / m, 1 - noise, 1 + noise, 1 / np.sqrt(m))
        rows.append({"from": low, "to": high, "halos": int(n), "expected": float(m)})
    return rows


def run(options, make: Callable) -> tuple[dict, Callable]:
    """Simulate, project and measure.

    Args:
        options: of the command. make: runs stages in a folder, returns their seconds.
    Returns:
        what goes into the JSON file, and what draws the figure at a path.
    """
    table, seconds, folder, bare = Table(), {}, options.folder / "clusters", options.folder / "clusters, no clumps"
    more = overrides(options.clusters, 11)
    seconds["clusters"] = make(folder, CONFIG, more, ("simulate", "project"), options.ranks)
    plan = Plan(read_config(CONFIG, more))
    of, snapshot = measured(folder, plan.softening)
    gates(table, of, plan)
    formation.gates(table, of, plan.background)
    clusters.gates(table, of, plan.background)
    found = {"own": subhalos.hosts(snapshot, plan.softening)}
    if options.rockstar:
        found["rockstar"] = rockstar.hosts(snapshot, plan.softening, options.rockstar)
    finder = list(found)[-1]
    subhalos.gates(table, found[finder], " (ROCKSTAR)" if options.rockstar else "")
    stripped.strip(folder, bare)
    make(bare, CONFIG, more, ("project",), options.ranks)
    content = {"coherence": inference_gates(table, folder / "maps.h5", bare / "maps.h5"), "power": gravity_gates(table, folder, plan)}
    if options.box:
        more = [f"simulate.box={BOX}", f"simulate.particle_mass={BOX_PARTICLE}", f"simulate.mass_range=[{BOX_HALOS}, 1e16]", "run.seed=13"]
        seconds["box"] = make(options.folder / "box", CONFIG, [*more, "simulate.surroundings=null"], ("simulate",))
        content["mass_function"] = box_gates(table, options.folder / "box")
    content["subhalos"] = {name: subhalos.counts(each) for name, each in found.items()}
    keep = (
        "mass",
        "m200c",
        "target_mass",
        "c",
        "formation_scale_factor",
        "off_centre",
        "pressure",
        "f_gas",
        "roundness",
        "steps",
        "coarse_fraction",
    )
    content |= {"seconds": seconds, "gates": table.rows, "halos": {k: of[k].round(4).tolist() for k in keep}}
    late = -np.log10(of["formation_scale_factor"] / 0.64) / 0.09
    return content, lambda path: figure.draw(of, late, plan.background, path)
