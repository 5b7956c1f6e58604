"""Group catalogues of SUBFIND: TNG and GADGET-4 (`Group/`), EAGLE (`FOF/`); one file or chunks."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np

from hpcdiff.cosmology import MPC_CM, MSUN_G
from hpcdiff.errors import UserError
from hpcdiff.maps import open_hdf5, refuse_hollow
from hpcdiff.snapshot.catalogues.table import Request, Table, catalogue_paths, chosen, joined
from hpcdiff.snapshot.dialects import KINDS
from hpcdiff.snapshot.units import Unit, code_units, number, unit_of

POSITION = {"Group": "GroupPos", "FOF": "GroupCentreOfPotential"}
MASSES = {"mass_200m": "Group_M_Mean200", "mass_200c": "Group_M_Crit200", "mass_500c": "Group_M_Crit500"}
RADII = {"radius_200m": "Group_R_Mean200", "radius_200c": "Group_R_Crit200", "radius_500c": "Group_R_Crit500"}
OFFSETS = (".", "..", "../offsets", "../../offsets", "../postprocessing/offsets", "../../postprocessing/offsets")
"""Where TNG's offset files are looked for, from the catalogue's folder."""


def matches(f: h5py.File) -> bool:
    """Is this file one of a SUBFIND group catalogue?"""
    return "Header" in f and "halo_id" not in f and any(isinstance(f.get(name), h5py.Group) for name in POSITION)


def read(path: Path, request: Request) -> Table:
    """The groups; their ids are the row numbers, which count from 0 over the chunks.

    Raises:
        UserError: chunks missing or of several runs; no M200m; offsets that do not fit.
    """
    paths = catalogue_paths(path)
    headers, parts, lengths, offsets, kept = [], [], [], [], []
    first = 0
    for chunk in paths:
        with open_hdf5(chunk, "halo catalogue") as f:
            if not matches(f):
                raise UserError("not a SUBFIND group catalogue", chunk, "it should have Header and Group (or FOF); set project.catalog")
            headers.append(_header(f))
            name = next(n for n in POSITION if n in f)
            if POSITION[name] not in f[name]:  # a chunk without a single group has no datasets
                continue
            n, group = len(f[name][POSITION[name]]), f[name]
            _refuse_odd(group, n, chunk)
            part, rows = _groups(group, f, name, chunk, request)
            parts.append({"halo_id": rows + first, **part})
            kept.append(rows + first)
            if name == "FOF":  # EAGLE's particles name their group, from 1
                parts[-1]["group_number"] = rows + first + 1
            elif "GroupLenType" in group:
                lengths.append(group["GroupLenType"][:].astype(np.int64))
                if "GroupOffsetType" in group:
                    offsets.append(group["GroupOffsetType"][:].astype(np.int64))
            if not headers[-1].get("box_unit"):
                headers[-1]["box_unit"] = _length(group[POSITION[name]], f, request)
            first += n
    about = _agreed(headers, len(paths), first, path)
    rows = np.concatenate(kept) if kept else np.empty(0, np.int64)
    members = None
    if sum(map(len, lengths)) == first > 0:
        members = _members(np.concatenate(lengths), offsets, rows, paths[0])
    return Table(joined(parts, path), members, about)


def _refuse_odd(group: h5py.Group, n: int, path: Path) -> None:
    """Raise a UserError for a dataset that is read below and has not a row of numbers for each of the n groups."""
    wide = {**dict.fromkeys(POSITION.values(), (3,)), "GroupLenType": None, "GroupOffsetType": None}
    for name in (*POSITION.values(), *MASSES.values(), *RADII.values(), "GroupLenType", "GroupOffsetType"):
        if name in group:
            data, row = group[name], wide.get(name, ())
            refuse_hollow(data, path)
            fits = data.ndim == 2 if row is None else data.shape[1:] == row
            if data.dtype.kind not in "iuf" or data.ndim < 1 or len(data) != n or not fits:
                raise UserError(f"{data.name} is {data.dtype} of shape {data.shape} and there are {n} groups", path, "make it again")


def _header(f: h5py.File) -> dict:
    groups = [f[name].attrs for name in ("Header", "Parameters", "Cosmology") if name in f]

    def found(*names: str) -> float | None:
        return next((v for g in groups for name in names if (v := number(g, name)) is not None), None)

    redshift, time = found("Redshift"), found("Time", "ExpansionFactor")
    if redshift is None and time:
        redshift = 1 / time - 1
    return {
        "redshift": redshift,
        "box": found("BoxSize"),
        "Om0": found("Omega0"),
        "h": found("HubbleParam"),
        "files": int(found("NumFiles") or 0),
        "total": found("Ngroups_Total", "TotNgroups"),
    }


def _agreed(headers: list[dict], n_files: int, n_groups: int, path: Path) -> dict[str, float]:
    """What the headers say, once they say the same."""
    if not headers:
        raise UserError("the halo catalogue is not there", path, "set project.halos")
    about = headers[0]
    for header in headers[1:]:
        for key in ("redshift", "box", "Om0", "h", "files", "total"):
            if header[key] != about[key]:
                raise UserError(
                    f"the halo catalogue's chunks are of several runs ({key} is {about[key]} and {header[key]})", path, "give those of one"
                )
    if about["files"] > 1 and about["files"] != n_files:
        raise UserError(f"{n_files} of the halo catalogue's {about['files']} chunk files are there", path, "give the folder that holds all")
    if about["total"] is not None and int(about["total"]) != n_groups:
        raise UserError(
            f"the header promises {int(about['total'])} groups and the files hold {n_groups}", path, "a chunk is missing or cut short"
        )
    unit = next((h["box_unit"] for h in headers if "box_unit" in h), None)
    if about["box"] is not None:
        about["box"] = about["box"] * unit if unit else None
    return {key: about[key] for key in ("redshift", "box", "Om0", "h") if about[key] is not None}


def _units(f: h5py.File) -> dict[str, Unit]:
    return code_units([f[name].attrs for name in ("Units", "Header", "Parameters") if name in f], little_h=True)


def _hubble(f: h5py.File, request: Request) -> float:
    groups = [f[name].attrs for name in ("Header", "Parameters", "Cosmology") if name in f]
    return next((v for g in groups if (v := number(g, "HubbleParam"))), request.background.h)


def _length(data: h5py.Dataset, f: h5py.File, request: Request) -> float:
    """The factor from stored lengths to comoving Mpc."""
    unit = unit_of(data.attrs, _units(f)["length"], MPC_CM)
    return unit.physical(request.scale_factor, _hubble(f, request)) / (MPC_CM * request.scale_factor)


def _mass(data: h5py.Dataset, f: h5py.File, request: Request) -> float:
    """The factor from stored masses to Msun."""
    return unit_of(data.attrs, _units(f)["mass"], MSUN_G).physical(request.scale_factor, _hubble(f, request)) / MSUN_G


def _groups(group: h5py.Group, f: h5py.File, name: str, chunk: Path, request: Request) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The columns of the groups that are kept, and their rows in this chunk."""
    chosen({m: m for m in MASSES if MASSES[m] in group}, "mass_200m", [v for v in group if v.startswith("Group_M_")], chunk)
    mass = group[MASSES["mass_200m"]][:].astype(np.float64) * _mass(group[MASSES["mass_200m"]], f, request)
    rows = request.rows(mass)
    columns = {"position": group[POSITION[name]][:][rows].astype(np.float64) * _length(group[POSITION[name]], f, request)}
    columns["mass_200m"] = mass[rows]
    for ours, theirs in {**MASSES, **RADII}.items():
        if theirs in group and ours != "mass_200m":
            factor = (_mass if ours in MASSES else _length)(group[theirs], f, request)
            columns[ours] = group[theirs][:][rows].astype(np.float64) * factor
    return columns, rows


