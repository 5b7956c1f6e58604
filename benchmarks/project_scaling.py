"""How the projection scales: ranks, particles, pixels, views, clusters, bytes; and whether its forecasts hold.

    python benchmarks/project_scaling.py [scaling many model planner overflow] [--folder FOLDER]     # all of them by default

Writes benchmarks/results/project_scaling.json (parts that are not run stay as they were) and project_scaling.png.

    scaling    one and two ranks of one thread on a snapshot of 8x10^6 particles, one rank on half of it; seconds per TB
    many       64 oversubscribed ranks, and 8 with little memory: the bytes of one rank's maps, the memory that each takes, and how
               evenly what no memory holds is read again
    model      cost by particles, pixels, views and mass; the planner's rates fitted at two sizes and held against a third,
               which also shows how far --dry-run's forecast is off
    planner    370,000 clusters and 3x10^11 particles dealt to 10^2 .. 10^5 ranks, in one process
    overflow   a snapshot of 5x10^9 rows of each kind that takes no room on the disk

The snapshots are NFW clusters on a uniform background (scaling/snapshot.py), with smoothing lengths. Times are those of a second
projection in the same process, so that loading compiled functions is not in them. Others' work on the machine is in the load averages.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from report import RESULTS, machine, table, write
from scaling import model, overflow, planner, runs
from scaling.figure import draw

NAME = "project_scaling"
PARTS = {
    "scaling": lambda bench: runs.strong_and_weak(bench),
    "many": lambda bench: runs.many_ranks(bench),
    "model": lambda bench: model.run(bench),
    "planner": lambda bench: planner.run(),
    "overflow": lambda bench: overflow.run(bench),
}


def show_scaling(found: dict) -> None:
    """Print seconds by part, speed-ups, and seconds per TB."""
    names = {
        "one": "1 rank",
        "two": "2 ranks",
        "half": "1 rank, half the box",
        "beside": "2 separate runs at once",
        "disk": "1 rank, from disk",
    }
    columns = ("all", "run", "reading", "projecting", "exchange", "writing")
    rows = [
        [title, *(f"{found[name][part]:.2f}" for part in columns), f"{min(found[name]['load_average']):.1f}"]
        for name, title in names.items()
    ]
    for name, title in (("strong", "speed-up"), ("weak", "weak efficiency"), ("possible", "speed-up of separate runs")):
        rows.append([title, *(f"{found[name][part]:.2f}" if part in found[name] else "" for part in columns), ""])
    print(
        f"\n{found['particles']:.3g} particles, {found['views']} views of {found['halos']} clusters; "
        "wall seconds of the fastest of some runs"
    )
    print(table(["", *columns, "load"], rows))
    per = found["seconds_per_tb"]
    print(
        "seconds per TB read: " + ", ".join(f"{name.replace('_', ' ')} {value:.0f}" for name, value in per.items() if name != "bytes_read")
    )


def show_many(found: dict) -> None:
    """Print whether the bytes agree, and the memory."""
    mb = 1e6
    rows = [
        [name, f"{r['passes']} ({r['streamed']})", f"{len(r['different'])} of {r['datasets']}", f"{1e3 * r['memory_gb']:.0f}"]
        + [
            f"{r['ledger_max'] / mb:.1f}",
            " .. ".join(f"{x / mb:.0f}" for x in r["rss_more"]),
            " .. ".join(f"{x / mb:.0f}" for x in r["rss"]),
        ]
        + [f"{r['ledger_of_one'] / mb:.0f}, {r['rss_more_of_one'] / mb:.0f}", f"{r['again_most']:.3g}", f"{r['again_mean']:.3g}"]
        for name, r in ((name, r) for name, r in found.items() if name != "machine")
    ]
    header = [
        "",
        "passes (streamed)",
        "datasets differ",
        "memory_gb MB",
        "tables MB",
        "this run MB",
        "resident MB",
        "one rank MB",
        "rows again",
        "mean",
    ]
    print("\n" + table(header, rows))


def show_model(found: dict) -> None:
    """Print the cost of every run, the fit, its errors, and the forecasts'."""
    rows = [
        [f"{r['particles']:.3g}", str(r["npix"]), str(r["views"]), f"{r['pairs']:.3g}", f"{r['reading']:.3f}", f"{r['projecting']:.3f}"]
        + [f"{1e9 * r['projecting'] / r['features']['seen']:.0f}"]
        for r in found["runs"]
    ]
    print(
        "\nCPU seconds of one rank\n"
        + table(["particles", "npix", "views", "pairs", "reading", "projecting", "ns a particle and view"], rows)
    )
    rows = [[f"{r['mass']:.2e}", f"{r['rows']:.0f}", f"{r['seconds']:.4f}", f"{r['predicted']:.4f}"] for r in found["by_mass"]]
    print("\na cluster by its mass\n" + table(["M200m", "particles", "seconds", "planned"], rows))
    print(
        "\nrates  " + ", ".join(f"{name} {found['rates'].get(name, 0):.2e} -> {value:.2e}" for name, value in found["fitted_rates"].items())
    )
    rows = [
        [f"{c['particles']:.3g}", str(c["npix"]), str(c["views"])]
        + [f"{c[k]:.2f}" for k in ("reading", "predicted_reading", "projecting", "predicted_projecting")]
        + [
            f"{100 * c[k]:+.0f}"
            for k in ("error_reading", "error_projecting", "error_both", "rates_error_reading", "rates_error_projecting")
        ]
        for c in found["checks"]
    ]
    header = ["unseen", "npix", "views", "reading", "predicted", "projecting", "predicted"]
    print("\n" + table([*header, "%", "%", "both %", "planner's %", "%"], rows))
    rows = [
        [
            str(f["npix"]),
            str(f["sightlines"]),
            f"{f['pairs']:.3g}",
            f"{f['actual_pairs']:.3g}",
            f"{f['reading']:.2f}",
            f"{f['actual_reading']:.2f}",
        ]
        + [f"{f['projecting']:.2f}", f"{f['actual_projecting']:.2f}", f"{100 * f['error']:+.0f}"]
        for f in found["forecasts"]
    ]
    print("\n--dry-run\n" + table(["npix", "sightlines", "pairs", "actual", "reading", "actual", "projecting", "actual", "error %"], rows))


