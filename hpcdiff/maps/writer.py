"""Writing a map file from all ranks together."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from hpcdiff import checked, files
from hpcdiff.errors import UserError
from hpcdiff.maps.layout import CATALOG, FORMAT, VERSION, catalog_crc, intact, view_checksum
from hpcdiff.maps.parallel import open_parallel
from hpcdiff.maps.reader import brief, open_hdf5, refuse_damaged_catalog
from hpcdiff.maps.sound import interpreting, refuse_hollow, refuse_leading_out
from hpcdiff.maps.structure import layout_faults
from hpcdiff.plain import read_yaml
from hpcdiff.strict import refuse_difference
from hpcdiff.versions import refuse_version
from hpcdiff.world import World

CALL_BYTES = 2**31 - 1
"""Most bytes of one collective write a rank: MPI counts in 32 bits."""
RUNS = 1000
"""Most runs of rows of one HDF5 call: selecting more takes more than quadratic time."""


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
        stage: what writes it, for messages.
    Raises:
        UserError: several ranks without parallel HDF5; an unwritable or too small disk.
    """

    def __init__(
        self, path: Path, world: World, catalog: dict, fields: dict[str, dict], npix: int, attributes: dict, stage: str = "project"
    ) -> None:
        self.stage = stage
        self.path, self.partial, self.world = Path(path), Path(f"{path}.partial"), world
        self.fields, self.npix, self.n = sorted(fields), npix, len(catalog["halo_id"])
        if world.size > 1 and not h5py.get_config().mpi:
            raise UserError(f"h5py has no parallel HDF5, so {world.size} ranks cannot write", path, "one rank works; or bash jobs/env.sh")
        with world.together():
            if world.main:
                self._allocate(catalog, fields, attributes)
        with world.together():
            try:
                self.file = open_parallel(self.partial, world.comm) if world.size > 1 else h5py.File(self.partial, "r+")
            except OSError as error:
                raise UserError(f"cannot open it to write ({brief(error)})", self.partial, f"{self.stage} --overwrite") from None
        self.done = self._verify()

    def _allocate(self, catalog: dict, fields: dict[str, dict], attributes: dict) -> None:
        if self.partial.exists():
            again = f"{self.stage} --overwrite"
            with interpreting(self.partial, "unfinished map file"), open_hdf5(self.partial, "unfinished map file") as f:
                refuse_leading_out(f, self.partial, again)
                if (fault := next(layout_faults(f), None)) is not None:
                    raise UserError(f"the unfinished map file's layout is damaged: {fault}", self.partial, again)
                refuse_version("unfinished map file", f.attrs.get("version"), VERSION, self.partial, f"{self.stage} --overwrite")
                old, new = ({k: read_yaml(str(a.get(k, "{}"))) for k in ("config", "inputs")} for a in (f.attrs, attributes))
                for data in [*f["catalog"].values(), *f["fields"].values()]:
                    refuse_hollow(data, self.partial)
                refuse_damaged_catalog(f, self.partial, f"{self.stage} --overwrite")
                same = old == new and sorted(f["fields"]) == self.fields
                same = same and all(np.array_equal(f["catalog"][k][:], catalog[k], equal_nan=True) for k in CATALOG)
                begun = f["catalog/checksum"][:].any()
            if same:
                return
            if begun:  # one without a single view is no loss
                if isinstance(old["config"], dict):  # another program may have written anything
                    refuse_difference(old["config"], new["config"], self.partial, self.stage)
                refuse_difference(old, new, self.partial, self.stage)
                raise UserError("an unfinished map file has another catalogue", self.partial, f"{self.stage} --overwrite")
        size = self.n * self.npix**2 * 4 * len(fields)
        free = files.free_bytes(self.partial)
        if size * 1.001 + 2**20 > free:
            raise UserError(f"the maps need {size / 1e9:.3g} GB and {free / 1e9:.3g} GB are free", self.partial, "free some space")
        temporary = self.partial.with_name(self.partial.name + ".tmp")
        # the headers of this version have checksums; those of 1.10 would have to be cleared (h5clear) when their writer is killed
        with checked.closing(h5py.File(temporary, "w", libver="v108", alignment_threshold=2**16, alignment_interval=2**20)) as f:
            f.attrs.update({"format": FORMAT, "version": VERSION, "npix": self.npix, **attributes})
            columns = {**{k: (t, s, catalog[k]) for k, (t, s) in CATALOG.items()}, "checksum": ("<u4", (), np.zeros(self.n))}
            for name in sorted(set(catalog) - set(columns)):  # the halo catalogue's further columns
                columns[name] = ("<i8" if catalog[name].dtype.kind in "iub" else "<f8", catalog[name].shape[1:], catalog[name])
            for name, (kind, shape, value) in columns.items():
                _contiguous(f, f"catalog/{name}", (self.n, *shape), kind)[...] = value
            for name in self.fields:
                _contiguous(f, f"fields/{name}", (self.n, self.npix, self.npix), "<f4").attrs.update(fields[name])
            # of what should be there: of writes that fail while HDF5 closes a dataset nobody learns
            f.attrs["crc32"] = catalog_crc({k: np.broadcast_to(np.asarray(v, t), (self.n, *s)) for k, (t, s, v) in columns.items()})
        files.sync(temporary)
        with open_hdf5(temporary, "unfinished map file") as f:
            refuse_damaged_catalog(f, temporary, "look to the file system, then run the same command again")
        os.replace(temporary, self.partial)

    def _verify(self, everything: bool = False) -> np.ndarray:
        """Recompute the checksums, each rank a share of the rows; bool (N,) on every rank. Rows that were never written
        are passed over, unless `everything` is asked for: a view's own checksum may be 0."""
        stored = self.file["catalog/checksum"][:]
        mine = np.arange(self.n * self.world.rank // self.world.size, self.n * (self.world.rank + 1) // self.world.size)
        mine = mine if everything else mine[stored[mine] != 0]
        good = mine[intact(self.file, mine, stored[mine])]
        done = np.zeros(self.n, bool)
        done[[row for part in self.world.allgather(good.tolist()) for row in part]] = True
        return done

    def write(self, start: int, maps: dict[str, np.ndarray] | None) -> None:
        """One collective round: this rank's maps {field: float32 (n, npix, npix)} into rows start..start+n, or None."""
        self.write_many([] if maps is None else [(start, maps)])

    def write_many(self, blocks: list[tuple[int, dict[str, np.ndarray]]]) -> None:
        """One collective round: this rank's runs of rows, each its first row and maps {field: float32 (n, npix, npix)}.

        Every rank takes part, also one with no blocks; no two ranks bring the same row. A field is one HDF5 call below
        `CALL_BYTES`, or as many as the rank with the most rows needs.

        Raises:
            UserError: the disk is full.
        """
        blocks = sorted(blocks, key=lambda block: block[0])
        starts, counts = [start for start, _ in blocks], [len(maps[self.fields[0]]) for _, maps in blocks]
        ends = [start + n for start, n in zip(starts, counts, strict=True)]
        assert all(a <= b for a, b in zip([0, *ends], [*starts, self.n], strict=True)), "runs of rows overlap or lie outside the file"
        most = max(1, CALL_BYTES // (4 * self.npix**2))
        pieces = _pieces(counts, most)
        for k in range(max(self.world.allgather(len(pieces)))):
            self._write_piece(blocks, pieces[k] if k < len(pieces) else [])

    def _write_piece(self, blocks: list, piece: list[tuple[int, int, int]]) -> None:
        """One HDF5 call a field: rows `first`..`last` of the blocks of this piece."""
        where = [(blocks[b][0] + first, last - first) for b, first, last in piece]
        parts = [{name: blocks[b][1][name][first:last] for name in self.fields} for b, first, last in piece]
        crc = [view_checksum({name: part[name][i] for name in self.fields}) for part in parts for i in range(len(part[self.fields[0]]))]
        failed = None
        for name in (*self.fields, "checksum"):
            if name == "checksum":
                data, rows = self.file["catalog/checksum"], np.array(crc, "<u4")
            else:
                data, rows = self.file["fields"][name], _joined([part[name] for part in parts], self.npix)
            try:
                self._write_rows(data, where, rows)
            except OSError as error:  # a full disk: go on to the calls in which the other ranks wait
                failed = failed or error
        with self.world.together():
            if failed:
                raise failed

    def _write_rows(self, dataset: h5py.Dataset, where: list[tuple[int, int]], rows: np.ndarray) -> None:
        """Collectively write `rows` to the runs (first row, number), in file order."""
        assert rows.nbytes <= CALL_BYTES, "one collective write must stay below 2 GiB"
        space = dataset.id.get_space()
        if len(rows):
            for k, (start, n) in enumerate(where):
                how = h5py.h5s.SELECT_OR if k else h5py.h5s.SELECT_SET
                space.select_hyperslab((start, *[0] * (rows.ndim - 1)), (1,) * rows.ndim, block=(n, *rows.shape[1:]), op=how)
            memory = h5py.h5s.create_simple(rows.shape)
        else:  # h5py's slicing skips the call for an empty selection, and the other ranks would wait for ever
            space.select_none()
            memory = h5py.h5s.create_simple((1,) * rows.ndim)
            memory.select_none()
            rows = np.zeros((1,) * rows.ndim, rows.dtype)
        transfer = h5py.h5p.create(h5py.h5p.DATASET_XFER)
        if self.world.size > 1:
            transfer.set_dxpl_mpio(h5py.h5fd.MPIO_COLLECTIVE)
        dataset.id.write(memory, space, rows, dxpl=transfer)

    def close(self) -> None:
        """Leave the file unfinished under its partial name, for the next run. Collective."""
        with contextlib.suppress(UserError):  # what failed before is what is said; the next run checks what has reached the disk
            self._collectively(self.file.flush)
            self._collectively(self.file.close)

    def _collectively(self, call: Callable[[], None]) -> None:
        """Flush or close the file on all ranks; where one fails, all abandon it: another try of one alone would wait for the others."""
        try:
            with self.world.together():
                call()
        except UserError as error:
            checked.abandon(self.file, error)
            raise

    def finish(self) -> None:
        """Check that every view is complete, and give the file its final name.

        Raises:
            UserError: a view's maps on disk are not those that were written.
        """
        self._collectively(self.file.flush)
        done = self._verify(everything=True)
        self._collectively(self.file.close)
        if not done.all():
            raise UserError(
                f"{(~done).sum()} views did not reach the disk (first {int(np.argmin(done))})", self.partial, f"run {self.stage} again"
            )
        with self.world.together():
            if self.world.main:
                files.sync(self.partial)
                os.replace(self.partial, self.path)
                files.sync(self.path.parent)
        self.world.barrier()


def _pieces(counts: list[int], most: int) -> list[list[tuple[int, int, int]]]:
    """Deal the rows of the blocks, in file order, to pieces of at most `most` rows and `RUNS` runs: (block, first, last) in each."""
    pieces, room = [], 0
    for block, n in enumerate(counts):
        first = 0
        while first < n:
            if not room or len(pieces[-1]) == RUNS:
                pieces.append([])
                room = most
            last = min(n, first + room)
            pieces[-1].append((block, first, last))
            first, room = last, room - (last - first)
    return pieces


def _joined(parts: list[np.ndarray], npix: int) -> np.ndarray:
    """The parts (n, npix, npix) one behind the other, float32 in C order; one part alone is not copied."""
    if len(parts) == 1:
        return np.ascontiguousarray(parts[0], "<f4")
    return np.concatenate(parts, dtype=np.float32) if parts else np.empty((0, npix, npix), np.float32)


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
