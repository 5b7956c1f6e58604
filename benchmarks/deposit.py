"""Speed against error of the deposit, beside swiftsimio's backends on the same particles in one run.

    python benchmarks/deposit.py [--cache FOLDER] [--repeats 7]      # writes benchmarks/results/deposit.json and deposit.png

Particles: 10^6 clustered ones (a cluster, 300 smaller halos, a uniform background) with h = distance to the 48th neighbour, at
128^2 and 1024^2; and a sparse set, 2x10^4 at uniform positions with h log-uniform from 0.05 to 30 pixels.

swiftsimio is installed in an environment of its own below the cache folder. Its backends deposit one field, ours four at once
(and one). Its kernel is Wendland's C2 in two dimensions, 7/pi (1-q)^4 (1+4q) over the support radius squared, while ours is the
projection of the one in three dimensions. Each gets the smoothing length for which its own kernel's support is the same h, and
each is compared with the exact pixel average of its own kernel (quadrature with 4 x 4 Gauss points in panels of at most h/4, 2 x 2
a pixel where h is above 12 pixels), so that the error is that of the deposit. L1 is sum|a - e| / sum e; p99 the 99th percentile of
|a - e| / e over pixels above 1e-3 of the peak. Repeats alternate between the methods; the rate is of the fastest, the median stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numba
import numpy as np
from report import RESULTS, machine, table, write
from scipy.spatial import cKDTree

from hpcdiff.project.kernel import column

ROOT = Path(__file__).resolve().parent.parent
OURS = ("exact x 4", "exact x 1", "mesh x 1")
SWIFTSIMIO = ("nested", "fast", "histogram", "renormalised", "subsampled")
CASES = {"clustered, 128^2": ("clustered", 128), "clustered, 1024^2": ("clustered", 1024), "sparse, 128^2": ("sparse", 128)}
SLOW = 4.0
"""Seconds from which on a method is timed only once."""


def clustered(n: int = 1_000_000, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, 3) in units of the map's side, and the distance to the 48th neighbour."""
    rng = np.random.default_rng(seed)

    def halo(m: int, centre: np.ndarray, scale: float, edge: float) -> np.ndarray:
        c = np.geomspace(1e-3, edge / scale, 400)
        mass = np.log1p(c) - c / (1 + c)
        way = rng.normal(size=(m, 3))
        return centre + np.interp(rng.random(m) * mass[-1], mass, c)[:, None] * scale * way / np.linalg.norm(way, axis=1)[:, None]

    share = rng.pareto(0.9, 300) + 1
    members = (share / share.sum() * 0.25 * n).astype(int)
    parts = [halo(int(0.45 * n), np.zeros(3), 0.027, 0.31)]
    parts += [halo(m, rng.uniform(-0.5, 0.5, 3), 0.006 * (1200 * m / n) ** (1 / 3), 0.04 * (1200 * m / n) ** (1 / 3)) for m in members]
    parts.append(rng.uniform(-0.5, 0.5, (n - sum(map(len, parts)), 3)))
    x = np.clip(np.concatenate(parts)[rng.permutation(n)], -0.4999, 0.4999)
    return x, cKDTree(x).query(x, k=[49], workers=-1)[0][:, 0]


def sparse(n: int = 20_000, seed: int = 2, npix: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, 3) in units of the map's side, and support radii from 0.05 to 30 pixels."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.5, 0.5, (n, 3)), 10 ** rng.uniform(np.log10(0.05), np.log10(30), n) / npix


def wendland_2d(q: np.ndarray) -> np.ndarray:
    """swiftsimio's kernel for a support radius of 1."""
    return 7 / np.pi * (1 - q) ** 4 * (1 + 4 * q)


