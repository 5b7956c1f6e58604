"""The map file `maps.h5` (format hpcdiff-maps): create, write collectively, read, catalogue, splits, checksums.

Layout: `/fields/<field>` float32 (N, npix, npix), `/catalog/<column>` (N, ...). A view is complete exactly when its maps
have the CRC-32 in `/catalog/checksum`, so a killed run knows what it still has to do, whatever the disk has lost.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

os.environ.setdefault("HDF5_USE_FILE_LOCKING", "BEST_EFFORT")  # scratch file systems often have no locks

import h5py
import numpy as np
import yaml

from hpcdiff import files
from hpcdiff.config import Split
from hpcdiff.errors import UserError, nearest
from hpcdiff.strict import refuse_difference
from hpcdiff.world import World

FORMAT, VERSION = "hpcdiff-maps", 1
UNITS = {
    "gas": "dimensionless",
    "dm": "dimensionless",
    "star": "dimensionless",
    "total": "dimensionless",
    "sz": "uK",
    "compton_y": "dimensionless",
    "xray": "erg/s/cm^2",
    "temperature": "keV",
}
"""Units of each field, as stored."""
CATALOG = {
    "halo_id": ("<i8", ()),
    "mass_200m": ("<f8", ()),
    "radius_200m": ("<f8", ()),
    "sightline": ("<f8", (3,)),
    "sightline_index": ("<i8", ()),
    "axis": ("i1", ()),
    "split": ("i1", ()),
    "frame": ("<f8", (3, 3)),
    "width_mpc": ("<f8", ()),
    "depth_mpc": ("<f8", ()),
    "redshift": ("<f8", ()),
    "position": ("<f8", (3,)),
    "group": ("<i8", ()),
}
"""Columns of the catalogue besides `checksum`: type and shape of a row."""
PARTS = ("train", "val", "test")
"""What 0, 1, 2 of `/catalog/split` mean."""


def view_checksum(maps: dict[str, np.ndarray]) -> int:
    """CRC-32 over one view's maps {field: (npix, npix)}: fields in alphabetical order, little-endian float32, C order."""
    crc = 0
    for field in sorted(maps):
        crc = zlib.crc32(np.ascontiguousarray(maps[field], dtype="<f4").tobytes(), crc)
    return crc


