"""Rockstar's text catalogues (out_*.list) and consistent-trees' (hlist_*.list): Msun/h, comoving Mpc/h, radii in kpc/h."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from hpcdiff.errors import UserError
from hpcdiff.snapshot.catalogues.table import Request, Table, chosen
from hpcdiff.snapshot.catalogues.text import column_names, header_lines, number_after, read_columns

MASSES = {"mass_200m": ("m200b_all", "m200b"), "mass_200c": ("m200c_all", "m200c"), "mass_500c": ("m500c_all", "m500c")}
"""Columns in order of preference: `_all` counts unbound particles too, as a spherical overdensity should."""


def matches(lines: list[str]) -> bool:
    """Do these header lines belong to Rockstar?"""
    names = column_names(lines[0]) if lines else []
    return "id" in names and {"x", "y", "z", "rs"} <= set(names) and any(name in names for name in ("descid", "desc_id", "num_p"))


def read(path: Path, request: Request) -> Table:
    """The halos that are not part of a larger one (PID = -1, where the file has that column).

    Raises:
        UserError: no M200b; other units than Rockstar's; a damaged file.
    """
    lines = header_lines(path)
    if not matches(lines):
        raise UserError("not a Rockstar catalogue", path, "its first line should be #ID DescID ...; set project.catalog")
    names = column_names(lines[0])
    _check_units(lines, path)
    found = {ours: next(n for n in theirs if n in names) for ours, theirs in MASSES.items() if any(n in names for n in theirs)}
    chosen(found, "mass_200m", [name.split()[0] for name in lines[0].split() if re.match(r"(?i)m(vir|\d+[bc])", name)], path)
    more = [name for name in ("pid", "scale") if name in names]
    table = read_columns(path, names, ["id", "x", "y", "z", *found.values(), *more])
    alone = np.flatnonzero(table["pid"] == -1) if "pid" in more else np.arange(len(table["id"]))
    about = _about(lines)
    if "scale" in more and len(alone):  # consistent-trees: a column, not a comment
        about["redshift"] = 1 / float(table["scale"][0]) - 1
    h = about.get("h", request.background.h)
    rows = alone[request.rows(table[found["mass_200m"]][alone] / h)]
    columns = {"halo_id": table["id"][rows], "position": np.stack([table[axis][rows] for axis in "xyz"], axis=-1) / h}
    columns |= {ours: table[theirs][rows] / h for ours, theirs in found.items()}
    inside = len(table["id"]) - len(alone)
    dropped = [f"{inside} of the catalogue's halos are part of a larger one and are left out"] if inside else []
    if "pid" not in more:
        dropped.append("the catalogue has no column PID: halos inside larger ones are not left out (find_parents adds it)")
    strict = any("strict spherical overdensity" in line.casefold() for line in lines) or found["mass_200m"].endswith("_all")
    if not strict:
        dropped.append("M200b counts bound particles only (Rockstar's STRICT_SO_MASSES counts all)")
    return Table(columns, None, about, dropped)


def _check_units(lines: list[str], path: Path) -> None:
    for what, unit in (("Masses", r"Msun\s*/\s*h"), ("Positions", r"Mpc\s*/\s*h \(comoving\)")):
        for line in lines:
            if re.match(rf"Units: {what} in ", line) and not re.search(unit, line):
                raise UserError(f"the halo catalogue says {line!r}", path, "Msun/h and comoving Mpc/h can be read; convert it to a CSV")


def _about(lines: list[str]) -> dict[str, float]:
    h = number_after(lines, r"\bh0? =")
    box = number_after(lines, r"[Bb]ox size\s*[:=]")
    a = number_after(lines, r"^a =")
    about = {"Om0": number_after(lines, r"\bOm(?:ega_M)? ="), "h": h}
    about["redshift"] = 1 / a - 1 if a else None
    about["box"] = box / h if box and h else None  # 0 in a run without a periodic box
    return {key: value for key, value in about.items() if value is not None}
