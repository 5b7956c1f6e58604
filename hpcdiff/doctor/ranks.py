"""Who runs where: host, GPU, cores and limits of each rank, and which ranks share what they should not share."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
import shutil
import subprocess
import time
from collections import defaultdict
from pathlib import Path

from hpcdiff.blame import node, rank_names
from hpcdiff.doctor.verdict import Finding
from hpcdiff.errors import UserError
from hpcdiff.guards import refuse_launch, under_mpi
from hpcdiff.memory import free_bytes
from hpcdiff.spans import spans
from hpcdiff.world import MPIWorld, TorchWorld, World

LOCAL_RANK = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "PALS_LOCAL_RANKID", "SLURM_LOCALID")
VISIBLE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


def join() -> World:
    """The ranks that were started together: MPI's under an MPI launcher, torch.distributed's under torchrun or plain srun.

    Raises:
        UserError: a wrong launch, two MPI libraries, or the library that these ranks need is not there.
    """
    mpi = under_mpi() and not {"WORLD_SIZE", "TORCHELASTIC_RUN_ID"} & set(os.environ)
    refuse_launch("doctor", mpi)
    try:
        if mpi:
            world = MPIWorld()
            refuse_launch("doctor", mpi, world.size)
            return world
        several = {"WORLD_SIZE", "SLURM_STEP_NUM_TASKS"} & {k for k, v in os.environ.items() if v not in ("", "1")}
        return TorchWorld() if several and "SLURM_PTY_PORT" not in os.environ else World()
    except ImportError as error:
        raise UserError(f"the ranks cannot meet ({error})", "the environment", "bash jobs/env.sh") from None


def about_rank(world: World) -> dict:
    """What this rank has, as plain data."""
    said = next((os.environ[name] for name in LOCAL_RANK if os.environ.get(name, "").isdigit()), "0")
    local = int(said)
    gpus = visible_gpus()
    limits = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}")) for name in ("nofile", "memlock")}
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return {
        "rank": world.rank,
        "local_rank": local,
        "host": platform.node(),
        "node": node(),
        "pid": os.getpid(),
        "cores": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
        "threads": int(threads) if threads.isdigit() else None,
        "gpus": gpus,
        "gpu": gpus[local % len(gpus)] if gpus else None,  # as a stage takes it
        "visible": next((f"{name}={os.environ[name]}" for name in VISIBLE if name in os.environ), None),
        "memory_gb": _memory_gb(),
        "shm_gb": _size_gb("/dev/shm"),
        "open_files": _limit(limits["nofile"][1]),
        "memlock_gb": None if limits["memlock"][0] == resource.RLIM_INFINITY else limits["memlock"][0] / 1e9,
        "seconds_left": seconds_left(ask=world.main),
    }


def seconds_left(ask: bool) -> float | None:
    """Until the end of this Slurm job; None where there is none, or nobody says. Older Slurms set no variable and are asked, if `ask`."""
    end, job = os.environ.get("SLURM_JOB_END_TIME", ""), os.environ.get("SLURM_JOB_ID", "")
    if end.isdigit():
        return float(end) - time.time() if float(end) > 0 else None  # 0: Slurm says so where there is no end
    if ask and job and shutil.which("squeue"):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            said = subprocess.run(["squeue", "-h", "-j", job, "-o", "%L"], capture_output=True, text=True, timeout=10).stdout.strip()
            if m := re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", said):
                days, hours, minutes, seconds = (int(group or 0) for group in m.groups())
                return float(((24 * days + hours) * 60 + minutes) * 60 + seconds)
    return None


def visible_gpus() -> list[dict]:
    """The NVIDIA GPUs that this process may use, in the order in which CUDA numbers them: name, uuid, memory_gb, index on the node.

    From nvidia-smi, so that no CUDA context is made and torch need not be there.
    """
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.total,name", "--format=csv,noheader,nounits"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        asked = subprocess.run(query, capture_output=True, text=True, timeout=10)
        return chosen(asked.stdout if asked.returncode == 0 else "", os.environ.get("CUDA_VISIBLE_DEVICES"))
    return []


def chosen(table: str, visible: str | None) -> list[dict]:
    """The GPUs of nvidia-smi's table that CUDA_VISIBLE_DEVICES names, in its order; all, where it is not set."""
    gpus = []
    for line in table.splitlines():
        fields = [field.strip() for field in line.split(",", 3)]
        if len(fields) == 4 and fields[0].isdigit():
            memory = float(fields[2]) * 2**20 / 1e9 if re.fullmatch(r"[\d.]+", fields[2]) else None
            gpus.append({"index": int(fields[0]), "uuid": fields[1], "memory_gb": memory, "name": fields[3]})
    if visible is None:
        return gpus
    found = []
    for word in visible.split(","):
        word = word.strip()
        one = next((g for g in gpus if str(g["index"]) == word or (word.startswith("GPU-") and g["uuid"].startswith(word))), None)
        if one is None and word.startswith("MIG-"):
            one = {"index": None, "uuid": word, "memory_gb": None, "name": "MIG"}
        if one is None:
            break  # CUDA takes those before the first that it does not know
        found.append(one)
    return found


