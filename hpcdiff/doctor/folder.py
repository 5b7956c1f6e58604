"""The folder of a run: its file system, room, stripes and locks."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from hpcdiff.doctor.verdict import Finding
from hpcdiff.errors import NO_LOCKS, disk_error
from hpcdiff.mounts import mount_of
from hpcdiff.world import World

NETWORK_HOME = {"nfs", "nfs4"}


def about(path: Path) -> dict:
    """What the system says of the folder (or of the nearest parent that is there), without writing to it."""
    where = _nearest(path)
    mount, space = mount_of(where), os.statvfs(where)
    stripes = stripes_of(where) if mount.kind == "lustre" else None
    return {
        "path": str(where),
        "asked": str(path.absolute()),
        "kind": mount.kind or "unknown",
        "mounted_at": mount.point,
        "options": sorted(mount.options),
        "locks_seen_by_all_nodes": mount.one_view_of_locks,
        "free_gb": space.f_bavail * space.f_frsize / 1e9,
        "size_gb": space.f_blocks * space.f_frsize / 1e9,
        "free_files": space.f_favail if space.f_files else None,  # some file systems have no number of them
        "stripes": stripes,
        "quota": quota_of(where, mount.kind),
    }


def scratch(path: Path) -> tuple[Path | None, str]:
    """A folder of the doctor's own below `path`, or None and why not."""
    try:
        return Path(tempfile.mkdtemp(prefix=".hpcdiff-doctor-", dir=_nearest(path))), ""
    except OSError as error:
        return None, disk_error(error) or str(error)


def stripes_of(path: Path) -> dict | None:
    """Lustre's default layout of new files in a folder: {"count", "size"}; None where `lfs` does not say."""
    text = _say(["lfs", "getstripe", "-d", str(path)])
    count, size = (re.search(rf"stripe_{word}:\s*(-?\d+)", text or "") for word in ("count", "size"))
    return {"count": int(count[1]), "size": int(size[1])} if count and size else None


def quota_of(path: Path, kind: str) -> dict | None:
    """Room and files that the user's quota leaves: {"free_gb", "free_files"}, None each where there is no limit; None if nobody says."""
    if kind == "lustre":
        return lustre_quota(_say(["lfs", "quota", "-q", "-u", getpass.getuser(), str(path)]) or "")
    text = _say(["quota", "-w", "-p", "-f", str(mount_of(path).point)])
    return lustre_quota(text or "")  # the same columns: blocks quota limit grace files quota limit grace


def lustre_quota(text: str) -> dict | None:
    """What is left, from columns `used quota limit grace files quota limit grace` behind a path; in KiB, 0 = no limit."""
    for line in text.splitlines():
        numbers = [int(w) for w in re.findall(r"(?<=\s)(\d+)\*?(?=\s|$)", line)]
        if len(numbers) < 6:
            continue
        half = len(numbers) // 2  # with a grace time as a number, as `quota -p` has it, four a half
        used, soft, hard = numbers[:3]
        files, soft_files, hard_files = numbers[half : half + 3]
        room, names = hard or soft, hard_files or soft_files
        return {"free_gb": (room - used) * 1024 / 1e9 if room else None, "free_files": names - files if names else None}
    return None


def locks(world: World, folder: Path, host: str) -> dict:
    """Does flock keep another process out: on this node, and on others? Collective.

    Returns:
        {"works": of one node, "error": the system's word, "across": True, False, or None where there is one node}, the same on every rank.
    """
    held, said, path = None, {"works": None, "error": None}, folder / "lock"
    if world.main:
        try:
            held = os.open(path, os.O_RDWR | os.O_CREAT)
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            said["works"] = _kept_out(path)
        except OSError as error:
            said.update(works=False, error=os.strerror(error.errno or 0))
    said = world.broadcast(said)
    hosts = world.allgather(host)
    out = None
    if said["works"] and hosts[world.rank] != hosts[0]:
        with contextlib.suppress(OSError):
            out = _kept_out(path)
    others = [o for o in world.allgather(out) if o is not None]
    if held is not None:
        os.close(held)
    return {**said, "across": all(others) if others else None}


def hdf5_locking(folder: Path) -> str | None:
    """What HDF5 says when it opens a file here to write, with the locking that the stages use; None if all is well."""
    import hpcdiff.maps  # noqa: F401, sets HDF5_USE_FILE_LOCKING

    # isort: split
    import h5py

    path = folder / "hdf5-locks.h5"
    try:
        with h5py.File(path, "w") as f:
            f["x"] = 1
        with h5py.File(path, "r+") as f:
            f["x"][...] = 2
    except OSError as error:
        return " ".join(str(error).split())[:160]
    finally:
        path.unlink(missing_ok=True)
    return None


