"""What one file of a snapshot says of itself: counts, box, redshift, cosmology, units, and which datasets it has."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from hpcdiff.cosmology import MPC_CM, MSUN_G
from hpcdiff.errors import UserError
from hpcdiff.maps import open_hdf5
from hpcdiff.snapshot.contents import Contents, check_links, contents_of, cutout
from hpcdiff.snapshot.dialects import KINDS, Dialect, kernel_gamma
from hpcdiff.snapshot.units import ATTRIBUTES, Unit, code_units, number, unit_of

COSMOLOGY = {
    "Om0": ("Omega0", "Omega_m", "Omega_Matter"),
    "Ob0": ("OmegaBaryon", "Omega_b", "Omega_Baryon"),
    "h": ("HubbleParam", "h"),
    "sigma8": ("sigma8", "Sigma8"),
    "ns": ("ns", "PrimordialIndex"),
    "Tcmb0": ("Tcmb0", "T_CMB_0 [K]"),
}
"""Names of the cosmology's numbers in `Header`, `Cosmology`, `Parameters`."""
DARK_ENERGY = ("OmegaLambda", "Omega_lambda", "Omega_Lambda")
COSMOLOGICAL = ("Cosmological run", "ComovingIntegrationOn")
"""Flags that are 0 in a run without expansion."""


@dataclass
class Header:
    """One file.

    Attributes:
        path: of the file.
        box, length: side of the box as stored, and the unit of it and of positions.
        redshift, cosmology ({"Om0": ...}), units (`code_units`, and `table`, that of `masses`).
        files: how many there should be, 0 = not said; virtual: whether it only shows what other files hold.
        contents: which datasets it has.
        totals: {kind: rows promised over all files}, without the kinds of which nothing is promised.
        masses: {kind: what MassTable says, 0 = every particle has a mass of its own}.
        gamma, kernel: SWIFT's `kernel_gamma`; 1 and "" in other codes.
        cells: whether it has an index of which rows lie where in the box.
        same: numbers that all files of one snapshot share, by name.
    """

    path: Path
    box: float
    length: Unit
    redshift: float
    cosmology: dict[str, float]
    units: dict[str, Unit]
    files: int
    virtual: bool
    contents: Contents
    totals: dict[str, int]
    masses: dict[str, float]
    gamma: float
    kernel: str
    cells: bool
    same: dict[str, np.ndarray] = field(default_factory=dict, repr=False)


def read_header(path: Path, dialect: Dialect) -> Header:
    """Read what a file says of itself, and check it against what it holds.

    Raises:
        UserError: not a snapshot; not cosmological or not flat; counts that contradict the datasets; datasets of different
            lengths; a file behind a virtual dataset is missing.
    """
    with open_hdf5(path, "snapshot") as f:
        check_links(f, path)
        header = dict(f["Header"].attrs)
        groups = [f[name].attrs for name in ("Units", "Cosmology", "Parameters") if name in f]
        groups.insert(0, header)
        redshift = _redshift(header, groups, dialect, path)
        cosmology = _cosmology(groups, path)
        units = code_units(groups, dialect.little_h)
        types = [f[f"PartType{n}"] for n in range(7) if f"PartType{n}" in f]
        coordinates = next((g["Coordinates"].attrs for g in types if "Coordinates" in g), {})
        length = unit_of(coordinates, units["length"], MPC_CM)
        if dialect.title == "SWIFT" and "Units" not in f and not any(cgs in coordinates for cgs, *_ in ATTRIBUTES):
            raise UserError("the snapshot has neither a group Units nor units at its datasets", path, "copy them from the original")
        contents = contents_of(f, header, dialect, path)
        gamma, kernel = _kernel(f, dialect, contents, path)
        table = np.ravel(header.get("MassTable", []))
        masses = next((g[m].attrs for g in types for m in ("Masses", "Mass") if m in g), {})
        units["table"] = unit_of(masses, units["mass"], MSUN_G)
        return Header(
            path=path,
            box=_box(header, path),
            length=length,
            redshift=redshift,
            cosmology=cosmology,
            units=units,
            files=0 if cutout(header) else int(number(header, "NumFilesPerSnapshot") or 0),
            virtual=bool(number(header, "Virtual")),
            contents=contents,
            totals=_totals(f, header, dialect),
            masses={kind: float(table[n]) if n < len(table) else 0.0 for kind, n in KINDS.items()},
            gamma=gamma,
            kernel=kernel,
            cells="Cells/Centres" in f,
            same=_same(header, cosmology, units, length if any("Coordinates" in g for g in types) else None),
        )


