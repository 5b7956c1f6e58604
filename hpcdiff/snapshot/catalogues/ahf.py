"""AHF's text catalogues (*.AHF_halos): Msun/h, comoving kpc/h.

The file does not say which overdensity bounds its halos: that is the run's own (`Dvir`, `Rho_vir` of its input file). But mass
and radius together do: only where the halos' density inside their radius is 200 times the mean one is their mass M200m.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from hpcdiff.errors import UserError
from hpcdiff.snapshot.catalogues.table import Request, Table
from hpcdiff.snapshot.catalogues.text import column_names, header_lines, read_columns

MASS, RADIUS = ("mvir", "mhalo"), ("rvir", "rhalo")


def matches(lines: list[str]) -> bool:
    """Do these header lines belong to AHF?"""
    names = column_names(lines[0]) if lines else []
    return {"hosthalo", "xc", "yc", "zc"} <= set(names)


def read(path: Path, request: Request) -> Table:
    """The halos that are not part of a larger one (hostHalo 0 or -1).

    Raises:
        UserError: their density inside their radius is not 200 times the mean one; a damaged file.
    """
    lines = header_lines(path)
    if not matches(lines):
        raise UserError("not an AHF catalogue", path, "its first line should be #ID(1) hostHalo(2) ...; set project.catalog")
    names = column_names(lines[0])
    mass, radius = (next((n for n in choice if n in names), None) for choice in (MASS, RADIUS))
    if mass is None or radius is None:
        raise UserError("the halo catalogue has no Mvir (Mhalo) or Rvir (Rhalo)", path, "give the *.AHF_halos of the run")
    ids = [name for name in ("id",) if name in names]
    table = read_columns(path, names, [*ids, "hosthalo", "xc", "yc", "zc", mass, radius])
    alone = np.flatnonzero((table["hosthalo"] == 0) | (table["hosthalo"] == -1))
    h = request.background.h
    _check_definition(table[mass][alone] / h, table[radius][alone] / h / 1e3, request, path)
    rows = alone[request.rows(table[mass][alone] / h)]
    columns = {
        "halo_id": table["id"][rows] if ids and (table["id"] >= 0).all() else rows,  # ids of 64 bits without a sign are no int64
        "position": np.stack([table[axis][rows] for axis in ("xc", "yc", "zc")], axis=-1) / h / 1e3,
        "mass_200m": table[mass][rows] / h,
        "radius_200m": table[radius][rows] / h / 1e3,
    }
    inside = len(table["hosthalo"]) - len(alone)
    dropped = [f"{inside} of the catalogue's halos are part of a larger one and are left out"] if inside else []
    redshift = re.search(r"\.z(\d+\.\d+)\.", path.name)
    return Table(columns, None, {"redshift": float(redshift[1])} if redshift else {}, dropped)


def _check_definition(mass: np.ndarray, radius: np.ndarray, request: Request, path: Path) -> None:
    """Refuse masses (Msun) that fill their radii (comoving Mpc) with another density than 200 times the mean one."""
    good = (mass > 0) & (radius > 0)
    if not good.any():
        return
    background, z = request.background, request.redshift
    mean = 200 * float(np.median(mass[good] / background.mass(radius[good])))
    if abs(mean / 200 - 1) > 0.02:
        crit = mean * background.rho_mean(z) / background.rho_crit(z)
        raise UserError(
            f"AHF's masses are not M200m: they enclose {mean:.4g} times the mean density ({crit:.4g} times the critical one)",
            path,
            "run AHF with Dvir = 200 of the background density, or convert them to M200m in a CSV",
        )
