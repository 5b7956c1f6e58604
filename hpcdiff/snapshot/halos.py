"""Halo catalogues: hpcdiff-halos HDF5, or CSV with the same columns."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError, nearest
from hpcdiff.maps import open_hdf5


@dataclass
class Halos:
    """Clusters, ordered by id.

    Attributes:
        halo_id: int64 (n,).
        position: float64 (n, 3), comoving Mpc in the box.
        mass_200m: float64 (n,), Msun.
        radius_200m: float64 (n,), comoving Mpc.
        group: int64 (n,), halos that must stay in one part of the split; `halo_id` where the catalogue has no such column.
        extra: further columns {name: (n, ...)}.
    """

    halo_id: np.ndarray
    position: np.ndarray
    mass_200m: np.ndarray
    radius_200m: np.ndarray
    group: np.ndarray
    extra: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.halo_id)

    def fingerprint(self) -> str:
        """SHA-256 of the columns that projection uses."""
        digest = hashlib.sha256()
        for column in (self.halo_id, self.position, self.mass_200m, self.radius_200m, self.group):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()


def read_halos(path: str | Path, background: Background, box: float | None = None) -> Halos:
    """Read a halo catalogue; a missing `mass_200m` or `radius_200m` is computed from the other.

    Args:
        path: HDF5 (format hpcdiff-halos) or CSV.
        background: for masses and radii (comoving: the mean density is today's).
        box: side of the box, comoving Mpc; None = not checked.
    Raises:
        UserError: missing, damaged or empty file; missing columns; ids twice; numbers not finite; a halo outside the box.
    """
    path = Path(path)
    columns = _read_csv(path) if path.suffix.lower() in (".csv", ".txt") else _read_hdf5(path)
    if "position" not in columns and all(axis in columns for axis in "xyz"):
        columns["position"] = np.stack([columns.pop(axis) for axis in "xyz"], axis=-1)
    for name in ("halo_id", "position"):
        if name not in columns:
            raise UserError(f"the halo catalogue has no column {name!r}{nearest(name, columns)}", path, "the README names the columns")
    if "mass_200m" not in columns and "radius_200m" not in columns:
        raise UserError("the halo catalogue has neither mass_200m nor radius_200m", path, "give one of them")
    n = len(columns["halo_id"])
    if n == 0:
        raise UserError("the halo catalogue is empty", path, "give at least one halo")
    if any(len(c) != n for c in columns.values()) or np.shape(columns["position"]) != (n, 3):
        raise UserError("the halo catalogue's columns have different lengths", path, "make it again")
    for name in ("position", "mass_200m", "radius_200m"):
        if name in columns and not np.isfinite(columns[name]).all():
            raise UserError(
                f"{name} of the halo catalogue is not finite", path, "check its row " + str(_first(~np.isfinite(columns[name])))
            )
    for name in ("mass_200m", "radius_200m"):
        if name in columns and not (columns[name] > 0).all():
            raise UserError(f"{name} of the halo catalogue is not above 0", path, "check its row " + str(_first(~(columns[name] > 0))))
    if "mass_200m" not in columns:
        columns["mass_200m"] = background.mass(columns["radius_200m"])
    if "radius_200m" not in columns:
        columns["radius_200m"] = background.radius(columns["mass_200m"])
    ids = _whole(columns.pop("halo_id"), "halo_id", path)
    order = np.argsort(ids, kind="stable")
    columns = {name: np.asarray(c)[order] for name, c in columns.items()}
    ids = ids[order]
    if (twice := ids[1:][ids[1:] == ids[:-1]]).size:
        raise UserError(f"halo_id {twice[0]} stands twice in the halo catalogue", path, "give every halo its own")
    position = columns.pop("position").astype(np.float64)
    if box is not None:
        outside = ((position < 0) | (position > box)).any(axis=1)
        if outside.any():
            raise UserError(
                f"halo {ids[np.argmax(outside)]} lies outside the box of {box:.6g} comoving Mpc",
                path,
                "positions are comoving Mpc, not Mpc/h or kpc",
            )
    group = _whole(columns.pop("group"), "group", path) if "group" in columns else ids.copy()
    mass, radius = (columns.pop(name).astype(np.float64) for name in ("mass_200m", "radius_200m"))
    return Halos(ids, position, mass, radius, group, columns)


def _first(bad: np.ndarray) -> int:
    return int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))


def _whole(values: np.ndarray, name: str, path: Path) -> np.ndarray:
    whole = np.asarray(values)
    if whole.dtype.kind not in "iu":
        whole = whole.astype(np.float64)
        if not (np.isfinite(whole).all() and (whole == np.rint(whole)).all()):
            raise UserError(f"{name} of the halo catalogue is not whole numbers", path, "number the halos")
    return whole.astype(np.int64)


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    import h5py

    with open_hdf5(path, "halo catalogue") as f:
        return {name: data[:] for name, data in f.items() if isinstance(data, h5py.Dataset) and data.shape}


def _read_csv(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        raise UserError("the halo catalogue is not there", path, "run simulate, or set project.halos")
    try:
        with open(path, newline="") as f:
            rows = list(csv.reader(line for line in f if line.strip() and not line.startswith("#")))
    except (UnicodeDecodeError, csv.Error):
        raise UserError("the halo catalogue is not a CSV text", path, "its columns: halo_id,x,y,z,mass_200m,radius_200m") from None
    if not rows:
        raise UserError("the halo catalogue is empty", path, "its columns: halo_id,x,y,z,mass_200m,radius_200m")
    names, rows = [name.strip() for name in rows[0]], rows[1:]
    columns = {}
    for k, name in enumerate(names):
        try:
            texts = [row[k] for row in rows]
        except IndexError:
            raise UserError("the halo catalogue has a row with too few columns", path, f"the first line names {len(names)}") from None
        try:
            columns[name] = np.array([int(t) for t in texts], np.int64) if name in ("halo_id", "group") else np.array(texts, np.float64)
        except ValueError:
            if name in ("halo_id", "group", "x", "y", "z", "mass_200m", "radius_200m"):
                raise UserError(f"column {name!r} of the halo catalogue has text that is no number", path, "mend it") from None
    return columns
