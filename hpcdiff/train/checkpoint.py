"""Sharded checkpoints: `checkpoints/<images, 12 digits>/` with one safetensors file a node and a manifest, written last.

A thread of each rank writes while training goes on, and no thread uses a collective call: ranks of a node leave notes for
each other in the folder, each node leaves one for rank 0, and rank 0 renames `<name>.partial` when all is on disk. Only
`settle`, in the training thread, agrees on how it went.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

import safetensors

from hpcdiff import files
from hpcdiff.errors import UserError
from hpcdiff.train import manifest as manifests
from hpcdiff.train import storage
from hpcdiff.train.manifest import Damaged
from hpcdiff.train.node import this_node
from hpcdiff.train.pieces import Piece
from hpcdiff.train.saving import Save, whole_names
from hpcdiff.world import World

UNREADABLE = (safetensors.SafetensorError, AssertionError, LookupError, TypeError, ValueError, RuntimeError)
"""What DCP's reader says of files that hold something else than they are read for."""


class Checkpoints:
    """The checkpoints of a run: saved in the background, checked, loaded. Every method is collective."""

    def __init__(self, folder: Path, keep: int, world: World, node: str | None = None) -> None:
        """The checkpoints in `folder`.

        Args:
            folder: `checkpoints/`; need not exist.
            keep: number of checkpoints that stay, the newest.
            node: name of the machine, the same on all ranks that may write into one file; found out by itself.
        """
        self.folder, self.keep, self.world = Path(folder), keep, world
        self.nodes = world.allgather(node or this_node())
        self.job: Save | None = None
        self.seconds = 0.0  # that the last one took to be whole

    def save(self, images: int, pieces: dict[str, Piece], state: dict, config: dict, engine: str) -> float:
        """Start to write a checkpoint and return at once; an earlier one is waited for first.

        Args:
            images: images seen; names the checkpoint.
            pieces: this rank's part of every tensor; over the ranks each element stands in one piece. They belong to the
                checkpoint until the next `settle`: the caller gives copies and does not write to them.
            state: numbers to keep, JSON; rank 0's is kept.
            config: resolved config, JSON.
            engine: "ddp" or "deepspeed".
        Returns:
            Seconds that training waited.
        Raises:
            UserError: there is not enough room, or the earlier one has failed. Earlier checkpoints stay.
        """
        began = time.perf_counter()
        self.settle()
        need = sum(self.world.allgather(sum(run.bytes for run in storage.runs(pieces).values())))
        partial = self.folder / f"{images:012d}.partial"
        head = None
        with self.world.together():
            if self.world.main:
                free = files.free_bytes(self.folder)
                if need > free:
                    what = f"a checkpoint needs {need / 1e9:.3g} GB and {free / 1e9:.3g} GB are free"
                    raise UserError(what, self.folder, "free some space; all that was saved before is still there")
                self._tidy()
                partial.mkdir(parents=True)
                head = {"images": images, "world_size": self.world.size, "engine": engine, "config": config, "state": state}
                head = json.loads(json.dumps(head, allow_nan=False))  # the caller may change its own meanwhile
        self.job = Save(partial, pieces, head, self.keep, self.world.rank, self.nodes)
        return time.perf_counter() - began

    def settle(self) -> None:
        """Wait until the checkpoint under way is whole and has its name.

        Raises:
            UserError: it has failed on some rank, on all of them; what was written of it is removed, earlier ones stay.
        """
        job, self.job = self.job, None
        if job is None:
            return
        if not self.world.any(not job.whole):
            self.seconds = job.seconds
            return
        try:
            for step in range(len(job.passed)):  # a step waits for others' earlier steps only, so a failure keeps none waiting
                with self.world.together():
                    job.wait(step)
            self.seconds = job.seconds
        except UserError:
            job.abandoned.set()
            job.thread.join()
            self.world.barrier()
            if self.world.main:
                with contextlib.suppress(OSError):
                    files.remove(job.partial)
            raise

    def newest(self) -> dict | None:
        """The manifest of the newest whole checkpoint, the same on every rank; None if there is none.

        Files are dealt to the ranks for checking. A damaged checkpoint is named and set aside as `<name>.damaged`.

        Raises:
            UserError: a folder cannot be read or renamed, or another version has written it.
        """
        self.settle()
        while True:
            name = None
            with self.world.together():
                if self.world.main:
                    self._recover()
                    name = next(reversed(whole_names(self.folder)), None)
            name = self.world.broadcast(name)
            if name is None:
                return None
            manifest, fault = None, None
            with self.world.together():
                try:
                    manifest = self._checked(self.folder / name)
                except Damaged as damaged:
                    fault = str(damaged)
            fault = next((f for f in self.world.allgather(fault) if f is not None), None)
            if fault is None:
                return manifest
            with self.world.together():
                if self.world.main:
                    aside = self.folder / f"{name}.damaged"
                    self.world.print(f"hpcdiff train: checkpoint {self.folder / name} is damaged ({fault}); set aside as {aside.name}")
                    files.remove(aside)
                    os.replace(self.folder / name, aside)

    def load(self, manifest: dict, wanted: dict[str, Piece]) -> None:
        """Fill pieces from a checkpoint, whatever the world size and the cutting that wrote it.

        Args:
            manifest: what `newest` gave.
            wanted: pieces of any cutting, filled in place; on all ranks together every tensor of the checkpoint is named.
        Raises:
            UserError: names, shapes or types differ (says which), or a file cannot be read.
        """
        folder = self.folder / f"{manifest['images']:012d}"
        shapes, types = manifest["tensors"], manifest["types"]
        with self.world.together():
            if fault := _differences(shapes, types, storage.runs(wanted)):
                raise UserError(fault, folder, "set network, task and precision as they were, or train --overwrite")
        names = sorted(shapes)
        masks = self.world.allgather(hex(sum(1 << k for k, name in enumerate(names) if name not in wanted)))
        nobody = (1 << len(names)) - 1
        for mask in masks:
            nobody &= int(mask, 16)
        with self.world.together():
            if left := [name for k, name in enumerate(names) if nobody >> k & 1]:
                how = "set network and task as they were, or train --overwrite"
                raise UserError(f"the checkpoint has {_some(left)}, and this network has not", folder, how)
            try:
                storage.read(folder, manifest["files"], wanted)
            except UNREADABLE as error:  # whole by its hashes, and yet not what its manifest says
                raise UserError(f"the checkpoint cannot be read ({error})", folder, "remove it, an older one is taken then") from None

    def _checked(self, path: Path) -> dict:
        """The manifest, after a check of it and of this rank's share of the files."""
        try:
            manifest = manifests.parse((path / manifests.NAME).read_text(), path)
            for entry in manifest["files"][self.world.rank :: self.world.size]:
                file = path / entry["name"]
                if file.stat().st_size != entry["bytes"]:
                    raise Damaged(f"{entry['name']} has {file.stat().st_size} bytes, not {entry['bytes']}")
                if storage.sha256(file) != entry["sha256"]:
                    raise Damaged(f"{entry['name']} has another SHA-256 than when it was written")
            return manifest
        except PermissionError:
            raise  # a matter for the user, and no damage
        except (OSError, UnicodeDecodeError) as error:
            where = Path(getattr(error, "filename", None) or path).name
            raise Damaged(f"{where}: {getattr(error, 'strerror', None) or 'cannot be read'}") from None

    def _tidy(self) -> None:
        """Remove what a save cut short has left."""
        self._recover()
        for old in self.folder.glob("*.partial"):
            files.remove(old)

    def _recover(self) -> None:
        """A save was killed while it replaced a checkpoint of the same number: bring back the one before."""
        for old in self.folder.glob("*.replaced"):
            if (self.folder / old.stem).exists():
                files.remove(old)
            else:
                os.replace(old, self.folder / old.stem)


def _differences(shapes: dict[str, list[int]], types: dict[str, str], wanted: dict[str, storage.Run]) -> str | None:
    """What the checkpoint lacks or has otherwise, as a text; None if all that is wanted is there."""
    if lacking := sorted(wanted.keys() - shapes.keys()):
        return f"the checkpoint has no {_some(lacking)}"
    for name, run in wanted.items():
        if shapes[name] != run.shape:
            return f"{name} has shape {tuple(shapes[name])} in the checkpoint, not {tuple(run.shape)}"
        if types[name] != run.dtype:
            return f"{name} is {types[name]} in the checkpoint, not {run.dtype}"
    return None


def _some(names: list[str]) -> str:
    """The first of these names and how many more there are."""
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
