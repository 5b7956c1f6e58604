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

from hpcdiff.errors import NO_LOCKS, UserError, nearest
from hpcdiff.maps.layout import CATALOG, FORMAT, NUMBERS, VERSION, catalog_crc, intact, runs
from hpcdiff.maps.sound import interpreting, refuse_hollow
from hpcdiff.maps.splits import PARTS
from hpcdiff.plain import NotPlain, read_json
from hpcdiff.scout import refuse_crashing
from hpcdiff.versions import refuse_version


@contextlib.contextmanager
def open_hdf5(path: str | Path, what: str = "file", **options) -> Iterator[h5py.File]:
    """Open an HDF5 file to read; a missing, empty, truncated or foreign one, a folder, one that may not be read, or over which HDF5
    crashes, is a UserError.

    So is what h5py says of its content while it is open; an error of our own code in between is none of the file's.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise UserError(f"the {what} is not there", path, "run the stage that writes it, or name another")
        refuse_crashing(path, what)
        f = h5py.File(path, "r", **options)
    except OSError as error:
        if error.errno:
            hint = {
                errno.ENOLCK: NO_LOCKS,
                errno.EOPNOTSUPP: NO_LOCKS,
                errno.EISDIR: "name the file",
                errno.EACCES: "mend its permissions",
                errno.EPERM: "mend its permissions",
            }
            how = hint.get(error.errno, "try again, or look to the file system")
            raise UserError(f"the {what} cannot be opened ({brief(error)})", path, how) from None
        raise UserError(f"the {what} is not a whole HDF5 file ({brief(error)})", path, "make it again") from None
    with f:
        try:
            yield f
        except (LookupError, RuntimeError, OSError, TypeError, ValueError, AttributeError) as error:
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


def _written(path: Path) -> tuple[int, int] | None:
    """Which file it is, and when it was last written to; None if it is not there."""
    with contextlib.suppress(OSError):
        about = path.stat()
        return about.st_ino, about.st_mtime_ns
    return None


def refuse_damaged_catalog(f: h5py.File, path: Path, how: str) -> None:
    """Raise a UserError if the catalogue is not as it was written; a file without the root attribute `crc32` is not checked."""
    stored = f.attrs.get("crc32")
    if stored is not None and int(stored) != catalog_crc(f["catalog"]):
        raise UserError("the catalogue differs from its checksum", path, how)


def _fingerprint(checksum: np.ndarray) -> str:
    return f"{zlib.crc32(checksum.astype('<u4').tobytes()):08x}"


def has_format(f: h5py.File, name: str) -> bool:
    """Whether the root attribute `format` is this text; an array of one is, too."""
    found = np.ravel(f.attrs.get("format", ""))
    return len(found) == 1 and isinstance(found[0], str) and str(found[0]) == name


def _refuse_odd_columns(catalog: dict[str, np.ndarray], n: int, path: Path) -> None:
    """Raise a UserError for a column of other types or shapes than the format says; 32-bit numbers are numbers too."""
    for name, (kind, shape) in {**CATALOG, "checksum": ("<u4", ())}.items():
        column = catalog[name]
        if column.shape != (n, *shape) or column.dtype.kind not in ("iu" if np.dtype(kind).kind in "iu" else "iuf"):
            raise UserError(
                f"/catalog/{name} is {column.dtype} of shape {column.shape}, not {np.dtype(kind)} {(n, *shape)}", path, "make it again"
            )
    for name, column in catalog.items():  # the halo catalogue's further columns
        if column.shape[:1] != (n,):
            raise UserError(f"/catalog/{name} has shape {column.shape} for {n} views", path, "make it again")


def _attributes(of: h5py.HLObject, path: Path) -> dict[str, object]:
    """Attributes with numbers as Python's own.

    Raises:
        UserError: one of `NUMBERS` is anything else than one finite number.
    """
    out = {k: v.item() if isinstance(v, np.generic) else v for k, v in of.attrs.items()}
    for name in out.keys() & set(NUMBERS):
        found = np.ravel(out[name])
        if len(found) != 1 or found.dtype.kind not in "iuf" or not np.isfinite(found[0]):
            raise UserError(f"the attribute {name} of {of.name} is not one finite number", path, "make it again")
        out[name] = found[0].item()
    return out


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
        self._written = _written(self.path)
        with interpreting(self.path, "map file"), open_hdf5(self.path, "map file") as f:
            if not has_format(f, FORMAT):
                raise UserError("not a map file", self.path, f"its root attribute `format` should be {FORMAT!r}")
            refuse_version("map file", f.attrs.get("version"), VERSION, self.path, "make it again (project --overwrite)")
            for data in [*f["catalog"].values(), *f["fields"].values()]:
                refuse_hollow(data, self.path)
            refuse_damaged_catalog(f, self.path, "make it again (or, after a change of your own, remove its root attribute crc32)")
            self.attributes = _attributes(f, self.path)
            self.npix = int(f.attrs["npix"])
            self.catalog = {name: f["catalog"][name][:] for name in dict.fromkeys((*CATALOG, "checksum", *f["catalog"]))}
            self.fields = sorted(f["fields"])
            self.n_views = len(self.catalog["halo_id"])
            _refuse_odd_columns(self.catalog, self.n_views, self.path)
            self.field_attributes = {name: _attributes(f["fields"][name], self.path) for name in self.fields}
            for name in self.fields:
                data = f["fields"][name]
                if data.shape != (self.n_views, self.npix, self.npix) or data.dtype.kind != "f":
                    raise UserError(f"/fields/{name} is {data.dtype} of shape {data.shape}", self.path, "make it again")
        self.units = {name: str(a.get("units", "")) for name, a in self.field_attributes.items()}
        self.fingerprint = _fingerprint(self.catalog["checksum"])

    @property
    def provenance(self) -> dict:
        """What its root attribute says of where it comes from; {} where another program left something else."""
        with contextlib.suppress(NotPlain):
            said = read_json(str(self.attributes.get("provenance") or "{}"))
            return said if isinstance(said, dict) else {}
        return {}

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
        self.refuse_replaced()
        out = np.empty((len(rows), self.npix, self.npix), np.float32)
        with open_hdf5(self.path, "map file") as f:
            data = f["fields"][field]
            for start, stop in runs(rows, len(rows)):
                data.read_direct(out, np.s_[rows[start] : rows[stop - 1] + 1], np.s_[start:stop])
        if not np.isfinite(out).all():
            bad = rows[~np.isfinite(out).all(axis=(1, 2))][0]
            raise UserError(f"/fields/{field} has values that are not finite (view {bad})", self.path, "make it again")
        return out

    def refuse_replaced(self) -> None:
        """Raise a UserError if the file is another since it was opened: maps of two runs would be mixed."""
        now = _written(self.path)
        if now is None or now == self._written:
            return
        with open_hdf5(self.path, "map file") as f:  # a `touch` against a purge changes nothing
            if _fingerprint(f["catalog/checksum"][:]) != self.fingerprint:
                raise UserError("the map file was replaced while it was read", self.path, "run this stage again")
        self._written = now

    def verify(self, rows: np.ndarray) -> np.ndarray:
        """Which of `rows` have maps that differ from their checksum, int64 (n_bad,)."""
        rows = np.asarray(rows, np.int64)
        with open_hdf5(self.path, "map file") as f:
            return rows[~intact(f, rows, self.catalog["checksum"][rows])]

    def refuse_damaged(self, rows: np.ndarray) -> None:
        """Raise a UserError if one of `rows` has maps that differ from their checksum: nothing may be made from them."""
        if len(bad := self.verify(rows)):
            what = f"{len(bad)} views differ from their checksum (first {bad[0]})"
            raise UserError(what, self.path, f"python -m hpcdiff.maps clear {self.path}, and project again")
