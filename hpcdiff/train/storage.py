"""A checkpoint's tensors on disk: safetensors files as torch.distributed.checkpoint (DCP) lays them out, one a node.

Tensors are stored flat. A file holds one run of elements of each of its tensors, and its header says under
`DCP_SHARDING_INFO` with which element the run begins: DCP's HuggingFaceStorageReader needs no more, and reads for us.
DCP's HuggingFaceStorageWriter is not used: it writes a file a rank, and joins the file in memory with the GIL held, so
that training stands still. Here all ranks of a node write into one file, each at its place, in calls that release it.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner, HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from hpcdiff.train.pieces import Piece

TYPES = {
    "float64": "F64",
    "float32": "F32",
    "bfloat16": "BF16",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
"""torch's names of types, and those of safetensors."""
CHUNK = 1 << 26
"""Bytes read and hashed in one call."""
MOST = min(os.sysconf("SC_IOV_MAX"), 1024)
"""Parts written in one call."""


def name_of(dtype: torch.dtype) -> str:
    """torch's name of a type, a key of TYPES."""
    return str(dtype).removeprefix("torch.")


@dataclass
class Run:
    """Elements `start` to `start + n` of a tensor of this shape and type (a key of TYPES)."""

    start: int
    n: int
    shape: list[int]
    dtype: str

    @property
    def bytes(self) -> int:
        """Length on disk."""
        return self.n * getattr(torch, self.dtype).itemsize


def runs(pieces: dict[str, Piece]) -> dict[str, Run]:
    """What these pieces are, without their data."""
    for name, piece in pieces.items():
        assert piece.data.dim() == 1 and piece.data.is_contiguous() and piece.data.device.type == "cpu", name
        assert 0 <= piece.start <= piece.start + len(piece.data) <= torch.Size(piece.shape).numel(), name
    return {name: Run(p.start, len(p.data), list(p.shape), name_of(p.data.dtype)) for name, p in pieces.items()}


class Shard:
    """One file of a checkpoint and where in it each tensor's run lies.

    Attributes:
        name: file name.
        ranks: the ranks that write it, rising.
        runs: tensor -> Run.
        header: the file's first bytes; offsets: tensor -> first byte of its run in the file; bytes: the file's length.
    """

    def __init__(self, ranks: list[int], held: dict[str, Run]) -> None:
        self.name, self.ranks, self.runs = f"shard-{ranks[0]:05d}.safetensors", ranks, held
        order = sorted(held, key=lambda name: (-getattr(torch, held[name].dtype).itemsize, name))  # keeps all of them aligned
        entries, self.offsets, end = {}, {}, 0
        for name in order:
            run = held[name]
            self.offsets[name], end = end, end + run.bytes
            entries[name] = {"dtype": TYPES[run.dtype], "shape": [run.n], "data_offsets": [self.offsets[name], end]}
        begins = json.dumps({name: {"saved_offsets": [held[name].start]} for name in order})
        text = json.dumps({"__metadata__": {"DCP_SHARDING_INFO": begins, "DCP_VERSION": "1.0", "format": "pt"}, **entries}).encode()
        text += b" " * (-len(text) % 8)
        self.header = len(text).to_bytes(8, "little") + text
        self.offsets = {name: len(self.header) + offset for name, offset in self.offsets.items()}
        self.bytes = len(self.header) + end


def shards(plans: dict[int, dict[str, Run]]) -> list[Shard]:
    """The files into which the ranks of one node write: one, if each tensor's runs join; else as few as follow from rank to rank.

    Args:
        plans: rank -> what it holds. Empty runs are left out, and a rank without any writes no file.
    """
    out: list[tuple[list[int], dict[str, Run]]] = []
    for rank in sorted(plans):
        mine = {name: run for name, run in plans[rank].items() if run.n}
        if not mine:
            continue
        held = out[-1][1] if out else {}
        if not out or any(name in held and held[name].start + held[name].n != run.start for name, run in mine.items()):
            out.append(([], held := {}))
        out[-1][0].append(rank)
        for name, run in mine.items():
            before = held.get(name, Run(run.start, 0, run.shape, run.dtype))
            assert (before.shape, before.dtype) == (run.shape, run.dtype), name
            held[name] = Run(before.start, before.n + run.n, run.shape, run.dtype)
    return [Shard(*one) for one in out]


