"""SOAP catalogues of SWIFT simulations: spherical overdensities of central halos."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from hpcdiff.cosmology import MPC_CM, MSUN_G
from hpcdiff.errors import UserError
from hpcdiff.maps import open_hdf5, refuse_hollow
from hpcdiff.snapshot.catalogues.table import Request, Table, chosen, joined
from hpcdiff.snapshot.units import Unit, number, unit_of

APERTURES = {"200m": "200_mean", "200c": "200_crit", "500c": "500_crit"}
INDEX, FOF = "InputHalos/HaloCatalogueIndex", "InputHalos/HBTplus/HostFOFId"
NUMBERS = {"GroupNr_bound": INDEX, "GroupNr_all": INDEX, "HaloCatalogueIndex": INDEX, "FOFGroupIDs": FOF}
"""By the name of the particles' group number: the dataset that holds a halo's."""
BLOCK = 2**22
"""Halos read at once: FLAMINGO has hundreds of millions."""


def matches(f: h5py.File) -> bool:
    """Is this file a SOAP catalogue?"""
    return "InputHalos/HaloCentre" in f


def read(path: Path, request: Request) -> Table:
    """The central halos; their ids are the halo finder's.

    Raises:
        UserError: no 200_mean aperture.
    """
    with open_hdf5(path, "halo catalogue") as f:
        if not matches(f):
            raise UserError("not a SOAP catalogue", path, "it should have InputHalos/HaloCentre; set project.catalog")
        there = {ours: f"SO/{theirs}" for ours, theirs in APERTURES.items() if f"SO/{theirs}/TotalMass" in f}
        chosen(there, "200m", [f"SO/{name}" for name in f["SO"]] if "SO" in f else [], path)
        _refuse_odd(f, there, path)
        about, satellites, parts = _about(f, request), 0, []
        for start in range(0, len(f["InputHalos/HaloCentre"]), BLOCK):
            part, missed = _block(f, there, slice(start, start + BLOCK), request)
            parts.append(part)
            satellites += missed
    lines = [f"{satellites} of the catalogue's halos are satellites and are left out"] if satellites else []
    return Table(joined(parts, path), None, about, lines)


def _refuse_odd(f: h5py.File, apertures: dict[str, str], path: Path) -> None:
    """Raise a UserError for a dataset that is read below and has not a row of numbers for each halo."""
    n = len(f["InputHalos/HaloCentre"])
    names = [f"InputHalos/{name}" for name in ("HaloCentre", "HaloCatalogueIndex", "IsCentral")]
    names += [f"{where}/{name}" for where in apertures.values() for name in ("TotalMass", "SORadius")]
    for name in names:
        if name in f:
            refuse_hollow(f[name], path)
            shape = (n, 3) if name.endswith("Centre") else (n,)
            if f[name].shape != shape or f[name].dtype.kind not in "iufb":
                raise UserError(f"{name} is {f[name].dtype} of shape {f[name].shape}, not numbers of shape {shape}", path, "make it again")


def _block(f: h5py.File, apertures: dict[str, str], block: slice, request: Request) -> tuple[dict[str, np.ndarray], int]:
    """The columns of the halos that are kept among some rows, and how many of these are satellites."""
    inputs = f["InputHalos"]
    mass = _column(f[f"{apertures['200m']}/TotalMass"], block, MSUN_G, request) / MSUN_G
    central = np.ones(len(mass), bool)
    if "IsCentral" in inputs:
        central = inputs["IsCentral"][block].astype(bool)
    index = np.flatnonzero(central)
    rows = index[request.rows(mass[index])]
    comoving = MPC_CM * request.scale_factor
    columns = {
        "halo_id": inputs["HaloCatalogueIndex"][block][rows].astype(np.int64) if "HaloCatalogueIndex" in inputs else rows + block.start,
        "position": _column(inputs["HaloCentre"], block, MPC_CM, request)[rows] / comoving,
        "mass_200m": mass[rows],
    }
    for name, where in apertures.items():
        if name != "200m":
            columns[f"mass_{name}"] = _column(f[f"{where}/TotalMass"], block, MSUN_G, request)[rows] / MSUN_G
        if "SORadius" in f[where]:
            columns[f"radius_{name}"] = _column(f[f"{where}/SORadius"], block, MPC_CM, request)[rows] / comoving
    number_of = NUMBERS.get(getattr(request.snapshot, "groups", None))
    if number_of is not None and number_of in f:
        columns["group_number"] = f[number_of][block][rows].astype(np.int64)
    return columns, int(len(central) - len(index))


def _column(data: h5py.Dataset, block: slice, base: float, request: Request) -> np.ndarray:
    """Values in physical CGS; without attributes Mpc or 1e10 Msun, comoving."""
    default = Unit(MPC_CM, 1, 0) if base == MPC_CM else Unit(1e10 * MSUN_G, 0, 0)
    return data[block].astype(np.float64) * unit_of(data.attrs, default, base).physical(request.scale_factor, request.background.h)


def _about(f: h5py.File, request: Request) -> dict[str, float]:
    groups = [f[name].attrs for name in ("Header", "Cosmology", "SWIFT/Header", "SWIFT/Cosmology") if name in f]

    def found(name: str) -> float | None:
        return next((v for g in groups if (v := number(g, name)) is not None), None)

    about = {"redshift": found("Redshift"), "Om0": found("Omega_m"), "h": found("h"), "box": found("BoxSize")}
    if about["box"] is not None:
        unit = unit_of(f["InputHalos/HaloCentre"].attrs, Unit(MPC_CM, 1, 0), MPC_CM)
        about["box"] *= unit.cgs * request.background.h**unit.h / MPC_CM  # SWIFT's box is comoving
    return {key: value for key, value in about.items() if value is not None}
