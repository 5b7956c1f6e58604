"""How much memory this node has left for this job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
"""Where the kernel says so."""
VERSIONS = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""By the controller in /proc/self/cgroup, none in version 2 of control groups: the files of limit and use, and what gives way in memory.stat."""


def free_bytes() -> float:
    """What the system calls available, or what the job's control groups leave, if that is less; infinite where nothing says."""
    found = []
    try:
        lines = (PROC / "meminfo").read_text().splitlines()
        found += [1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")]
        for line in (PROC / "self" / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in {"", "memory"} & set(controllers.split(",")):
                found += _left(GROUPS / controller, path.strip("/"), *VERSIONS[controller])
    except (OSError, ValueError, IndexError):
        pass
    return min(found, default=float("inf"))


def _left(root: Path, path: str, limit: str, current: str, cache: str) -> Iterator[float]:
    """What a group, and each of those above it, has left of its limit."""
    folder = root / path
    while folder != root.parent:
        most = (folder / limit).read_text().strip() if (folder / limit).exists() else "max"
        if most != "max":
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            used = int((folder / current).read_text()) - int(stat.get(cache, 0))
            yield max(0.0, float(int(most) - used))
        folder = folder.parent
