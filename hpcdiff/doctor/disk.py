"""How fast a folder is for these ranks: one file written by all (as maps.h5), a file a node, many small files; all synced to disk."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from hpcdiff import files
from hpcdiff.doctor.verdict import Finding
from hpcdiff.errors import disk_error
from hpcdiff.world import MPIWorld, World

PILOT = 2**22
"""Bytes that each writer writes to find out how many it can in time."""
MOST = 2**28
"""Bytes a writer, at most."""
SLOW = 0.03
"""GB/s below which a checkpoint of 0.7 GB (the paper's network) takes longer than 20 s."""
CALL = 2**24
"""Bytes of one write."""


def one_file(world: World, folder: Path, seconds: float) -> dict:
    """All ranks write one HDF5 file by collective calls, and sync it. Collective.

    Returns:
        {"bytes", "seconds", "gb_s"}, or {"refused": why}.
    """
    if world.size > 1 and not isinstance(world, MPIWorld):
        return {"refused": "these ranks have no MPI: measured under srun --mpi=pmix or mpirun"}
    if world.size > 1 and not h5py.get_config().mpi:
        return {"refused": "h5py has no parallel HDF5"}
    return _sized(world, folder, seconds, world.size, lambda size: _collective(world, folder / "one.h5", size))


def file_a_node(world: World, folder: Path, seconds: float, first: bool, nodes: int) -> dict:
    """The first rank of each node writes a file of its own, and syncs it. Collective; {"bytes", "seconds", "gb_s"} or {"refused": why}."""
    return _sized(world, folder, seconds, nodes, lambda size: _plain(folder / f"node-{world.rank}", size) if first else None)


def small_files(world: World, folder: Path, seconds: float = 1.0) -> dict:
    """Each rank makes files of 1 KiB and removes them: {"files", "made_per_s", "removed_per_s"} of all ranks, or {"refused": why}. Collective."""
    most, made, fault = max(5, 4000 // world.size), [], None
    world.barrier()
    start = time.perf_counter()
    try:
        while len(made) < most and time.perf_counter() - start < seconds:
            path = folder / f"small-{world.rank}-{len(made)}"
            path.write_bytes(b"0" * 1024)
            made.append(path)
    except OSError as error:
        fault = disk_error(error) or str(error)
    between = time.perf_counter()
    for path in made:
        with contextlib.suppress(OSError):
            path.unlink()
    took = world.largest(np.array([between - start, time.perf_counter() - between]))
    faults = [f for f in world.allgather(fault) if f is not None]
    n = sum(world.allgather(len(made)))
    return (
        {"refused": faults[0]} if faults else {"files": n, "made_per_s": n / float(took[0]), "removed_per_s": n / max(float(took[1]), 1e-9)}
    )


def _sized(world: World, folder: Path, seconds: float, writers: int, write: Callable[[int], None]) -> dict:
    """A pilot, then as much as takes `seconds` at its speed, at most a twentieth of what is free."""
    size, took = PILOT, 0.0
    for k in range(2):
        fault = None
        world.barrier()
        start = time.perf_counter()
        try:
            write(size)
        except (OSError, RuntimeError) as error:
            fault = disk_error(error) or " ".join(str(error).split())[:160]
        took = float(world.largest(np.array([time.perf_counter() - start]))[0])
        if faults := [f for f in world.allgather(fault) if f is not None]:
            return {"refused": faults[0]}
        if k == 0:
            room = files.free_bytes(folder) / 20 / writers
            more = min(MOST, room, PILOT * seconds / took) // CALL * CALL
            more = int(world.broadcast(more))
            if more <= PILOT:
                break
            size = more
    return {"bytes": size * writers, "seconds": took, "gb_s": size * writers / took / 1e9}


def _collective(world: World, path: Path, size: int) -> None:
    """Each rank writes `size` bytes of one contiguous dataset, its own part, in calls in which all take part."""
    parallel = {"driver": "mpio", "comm": world.comm} if world.size > 1 else {}
    rows, block = size // PILOT, _noise(PILOT)
    with h5py.File(path, "w", **parallel) as f:
        data = f.create_dataset("x", (world.size * rows, PILOT), "u1")
        step = max(1, CALL // PILOT)
        for row in range(0, rows, step):
            n = min(step, rows - row)
            start = world.rank * rows + row
            if world.size > 1:
                with data.collective:
                    data[start : start + n] = np.broadcast_to(block, (n, PILOT))
            else:
                data[start : start + n] = np.broadcast_to(block, (n, PILOT))
    files.sync(path)
    world.barrier()
    if world.main:
        path.unlink()


def _plain(path: Path, size: int) -> None:
    block = _noise(min(size, CALL)).tobytes()
    try:
        with open(path, "wb") as f:
            for _ in range(size // len(block)):
                f.write(block)
            f.flush()
            os.fsync(f.fileno())
    finally:
        path.unlink(missing_ok=True)


def _noise(size: int) -> np.ndarray:
    """Bytes that no file system can compress, uint8 (size,)."""
    return np.frombuffer(np.random.default_rng(os.getpid()).bytes(size), np.uint8)


def judge(found: dict[str, dict]) -> list[Finding]:
    """Findings about the speed of the disk."""
    said = []
    for name, title in (("one_file", "one file written by all ranks"), ("file_a_node", "a file a node")):
        if (speed := found.get(name, {}).get("gb_s")) is not None and speed < SLOW:
            how = "another file system (scratch), more stripes, or a quieter hour"
            said.append(Finding(False, f"{title}: {1e3 * speed:.3g} MB/s", how))
        if (why := found.get(name, {}).get("refused")) is not None and "disk" in why:
            said.append(Finding(True, f"{title}: {why}", "free some space"))
    rate = found.get("small_files", {}).get("made_per_s")
    if rate is not None and rate < 50:
        said.append(Finding(False, f"{rate:.3g} small files a second", "keep the Python environment in a container or on a local disk"))
    return said


def lines(found: dict[str, dict], ranks: int, nodes: int) -> list[str]:
    """A line a measurement."""
    said = []
    for name, title in (("one_file", f"one HDF5 file, {ranks} rank(s)"), ("file_a_node", f"a file a node, {nodes} node(s)")):
        one = found.get(name, {"refused": "not measured, no time was left"})
        text = one.get("refused") or f"{one['gb_s']:.3g} GB/s ({one['bytes'] / 1e9:.3g} GB in {one['seconds']:.2g} s, synced)"
        said.append(f"writes {title}: {text}")
    one = found.get("small_files", {"refused": "not measured, no time was left"})
    rate = one.get("refused") or f"{one['made_per_s']:.3g} made and {one['removed_per_s']:.3g} removed a second"
    return [*said, f"small files: {rate}"]