def splitmix64(x: np.ndarray) -> np.ndarray:
    """The splitmix64 mixing function on uint64 arrays (Steele et al. 2014): every input bit moves every output bit."""
    with np.errstate(over="ignore"):
        x = np.asarray(x, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def split_ids(ids: np.ndarray, split: Split) -> np.ndarray:
    """Deal ids to 0, 1, 2 = train, val, test by a hash of (split.seed, id): stable when halos are added.

    Args:
        ids: int64 (n,), halo or group ids; equal ids get equal parts.
        split: fractions and seed.
    Returns:
        int8 (n,).
    """
    seed = splitmix64(np.array([split.seed], np.uint64))
    u = splitmix64(np.asarray(ids, np.int64).view(np.uint64) ^ seed) / 2.0**64
    return np.searchsorted(np.cumsum([split.train, split.val]), u, side="right").astype(np.int8)


def deal(ids: np.ndarray, split: Split, where: object = "project.split") -> np.ndarray:
    """`split_ids`, refusing an empty part whose fraction is not zero and naming a seed that fills all.

    Raises:
        UserError: a part is empty.
    """
    wanted = [k for k, fraction in enumerate((split.train, split.val, split.test)) if fraction > 0]
    parts = split_ids(ids, split)
    empty = sorted(set(wanted) - set(parts.tolist()))
    if empty:
        others = (Split(**{**vars(split), "seed": s}) for s in range(1000))
        seed = next((s.seed for s in others if set(wanted) <= set(split_ids(ids, s).tolist())), None)
        how = f"try project.split.seed={seed}" if seed is not None else "give more halos or other fractions"
        raise UserError(f"no halo falls into the {PARTS[empty[0]]} part ({len(np.unique(ids))} in all)", where, how)
    return parts


@contextlib.contextmanager
def open_hdf5(path: str | Path, what: str = "file", **options) -> Iterator[h5py.File]:
    """Open an HDF5 file to read; a missing, empty, truncated or foreign one is a UserError in one line."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"the {what} is not there", path, "run the stage that writes it, or name another")
    try:
        f = h5py.File(path, "r", **options)
    except OSError as error:
        raise UserError(f"the {what} is not a whole HDF5 file ({_brief(error)})", path, "make it again") from None
    with f:
        try:
            yield f
        except (KeyError, RuntimeError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise UserError(f"the {what} is damaged or lacks something ({_brief(error)})", path, "make it again") from None


def _brief(error: Exception) -> str:
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
            self.catalog = {name: f["catalog"][name][:] for name in (*CATALOG, "checksum")}
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

    def read(self, field: str, rows: np.ndarray, verify: bool = False) -> np.ndarray:
        """Maps of one field, float32 (len(rows), npix, npix), in the order of `rows`.

        Raises:
            UserError: the file is damaged, or has values that are not finite.
        """
        rows = np.asarray(rows, np.int64)
        out = np.empty((len(rows), self.npix, self.npix), np.float32)
        with open_hdf5(self.path, "map file") as f:
            data = f["fields"][field]
            start = 0
            while start < len(rows):  # runs of neighbouring rows in one read each
                stop = start + 1
                while stop < len(rows) and rows[stop] == rows[stop - 1] + 1:
                    stop += 1
                data.read_direct(out, np.s_[rows[start] : rows[stop - 1] + 1], np.s_[start:stop])
                start = stop
        if not np.isfinite(out).all():
            bad = rows[~np.isfinite(out).all(axis=(1, 2))][0]
            raise UserError(f"/fields/{field} has values that are not finite (view {bad})", self.path, "make it again")
        return out

    def verify(self, rows: np.ndarray) -> np.ndarray:
        """Which of `rows` have maps that differ from their checksum, int64 (n_bad,)."""
        rows = np.asarray(rows, np.int64)
        with open_hdf5(self.path, "map file") as f:
            crc = [view_checksum({name: f["fields"][name][row] for name in self.fields}) for row in rows]
        return rows[np.array(crc, np.uint32) != self.catalog["checksum"][rows]]


class MapWriter:
    """Writes a map file from all ranks: allocated first by rank 0, filled in collective rounds, renamed when whole.

    Every rank calls each method, the same number of times. A file left by a killed run is taken up: `done` says which
    views have the maps that their checksum promises.

    Args:
        path: final name; the work goes on in `<path>.partial`.
        world: the ranks; more than one needs an h5py with parallel HDF5.
        catalog: the columns of `CATALOG`, each (N, ...); further numeric columns are carried along.
        fields: {field: its attributes}.
        npix: pixels a side.
        attributes: root attributes; `config` and `inputs` must agree with those of a file that is taken up.
    Raises:
        UserError: several ranks without parallel HDF5; an unwritable or too small disk.
    """

    def __init__(self, path: Path, world: World, catalog: dict, fields: dict[str, dict], npix: int, attributes: dict) -> None:
        self.path, self.partial, self.world = Path(path), Path(f"{path}.partial"), world
        self.fields, self.npix, self.n = sorted(fields), npix, len(catalog["halo_id"])
        if world.size > 1 and not h5py.get_config().mpi:
            raise UserError(f"h5py has no parallel HDF5, so {world.size} ranks cannot write", path, "one rank works; or bash jobs/env.sh")
        with world.together():
            if world.main:
                self._allocate(catalog, fields, attributes)
        parallel = {"driver": "mpio", "comm": world.comm} if world.size > 1 else {}
        with world.together():
            try:
                self.file = h5py.File(self.partial, "r+", **parallel)
            except OSError as error:
                raise UserError(f"cannot open it to write ({_brief(error)})", self.partial, "project --overwrite") from None
        self.done = self._verify()

    def _allocate(self, catalog: dict, fields: dict[str, dict], attributes: dict) -> None:
        if self.partial.exists():
            with open_hdf5(self.partial, "unfinished map file") as f:
                old, new = ({k: yaml.safe_load(a.get(k, "{}")) for k in ("config", "inputs")} for a in (f.attrs, attributes))
                same = old == new
                same = same and all(np.array_equal(f["catalog"][k][:], catalog[k]) for k in CATALOG)
                begun = f["catalog/checksum"][:].any()
            if same:
                return
            if begun:  # one without a single view is no loss
                if isinstance(old["config"], dict):  # another program may have written anything
                    refuse_difference(old["config"], new["config"], self.partial, "project")
                refuse_difference(old, new, self.partial, "project")
                raise UserError("an unfinished map file has another catalogue", self.partial, "project --overwrite")
        size = self.n * self.npix**2 * 4 * len(fields)
        free = files.free_bytes(self.partial)
        if size * 1.001 + 2**20 > free:
            raise UserError(f"the maps need {size / 1e9:.3g} GB and {free / 1e9:.3g} GB are free", self.partial, "free some space")
        temporary = self.partial.with_name(self.partial.name + ".tmp")
        with h5py.File(temporary, "w", alignment_threshold=2**16, alignment_interval=2**20) as f:
            f.attrs.update({"format": FORMAT, "version": VERSION, "npix": self.npix, **attributes})
            columns = {**{k: (t, s, catalog[k]) for k, (t, s) in CATALOG.items()}, "checksum": ("<u4", (), np.zeros(self.n))}
            for name in sorted(set(catalog) - set(columns)):  # the halo catalogue's further columns
                columns[name] = ("<i8" if catalog[name].dtype.kind in "iub" else "<f8", catalog[name].shape[1:], catalog[name])
            for name, (kind, shape, value) in columns.items():
                _contiguous(f, f"catalog/{name}", (self.n, *shape), kind)[...] = value
            for name in self.fields:
                _contiguous(f, f"fields/{name}", (self.n, self.npix, self.npix), "<f4").attrs.update(fields[name])
        files.sync(temporary)
        os.replace(temporary, self.partial)

    def _verify(self) -> np.ndarray:
        """Recompute the checksums, each rank a share of the rows; bool (N,) on every rank."""
        stored = self.file["catalog/checksum"][:]
        mine = np.arange(self.n * self.world.rank // self.world.size, self.n * (self.world.rank + 1) // self.world.size)
        mine = mine[stored[mine] != 0] if len(mine) else mine
        good = [int(row) for row in mine if view_checksum({name: self.file["fields"][name][row] for name in self.fields}) == stored[row]]
        done = np.zeros(self.n, bool)
        done[[row for part in self.world.allgather(good) for row in part]] = True
        return done

    def write(self, start: int, maps: dict[str, np.ndarray] | None) -> None:
        """One collective round: this rank's maps {field: float32 (n, npix, npix)} into rows start..start+n, or None."""
        n = 0 if maps is None else len(maps[self.fields[0]])
        checksums = [view_checksum({name: maps[name][i] for name in self.fields}) for i in range(n)]
        failed = None
        for name in (*self.fields, "checksum"):
            if name == "checksum":
                data, block = self.file["catalog/checksum"], np.array(checksums, "<u4")
            else:
                data = self.file["fields"][name]
                block = np.empty((0, self.npix, self.npix), "<f4") if maps is None else np.ascontiguousarray(maps[name], "<f4")
            try:
                self._write_rows(data, start, block)
            except OSError as error:  # a full disk: go on to the calls in which the other ranks wait
                failed = failed or error
        with self.world.together():
            if failed:
                raise failed

    def _write_rows(self, dataset: h5py.Dataset, start: int, block: np.ndarray) -> None:
        assert block.nbytes < 2**31, "one collective write must stay below 2 GiB"
        space = dataset.id.get_space()
        if len(block):
            space.select_hyperslab((start, *[0] * (block.ndim - 1)), block.shape)
            memory = h5py.h5s.create_simple(block.shape)
        else:  # h5py's slicing skips the call for an empty selection, and the other ranks would wait for ever
            space.select_none()
            memory = h5py.h5s.create_simple((1,) * block.ndim)
            memory.select_none()
            block = np.zeros((1,) * block.ndim, block.dtype)
        transfer = h5py.h5p.create(h5py.h5p.DATASET_XFER)
        if self.world.size > 1:
            transfer.set_dxpl_mpio(h5py.h5fd.MPIO_COLLECTIVE)
        dataset.id.write(memory, space, block, dxpl=transfer)

    def close(self) -> None:
        """Leave the file unfinished under its partial name, for the next run."""
        self.file.close()

    def finish(self) -> None:
        """Check that every view is complete, and give the file its final name.

        Raises:
            UserError: a view's maps on disk are not those that were written.
        """
        self.file.flush()
        self.world.barrier()
        done = self._verify()
        self.file.close()
        if not done.all():
            raise UserError(
                f"{(~done).sum()} views did not reach the disk (first {int(np.argmin(done))})", self.partial, "run project again"
            )
        with self.world.together():
            if self.world.main:
                files.sync(self.partial)
                os.replace(self.partial, self.path)
                files.sync(self.path.parent)
        self.world.barrier()


def _contiguous(f: h5py.File, path: str, shape: tuple, kind: str) -> h5py.Dataset:
    """A contiguous dataset whose space is allocated now and never filled."""
    create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    create.set_layout(h5py.h5d.CONTIGUOUS)
    create.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    create.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    group = f.require_group(path.rpartition("/")[0])
    name = path.rpartition("/")[2].encode()
    identifier = h5py.h5d.create(group.id, name, h5py.h5t.py_create(np.dtype(kind), logical=True), h5py.h5s.create_simple(shape), create)
    return h5py.Dataset(identifier)
