"""Halo catalogues of other programs, one file a format: what they hold in comoving Mpc and Msun."""

from __future__ import annotations

from pathlib import Path

from hpcdiff.errors import UserError
from hpcdiff.maps import open_hdf5
from hpcdiff.snapshot.catalogues import ahf, native, rockstar, soap, subfind
from hpcdiff.snapshot.catalogues.table import Request, Table, catalogue_paths
from hpcdiff.snapshot.catalogues.text import header_lines

READERS = {
    "hpcdiff": native.read_hdf5,
    "csv": native.read_csv,
    "subfind": subfind.read,
    "soap": soap.read,
    "rockstar": rockstar.read,
    "ahf": ahf.read,
}
"""By the name of the format: (path, request) -> table."""


def find_format(where: str | Path) -> str:
    """The name of a catalogue's format, found from its content.

    Args:
        where: file, folder or glob.
    Raises:
        UserError: it is not there, or a damaged HDF5 file.
    """
    paths = catalogue_paths(where)
    if not paths:
        raise UserError("the halo catalogue is not there", where, "run simulate, or set project.halos")
    path = paths[0]
    with open(path, "rb") as f:
        start = f.read(8)
    if start == b"\x89HDF\r\n\x1a\n" or path.suffix in (".hdf5", ".h5"):
        with open_hdf5(path, "halo catalogue") as f:
            return "soap" if soap.matches(f) else "subfind" if subfind.matches(f) else "hpcdiff"
    lines = header_lines(path)
    return "ahf" if ahf.matches(lines) else "rockstar" if rockstar.matches(lines) else "csv"


def read_table(where: str | Path, name: str, request: Request) -> Table:
    """What the catalogue at `where` holds, read as the format `name`.

    Raises:
        UserError: no file, several where the format has one, or what the reader refuses.
    """
    if name == "subfind":
        return READERS[name](Path(where), request)
    paths = catalogue_paths(where)
    if len(paths) > 1 and not Path(where).is_file():
        raise UserError(f"{len(paths)} files where a {name} catalogue has one", where, "name the file")
    return READERS[name](paths[0] if paths and not Path(where).is_file() else Path(where), request)


__all__ = ["READERS", "Request", "Table", "catalogue_paths", "find_format", "read_table"]
