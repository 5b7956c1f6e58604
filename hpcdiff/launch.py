"""Who am I (torchrun, Slurm, Open MPI, alone), rank-0 printing and progress, the stop signal, one-line errors.

Every stage's `__main__.py` calls `run_stage`, which turns what happens into the contract's exit statuses.
"""

from __future__ import annotations

import contextlib
import datetime
import difflib
import errno
import json
import os
import platform
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

STAGES = ("simulate", "project", "train", "sample", "evaluate")
MPI_STAGES = ("simulate", "project")
DONE, FAULT, USER, STOPPED = 0, 1, 2, 75


class UserError(Exception):
    """The user's input is at fault; the text is one line: WHAT, WHERE, HOW TO MEND."""

    def __init__(self, what: str, where: object = "", how: str = "") -> None:
        super().__init__(" ".join(", ".join(str(part) for part in (what, where, how) if str(part)).split()))


class Busy(UserError):
    """Another process works on the same outputs."""


class Stopped(Exception):
    """A signal asked us to stop, and everything worth keeping has been saved."""


def nearest(word: object, words: Iterable[str]) -> str:
    """A hint that names the valid word nearest to `word`, as a text to append; empty if none is near."""
    words = list(words)
    near = [w for w in words if "." in w and w.split(".")[-1] == str(word).split(".")[-1]]  # the right name in the wrong section
    near = near or difflib.get_close_matches(str(word), words, 1, 0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


TIMEOUT = datetime.timedelta(hours=2)
"""How long a rank waits for the others in torch.distributed: a batch of a slow sampler may keep one rank busy for long."""


class World:
    """The ranks that run this stage together. This class is the world of one process alone."""

    rank, size = 0, 1

    def __init__(self) -> None:
        self.stop = False

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
        error = stopped = None
        try:
            yield
        except UserError as raised:
            error = str(raised)
        except Stopped as raised:
            stopped = str(raised)
        except (OSError, RuntimeError) as raised:
            error = disk_error(raised)
            if error is None:
                raise
        ends = self.allgather([error, stopped])
        for k, kind in enumerate((UserError, Stopped)):
            if first := next((end[k] for end in ends if end[k] is not None), None):
                raise kind(first)

    def stop_agreed(self) -> bool:
        """Has any rank been told to stop? The same answer on every rank. Collective."""
        return any(self.allgather(self.stop))

    def progress(self, total: int, unit: str, initial: int = 0):
        """A progress bar on rank 0 (`.update(n)`), silent on the others."""
        from tqdm import tqdm

        quiet = not sys.stderr.isatty()  # in a log file a line every 10 s is enough
        return tqdm(total=total, unit=unit, initial=initial, disable=not self.main, mininterval=10.0 if quiet else 0.2, smoothing=0.05)


class MPIWorld(World):
    """Ranks of an MPI launcher."""

    def __init__(self) -> None:
        super().__init__()
        from mpi4py import MPI

        self.comm = MPI.COMM_WORLD
        self.rank, self.size = self.comm.rank, self.comm.size

    def allgather(self, value: object) -> list:
        return self.comm.allgather(value)

    def broadcast(self, value: object) -> object:
        return self.comm.bcast(value)

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
        self.rank = int(os.environ.get("RANK", "0"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.device = torch.device("cpu")
        if torch.cuda.is_available():
            self.device = torch.device("cuda", self.local_rank % torch.cuda.device_count())
            torch.cuda.set_device(self.device)
        if self.size > 1:
            import torch.distributed

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

    def close(self) -> None:
        if self.size > 1:
            import torch

            torch.distributed.destroy_process_group()


def _environment_of_srun() -> None:
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks > 1 and "SLURM_PROCID" in os.environ:
        first = re.match(r"([^,\[]+)(?:\[([^],-]+))?", os.environ.get("SLURM_STEP_NODELIST", "127.0.0.1"))
        host = first[1] + (first[2] or "")  # node[07-09,12] begins with node07
        port = 20000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20000
        for name, value in {
            "WORLD_SIZE": tasks,
            "RANK": os.environ["SLURM_PROCID"],
            "LOCAL_RANK": os.environ.get("SLURM_LOCALID", "0"),
            "MASTER_ADDR": host,
            "MASTER_PORT": port,
        }.items():
            os.environ.setdefault(name, str(value))


def under_mpi() -> bool:
    """Has an MPI launcher started this process?"""
    return any(name in os.environ for name in ("OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMIX_RANK"))


def launched_rank(stage: str) -> int:
    """This process's rank as its launcher says it, before anything is set up."""
    names = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK") if stage in MPI_STAGES else ("RANK",)
    for name in (*names, "SLURM_PROCID"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 0


def join_world(stage: str) -> World:
    """The world of this stage: MPI for simulate and project, torch.distributed for the others, or one process alone.

    Raises:
        UserError: several tasks of one srun step would each run alone.
    """
    if stage in MPI_STAGES:
        world = MPIWorld() if under_mpi() else World()
    else:
        world = TorchWorld()
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if world.size < tasks:
        how = "use srun --mpi=pmix (see `srun --mpi=list`)" if stage in MPI_STAGES else "see jobs/train.sbatch"
        raise UserError(f"a wrong launch: {tasks} tasks of this srun step, but worlds of {world.size}", "the srun line", how)
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


def disk_error(error: BaseException) -> str | None:
    """An error of the file system that the user can mend, as one line; None for any other."""
    said = {
        errno.ENOSPC: ("the disk is full", "free some space and run the same command again"),
        errno.EDQUOT: ("the disk quota is used up", "free some space and run the same command again"),
        errno.EACCES: ("no permission to write or read", "choose another run.dir or mend its permissions"),
        errno.EPERM: ("no permission to write or read", "choose another run.dir or mend its permissions"),
        errno.EROFS: ("the file system is read-only", "choose another run.dir"),
        errno.ENOTDIR: ("a file stands where a folder is wanted", "choose another run.dir"),
        errno.EISDIR: ("a folder stands where a file is wanted", "choose another path"),
        errno.EEXIST: ("a file stands where a folder is wanted", "choose another run.dir"),
        errno.EFBIG: ("the file is larger than is allowed here", "raise `ulimit -f` or choose another run.dir"),
    }.get(getattr(error, "errno", None))
    if said is None and isinstance(error, (OSError, RuntimeError)) and re.search("No space left|file write failed", str(error)):
        said = ("the disk is full or the file cannot be written", "free some space and run the same command again")
    return None if said is None else str(UserError(said[0], getattr(error, "filename", None) or "run.dir", said[1]))


def provenance(world: World, **more: object) -> str:
    """Versions, git state, ranks, job and time of this run, as JSON for the root attribute `provenance`."""
    from importlib import metadata

    from hpcdiff import __version__

    versions = {"python": platform.python_version(), "hpcdiff": __version__}
    for name in ("numpy", "h5py", "torch", "numba", "mpi4py", "colossus"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    here = Path(__file__).parent

    def git(*words: str) -> str | None:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, timeout=10)
            return done.stdout.strip() if done.returncode == 0 else None
        return None

    ours = (git("rev-parse", "--show-toplevel") or "") == str(here.parent)
    dirty = git("status", "--porcelain", "--untracked-files=no") if ours else None
    return json.dumps(
        {
            "versions": versions,
            "git_commit": git("rev-parse", "HEAD") if ours else None,
            "git_clean": None if dirty is None else not dirty,
            "ranks": world.size,
            "job": os.environ.get("SLURM_JOB_ID"),
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **more,
        },
        sort_keys=True,
    )


def run_stage(
    stage: str,
    plan: Callable[[object], Iterable[str]],
    work: Callable[[object, World], str],
    outputs: Callable[[object], Iterable[Path]],
    argv: list[str] | None = None,
) -> int:
    """Parse the command line, join the ranks, run one stage, and say how it ended.

    Args:
        stage: its name.
        plan: config -> lines that `--dry-run` prints below the resolved config.
        work: (config, world) -> one line about what was done; may raise UserError (the same on every rank) or Stopped.
        outputs: config -> paths that `--overwrite` removes first.
        argv: the command line without the program; None = sys.argv.
    Returns:
        The exit status: 0 done, 2 the user's input, 75 stopped by a signal after saving, 1 a fault of ours.
    """
    argv = sys.argv[1:] if argv is None else argv
    if "-h" in argv or "--help" in argv:
        if launched_rank(stage) == 0:
            print(_usage(stage))
        return DONE
    world, config, dry, lock = None, None, False, None
    try:
        config, dry, overwrite = _parse(stage, argv)
        if dry:
            if launched_rank(stage) == 0:
                print(config.to_yaml(), end="")
                print("\n".join([f"# {stage}:", *(f"#   {line}" for line in plan(config))]), flush=True)
            return DONE
        world = join_world(stage)
        _catch_signals(world)
        lock = _prepare(stage, config, world, outputs, overwrite)
        reason = work(config, world)
        world.print(f"hpcdiff {stage}: {reason}")
        return _ended(stage, config, world, DONE, reason)
    except UserError as error:
        if world.main if world else launched_rank(stage) == 0:
            print(f"hpcdiff {stage}: error: {error}", file=sys.stderr, flush=True)
        if isinstance(error, Busy):  # the status file is the other's
            return USER
        return USER if dry else _ended(stage, config, world, USER, str(error))
    except Stopped as error:
        if world.main:
            print(f"hpcdiff {stage}: stopped: {error}", file=sys.stderr, flush=True)
        return _ended(stage, config, world, STOPPED, str(error))
    except BaseException as error:
        said = disk_error(error)
        status, reason = (FAULT, f"{type(error).__name__}: {error}") if said is None else (USER, said)
        if said is None:
            traceback.print_exc()
        else:  # on this rank alone: the others may be waiting for it, so they are ended
            print(f"hpcdiff {stage}: error: {said}", file=sys.stderr)
        sys.stderr.flush()
        if not dry and not (config is not None and (config.dir / f"{stage}.status.json").exists()):  # the first fault counts
            _write_status(stage, config, status, reason)
        if world is not None and world.size > 1:
            world.abort(status)
        return status
    finally:
        if lock is not None:
            lock.release()


def _usage(stage: str) -> str:
    return f"usage: python -m hpcdiff.{stage} CONFIG.yaml [section.key=value ...] [--dry-run] [--overwrite]"


def _parse(stage: str, argv: list[str]):
    from hpcdiff.config import read_config

    usage = _usage(stage)
    options = [a for a in argv if a.startswith("-")]
    for option in options:
        if option not in ("--dry-run", "--overwrite"):
            raise UserError(f"unknown option {option!r}{nearest(option, ['--dry-run', '--overwrite'])}", "command line", usage)
    words = [a for a in argv if not a.startswith("-")]
    if not words or "=" in words[0]:
        raise UserError("no config file given", "command line", usage)
    return read_config(words[0], words[1:]), "--dry-run" in options, "--overwrite" in options


def _prepare(stage: str, config, world: World, outputs: Callable, overwrite: bool):
    """Make run.dir, take the stage's lock, remove old outputs if asked; rank 0 does it, all learn how it went."""
    from hpcdiff import files

    lock = None
    with world.together():
        if world.main:
            config.dir.mkdir(parents=True, exist_ok=True)
            lock = files.Lock(config.dir / f".{stage}.lock")
            if not lock.acquire():
                raise Busy(f"another {stage} is at work ({lock.holder()})", config.dir, "wait for it or end it")
            files.remove(config.dir / f"{stage}.status.json")
            if overwrite and os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
                print(f"hpcdiff {stage}: this job was requeued, so --overwrite is not done again", flush=True)
            elif overwrite:
                for path in outputs(config):
                    files.remove(path)
    return lock


def _catch_signals(world: World) -> None:
    def handle(number, frame) -> None:
        if world.stop and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl-C does not wait
        world.stop = True

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, handle)


def _ended(stage: str, config, world: World | None, status: int, reason: str) -> int:
    if world.main if world is not None else launched_rank(stage) == 0:
        _write_status(stage, config, status, reason)
    if world is not None:
        world.barrier()
        world.close()
    return status


def _write_status(stage: str, config, status: int, reason: str) -> None:
    from hpcdiff.files import write_json

    if config is not None and config.dir.is_dir():
        with contextlib.suppress(OSError):
            write_json(config.dir / f"{stage}.status.json", {"exit": status, "reason": reason})
