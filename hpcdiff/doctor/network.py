"""All-reduce between the ranks, by whatever carries a stage's: MPI, or gloo and NCCL."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from hpcdiff.doctor.clock import Clock
from hpcdiff.doctor.verdict import Finding
from hpcdiff.world import MPIWorld, TorchWorld, World

SIZES = (2**12, 2**20, 2**24, 2**27)
"""Bytes of the buffer; a gradient of 46 million parameters has 1.8e8."""
SECONDS = 6.0
"""For one carrier."""
SLOW = {"nccl": 2.0, "gloo": 0.05, "MPI": 0.05}
"""GB/s of bus bandwidth below which something is wrong: NCCL would take as long for a gradient of 0.2 GB as a step of 0.2 s takes; for the
others, half of what plain Ethernet of 1 Gbit/s carries."""


def carriers(world: World) -> dict[str, Callable[[int], Callable[[], None]]]:
    """Name -> bytes -> a call that all-reduces a float32 buffer of that size and waits for it. None where there is one rank."""
    if world.size == 1:
        return {}
    if isinstance(world, MPIWorld):
        return {"MPI": lambda size: _by_mpi(world, size)}
    assert isinstance(world, TorchWorld)
    gpu = all(world.allgather(world.device.type == "cuda"))
    return {"gloo": lambda size: _by_torch("cpu", size)} | ({"nccl": lambda size: _by_torch(world.device, size)} if gpu else {})


def measure(world: World, clock: Clock, make: Callable[[int], Callable[[], None]]) -> list[dict]:
    """Sizes, seconds a call and bus bandwidth in GB/s, as many sizes as time allows. Collective.

    The bus bandwidth is 2 (n - 1) / n times bytes over seconds, with n ranks: what each rank's link carries in a ring, so that it can be
    held against the link's own number, whatever n is.
    """
    rows, end = [], time.monotonic() + SECONDS
    for size in SIZES:
        call = make(size)
        call()
        once = _timed(world, call, 1)
        repeats = int(world.broadcast(max(1, min(200, int(0.4 / max(once, 1e-6))))))
        seconds = _timed(world, call, repeats) / repeats
        rows.append({"bytes": size, "seconds": seconds, "bus_gb_s": 2 * (world.size - 1) / world.size * size / seconds / 1e9})
        if not world.broadcast(time.monotonic() + 8 * 3 * seconds < end and clock.left() > 10):
            break
    return rows


def tried(world: World, clock: Clock, make: Callable[[int], Callable[[], None]]) -> tuple[list[dict], str]:
    """`measure`, and what went wrong on any rank, as a line (NCCL refuses two ranks on one GPU, on all of them). Collective."""
    rows, fault = [], ""
    try:
        rows = measure(world, clock, make)
    except RuntimeError as error:
        fault = " ".join(str(error).split())[:200] or type(error).__name__
    return rows, next((said for said in world.allgather(fault) if said), "")


def clocks(world: World) -> float:
    """Largest difference between the ranks' clocks, seconds, as far as a barrier can tell (a millisecond or so). Collective."""
    worst = []
    for _ in range(5):
        world.barrier()
        now = [float(t) for t in world.allgather(time.time())]
        worst.append(max(now) - min(now))
    return min(worst)


def judge(found: dict[str, list[dict]], difference: float) -> list[Finding]:
    """Findings about network and clocks."""
    said = []
    for carrier, rows in found.items():
        best = max(row["bus_gb_s"] for row in rows)
        if best < SLOW[carrier]:
            how = "NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME: the fast interface; NCCL_DEBUG=INFO says which is taken (docs/clusters.md)"
            if carrier == "MPI":
                how = "is MPI built for this network (ucx, libfabric)? mpirun --mca pml ucx"
            said.append(Finding(False, f"{carrier} all-reduce reaches {best:.3g} GB/s", how))
    if difference > 1.0:
        what = f"the nodes' clocks differ by {difference:.1f} s"
        said.append(Finding(False, what, "the site's NTP: file times and logs of different nodes cannot be compared"))
    return said


def lines(found: dict[str, list[dict]], difference: float, ranks: int) -> list[str]:
    """A line a carrier, and the clocks."""
    if ranks == 1:
        return ["all-reduce: one rank, nothing to measure"]
    said = []
    for carrier, rows in found.items():
        cells = [f"{_bytes(r['bytes'])} {1e6 * r['seconds']:.4g} us {r['bus_gb_s']:.3g} GB/s" for r in rows]
        said.append(f"all-reduce by {carrier}, {ranks} ranks: {'; '.join(cells)}")
    return [*said, "  (GB/s: bus bandwidth, 2 (n-1)/n x bytes / time)", f"clocks: within {1e3 * difference:.2g} ms"]


def _timed(world: World, call: Callable[[], None], repeats: int) -> float:
    world.barrier()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return float(world.largest(np.array([time.perf_counter() - start]))[0])


def _by_mpi(world: MPIWorld, size: int) -> Callable[[], None]:
    from mpi4py import MPI

    buffer = np.zeros(size // 4, np.float32)
    return lambda: world.comm.Allreduce(MPI.IN_PLACE, buffer)


def _by_torch(device, size: int) -> Callable[[], None]:
    import torch

    buffer = torch.zeros(size // 4, device=device)

    def call() -> None:
        torch.distributed.all_reduce(buffer)
        if buffer.is_cuda:
            torch.cuda.synchronize(buffer.device)

    return call


def _bytes(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 2**20 else f"{size >> 10} KiB"
