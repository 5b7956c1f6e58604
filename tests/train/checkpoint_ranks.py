"""Ranks for test_checkpoint.py: threads that play ranks, random tensors and cuttings, and what several processes do.

torchrun ... checkpoint_ranks.py go FOLDER SEED      load what is there, check it, save the next; on >1 ranks also a full disk on the last
python checkpoint_ranks.py kill FOLDER KILLS         two ranks save again and again, and are killed at random moments
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from hpcdiff.errors import UserError
from hpcdiff.train.checkpoint import Checkpoints
from hpcdiff.train.pieces import Piece, cut
from hpcdiff.world import TorchWorld, World


class ThreadWorld(World):
    """One of several threads that play the ranks of a world."""

    def __init__(self, rank: int, slots: list, barrier: threading.Barrier) -> None:
        super().__init__()
        self.rank, self.size, self.slots, self.barrier_ = rank, len(slots), slots, barrier

    def allgather(self, value: object) -> list:
        self.slots[self.rank] = json.dumps(value)
        self.barrier_.wait(60)
        out = [json.loads(slot) for slot in self.slots]
        self.barrier_.wait(60)
        return out


def on_ranks(size: int, work: Callable[[World], object], refused: bool = False) -> list:
    """What `work` gives on each of `size` ranks, where an exception is raised; or, `refused`, the UserError of each."""
    slots, barrier, out = [None] * size, threading.Barrier(size), [None] * size

    def one(rank: int) -> None:
        try:
            out[rank] = work(ThreadWorld(rank, slots, barrier))
        except BaseException as error:  # noqa: BLE001
            out[rank] = error
            if not isinstance(error, UserError):
                barrier.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    faults = [e for e in out if isinstance(e, BaseException) and not (refused and isinstance(e, UserError))]
    for fault in sorted(faults, key=lambda e: isinstance(e, threading.BrokenBarrierError)):
        raise fault
    assert not refused or all(isinstance(e, UserError) for e in out), out
    return out


def content(images: int, elements: int = 1000) -> dict[str, torch.Tensor]:
    """The tensors of the checkpoint of this number."""
    g = torch.Generator().manual_seed(images)
    return {
        "weights/conv": torch.randn(elements // 10, 10, generator=g),
        "weights/bias": torch.randn(7, generator=g),
        "ema/half": torch.randn(5, 3, generator=g).bfloat16(),
        "buffers/count": torch.randint(2**40, (), generator=g),
        "buffers/none": torch.empty(0, 4),
        "exp_avg/whole": torch.randint(-5, 5, (3, 2, 4), generator=g),
        "exp_avg/flags": torch.rand(9, generator=g) > 0.5,
    }


def cutting(tensors: dict[str, torch.Tensor], size: int, rng: random.Random, ordered: bool) -> list[dict[str, Piece]]:
    """Each rank's pieces, cut anywhere, some of them empty; ordered: they follow each other from rank to rank."""
    ranks = [{} for _ in range(size)]
    for name, tensor in tensors.items():
        marks = [0, *sorted(rng.choice([0, tensor.numel(), rng.randint(0, tensor.numel())]) for _ in range(size - 1)), tensor.numel()]
        to = list(range(size))
        if not ordered:
            rng.shuffle(to)
        for k, rank in enumerate(to):
            ranks[rank][name] = Piece(tensor.reshape(-1)[marks[k] : marks[k + 1]].clone(), marks[k], tuple(tensor.shape))
    return ranks


def emptied(pieces: dict[str, Piece]) -> dict[str, Piece]:
    """The same pieces with other numbers in them, to be filled."""
    return {name: Piece(torch.full_like(p.data, 77), p.start, p.shape) for name, p in pieces.items()}


def same(one: dict[str, Piece], two: dict[str, Piece]) -> bool:
    """Do they hold the same bytes?"""
    return one.keys() == two.keys() and all(
        torch.equal(p.data, two[name].data) and p.data.dtype == two[name].data.dtype for name, p in one.items()
    )


def check_newest(checkpoints: Checkpoints, elements: int = 1000) -> int:
    """Images of the newest checkpoint, after a check of every byte of it; 0 if there is none."""
    manifest = checkpoints.newest()
    if manifest is None:
        return 0
    world = checkpoints.world
    pieces = {name: cut(tensor, world.rank, world.size) for name, tensor in content(manifest["images"], elements).items()}
    wanted = emptied(pieces)
    checkpoints.load(manifest, wanted)
    assert same(wanted, pieces), manifest["images"]
    assert manifest["state"] == {"images": manifest["images"]}
    return manifest["images"]


def go(folder: Path, seed: int) -> None:
    """Check what is there and save the next one; on several ranks, the disk of the last one is then full."""
    world = TorchWorld()
    checkpoints = Checkpoints(folder, 2, world)
    images = check_newest(checkpoints) + 10
    pieces = cutting(content(images), world.size, random.Random(seed), ordered=False)[world.rank]
    checkpoints.save(images, pieces, {"images": images}, {}, "ddp")
    checkpoints.settle()
    said = ""
    if world.size > 1:
        if world.rank == world.size - 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
        pieces = {name: cut(tensor, world.rank, world.size) for name, tensor in content(images + 10).items()}
        checkpoints.save(images + 10, pieces, {}, {}, "ddp")
        try:
            checkpoints.settle()
        except UserError as error:
            said = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        said = world.allgather(said)
        assert len(set(said)) == 1 and "larger than is allowed" in said[0], said
    assert check_newest(checkpoints) == images
    assert not list(folder.glob("*.partial"))
    world.barrier()
    world.print(f"saved {images} on {world.size}")
    world.close()


class ForkedWorld(TorchWorld):
    """A world of forked processes."""

    def __init__(self, rank: int, size: int, meeting: Path) -> None:
        World.__init__(self)
        self.rank, self.size = rank, size
        torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)


ELEMENTS = 400_000


def save_for_ever(world: World, folder: Path) -> None:
    """Take up what is there and save one checkpoint after the other, the first once more under its old number."""
    checkpoints = Checkpoints(folder, 2, world)
    images = max(10, check_newest(checkpoints, ELEMENTS))
    while True:
        pieces = {name: cut(tensor, world.rank, world.size) for name, tensor in content(images, ELEMENTS).items()}
        checkpoints.save(images, pieces, {"images": images}, {}, "ddp")
        images += 10


def kill(folder: Path, kills: int) -> None:
    """Kill two ranks at random moments, `kills` times; after each, what is left is whole and does not fall back."""
    rng, partials, reached, damaged = random.Random(0), 0, 0, 0
    for attempt in range(kills):
        meeting = folder.parent / f"meeting-{attempt}"
        children = []
        for rank in range(2):
            if (pid := os.fork()) == 0:
                with contextlib.suppress(BaseException):
                    save_for_ever(ForkedWorld(rank, 2, meeting), folder)
                os._exit(1)
            children.append(pid)
        time.sleep(0.2 + 0.4 * rng.random())
        rng.shuffle(children)
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        ends = [os.waitpid(pid, 0)[1] for pid in children]
        assert os.WIFSIGNALED(ends[0]), "a rank ended by itself"  # the other may see its connection break before it is killed
        partials += len(list(folder.glob("*.partial")))
        images = check_newest(Checkpoints(folder, 2, World()), ELEMENTS)
        damaged += len(list(folder.glob("*.damaged")))
        assert images >= reached, (images, reached)
        reached = images
    shutil.rmtree(folder)
    print(f"{kills} kills: reached {reached}, cut short {partials}, damaged {damaged}")


if __name__ == "__main__":
    command, where, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    go(where, number) if command == "go" else kill(where, number)
