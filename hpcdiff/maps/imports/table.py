"""The catalogue of imported maps: a text table with a row a view."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcdiff.errors import UserError, nearest
from hpcdiff.maps.splits import PARTS

WHOLE = ("halo_id", "sightline_index", "group")
REAL = ("mass_200m", "radius_200m", "redshift", "width_mpc", "depth_mpc", "x", "y", "z", "sightline_x", "sightline_y", "sightline_z")
NAMED = {"axis": ("x", "y", "z"), "split": PARTS}
"""Columns of words, which may also be given as their number."""
COLUMNS = (*WHOLE, *REAL, *NAMED)


@dataclass
class Table:
    """A text table.

    Attributes:
        path: where it was read.
        texts: {column: list of N words}.
        lines: line of the file of each row, list of N.
    """

    path: Path
    texts: dict[str, list[str]]
    lines: list[int]

    def __len__(self) -> int:
        return len(self.lines)

    def __contains__(self, name: str) -> bool:
        return name in self.texts

    def at(self, row: int) -> str:
        """Where a row stands, for a message."""
        return f"{self.path} line {self.lines[row]}"

    def column(self, name: str) -> np.ndarray:
        """One of `COLUMNS` as numbers: int64 or float64 (N,), finite.

        Raises:
            UserError: a word that is no such number.
        """
        read = _whole if name in WHOLE else float if name in REAL else lambda word: _choice(word, NAMED[name])
        values = []
        for row, word in enumerate(self.texts[name]):
            try:
                values.append(read(word))
                if not np.isfinite(values[-1]):
                    raise ValueError
            except (ValueError, OverflowError):
                kind = "whole number" if name in WHOLE else "finite number" if name in REAL else " or ".join(NAMED[name])
                raise UserError(f"{name} is {word!r}", self.at(row), f"give a {kind}") from None
        return np.array(values, np.float64 if name in REAL else np.int64)

    def further(self) -> dict[str, np.ndarray]:
        """The columns besides `COLUMNS` that hold numbers alone, as int64 or float64 (N,)."""
        out = {}
        for name in (n for n in self.texts if n and n not in COLUMNS):  # an index that was written along has no name
            for kind in (np.int64, np.float64):
                try:
                    out[name] = np.array(self.texts[name]).astype(kind)
                    break
                except (ValueError, OverflowError):
                    continue
        return out


def _whole(word: str) -> int:
    """A whole number, also as 1.2e+01; float64 does not hold those above 2^53 in that form."""
    try:
        value = int(word)
    except ValueError:
        real = float(word)
        value = int(real)
        if value != real or abs(value) > 2**53:
            raise ValueError(word) from None
    if not -(2**63) <= value < 2**63:
        raise ValueError(word)
    return value


def _choice(word: str, words: tuple[str, ...]) -> int:
    return words.index(word) if word in words else range(len(words)).index(_whole(word))


def read_table(path: str | Path, columns: list[str] | dict[str, str] | None) -> Table:
    """Read a table; commas, or blanks where its first line has no comma, part the columns; lines that begin with # are passed over.

    Args:
        path: the text file.
        columns: names, if the first line has none; or {our name: the table's}.
    Raises:
        UserError: no such file, no text, no rows, rows of different lengths, a column named twice, a needed one missing.
    """
    path = Path(path)
    try:
        numbered = [(k, line.strip()) for k, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1)]
    except FileNotFoundError:
        raise UserError("the catalogue is not there", path, "name another in the key catalog") from None
    except UnicodeDecodeError:
        raise UserError("the catalogue is not a text", path, "give a CSV file") from None
    numbered = [(k, line) for k, line in numbered if line and not line.startswith("#")]
    if not numbered:
        raise UserError("the catalogue is empty", path, "give a row a view")
    comma = "," in numbered[0][1]
    try:
        rows = [(k, [w.strip() for w in next(csv.reader([line]))] if comma else line.split()) for k, line in numbered]
    except csv.Error as error:  # a word of more than 131072 letters
        raise UserError(f"the catalogue is no table ({error})", path, "give a row a view") from None
    names, rows = (columns, rows) if isinstance(columns, list) else (rows[0][1], rows[1:])
    if all(_is_number(name) for name in names):
        raise UserError("the catalogue's first line holds numbers, not names", path, "name its columns in the key columns: [halo_id, ...]")
    names = _renamed(list(names), columns, path) if isinstance(columns, dict) else list(names)
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"the catalogue has two columns {twice[0]!r}", path, "leave one out")
    if not rows:
        raise UserError("the catalogue has no rows", path, "give a row a view")
    for k, words in rows:
        if len(words) != len(names):
            raise UserError(f"{len(words)} words where {len(names)} columns are named", f"{path} line {k}", "mend it")
    table = Table(path, {name: [words[i] for _, words in rows] for i, name in enumerate(names)}, [k for k, _ in rows])
    for name in ("halo_id", "mass_200m"):
        if name not in table:
            others = [n for n in names if n not in COLUMNS]
            how = f"it has {', '.join(names)}; add it, or say which it is in the key columns"
            raise UserError(f"the catalogue has no column {name!r}{nearest(name, others)}", path, how)
    for name in names:
        if name in ("checksum", "frame", "position", "sightline") or "/" in name:
            raise UserError(f"a column cannot have the name {name!r}", path, "give it another")
    return table


def _renamed(names: list[str], ours: dict[str, str], path: Path) -> list[str]:
    for name in ours.values():
        if name not in names:
            raise UserError(f"columns names {name!r}, which the catalogue lacks{nearest(name, names)}", path, f"it has {', '.join(names)}")
    theirs = {their: our for our, their in ours.items()}
    return [theirs.get(name, name) for name in names]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