def judge(one: dict, lock: dict | None, hdf5: str | None, refused: str, given: bool, needs: dict, nodes: int) -> list[Finding]:
    """Findings about the folder.

    Args:
        one: from `about`. lock: from `locks`, None if not tried. hdf5: from `hdf5_locking`. refused: why nothing can be written, or empty.
        given: did the user name the folder? needs: {"gb", "files"} of the config, or {}. nodes: how many there are.
    """
    said = []
    if refused:
        how = "choose another run.dir, or mend its permissions" if given else "name the folder of a run: hpcdiff doctor DIR or CONFIG.yaml"
        said.append(Finding(given, f"nothing can be written to {one['path']} ({refused})", how))
    gb = min(v for v in (one["free_gb"], (one["quota"] or {}).get("free_gb")) if v is not None)
    names = [v for v in (one["free_files"], (one["quota"] or {}).get("free_files")) if v is not None]
    need = needs.get("gb")
    if need is not None and need > gb:
        said.append(Finding(True, f"the run needs {need:.3g} GB and {gb:.3g} GB are free for you", "another run.dir, or a smaller config"))
    elif gb < 1:
        said.append(Finding(False, f"{gb:.2g} GB are free for you in {one['path']}", "free some space"))
    if names and min(names) < needs.get("files", 0) + 1000:
        said.append(
            Finding(min(names) < needs.get("files", 1), f"{min(names)} more files are allowed there", "remove files, or ask for quota")
        )
    if lock is not None and not lock["works"]:
        why = f" ({lock['error']})" if lock["error"] else ""
        how = "mount with flock where you can; else two jobs on one run.dir are told apart by Slurm and a heartbeat, within 2 minutes"
        said.append(Finding(False, f"the kernel's locks do not work in {one['path']}{why}", how))
    elif lock is not None and lock["across"] is False:
        how = "mount with `flock`, not `localflock`; else two jobs on one run.dir are told apart by Slurm and a heartbeat, within 2 minutes"
        said.append(Finding(False, "locks hold within a node alone", how))
    if hdf5 is not None:
        said.append(Finding(True, f"HDF5 cannot open a file there to write ({hdf5})", NO_LOCKS))
    if one["kind"] == "lustre" and one["stripes"] and one["stripes"]["count"] == 1 and (need or 0) > 20:
        how = f"mkdir {one['path']} and lfs setstripe -c 8 on it before maps.h5 is made: a file keeps its stripes"
        said.append(Finding(False, f"one stripe for files of {need:.3g} GB: one disk server carries all ranks", how))
    if one["kind"] in NETWORK_HOME and nodes > 1:
        what = f"{one['path']} is on NFS, where several nodes that write one file are slow and not always safe"
        said.append(Finding(False, what, "a run.dir on the parallel file system (scratch)"))
    return said


def lines(one: dict, lock: dict | None, hdf5: str | None, refused: str, needs: dict) -> list[str]:
    """What there is, in a few lines."""
    quota, stripes = one["quota"], one["stripes"]
    beyond = "" if one["asked"] == one["path"] else f" ({one['asked']} is not there yet)"
    left = "not known" if quota is None else f"{_number(quota['free_gb'], ' GB')}, {_number(quota['free_files'], ' files')} left"
    said = [
        f"folder: {one['path']}{beyond}, {one['kind']} mounted at {one['mounted_at'] or '?'}",
        f"  free: {one['free_gb']:.4g} of {one['size_gb']:.4g} GB, {_number(one['free_files'], ' files')}; quota: {left}",
    ]
    if one["kind"] == "lustre":
        said.append("  stripes: " + (f"{stripes['count']} of {stripes['size'] / 2**20:.3g} MiB" if stripes else "lfs does not say"))
    said += [f"  needs: {line}" for line in needs.get("lines", [])]
    if refused:
        return [*said, f"  nothing can be written there: {refused}"]
    if lock is not None:
        word = "work" if lock["works"] else f"do not work ({lock['error'] or 'another gets a lock that is held'})"
        across = {None: "one node, so others were not tried", True: "other nodes see them", False: "other nodes do NOT see them"}
        said.append(f"  locks: {word}{'; ' + across[lock['across']] if lock['works'] else ''}")
    setting = os.environ.get("HDF5_USE_FILE_LOCKING", "not set")
    return [*said, f"  HDF5 locking: {hdf5 or 'files open to write'} (HDF5_USE_FILE_LOCKING={setting})"]


def _nearest(path: Path) -> Path:
    """The folder itself, or the nearest parent that is there."""
    where = path.absolute()
    while not where.exists():
        where = where.parent
    return where


def _kept_out(path: Path) -> bool:
    """Is another open file description refused the lock on `path`?"""
    other = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(other)
    return False


def _say(command: list[str]) -> str | None:
    """A command's output; None if there is no such command, or it takes too long."""
    if shutil.which(command[0]) is None:
        return None
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout
    return None


def _number(value: float | None, unit: str) -> str:
    return f"no limit{' of' + unit if unit else ''}" if value is None else f"{value:.4g}{unit}"
