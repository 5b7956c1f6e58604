"""Does training wait for data? The quickstart's network, fed from memory, from a file, and from a file that is not cached.

    python benchmarks/data_wait.py [--views 2000] [--steps 40] [--folder DIR]

For each place where maps may wait (`train.stage`), with and without the thread that works ahead: how long a step takes, and how much
of it the step waits for its batch. Then what single rows of a map file cost beside runs of 32, read cold: the reason why streamed
training reads single rows, in the order in which held maps are shown.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import report
import torch

from hpcdiff import maps
from hpcdiff.config import Config, read_config
from hpcdiff.denoiser import build_denoiser
from hpcdiff.diffusion import denoising_loss
from hpcdiff.maps.layout import CATALOG
from hpcdiff.train.data import Prefetcher, TrainingData
from hpcdiff.train.data.stream import THREADS
from hpcdiff.world import World

QUICKSTART = Path(__file__).resolve().parent.parent / "configs" / "quickstart.yaml"
FIELDS = ("sz", "xray", "gas", "dm")


def make_maps(path: Path, n: int, npix: int) -> None:
    """A map file of noise, of the right layout and size."""
    rng = np.random.default_rng(0)
    catalog = {name: np.zeros((n, *shape), kind) for name, (kind, shape) in CATALOG.items()}
    catalog["halo_id"][:] = np.arange(n)
    catalog["split"][:] = np.arange(n) % 20 == 0  # a twentieth validates
    attributes = {"config": "project: {}\n", "inputs": "{}", "provenance": "{}", "pixel_mpc": 0.2}
    writer = maps.MapWriter(path, World(), catalog, {f: {"units": maps.UNITS[f]} for f in FIELDS}, npix, attributes)
    for i in range(0, n, 256):
        writer.write(i, {f: rng.random((min(256, n - i), npix, npix), np.float32) for f in FIELDS})
    writer.finish()


def forget(path: Path) -> None:
    """Drop a file from the system's cache."""
    with open(path, "rb") as f:
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def train(config: Config, data: TrainingData, depth: int, steps: int, cold: Path | None) -> tuple[float, float]:
    """Seconds a step, and the fraction of them that it waits for its batch; a cold file is forgotten before every step."""
    torch.manual_seed(0)
    denoiser = build_denoiser(config.resolved(), data.statistics)
    optimiser = torch.optim.Adam(denoiser.parameters(), lr=1e-3, fused=True)
    size = config.train.batch_size
    ahead = Prefetcher(data, (np.arange(k * size, (k + 1) * size) for k in range(10**9)), depth)
    for k in range(-5, steps):
        if k == 0:
            began, waited = time.perf_counter(), ahead.waited_s
        if cold is not None:
            forget(cold)
        batch = ahead.next()
        sigma = denoiser.noise_levels(batch.u)
        denoising_loss(denoiser, batch.target, batch.condition, sigma, batch.z).mean().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    seconds, waited = time.perf_counter() - began, ahead.waited_s - waited
    ahead.close()
    return seconds / steps, waited / seconds


def read_rows(path: Path, npix: int, rows: int, length: int, threads: int) -> float:
    """Seconds a map to read maps of a cold file in runs of `length` at random places."""
    size = 4 * npix**2
    forget(path)
    places = np.random.default_rng(0).permutation(path.stat().st_size // size // length)[: rows // length] * length * size
    descriptor = os.open(path, os.O_RDONLY)
    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for share in [places[k::threads] for k in range(threads)]:
            pool.submit(lambda share: [os.pread(descriptor, size * length, int(p)) for p in share], share)
    seconds = time.perf_counter() - began
    os.close(descriptor)
    return seconds / (len(places) * length)


def main() -> None:
    """Measure and print two tables; the numbers go to benchmarks/results/data_wait.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--views", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--folder", default=None, help="where the map file is made, for its disk to be measured")
    options = parser.parse_args()
    config = read_config(QUICKSTART)
    npix = config.project.npix
    result = {"machine": report.machine("torch", "numpy", "h5py"), "views": options.views, "npix": npix, "training": [], "reading": []}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "maps.h5"
        make_maps(path, options.views, npix)
        for stage, cold in (("shared", None), ("none", None), ("none", path)):
            data = TrainingData(read_config(QUICKSTART, [f"run.maps={path}", f"train.stage={stage}"]), World())
            for depth in (0, 2):
                seconds, waited = train(config, data, depth, options.steps, cold)
                words = "held in memory" if stage == "shared" else "streamed, file not cached" if cold else "streamed, file cached"
                result["training"].append({"maps": words, "ahead": depth, "step_s": seconds, "waited": waited})
            data.close()
        for length, threads in ((1, 1), (1, THREADS), (32, 1), (32, THREADS)):
            seconds = read_rows(path, npix, min(2048, options.views), length, threads)
            result["reading"].append({"rows_a_read": length, "threads": threads, "s_a_map": seconds})
    rows = [[r["maps"], str(r["ahead"]), f"{1e3 * r['step_s']:.1f}", f"{100 * r['waited']:.2f}"] for r in result["training"]]
    print(report.table(["maps", "batches ahead", "ms a step", "waiting (%)"], rows), end="\n\n")
    rows = [[str(r["rows_a_read"]), str(r["threads"]), f"{1e3 * r['s_a_map']:.3f}"] for r in result["reading"]]
    print(report.table(["rows a read, cold", "threads", f"ms a map of {npix}^2"], rows))
    print(report.write("data_wait", result))


if __name__ == "__main__":
    main()
