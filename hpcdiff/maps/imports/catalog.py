"""From the table of views to the columns of a map file's catalogue."""

from __future__ import annotations

import numpy as np

from hpcdiff.errors import UserError
from hpcdiff.maps.imports.spec import Import
from hpcdiff.maps.imports.table import COLUMNS, Table
from hpcdiff.maps.splits import deal

PER_HALO = ("mass_200m", "radius_200m", "group", "split", "position")
"""What all views of a halo share."""


def build_catalog(spec: Import, table: Table, npix: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns of `/catalog` but the checksum, and which image each row is, int64 (N,).

    Rows are ordered by (halo_id, sightline_index, axis). What nobody knows is NaN: how the images lie in the box (`frame`),
    and, unless the table says them, `sightline`, `position`, `depth_mpc`. Without a column `axis` a view's line of sight is the
    z axis of a frame of its own.

    Args:
        spec: the import's keys.
        table: the views, in the order of the images.
        npix: pixels a side, to turn pixel sizes into widths.
    Raises:
        UserError: something is missing, contradicts itself, or stands twice.
    """
    n = len(table)
    columns = {name: table.column(name) for name in COLUMNS if name in table}
    for name in ("mass_200m", "radius_200m", "width_mpc", "depth_mpc"):
        if name in columns and (bad := columns[name] <= 0).any():
            row = int(np.argmax(bad))
            raise UserError(f"{name} is {table.texts[name][row]}", table.at(row), "it must be above 0")
    redshift = _said(spec, columns, "redshift", n)
    if redshift is None:
        raise UserError("the key 'redshift' is missing", spec.where, "give it, or a column redshift; nothing is guessed")
    width = _said(spec, columns, "width_mpc", n)
    if width is not None and spec.pixel_mpc is not None:
        raise UserError("pixel_mpc is given, and the catalogue has a column width_mpc", spec.where, "one of them says it all")
    if width is None and spec.pixel_mpc is None:
        raise UserError("the key 'pixel_mpc' is missing", spec.where, "give it, or width_mpc; nothing is guessed")
    depth = _said(spec, columns, "depth_mpc", n)
    halo = columns["halo_id"]
    out = {
        "halo_id": halo,
        "mass_200m": columns["mass_200m"],
        "radius_200m": columns.get("radius_200m", _radii(spec, columns["mass_200m"], redshift)),
        "sightline": _sightlines(columns, table),
        "sightline_index": columns.get("sightline_index", np.zeros(n, np.int64)),
        "axis": columns.get("axis", np.full(n, 2)).astype(np.int8),
        "frame": np.full((n, 3, 3), np.nan),
        "width_mpc": np.full(n, npix * spec.pixel_mpc) if width is None else width,
        "depth_mpc": np.full(n, np.nan) if depth is None else depth,
        "redshift": redshift,
        "position": _vectors(columns, ("x", "y", "z"), table),
        "group": columns.get("group", halo),
    }
    out["split"] = _split(spec, columns, out).astype(np.int8)
    order = np.lexsort((out["axis"], out["sightline_index"], halo))
    _refuse_twice(out, order, table)
    _refuse_differing(out, table)
    return {name: column[order] for name, column in {**out, **table.further()}.items()}, order


def _said(spec: Import, columns: dict, name: str, n: int) -> np.ndarray | None:
    """A number for each view from its column, or from the key that holds for all; None where neither says it."""
    value = getattr(spec, name)
    if name in columns and value is not None:
        raise UserError(f"{name} is given, and the catalogue has a column of that name", spec.where, "one of them says it all")
    return columns.get(name) if value is None else np.full(n, value)


def _radii(spec: Import, mass: np.ndarray, redshift: np.ndarray) -> np.ndarray:
    """R200m of each view, physical Mpc."""
    return np.array([spec.background.radius(m, z=z) for m, z in zip(mass, redshift, strict=True)])


def _vectors(columns: dict, names: tuple[str, str, str], table: Table) -> np.ndarray:
    there = [name for name in names if name in columns]
    if not there:
        return np.full((len(table), 3), np.nan)
    if len(there) < 3:
        raise UserError(f"the catalogue has {', '.join(there)} alone", table.path, f"give all of {', '.join(names)}, or none")
    return np.stack([columns[name] for name in names], axis=-1)


def _sightlines(columns: dict, table: Table) -> np.ndarray:
    """Unit vectors, or NaN."""
    vectors = _vectors(columns, ("sightline_x", "sightline_y", "sightline_z"), table)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    if (bad := abs(length[:, 0] - 1) > 1e-3).any():
        row = int(np.argmax(bad))
        raise UserError(f"the sightline has length {length[row, 0]:.6g}", table.at(row), "give unit vectors")
    return vectors / length


def _split(spec: Import, columns: dict, out: dict) -> np.ndarray:
    """The table's own parts, or those that the hash deals."""
    if "split" not in columns:
        return deal(out["halo_id" if spec.split.by == "halo" else "group"], spec.split, "split")
    if said := sorted(key for key in spec.given if key.startswith("split.")):
        raise UserError(f"{said[0]} is given, and the catalogue has a column split", spec.where, "one of them says it all")
    pairs = np.unique(np.stack([out["group"], columns["split"]]), axis=1)
    if (twice := pairs[0, 1:][pairs[0, 1:] == pairs[0, :-1]]).size:
        raise UserError(f"group {twice[0]} stands in two parts of the split", spec.catalog, "keep what belongs together in one part")
    return columns["split"]


def _refuse_twice(out: dict, order: np.ndarray, table: Table) -> None:
    keys = np.stack([out[name][order].astype(np.int64) for name in ("halo_id", "sightline_index", "axis")], axis=-1)
    same = np.flatnonzero((keys[1:] == keys[:-1]).all(axis=1))
    if len(same):
        a, b = sorted(order[same[0] : same[0] + 2])
        what = f"halo {out['halo_id'][a]} is seen twice along one line of sight (lines {table.lines[a]} and {table.lines[b]})"
        missing = [name for name in ("sightline_index", "axis") if name not in table]
        how = f"tell them apart by a column {' or '.join(missing)}" if missing else "leave one out"
        raise UserError(what, table.path, how)


def _refuse_differing(out: dict, table: Table) -> None:
    """All views of one halo must agree about it."""
    _, first, halo = np.unique(out["halo_id"], return_index=True, return_inverse=True)
    for name in PER_HALO:
        values = out[name].reshape(len(table), -1)
        other = values[first][halo]
        if (bad := ((values != other) & ~(np.isnan(values) & np.isnan(other))).any(axis=1)).any():
            row = int(np.argmax(bad))
            how = f"line {table.lines[first[halo[row]]]} has another; halos that differ need ids that differ"
            raise UserError(f"halo {out['halo_id'][row]} has two values of {name}", table.at(row), how)
