"""Single maps read from where they lie: in the order of the file, by a few threads, past HDF5 where the file is plain."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from hpcdiff.errors import UserError
from hpcdiff.maps import MapFile, open_hdf5
from hpcdiff.train.data.views import Views
from hpcdiff.transform import Transform

THREADS = 8
"""Reads under way at once: a disk far away answers each after a while."""
RUN = 256
"""Most neighbouring rows in one read (the system's limit is 1024)."""


class Stream:
    """Maps of views, read when they are asked for.

    Args:
        views: the views. fields: which maps, in this order.
        transforms: {field: Transform}; fields that it lacks stay in their own units.
    Raises:
        UserError: a map file cannot be opened.
    """

    def __init__(self, views: Views, fields: list[str], transforms: dict[str, Transform]) -> None:
        self.views, self.fields, self.transforms = views, fields, transforms
        self.npix = views.files[0].npix
        self.pool = ThreadPoolExecutor(THREADS, "hpcdiff-read")
        self.open = [_OpenFile(maps, fields) for maps in views.files]

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Maps of the views `numbers`, float32 (B, fields, npix, npix), in that order.

        Raises:
            UserError: a file is cut short or cannot be read.
        """
        numbers = np.asarray(numbers, np.int64)
        out = np.empty((len(numbers), len(self.fields), self.npix, self.npix), np.float32)
        runs = list(self._runs(numbers))
        shares = [runs[k::THREADS] for k in range(min(THREADS, len(runs)))]
        for _ in self.pool.map(lambda share: [self.open[f].read(row, places, out) for f, row, places in share], shares):
            pass
        bent = [k for k, name in enumerate(self.fields) if name in self.transforms]
        for _ in self.pool.map(lambda k: np.copyto(out[:, k], self.transforms[self.fields[k]].forward(out[:, k])), bent):
            pass
        return out

    def take(self, numbers: np.ndarray) -> torch.Tensor:
        """`read`, as a tensor."""
        return torch.from_numpy(self.read(numbers))

    def _runs(self, numbers: np.ndarray) -> Iterator[tuple[int, int, list[int]]]:
        """Reads: file, first row, and where in the batch that row and its neighbours go."""
        file, row = self.views.file[numbers], self.views.row[numbers]
        order = np.lexsort((row, file))
        start = 0
        for k in range(1, len(order) + 1):
            if k < len(order) and k - start < RUN:
                a, b = order[k - 1], order[k]
                if file[a] == file[b] and row[b] == row[a] + 1:
                    continue
            yield int(file[order[start]]), int(row[order[start]]), order[start:k].tolist()
            start = k

    def close(self) -> None:
        """Close the files."""
        self.pool.shutdown()
        for f in self.open:
            f.close()


class _OpenFile:
    """One map file; fields that lie in it as plain float32 are read by the system, others by HDF5."""

    def __init__(self, maps: MapFile, fields: list[str]) -> None:
        self.maps, self.fields = maps, fields
        with open_hdf5(maps.path, "map file") as f:
            data = [f["fields"][name] for name in fields]
            plain = [d.chunks is None and d.dtype == np.dtype("<f4") and not d.external and not d.is_virtual for d in data]
            self.offset = [d.id.get_offset() if ok else None for d, ok in zip(data, plain, strict=True)]
        self.descriptor = os.open(maps.path, os.O_RDONLY)

    def read(self, row: int, places: list[int], out: np.ndarray) -> None:
        """Rows from `row` on, one for each of `places`, into out[places]."""
        size = out[0, 0].nbytes
        for k, offset in enumerate(self.offset):
            if offset is None:
                out[places, k] = self.maps.read(self.fields[k], np.arange(row, row + len(places)))
                continue
            buffers = [memoryview(out[i, k]).cast("B") for i in places]
            if os.preadv(self.descriptor, buffers, offset + row * size) == len(places) * size:
                continue
            for i, buffer in enumerate(buffers):  # the system may give less than was asked for
                self._fill(buffer, offset + (row + i) * size)

    def _fill(self, buffer: memoryview, offset: int) -> None:
        while len(buffer):
            n = os.preadv(self.descriptor, [buffer], offset)
            if not n:
                raise UserError("the map file ends too early", self.maps.path, "make it again")
            buffer, offset = buffer[n:], offset + n

    def close(self) -> None:
        os.close(self.descriptor)
