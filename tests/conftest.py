"""What several test files use: running a stage as a user would, and map files made by hand."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

os.environ.setdefault("HDF5_USE_FILE_LOCKING", "BEST_EFFORT")

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hpcdiff"
DATA = ROOT.parent / "shared" / "data"
"""Real snapshots, where they are at hand."""
LAUNCHERS = {
    "alone": lambda n: [sys.executable],
    "mpirun": lambda n: ["mpirun", "--oversubscribe", "-n", str(n), sys.executable],
    "torchrun": lambda n: [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)],
}


def environment(**more: str) -> dict[str, str]:
    """The environment of a stage's process: one thread a rank, root allowed, launcher variables of our own caller removed."""
    dropped = ("OMPI_COMM", "PMI", "SLURM", "TORCHELASTIC", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    return {
        **kept,
        "OMP_NUM_THREADS": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_mpi_yield_when_idle": "1",
        **more,
    }


def run(stage: str, *arguments: object, ranks: int = 1, timeout: float = 240, **more: str) -> subprocess.CompletedProcess:
    """Run `python -m hpcdiff.<stage>` alone or on several ranks; never longer than `timeout` seconds."""
    kind = "alone" if ranks == 1 else "mpirun" if stage in ("simulate", "project") else "torchrun"
    command = [*LAUNCHERS[kind](ranks), "-m", f"hpcdiff.{stage}", *map(str, arguments)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill(process)
        out, err = process.communicate()
        pytest.fail(f"{' '.join(command)} did not end within {timeout} s\n{out[-2000:]}\n{err[-4000:]}")
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def start(stage: str, *arguments: object, ranks: int = 1, **more: str) -> subprocess.Popen:
    """Start a stage in a process group of its own, to be killed by the test."""
    kind = "alone" if ranks == 1 else "mpirun" if stage in ("simulate", "project") else "torchrun"
    command = [*LAUNCHERS[kind](ranks), "-m", f"hpcdiff.{stage}", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(**more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def descendants(pid: int) -> list[int]:
    """Process ids below one process."""
    try:
        children = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*children, *(d for c in children for d in descendants(c))]


def ranks_among(pids: Iterable[int], stage: str) -> list[int]:
    """The processes that are ranks of a stage; below a launcher there are others too."""
    found = []
    for pid in sorted(pids):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            variables = Path(f"/proc/{pid}/environ").read_bytes()
            if f"hpcdiff.{stage}".encode() in words and (b"OMPI_COMM_WORLD_RANK=" in variables or b"\0RANK=" in variables):
                found.append(pid)
    return found


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to a process and all below it, as a node that dies; mpirun and torchrun give each rank a group of its own."""
    for pid in [*descendants(process.pid), process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def refused(done: subprocess.CompletedProcess, *words: str, stage: str = "") -> None:
    """Check that a run ended as the contract wants for the user's fault: one line, once, that holds `words`."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("hpcdiff ") and ": error: " in line]
    assert len(lines) == 1, f"{len(lines)} error lines\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert done.returncode != 0, done.stderr[-4000:]
    ours = [line for line in done.stderr.splitlines() if line.lstrip().startswith(f'File "{PACKAGE}/')]
    assert not ours, done.stderr[-4000:]  # torchrun prints a traceback of its own, which is not ours
    if done.args[0] == sys.executable and "torch.distributed.run" not in done.args:
        assert done.returncode == 2, f"exit {done.returncode}\n{done.stderr[-4000:]}"
    for word in words:
        assert word.lower() in lines[0].lower(), f"{word!r} is not in {lines[0]!r}"


def make_maps(path: Path, halos: int = 20, npix: int = 16, seed: int = 0, axes: int = 1, **fractions: float) -> None:
    """A whole map file of smooth random clusters: dm is a filtered mixture of sz and noise, so there is something to learn."""
    from hpcdiff import maps
    from hpcdiff.sections import Split
    from hpcdiff.world import World

    rng = np.random.default_rng(seed)
    n = halos * axes
    halo = np.repeat(np.arange(halos), axes)
    y, x = np.mgrid[:npix, :npix] - (npix - 1) / 2
    mass = np.repeat(10 ** rng.uniform(14.2, 15, halos), axes)
    shape = mass[:, None, None] / 1e15 * np.exp(-(x**2 + y**2) / (2 * (npix / 6) ** 2))
    noise = np.abs(rng.normal(1, 0.3, (4, n, npix, npix)))
    fields = {"sz": 50 * shape * noise[0], "xray": 1e-4 * shape**2 * noise[1], "gas": 80 * shape * noise[0] ** 0.5 * noise[2] ** 0.2}
    fields["dm"] = 100 * shape * noise[0] ** 0.5 * noise[3] ** 0.4
    split = Split(**{"train": 0.6, "val": 0.2, "test": 0.2, **fractions})
    radius = np.cbrt(3 * mass / (4 * np.pi * 200 * 4.08e10))
    axis = np.tile(np.arange(axes) + 3 - axes, halos)
    frame = np.eye(3)[(axis[:, None] + [1, 2, 0]) % 3]  # along i, along j, along the line of sight
    catalog = {
        "halo_id": halo,
        "mass_200m": mass,
        "radius_200m": radius,
        "sightline": np.tile([0.0, 0, 1], (n, 1)),
        "sightline_index": np.zeros(n),
        "axis": axis,
        "split": maps.deal(halo, split),
        "frame": frame,
        "width_mpc": np.full(n, 12.8),
        "depth_mpc": np.full(n, 12.8),
        "redshift": np.zeros(n),
        "position": np.repeat(rng.uniform(0, 100, (halos, 3)), axes, axis=0),
        "group": halo,
    }
    catalog = {k: np.asarray(v, maps.CATALOG[k][0]) for k, v in catalog.items()}
    attributes = {
        "config": "project: {}\n",
        "inputs": "{}",
        "provenance": "{}",
        "pixel_mpc": 12.8 / npix,
        "width_mpc": 12.8,
        "depth_mpc": 12.8,
    }
    attributes |= {"Om0": 0.3, "Ob0": 0.045, "h": 0.7}
    writer = maps.MapWriter(path, World(), catalog, {f: {"units": maps.UNITS[f]} for f in fields}, npix, attributes)
    writer.write(0, {k: v.astype(np.float32) for k, v in fields.items()})
    writer.finish()
