"""The flat mass sample on the paper's mass function (Hsu et al. 2025, Fig. 1), and how many views of a halo have a twin.

    python benchmarks/view_selection.py        # writes benchmarks/results/view_selection.png and .json, in seconds

Halos: Tinker et al. (2008) in (500 Mpc/h)^3 at z = 0, M200m from 1e14 to 4.82e15 Msun, a Poisson draw with a fixed seed.
A twin is another view of the same halo whose line of sight, either way along it, is within 5 degrees.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from colossus.cosmology import cosmology
from colossus.lss import mass_function

from hpcdiff.cosmology import Background
from hpcdiff.project.views import catalogue, directions, frames
from hpcdiff.sections import Project, Split, Views
from hpcdiff.snapshot import Halos

RESULTS = Path(__file__).resolve().parent / "results"
PAPER = Background()
BOX = 500 / PAPER.h
"""Comoving Mpc."""
MASSES = (1e14, 4.82e15)
NEAR = 5.0
"""Degrees."""
SIGHTLINES = (2, 3, 4, 6, 8, 12, 16, 23, 32, 48, 64)


def halos(seed: int = 0) -> Halos:
    """A draw from the paper's mass function at uniform positions."""
    b, rng = PAPER, np.random.default_rng(seed)
    numbers = {"H0": 100 * b.h, "Om0": b.Om0, "Ob0": b.Ob0, "sigma8": b.sigma8, "ns": b.ns, "Tcmb0": b.Tcmb0}
    cosmology.setCosmology("paper", {"flat": True, "relspecies": False, "persistence": "", **numbers})
    edges = np.linspace(*np.log10(MASSES), 2001)
    middle = 10 ** ((edges[1:] + edges[:-1]) / 2)
    density = mass_function.massFunction(middle * b.h, 0.0, mdef="200m", model="tinker08", q_out="dndlnM")
    below = np.concatenate([[0], np.cumsum(density * np.log(10) * np.diff(edges) * 500.0**3)])
    n = rng.poisson(below[-1])
    mass = 10 ** np.interp(rng.random(n) * below[-1], below, edges)
    return Halos(np.arange(n), rng.uniform(0, BOX, (n, 3)), mass, b.radius(mass), np.arange(n))


def views_with_twins(lines: np.ndarray, either_way: bool) -> np.ndarray:
    """Which of a halo's lines of sight (n, 3) have another within 5 degrees, bool (n,); `either_way`: opposite ones count."""
    cosine = lines @ lines.T
    np.fill_diagonal(cosine, -1 if not either_way else 0)
    return (np.abs(cosine) if either_way else cosine).max(axis=1, initial=-1) > np.cos(np.radians(NEAR))


def twins_by_number(sphere: str, axes: tuple[int, ...]) -> dict[str, list[float]]:
    """Share of views with a twin for each number of sightlines."""
    out: dict[str, list[float]] = {"either_way": [], "same_way": []}
    for n in SIGHTLINES:
        sightline = np.repeat(directions(np.arange(n), np.full(n, n), sphere), len(axes), axis=0)
        lines = frames(sightline, np.tile(axes, n))[:, 2]
        for name, either in (("either_way", True), ("same_way", False)):
            out[name].append(float(views_with_twins(lines, either).mean()))
    return out


def twins_of_sample(rows: dict[str, np.ndarray]) -> int:
    """Views of a catalogue that have a twin."""
    first = np.unique(rows["halo_id"], return_index=True)[1]
    return int(sum(views_with_twins(lines, True).sum() for lines in np.split(rows["frame"][:, 2], first[1:])))


def main() -> None:
    """Make the sample, count, draw."""
    sample, found = halos(), {}
    rows = {}
    for sphere in ("half", "full"):
        views = Views(mode="flat_mass", per_dex=30000, max_per_halo=69, sphere=sphere)
        rows[sphere] = catalogue(sample, Project(views=views, split=Split()), 0.0, BOX)
        found[f"views_with_a_twin_{sphere}"] = twins_of_sample(rows[sphere])
    edges = np.arange(14.0, 15.75, 0.1)
    before = np.histogram(np.log10(sample.mass_200m), edges)[0]
    chosen = np.histogram(np.log10(sample.mass_200m[np.unique(rows["half"]["halo_id"])]), edges)[0]
    after = np.histogram(np.log10(rows["half"]["mass_200m"]), edges)[0]
    n = len(rows["half"]["halo_id"])
    twins = {
        f"{sphere} sphere, {words}": twins_by_number(sphere, axes)
        for sphere in ("half", "full")
        for words, axes in (("3 axes", (0, 1, 2)), ("1 axis", (2,)))
    }
    seen = len(np.unique(rows["half"]["halo_id"]))
    found |= {"halos": len(sample), "halos_seen": seen, "views": n, "log_mass_edges": edges.round(1).tolist()}
    found |= {
        "halos_per_bin": before.tolist(),
        "halos_seen_per_bin": chosen.tolist(),
        "views_per_bin": after.tolist(),
        "sightlines": SIGHTLINES,
        "share_with_a_twin": twins,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "view_selection.json").write_text(json.dumps(found, indent=1) + "\n")
    draw(edges, before, chosen, after, twins, RESULTS / "view_selection.png")
    print(f"{len(sample)} halos, {seen} of them seen in {n} views; with a twin within {NEAR:g} degrees: ", end="")
    print(", ".join(f"{sphere} sphere {found[f'views_with_a_twin_{sphere}'] / n:.1%}" for sphere in ("half", "full")))


def draw(edges: np.ndarray, before: np.ndarray, chosen: np.ndarray, after: np.ndarray, twins: dict, path: Path) -> None:
    """Halos and views by mass; share of views with a twin by number of sightlines."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.stairs(after, edges, fill=True, color="#7b6fb0", label=f"views ({after.sum()})")
    left.stairs(before, edges, fill=True, color="#e08a3c", label=f"halos ({before.sum()})")
    left.stairs(chosen, edges, color="k", lw=1, ls=":", label=f"halos that are seen ({chosen.sum()})")
    left.axhline(3000, color="0.3", lw=0.8, ls="--")
    left.text(edges[-1], 3080, "3000 per 0.1 dex", ha="right", va="bottom", fontsize=8, color="0.3")
    left.set(
        yscale="log", ylim=(0.7, 8000), xlim=(edges[0], edges[-1]), xlabel=r"$\log_{10} M_{200m}/M_\odot$", ylabel="number per 0.1 dex"
    )
    left.legend(loc="lower left", fontsize=8)
    for (name, share), style in zip(twins.items(), ("C0-o", "C0--o", "C3-s", "C3--s"), strict=True):
        right.plot(SIGHTLINES, 100 * np.array(share["either_way"]), style, ms=4, mfc="none" if "--" in style else None, label=name)
    right.set(xscale="log", xlabel="sightlines of a halo", ylabel=f"views with a twin within {NEAR:g}° (%)", ylim=(-2, None))
    right.set_xticks(SIGHTLINES, [str(n) for n in SIGHTLINES])
    right.minorticks_off()
    right.legend(fontsize=8)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