def marks(ranks: list[dict]) -> dict[int, list[str]]:
    """What is odd about each rank, by rank: "GPU shared with rank 1", "cores shared with ranks 0, 2" (where they are too few)."""
    said: dict[int, list[str]] = defaultdict(list)
    for one in ranks:
        here = [r for r in ranks if r["node"] == one["node"]]
        others = [r["rank"] for r in here if r is not one and one["gpu"] and r["gpu"] and r["gpu"]["uuid"] == one["gpu"]["uuid"]]
        if others:
            said[one["rank"]].append(f"GPU shared with {rank_names(others)}")
        cores = set(one["cores"])
        sharing = [r for r in here if cores & set(r["cores"])]
        if len(sharing) > len(set().union(*(r["cores"] for r in sharing))) or any(set(r["cores"]) != cores for r in sharing):
            said[one["rank"]].append(f"cores shared with {rank_names([r['rank'] for r in sharing if r is not one])}")
        elif one["threads"] and one["threads"] * len(sharing) > len(cores):
            said[one["rank"]].append(f"{one['threads']} threads on {len(cores)} core(s){f' of {len(sharing)} ranks' * (len(sharing) > 1)}")
    return dict(said)


def judge(ranks: list[dict], torch_ranks: bool) -> list[Finding]:
    """Findings about the ranks' places, limits and time."""
    found, odd = [], marks(ranks)
    by = {word: [r for r, said in odd.items() if any(s.startswith(word) for s in said)] for word in ("GPU", "cores")}
    if by["GPU"]:
        how = "one rank a GPU: --ntasks-per-node or --nproc-per-node as many as GPUs, no --gpus-per-task"
        found.append(Finding(torch_ranks, f"{rank_names(by['GPU'])} share GPUs", how))
    if by["cores"]:
        found.append(
            Finding(False, f"{rank_names(by['cores'])} share cores", "srun -c CORES, --cpu-bind=cores; mpirun --map-by slot:PE=CORES")
        )
    threads = [r for r, said in odd.items() if any("threads on" in s for s in said)]
    if threads:
        found.append(Finding(False, f"{rank_names(threads)} have more threads than cores", "export OMP_NUM_THREADS=cores a rank"))
    blind = [r["rank"] for r in ranks if not r["gpus"]]
    if blind and len(blind) < len(ranks):
        found.append(Finding(torch_ranks, f"{rank_names(blind)} see no GPU, the others do", "ask for GPUs on every node (--gpus-per-node)"))
    names = sorted({r["gpu"]["name"] for r in ranks if r["gpu"]})
    if len(names) > 1:
        found.append(Finding(False, f"GPUs of {len(names)} kinds ({', '.join(names)}): the slowest sets the pace", "--constraint one kind"))
    shm = min((r["shm_gb"] for r in ranks if r["shm_gb"] is not None), default=None)
    if shm is not None and shm < 0.5:
        found.append(
            Finding(False, f"/dev/shm has {shm:.2g} GB: NCCL and loaders of data use it", "a container's --shm-size, or bind /dev/shm")
        )
    few = min((r["open_files"] for r in ranks if r["open_files"]), default=10**9)
    if few < 3 * len(ranks) + 512:
        found.append(Finding(False, f"{few} open files a process at most, and gloo opens one a rank and group", "ulimit -Hn 65536"))
    locked = min((r["memlock_gb"] for r in ranks if r["memlock_gb"] is not None), default=None)
    if locked is not None and locked < 1 and Path("/sys/class/infiniband").exists():
        found.append(
            Finding(False, f"{locked:.2g} GB of memory may be locked: InfiniBand needs more", "ulimit -l unlimited (the site's task)")
        )
    left = min((r["seconds_left"] for r in ranks if r["seconds_left"] is not None), default=None)
    if left is not None and left < 900:
        found.append(Finding(False, f"the job ends in {left / 60:.0f} minutes", "ask for more time (--time)"))
    return found


def lines(ranks: list[dict]) -> list[str]:
    """The table, a line a rank; of more than 64 ranks those that are odd, and the first of each node."""
    odd, seen, shown = marks(ranks), set(), []
    for r in ranks:
        if len(ranks) <= 64 or r["rank"] in odd or r["node"] not in seen:
            shown.append(r)
        seen.add(r["node"])
    rows = [("rank", "host", "local", "GPU", "sees", "cores", "threads", "")]
    for r in shown:
        g = r["gpu"]
        gpu = (
            "none"
            if g is None
            else f"{g['name']}{'' if g['memory_gb'] is None else format(g['memory_gb'], ' .0f') + ' GB'} ({g['uuid'][:12]})"
        )
        threads = "not set" if r["threads"] is None else str(r["threads"])
        note = f"<- {'; '.join(odd[r['rank']])}" if r["rank"] in odd else ""
        rows.append((str(r["rank"]), r["host"], str(r["local_rank"]), gpu, _seen(r["gpus"]), spans(r["cores"]) or "?", threads, note))
    width = [max(len(row[k]) for row in rows) for k in range(7)]
    table = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, width, strict=False)), row[7]]).rstrip() for row in rows]
    return (
        table if len(shown) == len(ranks) else [*table, f"({len(ranks) - len(shown)} ranks like these are not shown; --json has them all)"]
    )


def _seen(gpus: list[dict]) -> str:
    numbers = [g["index"] for g in gpus]
    return f"{len(gpus)}" if not gpus or None in numbers else f"{len(gpus)}: {','.join(map(str, numbers))}"


def _limit(value: int) -> int | None:
    return None if value == resource.RLIM_INFINITY else value


def _memory_gb() -> float | None:
    free = free_bytes()
    return None if free == float("inf") else free / 1e9


def _size_gb(path: str) -> float | None:
    with contextlib.suppress(OSError):
        about = os.statvfs(path)
        return about.f_blocks * about.f_frsize / 1e9
    return None