def write(folder: Path, shard: Shard, rank: int, pieces: dict[str, Piece]) -> None:
    """Write this rank's part of a file; its first rank writes the header too. Not flushed to disk.

    Raises:
        OSError: what went wrong, with the file's name.
    """
    path = folder / shard.name
    parts = [(0, memoryview(shard.header))] if rank == shard.ranks[0] else []
    for name, piece in pieces.items():
        if len(piece.data):
            before = (piece.start - shard.runs[name].start) * piece.data.itemsize
            parts.append((shard.offsets[name] + before, memoryview(piece.data.view(torch.uint8).numpy())))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        end, together = 0, []
        for offset, data in sorted(parts, key=lambda part: part[0]):
            if offset != end:
                _put(descriptor, together, end - sum(map(len, together)))
                together = []
            together.append(data)
            end = offset + len(data)
        _put(descriptor, together, end - sum(map(len, together)))
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)


def _put(descriptor: int, parts: list[memoryview], offset: int) -> None:
    """Write parts one after the other, in as few calls as can be: after each the thread waits for the GIL."""
    while parts:
        n = os.pwritev(descriptor, parts[:MOST], offset)  # writes less where it must, and then says why
        offset += n
        while parts and n >= len(parts[0]):
            n -= len(parts[0])
            parts = parts[1:]
        if n:
            parts = [parts[0][n:], *parts[1:]]


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, hexadecimal; in large pieces, for training goes on meanwhile."""
    digest, buffer = hashlib.sha256(), bytearray(CHUNK)
    with open(path, "rb", buffering=0) as f:
        while n := f.readinto(buffer):
            digest.update(memoryview(buffer)[:n])
    return digest.hexdigest()


@dataclass
class _Place:
    relative_path: str


class _Room(DefaultLoadPlanner):
    """Where DCP's reader puts what it reads: the wanted pieces."""

    def __init__(self, wanted: dict[str, Piece]) -> None:
        super().__init__()
        self.wanted = wanted

    def lookup_tensor(self, index: MetadataIndex) -> torch.Tensor:
        return self.wanted[index.fqn].data

    def load_bytes(self, read_item: object, value: object) -> None:
        raise AssertionError("a checkpoint holds tensors alone")  # the default unpickles


def read(folder: Path, entries: list[dict], wanted: dict[str, Piece]) -> None:
    """Fill the wanted pieces from the files of a checkpoint, whatever the ranks and nodes that wrote them.

    Args:
        folder: the checkpoint.
        entries: its manifest's `files`: `name` and `pieces`, tensor -> [start, n].
        wanted: pieces to be filled in place; their types are those of the files.
    Raises:
        OSError, safetensors.SafetensorError: a file cannot be read.
    """
    chunks: dict[str, list[ChunkStorageMetadata]] = {name: [] for name, piece in wanted.items() if len(piece.data)}
    places = {}
    for entry in entries:
        for name in entry["pieces"].keys() & chunks.keys():
            start, n = entry["pieces"][name]
            chunks[name].append(ChunkStorageMetadata(torch.Size([start]), torch.Size([n])))
            places[MetadataIndex(name, [start])] = _Place(str(folder / entry["name"]))
    items = []
    for name, saved in chunks.items():
        piece = wanted[name]
        whole = torch.Size([torch.Size(piece.shape).numel()])
        about = TensorStorageMetadata(TensorProperties(dtype=piece.data.dtype), whole, saved)
        mine = ChunkStorageMetadata(torch.Size([piece.start]), torch.Size([len(piece.data)]))
        items += create_read_items_for_chunk_list(name, about, [mine])
    reader = HuggingFaceStorageReader(str(folder))
    reader.set_up_storage_reader(Metadata({}, storage_data=places), is_coordinator=True)
    reader.read_data(LoadPlan(items), _Room(wanted)).wait()
