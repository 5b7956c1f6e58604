"""Where the maps wait (`train.stage`)."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from pathlib import Path

import torch

from hpcdiff import files, memory
from hpcdiff.errors import UserError
from hpcdiff.maps import MapFile
from hpcdiff.train.data.held import MEMORY, Held, hold_on_gpu, hold_shared
from hpcdiff.train.data.stream import Stream
from hpcdiff.train.node import Node
from hpcdiff.world import World


def place(stage: str, stream: Stream, device: torch.device, world: World) -> tuple[Held | Stream, str]:
    """Bring the maps to where they wait: what gives them, and words about it. Collective.

    `auto`: on the GPU where they take at most half of its free memory, else shared where they take at most half of the node's, else they
    are streamed. All ranks do the same.

    Raises:
        UserError: there is no room for them where the config wants them.
    """
    node = Node(world, MEMORY)
    size = 4 * len(stream.views) * len(stream.fields) * stream.npix**2
    words = f"{size / 1e9:.3g} GB"
    if stage in ("auto", "gpu"):
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
        fits = not world.any(size > free / 2)
        if stage == "gpu" and not fits:
            why = f"the GPU has {free / 1e9:.3g} GB free, of which half is for the network" if free else "there is no GPU"
            raise UserError(f"train.stage is gpu, and the maps take {words}: {why}", "config", "set train.stage=auto")
        if fits:
            with world.together():
                held = hold_on_gpu(stream, device)
            return held, f"on the GPU, {words}"
    if stage in ("auto", "shared"):
        free = room(alone=len(node.ranks) == 1)
        if not world.any(size * (2 if stage == "auto" else 1) > free):
            return hold_shared(stream, world, node), f"in memory, once a node, {words}"
        if stage == "shared":
            least = min(world.allgather(free))
            raise UserError(f"train.stage is shared, and the maps take {words} of {least / 1e9:.3g} GB", MEMORY, "set train.stage=none")
    return stream, f"streamed from {stream.views.files[0].path.parent}, {words}"


def room(alone: bool) -> float:
    """Bytes of memory that this node has for maps; where several ranks share them, no more than /dev/shm has."""
    return min(memory.free_bytes(), float("inf") if alone else _shared_memory())


def _shared_memory() -> float:
    return files.free_bytes(MEMORY) if MEMORY.is_dir() else 0


def local_copies(maps: list[MapFile], world: World) -> list[MapFile]:
    """A copy of each map file on every node's own disk, made by one rank a node, or found there from before. Collective.

    It lies below $SLURM_TMPDIR or $TMPDIR, is named by the file's size and the fingerprint of its catalogue, and stays: a restarted job
    finds it.

    Raises:
        UserError: the disk has no room, or a copy is not like the original.
    """
    folder = Path(os.environ.get("SLURM_TMPDIR") or tempfile.gettempdir())
    node, copies = Node(world, folder), []
    for original in maps:
        size = original.path.stat().st_size
        copy = folder / f"hpcdiff-{os.getuid()}-{original.fingerprint}-{size}.h5"
        with world.together():
            if node.first and not (copy.exists() and copy.stat().st_size == size):
                if size > (free := files.free_bytes(folder)):
                    raise UserError(
                        f"{original.path} has {size / 1e9:.3g} GB and {free / 1e9:.3g} GB are free", folder, "set train.stage=none"
                    )
                partial = copy.with_name(f"{copy.name}.{secrets.token_hex(4)}.partial")
                try:
                    shutil.copyfile(original.path, partial)
                    os.replace(partial, copy)
                finally:
                    files.remove(partial)
        with world.together():
            found = MapFile(copy)
            if found.fingerprint != original.fingerprint or found.npix != original.npix or found.fields != original.fields:
                raise UserError(f"the copy of {original.path} is another file", copy, "remove it")
            copies.append(found)
    return copies
