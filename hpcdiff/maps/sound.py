"""HDF5 files of others: what they may hold in place of what we take for granted, and how that is said."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from hpcdiff.errors import UserError

SMALL = 1 << 20
PACKED = 10_000
"""By how much a filter may shrink numbers: deflate's best is 1032, that of repeated blocks more."""


@contextlib.contextmanager
def interpreting(path: str | Path, what: str) -> Iterator[None]:
    """Around code that asks a user's file what it is: an answer of another type or shape is the file's fault, and so is a number that overflows.

    Keep it around reading alone: what goes wrong later, with numbers that have been looked at, is a fault of ours.
    """
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # of numbers that are refused in a moment
            yield
    except MemoryError as error:
        raise UserError(f"the {what} does not fit into the memory ({error})", path, "give the job more memory, or make it again") from None
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        text = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"the {what} holds something of another type or shape than is read here ({text})", path, "make it again") from None


def refuse_hollow(data: h5py.Dataset, path: str | Path, small: float = SMALL) -> None:
    """Refuse a dataset that promises far more numbers than stand behind it, before anybody makes room for them.

    Args:
        small: bytes that it may promise whatever stands behind it; many for what is read a slab at a time.
    Raises:
        UserError: it does; or its bytes stand in a raw file elsewhere, which no checksum and no copy of this file covers; or reading
            it would crash HDF5.
    """
    if data.external:
        raise UserError(f"{data.name} keeps its numbers in another file ({data.external[0][0]})", path, "repack it (h5repack)")
    if data.is_virtual and any(source.file_name in (".", Path(path).name) for source in data.virtual_sources()):
        raise UserError(f"{data.name} shows a part of its own file, which HDF5 may follow without end", path, "make it again")
    if data.chunks and data.fletcher32 and data.id.get_storage_size() < 4 * data.id.get_num_chunks():
        raise UserError(f"{data.name} has blocks that are shorter than their checksums", path, "make it again")  # HDF5 1.10 would crash
    if data.shape is None or data.size * data.dtype.itemsize <= small:
        return
    if data.is_virtual:
        sources = data.virtual_sources()
        if any("%" in source.file_name for source in sources):
            return  # a pattern for as many files as there are
        held = sum(source.vspace.get_select_npoints() for source in sources) * data.dtype.itemsize
    else:
        held = data.id.get_storage_size() * (PACKED if data.chunks else 1)
    if held < data.size * data.dtype.itemsize:
        raise UserError(f"{data.name} promises {data.size:.3g} numbers and {held} bytes stand behind them", path, "make it again")


def refuse_leading_out(f: h5py.File, path: str | Path, how: str) -> None:
    """Refuse to write into a map file that would pass on what is written to another: by a link, a virtual dataset or a raw file.

    Args:
        f: opened to read. how: how to mend it.
    """
    for name in ("catalog", "fields"):
        inside = [f"{name}/{one}" for one in f[name]] if isinstance(f.get(name, getlink=True), h5py.HardLink) else [name]
        for one in inside:
            data = f[one] if isinstance(f.get(one, getlink=True), h5py.HardLink) else None
            if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external:
                raise UserError(f"/{one} of an unfinished map file leads elsewhere, or is no dataset", path, how)
