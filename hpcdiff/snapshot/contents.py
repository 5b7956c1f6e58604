"""Which datasets a file of a snapshot holds, and whether they fit each other and the counts in its Header."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from hpcdiff.errors import UserError
from hpcdiff.maps import open_hdf5, refuse_hollow
from hpcdiff.snapshot.dialects import DIALECTS, KINDS, Column, Dialect, columns_of

CUTOUT = ("CutoutID", "CutoutType", "CutoutRequest", "RegionExtracted")
"""Attributes of `Header` in parts of a snapshot that may have kept the whole one's counts."""
GROUP_NUMBERS = {column.name for dialect in DIALECTS.values() for column in dialect.group}
"""Datasets that may be missing behind a link."""
FEW = 8
"""Rows from which a copy of a chunk is known."""
MOST_BYTES = 1e13 * 3 * 8
"""Of a column: positions of more particles than any simulation has."""


@dataclass
class Contents:
    """The particles of one file.

    Attributes:
        counts: {kind: rows}.
        columns: {kind: {quantity: Column}} of the kinds with rows.
        others: {type: rows} of the types that are not read.
        start: {kind: (ids or None, coordinates) of the first rows}.
        behind: {file: datasets} that virtual datasets show.
    """

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    columns: dict[str, dict[str, Column]] = field(default_factory=dict)
    others: dict[int, int] = field(default_factory=dict)
    start: dict[str, tuple[list | None, list]] = field(default_factory=dict, repr=False)
    behind: dict[str, set[str]] = field(default_factory=dict, repr=False)


def cutout(header: dict) -> bool:
    """Whether a Header's attributes say that the file is a part cut out of a snapshot."""
    kind = header.get("OutputType", "")
    return any(name in header for name in CUTOUT) or "Subset" in (kind.decode() if isinstance(kind, bytes) else str(kind))


def contents_of(f: h5py.File, header: dict, dialect: Dialect, path: Path) -> Contents:
    """Look through a file's datasets; `header` holds the attributes of its Header.

    Raises:
        UserError: counts that contradict the datasets; datasets of one type with different lengths; a link to what is not there.
    """
    out = Contents()
    this = np.ravel(header.get("NumPart_ThisFile", []))
    for kind, n in KINDS.items():
        name = f"PartType{n}"
        promised = int(this[n]) if n < len(this) else None
        if f"{name}/Coordinates" in f:
            group = f[name]
            coordinates = group["Coordinates"]
            if not isinstance(coordinates, h5py.Dataset) or coordinates.dtype.kind not in "iuf" or coordinates.ndim != 2:
                raise UserError(f"{name}/Coordinates is no table of numbers", path, "three numbers a particle are needed")
            out.counts[kind] = len(coordinates)
            if out.counts[kind]:
                check_links(group, path)
                out.columns[kind] = columns = columns_of(dialect, group, kind)
                if "group" in columns and not _at_hand(group[columns["group"].name], path):
                    del columns["group"]  # it often stands in files of its own, and few need it
                data = {"Coordinates": coordinates, **{column.name: group[column.name] for column in columns.values()}}
                _agree(data, name, path)
                for values in data.values():
                    refuse_hollow(values, path, MOST_BYTES)  # it is read in slabs, and may be sparse
                _virtual(data, out.behind)
                ids = data[columns["ids"].name][:FEW].tolist() if "ids" in columns else None
                out.start[kind] = ids, coordinates[:FEW].tolist()
        elif promised and not cutout(header):
            has = f"it has {', '.join(f[name]) or 'nothing'}" if name in f else f"the file has {', '.join(f)}"
            raise UserError(
                f"the header promises {promised} particles of {name} and there is no {name}/Coordinates ({has})", path, "make it again"
            )
        if promised is not None and (out.counts[kind] - promised) % 2**32 and not cutout(header):
            what = f"the header promises {promised} particles of {name} in this file and its datasets hold {out.counts[kind]}"
            raise UserError(what, path, "the file is cut short or its header is another's; make it again")
    out.others = {n: len(f[f"PartType{n}/Coordinates"]) for n in (2, 3, 6) if f"PartType{n}/Coordinates" in f}
    return out


def check_links(group: h5py.Group, path: Path) -> None:
    """Look whether the links to particles, and in a group of particles to positions, masses and the like, lead somewhere.

    Raises:
        UserError: one does not; a `PartTypeN` is no group.
    """
    for name in group:
        if group.name == "/" and not name.startswith("PartType"):
            continue  # other names of the same, and what is not read
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink) and name not in GROUP_NUMBERS:
            try:
                group[name]
            except (KeyError, OSError):
                to = f"{link.filename} {link.path}" if isinstance(link, h5py.ExternalLink) else link.path
                what = f"{group.name.rstrip('/')}/{name} leads to {to}, which is not there"
                raise UserError(what, path, "bring it beside this file") from None
        if group.name == "/" and not isinstance(group[name], h5py.Group):
            raise UserError(f"{name} is a dataset, not a group", path, "PartTypeN/Coordinates are needed; check project.snapshot")


def _agree(data: dict[str, h5py.Dataset], name: str, path: Path) -> None:
    n, shape = len(data["Coordinates"]), data["Coordinates"].shape
    if shape != (n, 3):
        raise UserError(f"{name}/Coordinates has the shape {shape}", path, "three numbers a particle are needed")
    for column, values in data.items():
        if len(values) != n:
            what = f"{name}/{column} has {len(values)} rows and Coordinates has {n}"
            raise UserError(what, path, "the file is damaged; make it again")


def _virtual(data: dict[str, h5py.Dataset], behind: dict[str, set[str]]) -> None:
    for values in data.values():
        if values.is_virtual:
            for source in values.virtual_sources():
                behind.setdefault(source.file_name, set()).add(source.dset_name)


def _file(name: str, path: Path) -> Path | None:
    """The file of that name behind a virtual dataset, sought as HDF5 does; None if it is nowhere."""
    return next((p for p in (Path(name), path.parent / name, path.parent / Path(name).name) if p.exists()), None)


def _inside(name: str) -> bool:
    return name == "." or "%" in name  # this file itself; a pattern for as many as there are


def _at_hand(data: h5py.Dataset, path: Path) -> bool:
    names = {source.file_name for source in data.virtual_sources()} if data.is_virtual else set()
    return all(_inside(name) or _file(name, path) for name in names)


def check_behind(behind: dict[str, set[str]], path: Path) -> None:
    """Look for what virtual datasets show: HDF5 fills in for what is missing there without a word.

    Raises:
        UserError: a file or a dataset in it is missing.
    """
    for name, wanted in behind.items():
        if _inside(name):
            continue
        file = _file(name, path)
        if file is None:
            raise UserError(f"the particles stand in {name}, which is not there", path, "bring it beside this file")
        with open_hdf5(file, "snapshot") as f:
            lost = next((w for w in wanted if w not in f), None)
            if lost is not None:
                raise UserError(f"{lost}, which {path} shows, is not there", file, "make it again")
