"""Which ranks share a machine, and which share a folder of it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from hpcdiff.world import World


def this_node() -> str:
    """A name that all processes under one kernel share, and no others: containers of many machines may bear one host name."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else platform.node()


class Node:
    """The ranks that see the same folder of the same machine as this one: their numbers in the world, and this one's place among them.

    Containers of one machine may each have a /dev/shm and a /tmp of their own. Collective.
    """

    def __init__(self, world: World, folder: Path) -> None:
        about = os.stat(folder) if folder.is_dir() else None
        place = [this_node(), None if about is None else [about.st_dev, about.st_ino]]
        self.ranks = [r for r, other in enumerate(world.allgather(place)) if other == place]
        self.place = self.ranks.index(world.rank)
        self.first = self.place == 0
