"""One checkpoint on its way to disk: what the thread of each rank does while training goes on."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from hpcdiff import files
from hpcdiff.train import manifest as manifests
from hpcdiff.train import storage
from hpcdiff.train.pieces import Piece


class Save:
    """One save under way on this rank: a thread that takes four steps, each waiting for earlier steps of other ranks only.

    The notes that pass between ranks are files, for the thread of a rank may not use the collective calls of training.
    """

    def __init__(self, partial: Path, pieces: dict[str, Piece], head: dict | None, keep: int, rank: int, nodes: list[str]) -> None:
        """Start.

        Args:
            partial: `<name>.partial`, an empty folder; the checkpoint appears beside it.
            pieces: this rank's.
            head: the manifest's own part, on rank 0 alone.
            keep: number of checkpoints that stay.
            nodes: each rank's node.
        """
        self.partial, self.pieces, self.runs, self.head = partial, pieces, storage.runs(pieces), head
        self.keep, self.rank, self.folder = keep, rank, partial.parent
        self.peers = [rank for rank, node in enumerate(nodes) if node == nodes[self.rank]]
        self.leaders = sorted({nodes.index(node) for node in nodes})
        self.shards: list[storage.Shard] = []
        self.error: BaseException | None = None
        self.began, self.seconds = time.perf_counter(), 0.0  # until this rank's part was done
        self.abandoned = threading.Event()
        self.passed = [threading.Event() for _ in range(4)]
        self.thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self.thread.start()

    @property
    def whole(self) -> bool:
        """Has this rank done all that it has to do, without a fault?"""
        return self.passed[-1].is_set() and self.error is None

    def wait(self, step: int) -> None:
        """Wait until this rank has taken a step; raises what went wrong before it."""
        self.passed[step].wait()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            for step, event in zip((self._plan, self._write, self._seal, self._commit), self.passed, strict=True):
                step()
                self.seconds = time.perf_counter() - self.began
                event.set()
        except BaseException as error:  # noqa: BLE001, raised again by `wait`
            self.error = error
        finally:
            self.pieces = {}
            for event in self.passed:
                event.set()

    def _plan(self) -> None:
        plan = {name: dataclasses.astuple(run) for name, run in self.runs.items()}
        _note(self.partial / f"rank-{self.rank:05d}.plan", plan)

    def _write(self) -> None:
        notes = {rank: self.partial / f"rank-{rank:05d}.plan" for rank in self.peers}
        self._until(lambda: all(note.exists() for note in notes.values()))
        plans = {rank: {k: storage.Run(*v) for k, v in json.loads(note.read_text()).items()} for rank, note in notes.items()}
        self.shards = storage.shards(plans)
        for shard in self.shards:
            if self.rank in shard.ranks:
                storage.write(self.partial, shard, self.rank, self.pieces)
        _note(self.partial / f"rank-{self.rank:05d}.written", None)
        self.runs = {name: run for plan in plans.values() for name, run in plan.items()}

    def _seal(self) -> None:
        """The first rank of a node flushes and hashes what its node has written."""
        if self.rank != self.peers[0]:
            return
        notes = [self.partial / f"rank-{rank:05d}.written" for rank in self.peers]
        self._until(lambda: all(note.exists() for note in notes))
        entries = []
        for shard in self.shards:
            path = self.partial / shard.name
            files.sync(path)
            assert path.stat().st_size == shard.bytes, path
            held = {name: [run.start, run.n] for name, run in shard.runs.items()}
            entries.append({"name": shard.name, "bytes": shard.bytes, "sha256": storage.sha256(path), "pieces": held})
        tensors = {name: [run.shape, run.dtype] for name, run in self.runs.items()}
        _note(self.partial / f"node-{self.rank:05d}.sealed", {"files": entries, "tensors": tensors})

    def _commit(self) -> None:
        """Rank 0 writes the manifest and gives the checkpoint its name."""
        if self.head is None:
            return
        notes = [f"node-{rank:05d}.sealed" for rank in self.leaders]
        self._until(lambda: set(notes) <= set(os.listdir(self.partial)))  # a listing is fresh where a look-up may be cached (NFS)
        entries, tensors = [], {}
        for note in notes:
            sealed = json.loads((self.partial / note).read_text())
            entries += sealed["files"]
            for name, about in sealed["tensors"].items():
                assert tensors.setdefault(name, about) == about, name
        fault = manifests.uncovered({name: shape for name, (shape, _) in tensors.items()}, entries)
        assert fault is None, fault
        for name in os.listdir(self.partial):
            if not name.endswith(".safetensors"):
                (self.partial / name).unlink()
        files.write_atomic(self.partial / manifests.NAME, manifests.compose(self.head, tensors, entries))
        files.sync(self.partial)
        final = self.partial.with_suffix("")
        replaced = final.with_suffix(".replaced")
        if final.exists():
            files.remove(replaced)
            os.replace(final, replaced)
        os.replace(self.partial, final)
        files.sync(self.folder)
        files.remove(replaced)
        for old in whole_names(self.folder)[: -self.keep]:
            files.remove(self.folder / old)

    def _until(self, there: Callable[[], bool]) -> None:
        """Look again and again, ever more rarely, until it is there."""
        pause = 0.005
        while not there():
            if self.abandoned.wait(pause):
                raise RuntimeError("the save was given up")
            pause = min(1.5 * pause, 0.5)


def _note(path: Path, value: object) -> None:
    """Leave a note for another rank: it is seen whole or not at all. Not flushed: it need not outlive the job."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value))
    os.replace(temporary, path)


def whole_names(folder: Path) -> list[str]:
    """Names of the checkpoints that have their final name, oldest first."""
    return sorted(p.name for p in folder.glob("[0-9]" * 12) if p.is_dir()) if folder.is_dir() else []