def show_overflow(found: dict) -> None:
    """Print each layout's size and whether its maps are right."""
    rows = [
        [f"{r['files']} file(s) {'in chunks' if r['chunked'] else 'with holes'}", r["particles"], str(r["ranks"]), f"{r['memory_gb']:g}"]
        + [f"{r['apparent_bytes'] / 1e9:.3g}", f"{r['disk_bytes'] / 1e6:.1f}", f"{r['seconds']:.1f}", ", ".join(r["different"]) or "none"]
        for r in found["runs"]
    ]
    print(f"\n{found['rows_a_kind']:.3g} rows of each kind, {found['written_a_kind']} written")
    print(table(["", "particles", "ranks", "memory_gb", "GB", "MB on disk", "s", "datasets that differ"], rows))
    print(f"a full scan: {1e9 * found['scan_seconds_per_row']:.0f} ns a row of gas, {found['full_scan_hours']:.2f} h on one core")


SHOW = {"scaling": show_scaling, "many": show_many, "model": show_model, "planner": lambda found: None, "overflow": show_overflow}


def main() -> None:
    """Run the parts, print, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; all by default")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "hpcdiff-scaling", help="for snapshots and runs, 2 GB")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(unknown)}")
    options.folder.mkdir(parents=True, exist_ok=True)
    path, bench = RESULTS / f"{NAME}.json", runs.Bench(options.folder)
    results = json.loads(path.read_text()) if path.exists() else {}
    for part in options.parts or PARTS:
        started, before = time.perf_counter(), machine("numpy", "numba", "h5py", "mpi4py")
        results[part] = PARTS[part](bench)
        SHOW[part](results[part])
        results[part]["machine"] = {**before, "seconds": round(time.perf_counter() - started, 1)}
        write(NAME, results)
    draw(results, RESULTS / f"{NAME}.png")


if __name__ == "__main__":
    main()