def _members(lengths: np.ndarray, offsets: list[np.ndarray], rows: np.ndarray, path: Path) -> dict[str, np.ndarray]:
    """{kind: int64 (n, 2)}: where each group's particles begin, and how many there are.

    Groups are stored one after the other from the start of each particle type, so that without offsets their lengths' sum
    is where the next one begins.
    """
    if offsets:
        starts = np.concatenate(offsets)
    else:
        starts = _offset_file(path)
        if starts is None:
            starts = np.cumsum(lengths, axis=0) - lengths
    if starts.shape[0] != lengths.shape[0]:
        raise UserError(f"{len(starts)} offsets for {len(lengths)} groups", path, "the offset file is of another catalogue")
    types = {kind: t for kind, t in KINDS.items() if t < lengths.shape[1]}
    return {kind: np.stack([starts[rows, t], lengths[rows, t]], axis=1) for kind, t in types.items()}


def _offset_file(path: Path) -> np.ndarray | None:
    """TNG's `Group/SnapByType` (n, 6), if the offset file of the same number is in one of the usual places."""
    number_ = re.findall(r"_(\d+)", path.name)
    for folder in OFFSETS if number_ else ():
        where = path.parent / folder / f"offsets_{number_[-1]}.hdf5"
        if where.exists():
            with open_hdf5(where, "offset file") as f:
                return f["Group/SnapByType"][:].astype(np.int64)
    return None
