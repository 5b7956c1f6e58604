"""The views that train and validate, from one map file or several that belong together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpcdiff.config import Config
from hpcdiff.errors import UserError
from hpcdiff.maps import MapFile
from hpcdiff.train.data.order import subset

VALIDATION_VIEWS = 256
"""Most validation views that are looked at, evenly spread over those there are."""


@dataclass
class Views:
    """Views numbered one after another: first those that train, file after file, then those that validate.

    Attributes:
        files: the map files.
        file, row: of each view, its file's number and its row there; int64 (n,).
        sizes: training views of each file.
    """

    files: list[MapFile]
    file: np.ndarray
    row: np.ndarray
    sizes: list[int]

    @property
    def n_train(self) -> int:
        """Training views; the numbers from there on validate."""
        return sum(self.sizes)

    def __len__(self) -> int:
        return len(self.row)


def open_files(config: Config) -> list[MapFile]:
    """The map files of `run.maps`.

    Raises:
        UserError: one is missing, unfinished or damaged, lacks a field of the task, or differs from the first in the number or size
            of its pixels or in units.
    """
    files = [MapFile(path) for path in config.map_paths()]
    first = files[0]
    for maps in files:
        maps.require(config.task.inputs, "task.inputs")
        maps.require(config.task.outputs, "task.outputs")
        _refuse(first, maps, "npix", first.npix, maps.npix)
        a, b = first.attributes.get("pixel_mpc"), maps.attributes.get("pixel_mpc")
        if (a is None) != (b is None) or (a is not None and abs(b / a - 1) > 1e-6):
            _refuse(first, maps, "pixel_mpc", a, b)
        for field in (*config.task.inputs, *config.task.outputs):
            _refuse(first, maps, f"the units of {field}", first.units[field], maps.units[field])
    return files


def _refuse(first: MapFile, other: MapFile, what: str, a: object, b: object) -> None:
    if a != b:
        raise UserError(f"{what} is {a} in {first.path} and {b} in {other.path}", "run.maps", "train on maps of one kind")


def choose(files: list[MapFile], config: Config, ranks: int) -> Views:
    """The views that this run uses: `train.subset` of each file's training halos, and at most 256 validation views.

    Raises:
        UserError: a part of the split is empty, or there are more ranks than training views.
    """
    rows = []
    for maps in files:
        mine = maps.rows("train")
        if not len(mine):
            raise UserError("the train part of the split is empty", maps.path, "project again with another project.split")
        rows.append(mine[subset(maps.catalog["halo_id"][mine], config.train.subset)])
    sizes = [len(r) for r in rows]
    if ranks > sum(sizes):
        raise UserError(f"{ranks} ranks for {sum(sizes)} training views", files[0].path, "take fewer ranks or more views")
    held = [(f, row) for f, maps in enumerate(files) for row in maps.rows("val").tolist()]
    if not held:
        raise UserError("the val part of the split is empty", files[0].path, "project again with another project.split")
    held = np.array([held[k] for k in np.linspace(0, len(held) - 1, min(len(held), VALIDATION_VIEWS)).astype(int)])
    file = np.concatenate([np.repeat(np.arange(len(files)), sizes), held[:, 0]])
    return Views(files, file, np.concatenate([*rows, held[:, 1]]), sizes)
