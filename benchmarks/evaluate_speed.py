"""How long does an evaluation of the paper's size take? 3,471 views x 10 samples x 2 fields at 128 x 128, on 2 ranks.

    python benchmarks/evaluate_speed.py [--views 3471] [--train 27772] [--ranks 2] [--npix 128] [--folder DIR]

Files of noisy round clusters of that size are made first (--views 870 --train 2000 needs a quarter of the disk and less time; what the
whole size would take is then extrapolated, in proportion, and marked so). Each rank then times the parts of the stage: seconds by the clock,
and those in which the busiest rank's processor worked for it, which other work on the machine does not lengthen. Memory is the largest
of a rank. Figures and report are not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import report
import yaml

from hpcdiff import maps as mapfile
from hpcdiff.config import read_config
from hpcdiff.evaluate.baselines.training import LIMIT
from hpcdiff.maps.layout import CATALOG
from hpcdiff.world import World, join_world

FIELDS = {"sz": 30.0, "xray": 1e-4, "gas": 40.0, "dm": 80.0}
PAPER = {"views": 3471, "train": 27772}
WIDTH, VIEWS_PER_HALO = 12.8, 6
PARTS = {"check": "views", "baselines": "train", "reference": None, "views": "views", "reduce": "views"}
"""Parts of the stage, and what their time grows with."""


def cluster(rng: np.random.Generator, mass: np.ndarray, npix: int, scale: float, slope: float) -> np.ndarray:
    """Noisy round clusters float32 (n, npix, npix)."""
    x = (np.arange(npix, dtype=np.float32) - (npix - 1) / 2) * WIDTH / npix
    r2 = x[:, None] ** 2 + x[None, :] ** 2
    core = (0.3 * (mass / 1e14) ** (1 / 3)).astype(np.float32)
    round_part = (1 + r2 / core[:, None, None] ** 2) ** np.float32(-1.1)
    noise = np.exp(0.1 * rng.standard_normal(round_part.shape, np.float32))
    return scale * ((mass / 1e14) ** slope).astype(np.float32)[:, None, None] * round_part * noise


def make_files(folder: Path, views: int, train: int, npix: int, samples: int) -> None:
    """maps.h5, samples.h5 and config.yaml."""
    rng = np.random.default_rng(0)
    n = views + train
    halo = np.arange(n) // VIEWS_PER_HALO
    mass = 10 ** rng.uniform(14, 15.2, halo[-1] + 1)[halo]
    catalog = {name: np.zeros((n, *shape), kind) for name, (kind, shape) in CATALOG.items()}
    catalog |= {"halo_id": halo, "group": halo, "mass_200m": mass, "radius_200m": 1.43 * (mass / 1e14) ** (1 / 3)}
    catalog |= {"axis": (np.arange(n) % 3).astype(np.int8), "sightline_index": np.arange(n) % VIEWS_PER_HALO // 3}
    catalog |= {
        "split": np.where(np.arange(n) < views, 2, 0).astype(np.int8),
        "width_mpc": np.full(n, WIDTH),
        "depth_mpc": np.full(n, WIDTH),
    }
    attributes = {"config": "project: {}\n", "inputs": "{}", "provenance": "{}", "pixel_mpc": WIDTH / npix, "width_mpc": WIDTH}
    attributes |= {"Om0": 0.3, "Ob0": 0.045, "h": 0.7}
    units = {f: {"units": mapfile.UNITS[f]} for f in FIELDS}
    writer = mapfile.MapWriter(folder / "maps.h5", World(), catalog, units, npix, attributes)
    for i in range(0, n, 256):
        writer.write(i, {f: cluster(rng, mass[i : i + 256], npix, s, 1.3 if f in ("sz", "xray") else 0.3) for f, s in FIELDS.items()})
    writer.finish()
    with h5py.File(folder / "samples.h5", "w") as f:
        f.attrs.update({"format": "hpcdiff-samples", "version": 1, "config": "{}", "sampler": "none", "steps": 0, "nfe": 0, "seed": 0})
        f["catalog/view"] = np.arange(views)
        for field in ("gas", "dm"):
            out = f.create_dataset(f"samples/{field}", (views, samples, npix, npix), "<f4")
            for i in range(0, views, 64):
                each = np.repeat(mass[i : min(i + 64, views)], samples)
                out[i : i + 64] = cluster(rng, each, npix, FIELDS[field], 0.3).reshape(-1, samples, npix, npix)
    (folder / "config.yaml").write_text(yaml.safe_dump({"run": {"dir": str(folder)}, "project": {"npix": npix}}))


def worker(folder: Path) -> None:
    """One rank: seconds of each part, and the memory of the largest rank, into times.json."""
    from hpcdiff.evaluate import run
    from hpcdiff.evaluate.inputs import open_inputs

    world = join_world("evaluate")
    config = read_config(folder / "config.yaml", [])
    maps, samples = open_inputs(config)
    seconds, busy, mark, used = {}, {}, time.perf_counter(), time.process_time()

    def done(name: str) -> None:
        nonlocal mark, used
        busy[name] = max(world.allgather(time.process_time() - used))
        seconds[name], mark, used = time.perf_counter() - mark, time.perf_counter(), time.process_time()

    samples.fingerprint(world)
    done("check")
    baselines = run.Baselines(world, maps, config.task.inputs, samples.fields, config, samples.views)
    done("baselines")
    fitted, run.Baselines = run.Baselines, lambda *_: baselines
    ruler = run.make_ruler(config, world, maps, samples)
    run.Baselines = fitted
    done("reference")
    columns = run.measure_views(world, maps, samples, ruler)
    done("views")
    if world.main:
        rows = np.sort(samples.views)
        catalog = {name: values[rows] for name, values in maps.catalog.items()}
        run.reduce_views(columns, catalog, samples.count, config.evaluate, baselines)
    done("reduce")
    memory = max(world.allgather(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
    if world.main:
        (folder / "times.json").write_text(json.dumps({"seconds": seconds, "busy": busy, "memory": memory}))
    world.close()


def main() -> None:
    """Make the files, time the stage, print a table, write results/evaluate_speed.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (*PAPER.items(), ("ranks", 2), ("npix", 128), ("samples", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.worker:
        worker(a.worker)
        return
    with tempfile.TemporaryDirectory(dir=a.folder) as folder:
        make_files(Path(folder), a.views, a.train, a.npix, a.samples)
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(a.ranks)]
        load = os.getloadavg()[0]
        subprocess.run([*launch, __file__, "--worker", folder], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        found = json.loads((Path(folder) / "times.json").read_text())
    grown = {"views": PAPER["views"] / a.views, "train": min(PAPER["train"], LIMIT) / min(a.train, LIMIT), None: 1.0}
    rows, whole = [], {}
    for part, grows in PARTS.items():
        whole[part] = {kind: found[kind][part] * grown[grows] for kind in ("seconds", "busy")}
        rows.append([part, *(f"{n:.1f}" for n in (found["seconds"][part], found["busy"][part], *whole[part].values()))])
    rows.append(["all", *(f"{sum(float(row[n]) for row in rows):.1f}" for n in range(1, 5))])
    size = f"{a.views} views, {a.train} training: seconds"
    print(report.table(["part", size, "busy", f"{PAPER['views']} views, {PAPER['train']} training: seconds", "busy"], rows))
    print(f"memory of the largest rank: {found['memory'] / 2**30:.2f} GiB; load when it began: {load:.1f}")
    content = {"machine": report.machine("numpy", "scipy", "h5py"), "ranks": a.ranks, "npix": a.npix, "samples": a.samples}
    content |= {"views": a.views, "train": a.train, "load_before": load, "seconds": found["seconds"], "busy": found["busy"]}
    content |= {"memory_bytes": found["memory"], "paper_size": PAPER, "at_paper_size": whole}
    content |= {"extrapolated": (a.views, a.train) != tuple(PAPER.values())}
    print(report.write("evaluate_speed", content))


if __name__ == "__main__":
    main()