def exact_average(x: np.ndarray, h: np.ndarray, weights: np.ndarray, npix: int, kernel, threads: int) -> np.ndarray:
    """Pixel averages of a kernel (function of the distance over h, of support radius 1) by quadrature, float64 (npix, npix)."""
    values, image = kernel(np.linspace(0, 1, 20001)), np.zeros((npix, npix))
    nodes = [np.polynomial.legendre.leggauss(n) for n in (2, 4)]
    edges = np.linspace(0, npix, 8 * threads + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        jobs = [
            pool.submit(_average_rows, *((x[:, :2] + 0.5) * npix).T.copy(), h * npix, weights, values, *nodes[0], *nodes[1], image, a, b)
            for a, b in zip(edges, edges[1:], strict=False)
        ]
        for job in jobs:
            job.result()
    return image * npix**2


@numba.njit(nogil=True)
def _average_rows(x, y, size, weights, values, few, few_weights, many, many_weights, image, row_start, row_stop):
    cells, npix = len(values) - 1, image.shape[1]
    for p in range(len(x)):
        r = size[p]
        fine = r <= 12
        node, weight = (many, many_weights) if fine else (few, few_weights)
        for i in range(max(row_start, int(np.floor(x[p] - r))), min(row_stop, int(np.ceil(x[p] + r)))):
            a, b = max(float(i), x[p] - r), min(i + 1.0, x[p] + r)
            n_x = max(1, int(np.ceil((b - a) * 4 / r))) if fine else 1
            dx = (b - a) / n_x
            for j in range(max(0, int(np.floor(y[p] - r))), min(npix, int(np.ceil(y[p] + r)))):
                c, d = max(float(j), y[p] - r), min(j + 1.0, y[p] + r)
                n_y = max(1, int(np.ceil((d - c) * 4 / r))) if fine else 1
                dy = (d - c) / n_y
                total = 0.0
                for m in range(n_x * len(node)):
                    u = a + dx * (m // len(node) + 0.5 + 0.5 * node[m % len(node)]) - x[p]
                    for q in range(n_y * len(node)):
                        v = c + dy * (q // len(node) + 0.5 + 0.5 * node[q % len(node)]) - y[p]
                        t = np.sqrt(u * u + v * v) / r * cells
                        if t < cells:
                            n = int(t)
                            value = values[n] + (t - n) * (values[n + 1] - values[n])
                            total += weight[m % len(node)] * weight[q % len(node)] * value
                image[i, j] += weights[p] * 0.25 * total * dx * dy / (r * r)


def environment(folder: Path) -> Path:
    """The interpreter of an environment that has swiftsimio, made if it is not there."""
    python = folder / "swiftsimio" / "bin" / "python"
    if not python.exists() or subprocess.run([python, "-c", "import swiftsimio"], capture_output=True).returncode:
        venv.create(folder / "swiftsimio", with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "swiftsimio"], check=True)
    return python


class Worker:
    """A process that deposits on request."""

    def __init__(self, python: str | Path, side: str, cache: Path):
        command = [python, Path(__file__).with_name("deposit_worker.py"), side]
        variables = {**os.environ, "PYTHONPATH": str(ROOT) if side == "ours" else "", "NUMBA_CACHE_DIR": str(cache / f"numba-{side}")}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables)

    def __call__(self, **request) -> float:
        """Seconds that a request took."""
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())["seconds"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)


