"""The package's own halo catalogues: HDF5 (format hpcdiff-halos), or CSV with the same columns."""

from __future__ import annotations

import contextlib
import csv
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from hpcdiff.errors import UserError, nearest
from hpcdiff.maps import open_hdf5, refuse_hollow
from hpcdiff.snapshot.catalogues.table import Request, Table

IDS = ("halo_id", "group")
LENGTHS_AND_MASSES = ("x", "y", "z", "mass_200m", "radius_200m", "mass_200c", "radius_200c", "mass_500c", "radius_500c")
NUMBERS = (*IDS, *LENGTHS_AND_MASSES)
"""Columns that are used: one number a halo."""
NAMES = "its columns: halo_id,x,y,z,mass_200m,radius_200m"


def read_hdf5(path: Path, request: Request) -> Table:
    """Every dataset of the root with a row a halo.

    Raises:
        UserError: missing or damaged file; see `_table`.
    """
    with open_hdf5(path, "halo catalogue") as f:
        found = {name: data for name, data in f.items() if isinstance(data, h5py.Dataset) and data.shape}
        for data in found.values():
            refuse_hollow(data, path)
        columns = {name: data[:] for name, data in found.items()}
    return _table(columns, path, request)


def read_csv(path: Path, request: Request) -> Table:
    """Every column of numbers; the first line names them.

    Raises:
        UserError: missing, empty or damaged file; see `_table`.
    """
    if not path.exists():
        raise UserError("the halo catalogue is not there", path, "run simulate, or set project.halos")
    try:
        with open(path, newline="", encoding="utf-8-sig") as f:
            numbered = [(k, line.strip()) for k, line in enumerate(f, 1)]
        rows = [(k, _words(line)) for k, line in numbered if line and not line.startswith("#")]
    except (UnicodeDecodeError, csv.Error):
        raise UserError("the halo catalogue is not a CSV text", path, NAMES) from None
    if not rows:
        raise UserError("the halo catalogue is empty", path, _hint([], numbered) or NAMES)
    names, rows = rows[0][1], rows[1:]
    if "halo_id" not in names and (hint := _hint(names, numbered)):
        raise UserError("the halo catalogue's first line does not name columns, with commas between them", path, hint)
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise UserError(f"the halo catalogue has two columns {twice[0]!r}", path, "leave one out")
    for k, words in rows:
        if len(words) != len(names):
            raise UserError(f"the halo catalogue has a row with {len(words)} columns, not {len(names)}", f"{path} line {k}", "mend it")
    columns, lines = {}, []
    for i, name in enumerate(names):
        if not name:
            lines.append("a column of the halo catalogue has no name (an index that was written along?) and is left out")
            continue
        try:
            columns[name] = _numbers([words[i] for _, words in rows], name in IDS)
        except ValueError:
            if name in NUMBERS:
                where = f"{path} line {next((k for k, words in rows if not _is_number(words[i])), rows[0][0])}"
                raise UserError(f"column {name!r} of the halo catalogue has text that is no number", where, "mend it") from None
            lines.append(f"column {name!r} of the halo catalogue is no numbers and is left out")
    table = _table(columns, path, request)
    return replace(table, dropped=[*lines, *table.dropped])


def _words(line: str) -> list[str]:
    return [word.strip() for word in next(csv.reader([line]), [])]


def _numbers(words: list[str], whole: bool) -> np.ndarray:
    """float64 (n,), or int64 where they are whole as they are written; `1.0` is whole too, and what is not is refused later."""
    if whole:
        with contextlib.suppress(ValueError, OverflowError):
            return np.array([int(word) for word in words], np.int64)
    return np.array(words, np.float64)


def _is_number(word: str) -> bool:
    with contextlib.suppress(ValueError):
        float(word)
        return True
    return False


def _hint(names: list[str], numbered: list[tuple[int, str]]) -> str:
    """What may be amiss with the line that should name the columns; empty if nothing is known."""
    commented = next((k for k, line in numbered if line.startswith("#") and "halo_id" in _words(line[1:])), None)
    if commented is not None:
        return f"take the # from line {commented}"
    if len(names) == 1 and (mark := next((m for m in ";\t|" if m in names[0]), " " if " " in names[0] else None)):
        return f"put commas where there is {mark!r}"
    return ""


def _table(columns: dict[str, np.ndarray], path: Path, request: Request) -> Table:
    """Positions as one column, and the halos of the mass range.

    Raises:
        UserError: no halo_id, position, or neither mass nor radius; columns of different lengths; no halo; a mass not above 0;
            a column that should be numbers is none.
    """
    for name in (name for name in (*NUMBERS, "position") if name in columns):
        column = columns[name]
        if column.dtype.kind not in "iuf":
            raise UserError(f"column {name!r} of the halo catalogue is of type {column.dtype}", path, "give it as numbers")
        if column.ndim != (2 if name == "position" else 1):
            how = "it should be (n, 3)" if name == "position" else "give one number a halo"
            raise UserError(f"column {name!r} of the halo catalogue has shape {column.shape}", path, how)
    if len({len(column) for column in columns.values()}) > 1:
        raise UserError("the halo catalogue's columns have different lengths", path, "make it again")
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
    if columns["position"].shape != (n, 3):
        raise UserError(f"column 'position' of the halo catalogue has shape {columns['position'].shape}", path, "it should be (n, 3)")
    for name in ("mass_200m", "radius_200m"):
        bad = columns[name] <= 0 if name in columns else np.zeros(n, bool)
        if bad.any():
            raise UserError(f"{name} of the halo catalogue is not above 0", path, f"check its halo {columns['halo_id'][np.argmax(bad)]}")
    if "mass_200m" not in columns:
        columns["mass_200m"] = request.background.mass(columns["radius_200m"])
    rows = request.rows(np.asarray(columns["mass_200m"], np.float64))
    return Table({name: np.asarray(column)[rows] for name, column in columns.items()})
