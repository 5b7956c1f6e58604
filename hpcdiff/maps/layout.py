"""What stands where in a map file: units, columns of the catalogue, checksums.

`/fields/<field>` float32 (N, npix, npix), `/catalog/<column>` (N, ...). A view is complete exactly when its maps have the
CRC-32 in `/catalog/checksum`, so a killed run knows what it still has to do, whatever the disk has lost.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping

import h5py
import numpy as np

FORMAT, VERSION = "hpcdiff-maps", 1
UNITS = {
    "gas": "dimensionless",
    "dm": "dimensionless",
    "star": "dimensionless",
    "total": "dimensionless",
    "sz": "uK",
    "compton_y": "dimensionless",
    "xray": "erg/s/cm^2",
    "temperature": "keV",
}
"""Units of each field, as stored."""
MEAN_OF = {"gas": "gas", "dm": "dm", "star": "gas", "total": "total"}
"""Fields over a mean density, and the component whose mean it is (stars: all baryons')."""
CATALOG = {
    "halo_id": ("<i8", ()),
    "mass_200m": ("<f8", ()),
    "radius_200m": ("<f8", ()),
    "sightline": ("<f8", (3,)),
    "sightline_index": ("<i8", ()),
    "axis": ("i1", ()),
    "split": ("i1", ()),
    "frame": ("<f8", (3, 3)),
    "width_mpc": ("<f8", ()),
    "depth_mpc": ("<f8", ()),
    "redshift": ("<f8", ()),
    "position": ("<f8", (3,)),
    "group": ("<i8", ()),
}
"""Columns of the catalogue besides `checksum`: type and shape of a row."""
NUMBERS = ("Om0", "Ob0", "h", "sigma8", "ns", "Tcmb0", "redshift", "box_mpc", "width_mpc", "pixel_mpc", "depth_mpc", "to_msun_per_mpc2")
"""Attributes of the file or of a field that are one number where they are."""
BLOCK_BYTES = 2**26
"""Maps that are held in memory at once while a file is read through."""


def view_checksum(maps: dict[str, np.ndarray]) -> int:
    """CRC-32 over one view's maps {field: (npix, npix)}: fields in alphabetical order, little-endian float32, C order."""
    crc = 0
    for field in sorted(maps):
        crc = zlib.crc32(np.ascontiguousarray(maps[field], dtype="<f4"), crc)
    return crc


def catalog_crc(catalog: Mapping[str, np.ndarray]) -> int:
    """CRC-32 over what no view's checksum covers: the catalogue's columns but for `checksum`, in alphabetical order, as they are stored.

    The root attribute `crc32` holds it; who changes a catalogue by hand removes that.
    """
    crc = 0
    for name in sorted(set(catalog) - {"checksum"}):
        crc = zlib.crc32(np.ascontiguousarray(catalog[name][()]), crc)
    return crc


def shared(values: np.ndarray, otherwise: float | None = None) -> float | None:
    """The number that all of a column (N,) share; `otherwise` where they differ or there is none."""
    return float(values[0]) if len(values) and (values == values[0]).all() else otherwise


def runs(rows: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Cut rows into runs of neighbours, none longer than `most`: (start, stop) within `rows`."""
    start = 0
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and stop - start < most and rows[stop] == rows[stop - 1] + 1:
            stop += 1
        yield start, stop
        start = stop


def block_rows(npix: int, fields: int) -> int:
    """Views whose maps of `fields` fields fill `BLOCK_BYTES`, at least 1."""
    return max(1, BLOCK_BYTES // (4 * npix**2 * max(fields, 1)))


def blocks(f: h5py.File, rows: np.ndarray) -> Iterator[tuple[slice, dict[str, np.ndarray] | None]]:
    """Read the maps of `rows` of an open map file in bounded memory: a slice of `rows` and {field: (n, npix, npix)}.

    A row that the disk does not give stands alone, with None.
    """
    fields = sorted(f["fields"])
    for start, stop in runs(rows, block_rows(int(f.attrs["npix"]), len(fields))):
        try:
            maps = {name: f["fields"][name][rows[start] : rows[stop - 1] + 1] for name in fields}
        except OSError:
            if stop - start > 1:  # find the bad ones among them
                for k in range(start, stop):
                    yield from ((slice(k, k + 1), one) for _, one in blocks(f, rows[k : k + 1]))
                continue
            maps = None
        yield slice(start, stop), maps


def intact(f: h5py.File, rows: np.ndarray, checksum: np.ndarray) -> np.ndarray:
    """Which of `rows` of an open map file hold maps with the given checksums; bool (len(rows),)."""
    ok = np.zeros(len(rows), bool)
    for part, maps in blocks(f, rows):
        if maps is not None:
            ok[part] = [view_checksum({name: m[i] for name, m in maps.items()}) == c for i, c in enumerate(checksum[part])]
    return ok
