"""Maps that are held in memory: on the GPU, or once for all ranks of a node."""

from __future__ import annotations

import mmap
import os
import secrets
from pathlib import Path

import numpy as np
import torch

from hpcdiff.errors import UserError
from hpcdiff.train.data.stream import Stream
from hpcdiff.train.data.sums import shared_out
from hpcdiff.train.node import Node
from hpcdiff.world import World

MEMORY = Path("/dev/shm")
"""Files here are memory."""


class Held:
    """Maps of all views in one tensor (n, fields, npix, npix), on the CPU or a GPU."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def take(self, numbers: np.ndarray) -> torch.Tensor:
        """Maps of the views `numbers`, (B, fields, npix, npix), on the tensor's device; the host waits for nothing."""
        index = torch.from_numpy(np.asarray(numbers, np.int64))
        if self.tensor.device.type == "cuda":
            index = index.pin_memory().to(self.tensor.device, non_blocking=True)
        return self.tensor.index_select(0, index)

    def close(self) -> None:
        """Let the memory go."""
        del self.tensor


def hold_on_gpu(stream: Stream, device: torch.device) -> Held:
    """Copy all views to this rank's GPU, block by block."""
    n = len(stream.views)
    tensor = torch.empty(n, len(stream.fields), stream.npix, stream.npix, device=device)
    for block in shared_out(n, 0, 1):
        tensor[block[0] : block[-1] + 1] = stream.take(block)
    return Held(tensor)


def hold_shared(stream: Stream, world: World, node: Node) -> Held:
    """Hold all views once on each node, in memory that its ranks share; each fills its part. Collective.

    The memory has a name for the moment alone in which the ranks map it, and none when it is filled: however they end, the system
    takes it back with the last of them.

    Raises:
        UserError: there is too little memory, or the map files cannot be read.
    """
    n = len(stream.views)
    shape = (n, len(stream.fields), stream.npix, stream.npix)
    array = np.frombuffer(_memory(4 * int(np.prod(shape)), world, node), np.float32).reshape(shape)
    with world.together():
        for block in shared_out(n, node.place, len(node.ranks)):
            array[block] = stream.read(block)
    return Held(torch.from_numpy(array))


def _memory(size: int, world: World, node: Node) -> mmap.mmap:
    """Memory of `size` bytes that the ranks of a node share. Collective."""
    if max(len(ranks) for ranks in world.allgather(node.ranks)) == 1:
        return mmap.mmap(-1, size)
    path = MEMORY / f"hpcdiff-{os.getpid()}-{secrets.token_hex(8)}"
    try:
        with world.together():
            if node.first:
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
                os.ftruncate(descriptor, size)  # this takes no memory yet
        theirs = Path(world.allgather(str(path))[node.ranks[0]])
        with world.together():
            if not node.first:
                if not theirs.exists():
                    raise UserError("the ranks of one node see different memory", MEMORY, "set train.stage=none")
                descriptor = os.open(theirs, os.O_RDWR)
            memory = mmap.mmap(descriptor, size)
    finally:
        if node.first:
            path.unlink(missing_ok=True)
    with world.together():
        try:
            if node.first:
                os.posix_fallocate(descriptor, 0, size)  # memory that is touched and not there would kill the process
        except OSError as error:
            raise UserError(f"{size / 1e9:.3g} GB of maps find no room ({error.strerror})", MEMORY, "set train.stage=none") from None
        finally:
            os.close(descriptor)
    return memory
