"""Files that notice a flipped bit: HDF5 with checksums in its own headers (version 1.10) and over each block of a dataset (Fletcher-32).

Any HDF5 library checks them as it reads. Texts in attributes have none. A file that is written to in place is not made so: one whose
writer was killed would have to be cleared with h5clear. A `.npz` has a CRC-32 of each array (zip).
"""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

BLOCK_BYTES = 2**19
"""Most bytes under one checksum: what a read of a single row costs."""
DAMAGED = (FileNotFoundError, KeyError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What reading a `.npz` raises that is gone or damaged."""

_LEFT: list[object] = []
"""Files that HDF5 could not flush, and the errors that said so: their frames hold what is open in them."""


@contextlib.contextmanager
def create(path: str | Path, version: str | None = "v110") -> Iterator[h5py.File]:
    """Write a new file, flushed to disk: `with create(path) as f:`.

    It is made in memory and written in one piece: of writes that fail while HDF5 closes a dataset nobody
    learns, and the process may crash later.

    Args:
        version: the format's, as h5py's `libver`; 1.10 has checksums in its headers.
    Raises:
        OSError: the disk did not take it.
    """
    image = io.BytesIO()
    with h5py.File(image, "w", libver=version) as f:
        yield f
    with open(path, "wb") as out:
        out.write(image.getbuffer())
        out.flush()
        os.fsync(out.fileno())


@contextlib.contextmanager
def changing(path: Path) -> Iterator[h5py.File]:
    """Change a small file that `create` wrote: `with changing(path) as f:`. On disk is the old one or the new one, whole.

    Raises:
        OSError: the disk did not take it.
    """
    image = io.BytesIO(path.read_bytes())
    with h5py.File(image, "r+", libver="v110") as f:
        yield f
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as out:
        out.write(image.getbuffer())
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, path)


@contextlib.contextmanager
def closing(f: h5py.File) -> Iterator[h5py.File]:
    """Close the file at the end, and raise what the disk said, which h5py's own `with` may pass over in silence."""
    try:
        yield f
        f.flush()
    except BaseException as error:
        close(f, error)
        raise
    f.close()


def close(f: h5py.File, error: BaseException | None = None) -> None:
    """Close a file that a write may have failed in, or abandon it."""
    try:
        f.flush()
    except (OSError, RuntimeError) as again:
        abandon(f, error, again)
    else:
        f.close()


def abandon(f: h5py.File, *errors: BaseException | None) -> None:
    """Keep a file open until the process ends (`leaving.leave`), since HDF5 1.10 crashes when it closes one that it cannot flush."""
    _LEFT.extend((f, *errors))


def put(group: h5py.Group, name: str, values: np.ndarray) -> h5py.Dataset:
    """Write values (n, ...) as a dataset whose every block has a checksum."""
    values = np.asarray(values)
    if not values.size or not values.ndim:
        return group.create_dataset(name, data=values)
    rows = min(len(values), max(1, BLOCK_BYTES // (values.nbytes // len(values))))
    return group.create_dataset(name, data=values, chunks=(rows, *values.shape[1:]), fletcher32=True)


def read_through(group: h5py.Group) -> None:
    """Read every dataset below a group, and forget it.

    Raises:
        OSError: a block differs from its checksum, or cannot be read.
    """

    def read(name: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset) and item.size:
            rows = (item.chunks or item.shape)[:1]
            for start in range(0, len(item) if rows else 0, *(rows or (1,))):
                item[start : start + rows[0]]

    group.visititems(read)
