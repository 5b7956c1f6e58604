"""The ranks that run a stage together: one process alone, MPI, or torch.distributed; who I am, and failing together."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import re
import resource
import sys
from collections.abc import Iterator

import numpy as np

from hpcdiff.errors import Busy, Stopped, UserError, disk_error
from hpcdiff.guards import refuse_launch, refuse_mixed_mpi, refuse_unspoken_pmi, under_mpi
from hpcdiff.stop import ITSELF, StopSign

STAGES = ("simulate", "project", "train", "sample", "evaluate")
MPI_STAGES = ("simulate", "project")
TIMEOUT = datetime.timedelta(hours=2)
"""How long a rank waits for the others in torch.distributed: a batch of a slow sampler may keep one rank busy for long."""


class World:
    """The ranks that run this stage together. This class is the world of one process alone."""

    rank, size = 0, 1
    folder: object = ""
    """What an error of the file system without a file's name is said of."""

    def __init__(self) -> None:
        self.sign, self.bar, self.watchdog, self.pulse = StopSign(), None, None, None

    @property
    def stop(self) -> bool:
        """Has this rank a reason to stop? The others may not know of it yet: see `stop_agreed` and `stop.StopVote`."""
        return self.sign.look(self.main) > 0

    @stop.setter
    def stop(self, wanted: bool) -> None:
        self.sign.seen = ITSELF if wanted else 0

    @property
    def main(self) -> bool:
        """True on the rank that prints and writes small files."""
        return self.rank == 0

    def allgather(self, value: object) -> list:
        """Every rank's value, by rank, on every rank. Collective."""
        return [value]

    def broadcast(self, value: object) -> object:
        """Rank 0's value on every rank. Collective."""
        return self.allgather(value)[0]

    def any(self, flag: bool) -> bool:
        """Is it so on any rank? The same answer on every rank. Collective."""
        return any(self.allgather(bool(flag)))

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum over the ranks, element by element, of arrays of one shape and type. Collective."""
        return values.copy()

    def largest(self, values: np.ndarray) -> np.ndarray:
        """Largest over the ranks, element by element, of arrays of one shape and type. Collective."""
        return values.copy()

    def exchange_rows(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Send rows of a table to other ranks. Collective; one process alone or MPI.

        Args:
            rows: float64 (n, k), sorted by the rank that they go to.
            counts: int64 (size,), how many go to each.
        Returns:
            What came, by source, and of one source in the order in which it stood there.
        """
        assert self.size == 1, "only MPI's ranks send tables"
        return rows

    def barrier(self) -> None:
        """Wait for every rank. Collective."""
        self.allgather(None)

    def abort(self, status: int) -> None:
        """End every rank at once, after a fault on this one."""
        os._exit(status)

    def close(self) -> None:
        """Leave in good order."""

    def print(self, *words: object) -> None:
        """Print on rank 0 alone."""
        if self.main:
            print(*words, flush=True)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Work that may fail on one rank: a UserError or Stopped on any is raised on every rank. Collective at the end."""
        kind, said = "", ""
        try:
            yield
        except (UserError, Stopped) as raised:
            kind, said = next(k.__name__ for k in (Busy, UserError, Stopped) if isinstance(raised, k)), str(raised)
        except (OSError, RuntimeError) as raised:
            said = disk_error(raised, self.folder)
            if said is None:
                raise
            kind = "UserError"
        if not self.any(bool(kind)):
            return
        ends = self.allgather([kind, said])
        for raised in (Busy, UserError, Stopped):
            if (first := next((said for kind, said in ends if kind == raised.__name__), None)) is not None:
                raise raised(first)

    def stop_agreed(self) -> bool:
        """Has any rank been told to stop? The same answer on every rank. Collective."""
        return self.any(self.stop)

    def progress(self, total: int, unit: str, initial: int = 0):
        """A progress bar on rank 0 (`.update(n)`), silent on the others."""
        from tqdm import tqdm

        quiet = not sys.stderr.isatty()  # in a log file a line every 10 s is enough
        self.bar = tqdm(total=total, unit=unit, initial=initial, disable=not self.main, mininterval=10.0 if quiet else 0.2, smoothing=0.05)
        return self.bar

    def close_bar(self) -> None:
        """End the line of the progress bar, so that what is printed next stands on a line of its own."""
        if self.bar is not None:
            self.bar.close()


class MPIWorld(World):
    """Ranks of an MPI launcher; `UserError` where HDF5 has another MPI library than mpi4py."""

    def __init__(self) -> None:
        super().__init__()
        import mpi4py

        import hpcdiff.maps  # noqa: F401, loads HDF5 and the MPI library that it was built with

        mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
        from mpi4py import MPI

        refuse_mixed_mpi()
        refuse_unspoken_pmi(MPI.Get_library_version())
        if not MPI.Is_initialized():
            MPI.Init_thread(MPI.THREAD_MULTIPLE)
        self.comm = MPI.COMM_WORLD
        self.rank, self.size = self.comm.rank, self.comm.size

    def allgather(self, value: object) -> list:
        return self.comm.allgather(value)

    def broadcast(self, value: object) -> object:
        return self.comm.bcast(value)

    def any(self, flag: bool) -> bool:
        # mpi4py's reduction of objects duplicates the communicator at its first call, with Python's lock held (silence.py)
        return bool(self.largest(np.array([flag], np.int32))[0])

    def total(self, values: np.ndarray) -> np.ndarray:
        out = np.empty_like(values)
        self.comm.Allreduce(np.ascontiguousarray(values), out)
        return out

    def largest(self, values: np.ndarray) -> np.ndarray:
        from mpi4py import MPI

        out = np.empty_like(values)
        self.comm.Allreduce(np.ascontiguousarray(values), out, MPI.MAX)
        return out

    def exchange_rows(self, rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        if self.size == 1:
            return rows
        from mpi4py import MPI

        counts = np.asarray(counts, np.int64)
        coming = np.empty_like(counts)
        self.comm.Alltoall(counts, coming)
        received = np.empty((int(coming.sum()), rows.shape[1]))
        row = MPI.DOUBLE.Create_contiguous(rows.shape[1]).Commit()  # counts in rows stay below 2^31
        begin, end = np.cumsum(counts) - counts, np.cumsum(coming) - coming
        self.comm.Alltoallv([np.ascontiguousarray(rows), counts, begin, row], [received, coming, end, row])
        row.Free()
        return received

    def barrier(self) -> None:
        self.comm.Barrier()

    def abort(self, status: int) -> None:
        self.comm.Abort(status)


class TorchWorld(World):
    """Ranks of torchrun, or of plain srun, joined by torch.distributed (gloo for objects, NCCL for GPU tensors)."""

    def __init__(self) -> None:
        super().__init__()
        import torch

        if "WORLD_SIZE" not in os.environ:
            _environment_of_srun()
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0")) if self.size > 1 else 0
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.device = torch.device("cpu")
        if torch.cuda.is_available():
            self.device = torch.device("cuda", self.local_rank % torch.cuda.device_count())
            torch.cuda.set_device(self.device)
        if self.size > 1:
            import torch.distributed

            files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # gloo connects every rank with every other, once a group
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
            backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
            torch.distributed.init_process_group(backend, timeout=TIMEOUT)

    def allgather(self, value: object) -> list:
        if self.size == 1:
            return [value]
        import torch

        # JSON in byte tensors: nothing is pickled, and gloo carries it whatever the devices are
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        torch.distributed.all_gather(sizes, torch.tensor([len(data)]))
        longest = int(max(sizes))
        parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        torch.distributed.all_gather(parts, torch.nn.functional.pad(data, (0, longest - len(data))))
        return [json.loads(bytes(p[: int(n)].tolist())) for p, n in zip(parts, sizes, strict=True)]

    def total(self, values: np.ndarray) -> np.ndarray:
        return np.sum([np.asarray(v, values.dtype) for v in self.allgather(values.tolist())], axis=0, dtype=values.dtype)

    def largest(self, values: np.ndarray) -> np.ndarray:
        return np.max([np.asarray(v, values.dtype) for v in self.allgather(values.tolist())], axis=0)

    def close(self) -> None:
        if self.size > 1:
            import torch

            torch.distributed.destroy_process_group()


def _environment_of_srun() -> None:
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks > 1 and "SLURM_PROCID" in os.environ:
        first = re.match(r"([^,\[]|\[[^]]*\])+", os.environ.get("SLURM_STEP_NODELIST", "127.0.0.1"))[0]
        host = re.sub(r"\[([^],-]+)[^]]*\]", r"\1", first)  # node[07-09,12] begins with node07, rack[1-2]node[3-4] with rack1node3
        port = 20000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 12000  # below those that Linux gives to outgoing connections
        for name, value in {
            "WORLD_SIZE": tasks,
            "RANK": os.environ["SLURM_PROCID"],
            "LOCAL_RANK": os.environ.get("SLURM_LOCALID", "0"),
            "MASTER_ADDR": host,
            "MASTER_PORT": port,
        }.items():
            os.environ.setdefault(name, str(value))


def launched_rank(stage: str) -> int:
    """This process's rank as its launcher says it, before anything is set up."""
    names = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "PALS_RANKID") if stage in MPI_STAGES else ("RANK",)
    return next((int(os.environ[name]) for name in (*names, "SLURM_PROCID") if os.environ.get(name, "").isdigit()), 0)


def join_world(stage: str) -> World:
    """The world of this stage: MPI for simulate and project, torch.distributed for the others, or one process alone.

    Raises:
        guards.WrongLaunch: several worlds, which would write the same files, or ranks that never come.
    """
    refuse_launch(stage, stage in MPI_STAGES)
    if stage not in MPI_STAGES:
        return TorchWorld()
    world = MPIWorld() if under_mpi() else World()
    refuse_launch(stage, True, world.size)
    return world


def threads_per_rank(world: World) -> int:
    """Cores for this rank: those it may run on, divided among the ranks that may run on the same; at least 1. Collective."""
    cores = os.sched_getaffinity(0)
    place = [platform.node(), sorted(cores)]
    share = max(1, len(cores) // world.allgather(place).count(place))
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(share, int(asked))) if asked.isdigit() else share


def ranks_per_node(world: World) -> int:
    """Ranks on this rank's node. Collective."""
    return world.allgather(platform.node()).count(platform.node())
