"""Support radii of particles whose snapshot has none: the distance to the 64th neighbour, found once and kept beside the output."""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path

import h5py
import numpy as np

from hpcdiff import files
from hpcdiff.errors import UserError
from hpcdiff.maps import open_hdf5
from hpcdiff.snapshot.dialects import KINDS
from hpcdiff.snapshot.nearest import NEIGHBOURS, Search
from hpcdiff.world import World

FORMAT, VERSION = "hpcdiff-smoothing", 1
BLOCK = 2**20
"""Rows that share a checksum."""


class SupportRadii:
    """The finished support radii of one kind, read slab by slab.

    Attributes:
        path: of the file: `radius` float32 (n,) comoving Mpc, 0 for rows that are no particles.
        n: rows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_hdf5(path, "file of support radii") as f:
            self.n = len(f["radius"])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Support radii of rows start..stop, float64 (stop - start,), comoving Mpc."""
        with open_hdf5(self.path, "file of support radii") as f:
            return f["radius"][start:stop].astype(np.float64)


def support_files(path: Path) -> list[Path]:
    """Every file that `support_radii` may write for a `path`, finished or not."""
    finished = [_file(path, kind) for kind in KINDS]
    return [p.with_name(p.name + suffix) for p in finished for suffix in ("", ".partial")]


def _file(path: Path, kind: str) -> Path:
    return path.with_name(f"{path.stem}.{kind}{path.suffix}")


def support_radii(snapshot, kind: str, world: World, path: Path, memory_gb: float, threads: int = 1, bar=None) -> SupportRadii:
    """The distance of each particle of a kind to its 64th neighbour of that kind, in the periodic box. Collective.

    What stands in the cache is taken up if it is whole and of this snapshot, and made again otherwise. The same bits for any
    number of ranks and any memory; never less than 1e-6 of the box; with fewer particles, the distance to the furthest.

    Args:
        snapshot: has `box`, `count(kind)`, `positions(kind, start, stop)` and `fingerprint(kinds)`.
        kind: of particles.
        world: the ranks.
        path: of the cache; the kind goes into the file's name: smoothing.h5 -> smoothing.dm.h5.
        memory_gb: bound on this rank's particles, GB. The search takes more beyond it: for the answers 4 bytes for each of the
            rank's rows (twice that while they are written), and for the grid about 65 bytes a cell, of which there is one for 8
            particles and 1.7e7 at most. That is 1.1 GB on every rank from 1.3e8 particles on; somewhat more with hundreds of
            ranks, as their domains overlap more.
        threads: of the search.
        bar: progress, in particles; None = one of its own.
    Raises:
        UserError: the snapshot is damaged, the disk full, or `memory_gb` too small for the densest place.
        Stopped: a signal came.
    """
    path = _file(Path(path), kind)
    identity = None
    with world.together():
        if world.main:
            identity = {"format": FORMAT, "version": VERSION, "kind": kind, "neighbour": NEIGHBOURS, "units": "comoving Mpc"}
            identity["snapshot"] = snapshot.fingerprint([kind])
    identity = world.broadcast(identity)
    rows = snapshot.count(kind)
    if _whole(path, identity, rows, world):
        return _opened(path, world)
    search = Search(snapshot, kind, world, memory_gb, threads)
    with world.together():
        if world.main and (free := files.free_bytes(path)) < 4 * rows * 1.001 + 2**16:
            raise UserError(f"the support radii need {4 * rows / 1e9:.3g} GB and {free / 1e9:.3g} GB are free", path, "free some space")
    own = world.progress(rows, f"{kind} neighbours") if bar is None else None
    search.run(bar or own)
    if own is not None:
        own.close()
    _write(path, identity, search, rows, world)
    return _opened(path, world)


def _opened(path: Path, world: World) -> SupportRadii:
    radii = None
    with world.together():
        radii = SupportRadii(path)
    return radii


def _whole(path: Path, identity: dict, rows: int, world: World) -> bool:
    """Is the cache there, of this snapshot, and as it was written? The same answer on every rank. Collective."""
    checksums, good = None, False
    with world.together():
        if world.main and path.exists():
            with contextlib.suppress(UserError), open_hdf5(path, "file of support radii") as f:  # damaged: it is made again
                same = all(f.attrs.get(name) == value for name, value in identity.items())
                same = same and f["radius"].shape == (rows,) and f["checksum"].shape == (-(-rows // BLOCK),)
                checksums = f["checksum"][:] if same else None
    checksums = world.broadcast(checksums)
    if checksums is None:
        return False
    with world.together(), contextlib.suppress(UserError):
        good = all(crc == checksums[block] for block, crc in _checksums(path, rows, world).items())
    return not world.any(not good)


def _checksums(path: Path, rows: int, world: World) -> dict[int, int]:
    """CRC-32 of this rank's share of the blocks of `BLOCK` rows."""
    with open_hdf5(path, "file of support radii") as f:
        blocks = range(world.rank, -(-rows // BLOCK), world.size)
        return {b: zlib.crc32(f["radius"][b * BLOCK : (b + 1) * BLOCK].astype("<f4").tobytes()) for b in blocks}


def _write(path: Path, identity: dict, search: Search, rows: int, world: World) -> None:
    """Every rank writes its rows into space that rank 0 has allocated, so this needs no parallel HDF5. Collective.

    The checksums are taken from what stands in the file then, and must be those of what was meant; the final name comes last.
    """
    partial = path.with_name(path.name + ".partial")
    offset = None
    with world.together():
        if world.main:
            with h5py.File(partial, "w") as f:
                f.attrs.update(identity)
                f.create_dataset("checksum", data=np.zeros(-(-rows // BLOCK), "<u4"))
                offset = _allocate(f, rows)
    offset = world.broadcast(offset)
    with world.together():
        if len(search.distance):
            with open(partial, "r+b") as f:
                f.seek(offset + 4 * search.first)
                f.write(search.distance.astype("<f4"))
                f.flush()
                os.fsync(f.fileno())
    with world.together(), open_hdf5(partial, "file of support radii") as f:
        if not np.array_equal(f["radius"][search.first : search.last], search.distance):
            raise UserError("the support radii did not reach the disk", partial, "run project again")
    mine = {}
    with world.together():
        mine = _checksums(partial, rows, world)
    every = {block: crc for part in world.allgather(mine) for block, crc in part.items()}
    with world.together():
        if world.main:
            with h5py.File(partial, "r+") as f:
                f["checksum"][:] = [every[b] for b in range(len(every))]
            files.sync(partial)
            os.replace(partial, path)
            files.sync(path.parent)
    world.barrier()


def _allocate(f: h5py.File, rows: int) -> int | None:
    """Make `radius`, contiguous and not filled, and say where in the file its bytes begin; None if it has none."""
    create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    create.set_layout(h5py.h5d.CONTIGUOUS)
    create.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    create.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    create.set_obj_track_times(False)  # the same numbers, the same bytes
    kind, shape = h5py.h5t.py_create(np.dtype("<f4"), logical=True), h5py.h5s.create_simple((rows,))
    return h5py.h5d.create(f.id, b"radius", kind, shape, create).get_offset()
