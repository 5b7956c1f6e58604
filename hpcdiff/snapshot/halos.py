"""Halo catalogues as plain arrays in comoving Mpc and Msun, whatever program wrote them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError, nearest
from hpcdiff.maps import CATALOG, interpreting
from hpcdiff.snapshot.catalogues import READERS, Request, Table, find_format, read_table
from hpcdiff.snapshot.catalogues.checks import check_header, check_members, check_positions, check_radii

if TYPE_CHECKING:
    from hpcdiff.snapshot.snapshot import Snapshot


@dataclass
class Halos:
    """Clusters, ordered by id.

    Attributes:
        halo_id: int64 (n,).
        position: float64 (n, 3), comoving Mpc in the box.
        mass_200m: float64 (n,), Msun.
        radius_200m: float64 (n,), comoving Mpc.
        group: int64 (n,), halos that must stay in one part of the split; `halo_id` where the catalogue has no such column.
        extra: further columns {name: (n, ...)}; `group_number` is that of the particles, where they have one.
        radii: {`R200m`, and `R200c`, `R500c` where known: float64 (n,)}, comoving Mpc.
        members: {kind: (start, length)}, int64 (n,) each: the halo's rows in the snapshot, within the kind; None = not known.
        source: name of the format.
        dropped: lines about halos that were left out, and about the masses.
    """

    halo_id: np.ndarray
    position: np.ndarray
    mass_200m: np.ndarray
    radius_200m: np.ndarray
    group: np.ndarray
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    radii: dict[str, np.ndarray] = field(default_factory=dict)
    members: dict[str, tuple[np.ndarray, np.ndarray]] | None = None
    source: str = "hpcdiff"
    dropped: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.halo_id)

    def fingerprint(self) -> str:
        """SHA-256 of the columns that projection uses."""
        digest = hashlib.sha256()
        columns = [self.halo_id, self.position, self.mass_200m, self.radius_200m, self.group]
        columns += [self.radii[name] for name in sorted(self.radii) if name != "R200m"]
        for kind in sorted(self.members or {}):
            columns += self.members[kind]
        for column in columns:
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()


def read_halos(
    path: str | Path,
    background: Background,
    box: float | None = None,
    redshift: float = 0.0,
    format: str = "auto",
    snapshot: Snapshot | None = None,
    mass_range: list[float] | tuple[float, float] | None = None,
) -> Halos:
    """Read a halo catalogue; a missing `mass_200m` or `radius_200m` is computed from the other.

    Args:
        path: file; for SUBFIND also a folder, a glob, or the first of its chunks.
        background: of the snapshot, for units, masses and radii.
        box: side of the box, comoving Mpc; None = not checked.
        redshift: of the snapshot.
        format: one of `READERS`, or `auto`: found from the content.
        snapshot: against which members are checked, and whose particles' group numbers are wanted; None = neither.
        mass_range: lowest and highest M200m, Msun; None = all.
    Raises:
        UserError: missing, damaged or empty file; missing columns; ids twice; numbers not finite; a halo outside the box; no halo
            in the mass range; the catalogue is of another snapshot, in other units, or has no M200m.
    """
    path = Path(path)
    if format != "auto" and format not in READERS:
        raise UserError(f"no format of halo catalogues is called {format!r}{nearest(format, READERS)}", "project.catalog", "or use auto")
    request = Request(background, redshift, box, snapshot, None if mass_range is None else tuple(mass_range))
    with interpreting(path, "halo catalogue"):
        source = find_format(path) if format == "auto" else format
        table = read_table(path, source, request)
        check_header(table.about, request, path)
        _check_numbers(table.columns, request, path)
        check_members(table.members, request, path)
        return _halos(table, source, request, path)


def _check_numbers(columns: dict[str, np.ndarray], request: Request, path: Path) -> None:
    if not len(columns["halo_id"]):
        if request.outside:
            low, high = request.mass_range
            raise UserError(
                f"no halo has an M200m in project.mass_range [{low:.4g}, {high:.4g}] Msun (the largest is {request.heaviest:.4g})",
                path,
                "widen it",
            )
        raise UserError("no halo of the catalogue has an M200m", path, "was the snapshot made without halos?")
    for name in ("position", "mass_200m", "radius_200m", "radius_200c", "radius_500c"):
        if name in columns and not np.isfinite(columns[name]).all():
            raise UserError(f"{name} of the halo catalogue is not finite", path, _which(columns, ~np.isfinite(columns[name])))
    if "radius_200m" in columns and not (columns["radius_200m"] > 0).all():
        raise UserError("radius_200m of the halo catalogue is not above 0", path, _which(columns, ~(columns["radius_200m"] > 0)))


def _halos(table: Table, source: str, request: Request, path: Path) -> Halos:
    columns, dropped = table.columns, [*request.dropped(), *table.dropped]
    ids = _whole(columns.pop("halo_id"), "halo_id", path)
    order = np.argsort(ids, kind="stable")
    ids, columns = ids[order], {name: column[order] for name, column in columns.items()}
    if (twice := ids[1:][ids[1:] == ids[:-1]]).size:
        raise UserError(f"halo_id {twice[0]} stands twice in the halo catalogue", path, "give every halo its own")
    mass = columns.pop("mass_200m").astype(np.float64)
    if "radius_200m" in columns:
        radius = columns.pop("radius_200m").astype(np.float64)
        if (line := check_radii(mass, radius, request, path)) is not None:
            dropped.append(line)
    else:
        radius = request.background.radius(mass)
    position = check_positions(columns.pop("position").astype(np.float64), ids, request, path)
    group = _whole(columns.pop("group"), "group", path) if "group" in columns else ids.copy()
    radii = {"R200m": radius, **_critical_radii(columns, request, dropped)}
    members = None
    if table.members is not None:
        members = {kind: (ranges[order, 0], ranges[order, 1]) for kind, ranges in table.members.items()}
    return Halos(ids, position, mass, radius, group, _carried(columns, dropped), radii, members, source, dropped)


def _critical_radii(columns: dict[str, np.ndarray], request: Request, lines: list[str]) -> dict[str, np.ndarray]:
    """R200c and R500c, comoving Mpc, taken out of the columns, or from the masses inside them, where every halo has one."""
    radii, z = {}, request.redshift
    for overdensity in (200, 500):
        mass, radius = columns.get(f"mass_{overdensity}c"), columns.pop(f"radius_{overdensity}c", None)
        if radius is None and mass is not None:
            radius = request.background.radius(mass, overdensity, "crit", z) * (1 + z)
        if radius is None:
            continue
        if lacking := int((~(radius > 0)).sum()):
            lines.append(f"{lacking} halos of the catalogue have no R{overdensity}c: none is taken from it")
        else:
            radii[f"R{overdensity}c"] = np.asarray(radius, np.float64)
    return radii


def _which(columns: dict[str, np.ndarray], bad: np.ndarray) -> str:
    """The first bad halo; its row in the file is not known here, as some may have been left out."""
    return f"check its halo {columns['halo_id'][np.argmax(bad.reshape(len(bad), -1).any(axis=1))]}"


def _carried(columns: dict[str, np.ndarray], lines: list[str]) -> dict[str, np.ndarray]:
    """The further columns that can stand in a map file's catalogue, of numbers and with a name that is free there."""
    good = {}
    for name, column in columns.items():
        if name in (*CATALOG, "checksum") or re.fullmatch(r"(depth|beam)_\w+_mpc|radius_(200|500)c", name):
            lines.append(f"column {name!r} of the halo catalogue is left out: the name means something else in a map file")
        elif name in ("", ".") or "/" in name or not name.isprintable():
            lines.append(f"column {name!r} of the halo catalogue is left out: HDF5 has no dataset of that name")
        elif column.dtype.kind not in "iubf":
            lines.append(f"column {name!r} of the halo catalogue is no numbers and is left out")
        else:
            good[name] = column
    return good


def _whole(values: np.ndarray, name: str, path: Path) -> np.ndarray:
    whole = np.asarray(values)
    largest = 2**63 - 1  # of an int64
    if whole.dtype.kind not in "iu":
        whole, largest = whole.astype(np.float64), 2**53  # beyond it float64 does not tell neighbours apart
        if not (np.isfinite(whole).all() and (whole == np.rint(whole)).all()):
            raise UserError(f"{name} of the halo catalogue is not whole numbers", path, "number the halos")
    if whole.dtype.kind in "uf" and abs(whole).max(initial=0) > largest:
        raise UserError(f"{name} of the halo catalogue is beyond {largest}", path, "number the halos with 64-bit whole numbers")
    return whole.astype(np.int64)
