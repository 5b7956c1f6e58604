"""The samples file: a virtual dataset over its shards, and whether they are all there and whole.

`samples.h5` refers to `samples.shards/part-*.h5` beside it by relative paths, so the two may be moved together. HDF5 shows fill
values (NaN here) where a shard is missing, and says nothing; so whoever reads the file looks at its table of shards first:

    /shards/name    text      file in `samples.shards/`
    /shards/bytes   int64     its size
    /shards/crc32   uint32    zlib.crc32 over its rows' views and samples, then its maps, fields in alphabetical order

A file without that table, as another program may write it, holds its samples itself.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcdiff.errors import UserError
from hpcdiff.maps import has_format, interpreting, open_hdf5, refuse_hollow
from hpcdiff.versions import refuse_version

FORMAT, VERSION = "hpcdiff-samples", 1
SHARD_FORMAT = "hpcdiff-samples-shard"
HOW = "put samples.shards/ back beside samples.h5, or remove samples.h5 and run sample again, which draws what is missing"


@dataclass(frozen=True)
class Shard:
    """One line of the table: path, size in bytes, CRC-32."""

    path: Path
    size: int
    crc32: int


def find_shards(path: str | Path) -> list[Shard]:
    """The shards of a finished samples file, after a look at whether each is there and has its size; [] if it holds its samples itself.

    Raises:
        UserError: a shard is missing or has another size.
    """
    path = Path(path)
    with interpreting(path, "samples file"), open_hdf5(path, "samples file") as f:
        if "shards" not in f:
            return []
        for data in f["shards"].values():
            refuse_hollow(data, path)
        table = [*zip(f["shards/name"].asstr()[:], f["shards/bytes"][:].tolist(), f["shards/crc32"][:].tolist(), strict=True)]
    if odd := [name for name, _, _ in table if not re.fullmatch(r"[\w.-]+\.h5", name)]:
        raise UserError(f"it names the shard {odd[0]!r}, which is no file of samples.shards", path, HOW)
    folder = path.resolve().parent / "samples.shards"  # where HDF5 looks for them, also through a link
    shards = [Shard(folder / name, size, crc) for name, size, crc in table]
    for shard in shards:
        try:
            size = shard.path.stat().st_size
        except OSError:
            raise UserError(f"a shard of {path} is missing", shard.path, HOW) from None
        if size != shard.size:
            raise UserError(f"a shard of {path} has {size} bytes, not {shard.size}", shard.path, HOW)
    return shards


def verify_shard(shard: Shard) -> None:
    """Read a shard through and hold it against the checksum in samples.h5.

    Raises:
        UserError: it is damaged, or that of another run.
    """
    try:
        crc = read_shard(shard.path)[2]
    except UserError as error:
        raise UserError(f"a shard of the samples is damaged ({error})", "", HOW) from None
    if crc != shard.crc32:
        raise UserError(
            f"a shard of the samples has checksum {crc:08x}, not {shard.crc32:08x}: damaged, or of another run", shard.path, HOW
        )


def read_shard(path: Path) -> tuple[np.ndarray, np.ndarray, int, dict]:
    """View and sample numbers int64 (n,) of a shard's rows, the CRC-32 of all that it holds, and its root attributes.

    Raises:
        UserError: it is no whole shard.
    """
    with interpreting(path, "shard"), open_hdf5(path, "shard") as f:
        if not has_format(f, SHARD_FORMAT):
            raise UserError("not a shard of samples", path)
        refuse_version("shard", f.attrs.get("version"), VERSION, path, "sample --overwrite")
        maps = {name: f["samples"][name] for name in sorted(f["samples"])}
        for data in (f["catalog/view"], f["catalog/sample"], *maps.values()):
            refuse_hollow(data, path)
        views, numbers = f["catalog/view"][:], f["catalog/sample"][:]
        return views, numbers, checksum(views, numbers, maps), dict(f.attrs)


def checksum(views: np.ndarray, numbers: np.ndarray, maps: dict) -> int:
    """CRC-32 over views and sample numbers (n,), little-endian int64, then maps {field: (n, npix, npix)}, little-endian float32."""
    crc = 0
    for values, kind in ((views, "<i8"), (numbers, "<i8"), *((maps[name], "<f4") for name in sorted(maps))):
        crc = zlib.crc32(np.ascontiguousarray(values[:], kind), crc)
    return crc