def errors(image: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """L1 and the 99th percentile of the relative error."""
    off, filled = abs(image - exact), exact > 1e-3 * exact.max()
    return {"l1": float(off.sum() / exact.sum()), "p99": float(np.percentile(off[filled] / exact[filled], 99))}


def measure(
    workers: dict[str, Worker], path: Path, npix: int, exact: dict[str, np.ndarray], repeats: int, threads: list[int]
) -> list[dict]:
    """Time every method, turn about, and compare its image: one entry a method and number of threads."""
    n, rows = len(np.load(path)["h"]), []
    methods = [("ours", m) for m in OURS if npix <= 256 or not m.startswith("mesh")] + [("swiftsimio", m) for m in SWIFTSIMIO]
    for number in threads:
        seconds: dict[tuple[str, str], list[float]] = {kind: [] for kind in methods}
        for _ in range(repeats):
            for side, method in methods:
                taken = seconds[side, method]
                if not taken or min(taken) < SLOW:
                    save = None if taken else str(path.with_suffix(".image.npy"))
                    taken.append(workers[side](particles=str(path), method=method, npix=npix, threads=number, save=save))
                    if save:
                        found = errors(np.load(save), exact[side])
                        rows.append({"method": f"{side} {method}", "threads": number, **found, "seconds": taken})
    for row in rows:
        row["million_per_s"], row["million_per_s_median"] = n / min(row["seconds"]) / 1e6, n / float(np.median(row["seconds"])) / 1e6
    return rows


def show(results: dict[str, list[dict]]) -> None:
    """Print a table of each case."""
    for case, rows in results.items():
        lines = [
            [r["method"], str(r["threads"]), f"{r['million_per_s']:.2f}", f"{r['million_per_s_median']:.2f}"]
            + [f"{100 * r['l1']:.4f}", f"{100 * r['p99']:.3f}"]
            for r in sorted(rows, key=lambda r: (r["threads"], -r["million_per_s"]))
        ]
        print(f"\n{case}\n" + table(["", "threads", "10^6/s", "median", "L1 %", "p99 %"], lines), flush=True)


def draw(results: dict[str, list[dict]]) -> None:
    """Speed against error, one panel a case, the most threads measured."""
    figure, axes = plt.subplots(1, len(results), figsize=(4.6 * len(results), 4.2), layout="constrained")
    for ax, (case, rows) in zip(axes, results.items(), strict=True):
        most = max(row["threads"] for row in rows)
        for row in (r for r in rows if r["threads"] == most):
            mine = row["method"].startswith("ours")
            ax.plot(100 * row["l1"], row["million_per_s"], "o" if mine else "s", color="C3" if mine else "C0", ms=8 if mine else 6)
            name = row["method"].replace("ours ", "hpcdiff ").replace("swiftsimio ", "")
            place = {"xytext": (-7, -3), "ha": "right"} if name in ("fast", "hpcdiff mesh x 1", "histogram") else {"xytext": (7, -3)}
            ax.annotate(name, (100 * row["l1"], row["million_per_s"]), textcoords="offset points", fontsize=8, **place)
        ax.set(xscale="log", yscale="log", title=f"{case}, {most} threads", xlabel="L1 error against the exact pixel average [%]")
        ax.margins(0.25)
        ax.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("million particles / s")
    figure.savefig(RESULTS / "deposit.png", dpi=130)


def main() -> None:
    """Make the particles, measure, print, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "hpcdiff-benchmark", help="particles and environments")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    before = os.getloadavg()
    workers = {"ours": Worker(sys.executable, "ours", options.cache)}
    workers["swiftsimio"] = Worker(environment(options.cache), "swiftsimio", options.cache)
    results, sets = {}, {}
    for case, (name, npix) in CASES.items():
        path = options.cache / f"{name}.npz"
        if name not in sets:
            x, h = {"clustered": clustered, "sparse": sparse}[name]()
            sets[name] = x, h, np.random.default_rng(5).uniform(0.5, 1.5, (len(h), 4))
            np.savez(path, x=x, h=h, weights=sets[name][2])
        x, h, weights = sets[name]
        kernels = {"ours": column, "swiftsimio": wendland_2d}
        exact = {side: exact_average(x, h, weights[:, 0], npix, kernel, max(options.threads)) for side, kernel in kernels.items()}
        results[case] = measure(workers, path, npix, exact, options.repeats, options.threads)
        show({case: results[case]})
    realtime = all(os.sched_getscheduler(worker.process.pid) != os.SCHED_OTHER for worker in workers.values())
    for worker in workers.values():
        worker.close()
    swiftsimio = subprocess.run(
        [environment(options.cache), "-c", "import importlib.metadata as m; print(m.version('swiftsimio'))"], capture_output=True, text=True
    ).stdout.strip()
    about = {
        **machine("numpy", "numba"),
        "swiftsimio": swiftsimio,
        "load_average_before": [round(n, 2) for n in before],
        "realtime": realtime,
    }
    print(f"\nwritten: {write('deposit', {'machine': about, 'cases': results})}")
    draw(results)


if __name__ == "__main__":
    main()
