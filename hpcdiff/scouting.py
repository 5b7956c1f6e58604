"""What the scout's child does: read all that HDF5 keeps about a file, which is where damage makes it crash.

Names, types, shapes, attributes, texts, the index of the blocks and a little of the numbers; nothing is said of them but that they were
seen. What HDF5 refuses is left to whoever opens the file next, who can say more about it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

with contextlib.suppress(ImportError):
    import mpi4py

    mpi4py.rc.initialize = False  # h5py may be built with MPI, and this is no rank

# isort: split
import h5py
import numpy as np

CALL_S = 5.0
"""Seconds of processor for one call, beyond which HDF5 is taken never to come to an end: the heaps of damaged texts lead in circles."""
FILE_S = 3.0
"""Seconds of processor after which no further object of a file is looked at: links may lead to thousands of files."""
BYTES = 2 << 30
"""Memory that may be asked for."""
SMALL = 1 << 20
"""Bytes of a dataset that are read; of texts always the first and the last."""
IDLE_S = 10.0
"""Seconds without a file, after which the child ends."""


def serve() -> None:
    """Look at the file that each line of standard input names (JSON), and say so; ends with its parent, or when it has nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    for number in (signal.SIGPROF, signal.SIGALRM, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    _limit(resource.RLIMIT_CORE, 1)  # less than any dump has; 0 would not keep away one that is piped to a program
    _limit(resource.RLIMIT_DATA, _used() + BYTES)
    look(io.BytesIO(_whole()))
    print("ready", flush=True)
    while True:
        signal.setitimer(signal.ITIMER_REAL, IDLE_S)
        line = sys.stdin.readline()
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not line:
            os._exit(0)
        look(json.loads(line))
        print("seen", flush=True)


def look(file: str | io.BytesIO) -> None:
    """Read what HDF5 keeps about a file, or as much of it as `FILE_S` allows."""
    f = _try(lambda: h5py.File(file, "r"))
    if f is not None:
        todo, known, end = deque(["/"]), set(), time.process_time() + FILE_S
        while todo and time.process_time() < end:
            name = todo.popleft()
            item = _try(lambda name=name: f[name])
            if item is None:
                continue
            names = _names(item) if isinstance(item, h5py.Group) else []  # first: over a damaged one HDF5 crashes at the first question
            about = _try(lambda item=item: h5py.h5o.get_info(item.id))
            place = (about.fileno, about.addr) if about else name  # of a damaged one nothing is said, and it is read all the same
            if place in known:
                continue
            known.add(place)
            _attributes(item)
            todo.extend(f"{name.rstrip('/')}/{one}" for one in names)
            if isinstance(item, h5py.Dataset):
                _dataset(item)
        _try(f.close)
    signal.setitimer(signal.ITIMER_PROF, 0)


def _try(call: Callable, otherwise: object = None) -> object:
    """What a call gives, or `otherwise` where HDF5 refuses; the process ends where it takes more than `CALL_S`."""
    signal.setitimer(signal.ITIMER_PROF, CALL_S)
    try:
        return call()
    except Exception:  # noqa: BLE001, whatever it is, the next who opens the file meets it
        return otherwise


def _attributes(item: h5py.HLObject) -> None:
    for name in _try(lambda: list(item.attrs), []):
        dtype = _try(lambda name=name: item.attrs.get_id(name).dtype)
        if dtype is not None and _plain(dtype):
            _try(lambda name=name: item.attrs[name])


def _names(group: h5py.Group) -> list[str]:
    """Members, by whatever link."""
    names = _try(lambda: list(group), [])
    for name in names:
        _try(lambda name=name: group.get(name, getlink=True))
    return names


def _dataset(data: h5py.Dataset) -> None:
    """Its layout and index; the numbers, where they are few; not what a virtual dataset shows."""
    held = _try(data.id.get_storage_size)
    apart = _try(lambda: data.virtual_sources() if data.is_virtual else data.external, True)
    shape, dtype, chunks = _try(lambda: (data.shape, data.dtype, data.chunks), (None, None, None))
    if apart or shape is None or held is None or not _plain(dtype):
        return
    size = float(np.prod(shape, dtype=float)) * dtype.itemsize
    block = float(np.prod(chunks or (1,), dtype=float)) * dtype.itemsize
    if not size or block > SMALL:
        return
    if chunks and _try(lambda: data.fletcher32 and held < 4 * data.id.get_num_chunks(), True):
        return  # blocks shorter than their checksums crash HDF5 1.10; whoever reads them looks for that, and says so
    if size <= SMALL:
        _try(lambda: data[()])
    elif dtype.kind == "O":
        _try(lambda: data[:1])
        _try(lambda: data[-1:])


def _plain(dtype: np.dtype) -> bool:
    """Numbers or texts; h5py crashes over lists of texts in files that are whole, and nobody here reads them."""
    if dtype.kind == "O":
        return h5py.check_string_dtype(dtype) is not None or getattr(h5py.check_vlen_dtype(dtype), "kind", "O") in "iufb"
    return not dtype.hasobject


def _whole() -> bytes:
    """A small file, to see that HDF5 works here at all."""
    image = io.BytesIO()
    with h5py.File(image, "w") as f:
        f.attrs["format"] = "whole"
        f.create_dataset("group/numbers", data=np.arange(10.0), chunks=(5,), fletcher32=True)
        f["texts"] = ["a", "b"]
    return image.getvalue()


def _used() -> int:
    """Bytes of data that this process has, 0 where the system does not say."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData"))
    return 0


def _limit(what: int, most: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
