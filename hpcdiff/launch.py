"""Running a stage: command line, ranks, stop signals, exit status, provenance.

Every stage's `__main__.py` calls `run_stage`, which turns what happens into the contract's exit statuses.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from hpcdiff import __version__, files, usage
from hpcdiff.config import Config, read_config
from hpcdiff.errors import Busy, Stopped, UserError, disk_error, nearest, reader_left
from hpcdiff.guards import WrongLaunch, first_started, say_once
from hpcdiff.lock import Lock
from hpcdiff.scout import SCOUT
from hpcdiff.silence import Pulse
from hpcdiff.stop import CAUSES, FILE
from hpcdiff.world import STAGES, TorchWorld, World, join_world, launched_rank

DONE, FAULT, USER, STOPPED = 0, 1, 2, 75
JUST_BEGUN = "it has only just begun"
"""Said of one that has the lock and has not written its name yet."""
PATIENCE = 30.0
"""Seconds that a rank with a user's error waits for the others to come to the same end, before it ends them all."""


def provenance(world: World, **more: object) -> str:
    """Versions, git state, ranks, job and time of this run, as JSON for the root attribute `provenance`."""
    from importlib import metadata

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
    plan: Callable[[Config], Iterable[str]],
    work: Callable[[Config, World], str],
    outputs: Callable[[Config], Iterable[Path]],
    argv: list[str] | None = None,
    check: Callable[[Config], Iterable[str]] | None = None,
) -> int:
    """Parse the command line, join the ranks, run one stage, and say how it ended.

    Args:
        stage: its name.
        plan: config -> lines that `--dry-run` prints below the resolved config.
        work: (config, world) -> one line about what was done; may raise UserError (the same on every rank) or Stopped.
        outputs: config -> paths that `--overwrite` removes first.
        argv: the command line without the program; None = sys.argv.
        check: config -> lines that `--check` prints as they come; None = the stage has no such option.
    Returns:
        The exit status: 0 done, 2 the user's input, 75 stopped by a signal after saving, 1 a fault of ours.
    """
    argv = sys.argv[1:] if argv is None else argv
    if "-h" in argv or "--help" in argv:
        if launched_rank(stage) == 0:
            print(usage.whole(stage, check is not None))
        return DONE
    world, config, dry, lock = None, None, False, None
    try:
        config, options = _parse(stage, argv, check is not None)
        dry = bool({"--dry-run", "--check"} & options)  # nothing is written, whatever happens
        if dry:
            if launched_rank(stage) == 0:
                try:
                    _say(stage, config, options, plan, check)
                except BrokenPipeError:
                    return reader_left()
            return DONE
        world = join_world(stage)
        world.folder = config.dir
        SCOUT.first = world.main  # one look at a file is enough for all ranks
        world.sign.catch()
        if world.size > 1 and stage != "train" and config.run.patience > 0:
            Pulse(world, stage, config.dir, config.run.patience)
        lock = _prepare(stage, config, world, outputs, "--overwrite" in options)
        reason = work(config, world)
        world.print(f"hpcdiff {stage}: {reason}")
        return _ended(stage, config, world, DONE, reason, lock)
    except UserError as error:
        if world:
            world.close_bar()
        wrong = isinstance(error, WrongLaunch)  # then more than one is rank 0, by its own account
        speaks = first_started() if wrong else world.main if world else launched_rank(stage) == 0
        say_once(stage, error, speaks, world is not None)
        # a second copy has no status to write, a dry run writes nothing, and of a stage at work the status file is the other's
        if dry or isinstance(error, Busy) or (wrong and not speaks):
            return USER
        with _or_end_all(stage, config, world, str(error)):
            return _ended(stage, config, world, USER, str(error), lock)
    except Stopped as error:
        world.close_bar()
        by = CAUSES[int(world.largest(np.array([world.sign.look(world.main)]))[0])]
        reason = f"stopped by {by or 'the stage itself'}: {error}"
        if world.main:
            world.sign.obeyed()
            print(f"hpcdiff {stage}: {reason}", file=sys.stderr, flush=True)
        return _ended(stage, config, world, STOPPED, reason, lock, requeue=by != CAUSES[FILE])
    except BaseException as error:
        for watch in (world.watchdog, world.pulse) if world else ():
            if watch is not None:
                watch.lost(error)  # does not return where another rank is gone: it says which
                watch.close()
        said = disk_error(error, config.dir if config else "")
        if world:
            world.close_bar()
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


def _say(stage: str, config: Config, options: set[str], plan: Callable, check: Callable | None) -> None:
    """Print what `--dry-run` and `--check` have to say."""
    if "--dry-run" in options:
        print(config.to_yaml(), end="")
        print("\n".join([f"# {stage}:", *(f"#   {line}" for line in plan(config))]), flush=True)
    if "--check" in options:
        for line in check(config):
            print(line, flush=True)


