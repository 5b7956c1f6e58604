"""Which file system a path lies on, as Linux says it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

LOCAL = {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "reiserfs", "tmpfs", "xfs", "zfs"}
"""Types of one machine alone."""


@dataclass(frozen=True)
class Mount:
    """A mounted file system: where, its type, its options, what stands behind it; empty texts where that is not known."""

    point: str = ""
    kind: str = ""
    options: frozenset[str] = frozenset()
    source: str = ""

    @property
    def one_view_of_locks(self) -> bool:
        """Does whoever takes a flock here know of all others' for certain? NFS is not among them: that hangs on daemons."""
        return self.kind in LOCAL or self.kind == "gpfs" or (self.kind == "lustre" and "flock" in self.options)


def mount_of(path: str | Path) -> Mount:
    """The file system that holds a path (or will hold it: the nearest existing parent)."""
    path = Path(path).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        lines, path = Path("/proc/self/mountinfo").read_text().splitlines(), os.path.realpath(path)
    except OSError:
        return Mount()
    found = Mount()
    for line in lines:
        before, _, after = line.partition(" - ")
        point = _plain(before.split()[4])
        if (path + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(found.point):  # the last of the same name lies on top
            kind, source, own = [*after.split(" "), "", ""][:3]
            found = Mount(point, kind, frozenset([*before.split()[5].split(","), *own.split(",")]), _plain(source))
    return found


def _plain(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), text)
