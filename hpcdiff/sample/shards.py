"""Shards of a sampling run: one HDF5 file a batch in `samples.partial/`, at the end the virtual dataset over them in samples.h5.

The folder gets its final name, `samples.shards/`, and samples.h5 refers to what lies in it (`hpcdiff.samples`). Nothing is copied, but where
there are more than `MOST` shards: these are joined.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hpcdiff.maps import has_format, interpreting, open_hdf5  # first: it sets HDF5's locking before h5py is imported

# isort: split
import h5py

from hpcdiff import checked, files
from hpcdiff.config import Config
from hpcdiff.errors import UserError
from hpcdiff.plain import read_json, read_yaml
from hpcdiff.samples import FORMAT, SHARD_FORMAT, VERSION, checksum, read_shard
from hpcdiff.strict import refuse_difference
from hpcdiff.versions import OtherVersion, refuse_version

MOST = 192
"""Shards of a finished run, at most. HDF5 keeps every file of a virtual dataset open that it has read from, and where it may open no more
(256 files of a process on macOS, 1024 on Linux) it shows fill values and says nothing."""


class Shards:
    """The shards of one run, unfinished.

    Args:
        run: folder of samples.h5.
        header: what the samples are made from and how ({"config": {...}, "inputs": {...}}); shards of another are refused.
        exempt: keys of the config that may differ.
        outputs: output fields. views: int64 (M,), rows of the map file, each once. shape: (S, npix, npix) of one view.
    """

    def __init__(
        self, run: Path, header: dict, exempt: tuple[str, ...], outputs: list[str], views: np.ndarray, shape: tuple[int, int, int]
    ) -> None:
        self.path, self.folder, self.final = run / "samples.h5", run / "samples.partial", run / "samples.shards"
        self.header, self.exempt, self.outputs, self.views, self.shape = header, exempt, outputs, views, shape
        kept = {section: {k: v for k, v in keys.items() if f"{section}.{k}" not in exempt} for section, keys in header["config"].items()}
        self.run_id = files.sha256_text(json.dumps([kept, header["inputs"]], sort_keys=True))[:16]

    def open(self) -> None:
        """Make the folder, or check that the one that stands there is of the same run; on rank 0.

        Raises:
            UserError: it is of another config, map file or model.
        """
        if self.final.exists() and not self.folder.exists():
            os.replace(self.final, self.folder)  # killed between the folder's last name and samples.h5, or that was removed
        path = self.folder / "run.json"
        if path.exists():
            try:
                old = read_json(path.read_text())
                refuse_change(old, self.header, self.folder, self.exempt)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise UserError("the unfinished samples cannot be read", path, "sample --overwrite") from None
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            files.write_json(path, self.header)
        for left in self.folder.glob(".part-*.tmp"):
            left.unlink()

    def finished(self) -> np.ndarray:
        """Which samples are in whole shards, bool (M, S); damaged shards are removed, to be drawn again. On rank 0.

        Raises:
            UserError: a shard of another run or version lies among them; the disk has no room for what is left.
        """
        have, place = np.zeros((len(self.views), self.shape[0]), bool), {int(v): i for i, v in enumerate(self.views)}
        for path in self._paths():
            try:
                views, numbers, crc, about = read_shard(path)
                whole = crc == int(about["crc32"]) and self._fits(path, len(views), numbers)
            except OtherVersion:
                raise
            except (UserError, KeyError, TypeError, ValueError, OverflowError):  # its crc32 is no number either
                whole = False
            if not whole:
                files.remove(path)
                continue
            if about.get("run") != self.run_id:
                raise UserError("a shard of another run (seed, maps, model or settings) lies among the samples", path, "sample --overwrite")
            if not set(views.tolist()) <= place.keys():
                raise UserError("a shard among the samples is of other views", path, "sample --overwrite")
            rows = [place[int(v)] for v in views], numbers
            if have[rows].all():  # killed while shards were joined
                files.remove(path)
            have[rows] = True
        size = int((~have).sum()) * int(np.prod(self.shape[1:])) * 4 * len(self.outputs)
        if size * 1.001 + 2**20 > (free := files.free_bytes(self.folder)):
            raise UserError(f"the samples need {size / 1e9:.3g} GB and {free / 1e9:.3g} GB are free", self.folder, "free some space")
        return have

    def _fits(self, path: Path, n: int, numbers: np.ndarray) -> bool:
        """Are a shard's fields, their shapes and its sample numbers such as this run writes?"""
        with open_hdf5(path, "shard") as f:
            shapes = {name: data.shape for name, data in f["samples"].items()}
        wanted = dict.fromkeys(self.outputs, (n, *self.shape[1:]))
        return (
            shapes == wanted
            and numbers.shape == (n,)
            and numbers.dtype.kind in "iu"
            and bool(((numbers >= 0) & (numbers < self.shape[0])).all())
        )

    def write(self, views: np.ndarray, numbers: np.ndarray, maps: dict[str, np.ndarray]) -> None:
        """Write one batch: views and sample numbers int64 (n,), maps {field: float32 (n, npix, npix)}; the file appears when it is whole."""
        self._put(self.folder / f"part-{int(views[0]):012d}-{int(numbers[0]):06d}.h5", views, numbers, maps)

    def _put(self, path: Path, views: np.ndarray, numbers: np.ndarray, maps: dict[str, np.ndarray]) -> None:
        maps = {name: np.ascontiguousarray(maps[name], "<f4") for name in self.outputs}
        temporary = self.folder / f".{path.name}.{os.getpid()}.tmp"
        try:
            with checked.create(temporary, None) as f:
                f.attrs.update({"format": SHARD_FORMAT, "version": VERSION, "run": self.run_id, "crc32": checksum(views, numbers, maps)})
                f["catalog/view"], f["catalog/sample"] = np.asarray(views, "<i8"), np.asarray(numbers, "<i8")
                for name, m in maps.items():
                    f[f"samples/{name}"] = m
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def publish(self, attributes: dict) -> None:
        """Give the folder its final name and write samples.h5 over it; on rank 0.

        Raises:
            UserError: a sample is in no shard; a shard that is to be joined with others is damaged.
        """
        self._join()
        m, s, npix = len(self.views), *self.shape[:2]
        layouts = {name: h5py.VirtualLayout((m, *self.shape), "<f4") for name in self.outputs}
        place, have, table = {int(v): i for i, v in enumerate(self.views)}, np.zeros(m * s, bool), []
        for path in self._paths():
            with open_hdf5(path, "shard") as f:
                positions = np.array([place[int(v)] for v in f["catalog/view"][:]]) * s + f["catalog/sample"][:]
                table.append((path.name, path.stat().st_size, int(f.attrs["crc32"])))
            have[positions] = True
            for name, layout in layouts.items():
                source = h5py.VirtualSource(f"{self.final.name}/{path.name}", f"samples/{name}", (len(positions), npix, npix), "<f4")
                for box, rows in boxes(positions, s):
                    layout[box] = source[rows]
        if not have.all():
            view = self.views[np.flatnonzero(~have)[0] // s]
            raise UserError(f"{(~have).sum()} samples are missing (first of view {view})", self.folder, "run sample again")
        partial = self.path.with_name(self.path.name + ".partial")
        with checked.create(partial) as f:
            f.attrs.update({"format": FORMAT, "version": VERSION, **attributes})
            checked.put(f, "catalog/view", np.asarray(self.views, np.int64))
            for name, layout in layouts.items():
                f.create_virtual_dataset(f"samples/{name}", layout, fillvalue=np.nan)
            names, sizes, crcs = zip(*table, strict=True)
            f["shards/name"] = np.array(names, h5py.string_dtype())
            checked.put(f, "shards/bytes", np.array(sizes, np.int64))
            checked.put(f, "shards/crc32", np.array(crcs, np.uint32))
        files.sync(partial)
        files.sync(self.folder)
        files.remove(self.final)
        os.replace(self.folder, self.final)
        os.replace(partial, self.path)

    def _join(self) -> None:
        """Make at most `MOST` shards by joining neighbours. Killed on the way, it leaves rows in two shards, which `finished` clears up."""
        paths = self._paths()
        each = -(-len(paths) // MOST)
        for group in (paths[i : i + each] for i in range(0, len(paths), each)) if each > 1 else ():
            parts = [self._read(path) for path in group]
            views, numbers = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
            self._put(group[0], views, numbers, {name: np.concatenate([part[2][name] for part in parts]) for name in self.outputs})
            for path in group[1:]:
                path.unlink()

    def _read(self, path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        with open_hdf5(path, "shard") as f:
            views, numbers, crc = f["catalog/view"][:], f["catalog/sample"][:], int(f.attrs["crc32"])
            maps = {name: f["samples"][name][:] for name in self.outputs}
        if checksum(views, numbers, maps) != crc:
            raise UserError("a shard differs from its checksum", path, "run sample again, which draws it again")
        return views, numbers, maps

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.h5"))


def boxes(positions: np.ndarray, samples: int) -> Iterator[tuple[tuple[slice, slice], slice]]:
    """Cut rows that lie at `positions` int64 (n,) of a flattened (M, samples) array into boxes of that array.

    Yields:
        slices (views, samples) of each box, and the slice of rows that fills it, in C order.
    """
    start = 0
    while start < len(positions):
        view, sample = divmod(int(positions[start]), samples)
        end = start + 1  # of the run of neighbours
        while end < len(positions) and positions[end] == positions[end - 1] + 1:
            end += 1
        if sample or end - start < samples:
            n = min(samples - sample, end - start)
            box = (slice(view, view + 1), slice(sample, sample + n))
        else:
            n = (end - start) // samples * samples
            box = (slice(view, view + n // samples), slice(0, samples))
        yield box, slice(start, start + n)
        start += n


def stored_header(path: Path) -> dict | None:
    """Config and inputs of a finished samples.h5; None if another program made it and does not say.

    Raises:
        UserError: it is not a whole samples file.
    """
    with interpreting(path, "samples file"), open_hdf5(path, "samples file") as f:
        if not has_format(f, FORMAT):
            raise UserError("not a samples file", path, "sample --overwrite")
        refuse_version("samples file", f.attrs.get("version"), VERSION, path, "sample --overwrite")
        if not {"config", "inputs"} <= set(f.attrs):
            return None
        return {"config": dict(read_yaml(str(f.attrs["config"]))), "inputs": dict(read_json(str(f.attrs["inputs"])))}


def refuse_change(old: dict, new: dict, where: Path, exempt: tuple[str, ...]) -> None:
    """Raise a UserError that names the difference, if these are samples of another config, map file or model.

    A key that the older file does not know had the value that is now its default.
    """
    defaults = Config().resolved(*new["config"])
    refuse_difference(_filled(old["config"], defaults), new["config"], where, "sample", exempt)
    refuse_difference({"inputs": old["inputs"]}, {"inputs": new["inputs"]}, where, "sample")


def _filled(config: dict, defaults: dict) -> dict:
    out = dict(config)
    for key, value in defaults.items():
        if key not in out:
            out[key] = value
        elif isinstance(value, dict) and isinstance(out[key], dict):
            out[key] = _filled(out[key], value)
    return out