def _parse(stage: str, argv: list[str], check: bool = False) -> tuple[Config, set[str]]:
    how = usage.line(stage, check)
    known = ["--dry-run", "--overwrite", *["--check"] * check]
    options = {a for a in argv if a.startswith("-")}
    for option in sorted(options):
        if option not in known:
            raise UserError(f"unknown option {option!r}{nearest(option, known)}", "command line", how)
    words = [a for a in argv if not a.startswith("-")]
    if not words or "=" in words[0]:
        raise UserError("no config file given", "command line", how)
    return read_config(words[0], words[1:]), options


def _prepare(stage: str, config, world: World, outputs: Callable, overwrite: bool):
    """Make run.dir, take the stage's lock, remove old outputs if asked; rank 0 does it, all learn how it went."""
    lock = None
    with world.together():
        if world.main:
            files.make_folder(config.dir)
            lock = Lock(config.dir / f".{stage}.lock")
            if not lock.acquire(lambda line: print(f"hpcdiff {stage}: {line}", flush=True)):
                raise Busy(f"another {stage} is at work ({lock.holder() or JUST_BEGUN})", config.dir, lock.advice())
            if lock.took_over:
                print(f"hpcdiff {stage}: goes on after {lock.took_over}, which did not end in good order", flush=True)
            files.remove(config.dir / f"{stage}.status.json")
            if world.sign.watch(config.dir):
                print(f"hpcdiff {stage}: {config.dir / 'stop'} was left over and is removed", flush=True)
            if overwrite and os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
                print(f"hpcdiff {stage}: this job was requeued, so --overwrite is not done again", flush=True)
            elif overwrite:
                try:
                    _refuse_readers(stage, config)
                    old = outputs(config)
                except UserError:
                    lock.release()
                    raise
                for path in old:
                    files.remove(path)
    return lock


def _refuse_readers(stage: str, config) -> None:
    """Refuse --overwrite while a later stage is at work in this folder: it would read half of the old files and half of the new."""
    for later in STAGES[STAGES.index(stage) + 1 :]:
        lock = Lock(config.dir / f".{later}.lock")
        if lock.path.exists():
            if not lock.acquire():
                what = f"{later} is at work on what {stage} --overwrite would remove ({lock.holder() or JUST_BEGUN})"
                raise UserError(what, config.dir, "wait for it or end it")
            lock.release()


def _ended(stage: str, config, world: World | None, status: int, reason: str, lock: Lock | None, requeue: bool | None = None) -> int:
    if world is not None and world.watchdog is not None:
        world.watchdog.close()
    if world.main if world is not None else launched_rank(stage) == 0:
        _write_status(stage, config, status, reason, requeue)
    if world is not None:
        world.barrier()
        if world.pulse is not None:
            world.pulse.close()
        if lock is not None:
            lock.release()
        world.close()
        if isinstance(world, TorchWorld) and world.size > 1:
            # all is written; threads of gloo that outlive the process group can abort the interpreter's own way out
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return status


@contextlib.contextmanager
def _or_end_all(stage: str, config, world: World | None, message: str) -> Iterator[None]:
    """An error that only this rank has met would leave the others in a collective call for ever: say it here and end them."""
    if world is None or world.size == 1:
        yield
        return

    def end_all() -> None:
        if not world.main:  # rank 0 has said it already
            print(f"hpcdiff {stage}: error: {message}", file=sys.stderr, flush=True)
        _write_status(stage, config, USER, message)
        world.abort(USER)

    timer = threading.Timer(PATIENCE, end_all)
    timer.daemon = True
    timer.start()
    try:
        try:
            together = all(isinstance(end, list) and end[:1] == ["ended"] for end in world.allgather(["ended", message]))
        except (RuntimeError, ValueError):  # a rank is gone, or is in another call, whose bytes are no JSON
            together = False
        if not together:
            end_all()
        yield
    finally:
        timer.cancel()


def _write_status(stage: str, config, status: int, reason: str, requeue: bool | None = None) -> None:
    if config is None:
        return
    said = {"exit": status, "reason": reason, **({} if requeue is None else {"requeue": requeue})}
    with contextlib.suppress(OSError):  # nothing may keep the other ranks waiting
        if config.dir.is_dir():
            files.write_json(config.dir / f"{stage}.status.json", said)


def refuse_precision(precision: str, device: object, where: object = "train.precision") -> None:
    """Refuse, before any work, a precision that this rank's device lacks. Call it in `with world.together():`.

    Raises:
        UserError: bf16 on a CUDA device that has no bf16 arithmetic; an emulated one would be slower than fp32.
    """
    import torch

    device = torch.device(device)
    if precision != "bf16" or device.type != "cuda":
        return  # the CPU computes bf16, if slowly
    with torch.cuda.device(device):
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    if not able:
        raise UserError(f"{torch.cuda.get_device_name(device)} ({device}) has no bf16", where, "take precision=fp32")