def _kernel(f: h5py.File, dialect: Dialect, contents: Contents, path: Path) -> tuple[float, str]:
    if dialect.title != "SWIFT":
        return 1.0, ""
    gamma, kernel = kernel_gamma(f)
    if gamma is None and any("support" in columns for columns in contents.columns.values()):
        what = f"HydroScheme does not name a known kernel ({kernel or 'none'}), which SmoothingLengths need"
        raise UserError(what, path, "copy HydroScheme with its `Kernel function` from the original")
    return gamma or 1.0, kernel


def _redshift(header: dict, groups: list, dialect: Dialect, path: Path) -> float:
    cosmological = next((v for g in groups for name in COSMOLOGICAL if (v := number(g, name)) is not None), 1.0)
    if cosmological == 0:
        raise UserError("the run is not cosmological", path, "only cosmological, periodic boxes can be read")
    redshift = number(header, "Redshift")
    names = ("Scale-factor", "ExpansionFactor", *([] if dialect.title == "SWIFT" else ["Time"]))  # SWIFT's Time is an age
    name, a = next(((name, v) for name in names if (v := number(header, name)) is not None), ("", None))
    if redshift is None and a:
        redshift = 1 / a - 1
    if redshift is None or not redshift > -1 or not np.isfinite(redshift):
        raise UserError("the snapshot's Header has no BoxSize or Redshift", path, "only cosmological, periodic boxes can be read")
    if a is not None and not abs(a * (1 + redshift) - 1) < 1e-3:
        what = f"the Header's Redshift is {redshift:.6g} and its {name} {a:.6g} is not 1/(1+z)"
        raise UserError(what, path, "the run is not cosmological, or the Header is damaged")
    return redshift


def _box(header: dict, path: Path) -> float:
    sides = np.ravel(header.get("BoxSize", np.nan)).astype(float)
    if not (sides > 0).all():
        raise UserError("the snapshot's Header has no BoxSize or Redshift", path, "only cosmological, periodic boxes can be read")
    if len(sides) not in (1, 3) or np.ptp(sides) > 1e-6 * sides[0]:
        raise UserError(f"the box is no cube (BoxSize {', '.join(f'{s:.6g}' for s in sides)})", path, "only cubes can be read")
    if (number(header, "Dimension") or 3) != 3:
        raise UserError(f"the run has {number(header, 'Dimension'):.0f} dimensions", path, "only runs in three can be read")
    return float(sides[0])


def _cosmology(groups: list, path: Path) -> dict[str, float]:
    found = {}
    for key, names in {**COSMOLOGY, "dark energy": DARK_ENERGY}.items():
        said = [(name, v) for g in groups for name in names if (v := number(g, name)) is not None]
        if key in ("Om0", "h") and said and not (said[0][1] > 0 and np.isfinite(said[0][1])):
            how = "the run is not cosmological, or the Header is damaged; only cosmological, periodic boxes can be read"
            raise UserError(f"{said[0][0]} is {said[0][1]:.6g}", path, how)
        value = next((v for _, v in said if np.isfinite(v) and (v or key == "dark energy")), None)
        if key == "Ob0" and value is None and any(v == 0 for _, v in said):
            value = 0.0
        if value is not None:
            found[key] = value
    dark = found.pop("dark energy", None)
    if dark is not None and "Om0" in found and abs(found["Om0"] + dark - 1) > 0.01:
        what = f"the snapshot's universe is not flat (Omega0 + OmegaLambda = {found['Om0'] + dark:.4g})"
        raise UserError(what, path, "only flat ones can be read")
    return found


def _totals(f: h5py.File, header: dict, dialect: Dialect) -> dict[str, int]:
    if cutout(header):
        return {}
    total, high, this = (np.ravel(header.get(name, [])) for name in ("NumPart_Total", "NumPart_Total_HighWord", "NumPart_ThisFile"))
    out = {}
    for kind, n in KINDS.items():
        unwritten = dialect.title == "SWIFT" and f"PartType{n}" not in f and n < len(this) and not this[n]
        if n < len(total) and not unwritten:  # SWIFT counts in its total also what it was told not to write
            out[kind] = int(total[n])
            if n < len(high) and out[kind] < 2**32:
                out[kind] += int(high[n]) << 32
    return out


def _same(header: dict, cosmology: dict[str, float], units: dict[str, Unit], length: Unit | None) -> dict[str, np.ndarray]:
    names = ("Redshift", "Time", "BoxSize", "NumFilesPerSnapshot", "NumPart_Total", "MassTable")
    same = {name: header[name] for name in names if name in header}
    same |= {COSMOLOGY[key][0]: value for key, value in cosmology.items()}
    same |= {f"the unit of {name}": units[name] for name in ("length", "mass", "energy")}
    if length is not None:
        same["the unit of Coordinates"] = length
    return {name: np.ravel(value).astype(float) for name, value in same.items()}
