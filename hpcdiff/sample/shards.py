"""Shards of a sampling run: one safetensors file a batch of views in `samples.partial/`, joined into samples.h5 at the end."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

import numpy as np

from hpcdiff.maps import open_hdf5  # first: it sets HDF5's locking before h5py is imported

# isort: split
import h5py
import safetensors
import safetensors.numpy
import yaml

from hpcdiff import files
from hpcdiff.errors import UserError
from hpcdiff.strict import refuse_difference

FORMAT, VERSION = "hpcdiff-samples", 1


class Shards:
    """The folder `samples.partial/` of one run.

    Args:
        folder: the folder.
        header: what the samples are made from and how ({"config": {...}, "inputs": {...}}); shards of another are refused.
        outputs: output fields.
        shape: (S, npix, npix) of one view.
    """

    def __init__(self, folder: Path, header: dict, outputs: list[str], shape: tuple[int, int, int]) -> None:
        self.folder, self.header, self.outputs, self.shape = folder, header, outputs, shape

    def open(self, exempt: tuple[str, ...]) -> None:
        """Make the folder, or check that the one that stands there is of the same run; on rank 0.

        Raises:
            UserError: it is of another config, map file or model.
        """
        path = self.folder / "run.json"
        if path.exists():
            try:
                old = json.loads(path.read_text())
                old_config, old_inputs = old["config"], old["inputs"]
            except (ValueError, KeyError, TypeError):
                raise UserError("the unfinished samples cannot be read", path, "sample --overwrite") from None
            refuse_difference(old_config, self.header["config"], self.folder, "sample", exempt)
            refuse_difference({"inputs": old_inputs}, {"inputs": self.header["inputs"]}, self.folder, "sample")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write_json(path, self.header)

    def finished(self) -> dict[int, Path]:
        """{view: shard} of the shards that are whole; files of other shapes or with a wrong checksum are removed."""
        found: dict[int, Path] = {}
        for path in sorted(self.folder.glob("part-*.safetensors")):
            try:
                views, _ = self.read(path)
            except (OSError, ValueError, KeyError, safetensors.SafetensorError):
                files.remove(path)
                continue
            found |= {int(v): path for v in views}
        return found

    def write(self, views: np.ndarray, maps: dict[str, np.ndarray]) -> None:
        """Write one batch: views int64 (n,), maps {field: float32 (n, S, npix, npix)}; the file appears when it is whole."""
        tensors = {name: np.ascontiguousarray(maps[name], np.float32) for name in self.outputs} | {
            "views": np.ascontiguousarray(views, np.int64)
        }
        data = safetensors.numpy.save(tensors, {"crc32": str(_crc(tensors))})
        files.write_atomic(self.folder / f"part-{int(views[0]):012d}.safetensors", data)

    def read(self, path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Views and maps of one shard.

        Raises:
            ValueError: it is damaged or of another shape.
        """
        with safetensors.safe_open(path, "np") as f:
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118, not a dictionary
            promised = (f.metadata() or {}).get("crc32")
        shapes_agree = all(tensors[name].shape == (len(tensors["views"]), *self.shape) for name in self.outputs)
        if not shapes_agree or str(_crc(tensors)) != promised:
            raise ValueError("damaged")
        return tensors.pop("views"), tensors

    def join(self, path: Path, views: np.ndarray, attributes: dict) -> None:
        """Join the shards of all `views`, in that order, into samples.h5, then remove them; on rank 0.

        Raises:
            UserError: a view has no whole shard, or the disk is full.
        """
        found = self.finished()
        missing = [int(v) for v in views if int(v) not in found]
        if missing:
            raise UserError(f"{len(missing)} views have no samples (first {missing[0]})", self.folder, "run sample again")
        size = len(views) * int(np.prod(self.shape)) * 4 * len(self.outputs)
        if size * 1.001 + 2**20 > (free := files.free_bytes(path)):
            raise UserError(f"the samples need {size / 1e9:.3g} GB and {free / 1e9:.3g} GB are free", path, "free some space")
        partial, row = path.with_name(path.name + ".partial"), {int(v): i for i, v in enumerate(views)}
        with h5py.File(partial, "w") as f:
            f.attrs.update({"format": FORMAT, "version": VERSION, **attributes})
            f["catalog/view"] = np.asarray(views, np.int64)
            for name in self.outputs:
                f.create_dataset(f"samples/{name}", (len(views), *self.shape), "<f4")
            for shard in sorted(set(found.values())):
                shard_views, maps = self.read(shard)
                for i, view in enumerate(shard_views):
                    for name in self.outputs:
                        f["samples"][name][row[int(view)]] = maps[name][i]
        files.sync(partial)
        os.replace(partial, path)
        files.remove(self.folder)


def _crc(tensors: dict[str, np.ndarray]) -> int:
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(np.ascontiguousarray(tensors[name]).tobytes(), crc)
    return crc


def stored_header(path: Path) -> dict | None:
    """Config and inputs of a finished samples.h5; None if another program made it and does not say.

    Raises:
        UserError: it is not a whole samples file.
    """
    with open_hdf5(path, "samples file") as f:
        if f.attrs.get("format") != FORMAT:
            raise UserError("not a samples file", path, "sample --overwrite")
        if not {"config", "inputs"} <= set(f.attrs):
            return None
        return {"config": yaml.safe_load(str(f.attrs["config"])), "inputs": json.loads(f.attrs["inputs"])}
