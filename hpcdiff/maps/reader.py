"""Reading map files, and any HDF5 file of a user's, with errors in one line."""

from __future__ import annotations

import contextlib
import errno
import os
import traceback
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np

from hpcdiff.errors import UserError, nearest
from hpcdiff.maps.layout import CATALOG, FORMAT, intact, runs
from hpcdiff.maps.splits import PARTS


@contextlib.contextmanager
def open_hdf5(path: str | Path, what: str = "file", **options) -> Iterator[h5py.File]:
    """Open an HDF5 file to read; a missing, empty, truncated or foreign one, a folder, one that may not be read, is a UserError.

    So is what h5py says of its content while it is open; an error of our own code in between is none of the file's.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise UserError(f"the {what} is not there", path, "run the stage that writes it, or name another")
        f = h5py.File(path, "r", **options)
    except OSError as error:
        if error.errno:
            hint = {errno.EISDIR: "name the file", errno.EACCES: "mend its permissions", errno.EPERM: "mend its permissions"}
            how = hint.get(error.errno, "try again, or look to the file system")
            raise UserError(f"the {what} cannot be opened ({brief(error)})", path, how) from None
        raise UserError(f"the {what} is not a whole HDF5 file ({brief(error)})", path, "make it again") from None
    with f:
        try:
            yield f
        except (KeyError, RuntimeError, OSError) as error:
            if not _of_h5py(error) or (isinstance(error, OSError) and error.errno is not None):
                raise
            raise UserError(f"the {what} is damaged or lacks something ({brief(error)})", path, "make it again") from None


def _of_h5py(error: Exception) -> bool:
    """Was it raised inside h5py?"""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").partition(".")[0] == "h5py"


def brief(error: Exception) -> str:
    """An HDF5 error's first words, or the system's for an error that has a number; one line of at most 120 characters."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    text = " ".join(str(error.args[0] if error.args else error).split())
    return text if len(text) < 120 else text[:117] + "..."


class MapFile:
    """A finished map file, opened for each read.

    Attributes:
        path, npix, fields (list), catalog ({column: array (N, ...)}), attributes (root), units ({field: text}),
        fingerprint (CRC-32 of the checksums, hexadecimal), n_views.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists() and Path(f"{path}.partial").exists():
            raise UserError("the map file is not finished", f"{path}.partial", "run project again")
        with open_hdf5(self.path, "map file") as f:
            if f.attrs.get("format") != FORMAT:
                raise UserError("not a map file", self.path, f"its root attribute `format` should be {FORMAT!r}")
            self.attributes = {k: v.item() if isinstance(v, np.generic) else v for k, v in f.attrs.items()}
            self.npix = int(f.attrs["npix"])
            self.catalog = {name: f["catalog"][name][:] for name in dict.fromkeys((*CATALOG, "checksum", *f["catalog"]))}
            self.fields = sorted(f["fields"])
            self.n_views = len(self.catalog["halo_id"])
            self.field_attributes = {name: dict(f["fields"][name].attrs) for name in self.fields}
            for name in self.fields:
                if f["fields"][name].shape != (self.n_views, self.npix, self.npix):
                    raise UserError(f"/fields/{name} has shape {f['fields'][name].shape}", self.path, "make it again")
        self.units = {name: str(a.get("units", "")) for name, a in self.field_attributes.items()}
        self.fingerprint = f"{zlib.crc32(self.catalog['checksum'].astype('<u4').tobytes()):08x}"

    def rows(self, part: str) -> np.ndarray:
        """Row numbers of `train`, `val` or `test`, int64 (n,)."""
        return np.flatnonzero(self.catalog["split"] == PARTS.index(part))

    def require(self, fields: Iterable[str], what: str) -> None:
        """Raise a UserError if one of `fields` is not in the file."""
        for name in fields:
            if name not in self.fields:
                raise UserError(
                    f"{what} names {name!r}, which the map file does not hold{nearest(name, self.fields)}",
                    self.path,
                    f"it holds {', '.join(self.fields)}",
                )

    def read(self, field: str, rows: np.ndarray) -> np.ndarray:
        """Maps of one field, float32 (len(rows), npix, npix), in the order of `rows`.

        Raises:
            UserError: the file is damaged, or has values that are not finite.
        """
        rows = np.asarray(rows, np.int64)
        out = np.empty((len(rows), self.npix, self.npix), np.float32)
        with open_hdf5(self.path, "map file") as f:
            data = f["fields"][field]
            for start, stop in runs(rows, len(rows)):
                data.read_direct(out, np.s_[rows[start] : rows[stop - 1] + 1], np.s_[start:stop])
        if not np.isfinite(out).all():
            bad = rows[~np.isfinite(out).all(axis=(1, 2))][0]
            raise UserError(f"/fields/{field} has values that are not finite (view {bad})", self.path, "make it again")
        return out

    def verify(self, rows: np.ndarray) -> np.ndarray:
        """Which of `rows` have maps that differ from their checksum, int64 (n_bad,)."""
        rows = np.asarray(rows, np.int64)
        with open_hdf5(self.path, "map file") as f:
            return rows[~intact(f, rows, self.catalog["checksum"][rows])]
