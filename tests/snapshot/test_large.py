"""More rows than 32 bits count: a sparse file of five thousand million particles, of which a few are ever written."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from tiny_box import BOX, H

from hpcdiff.cosmology import Background
from hpcdiff.snapshot import open_snapshot

ROWS = 5_000_000_000
WRITTEN = [0, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 2**20, ROWS - 1]
"""Rows around which numbers are written; elsewhere the file gives fill values."""


def write_sparse(path, files: int = 1):
    """`ROWS` rows of gas, in `files` files: chunks that are never allocated but at `WRITTEN`, one dataset contiguous and never allocated."""
    total = np.array([ROWS, 0, 0, 0, 0, 0], np.uint64)
    for k in range(files):
        name = path if files == 1 else path.with_name(f"{path.stem}.{k}.hdf5")
        first, last = ROWS * k // files, ROWS * (k + 1) // files
        with h5py.File(name, "w") as f:
            about = {"BoxSize": BOX * 1e3 * H, "NumPart_ThisFile": [last - first, 0, 0, 0, 0, 0], "NumFilesPerSnapshot": files}
            about |= {"NumPart_Total": (total & 0xFFFFFFFF).astype(np.uint32), "NumPart_Total_HighWord": (total >> 32).astype(np.uint32)}
            f.create_group("Header").attrs.update({**about, "MassTable": np.zeros(6), "Redshift": 0.0, "HubbleParam": H, "Omega0": 0.3})
            for column, dtype, width in (
                ("Coordinates", "f8", 3),
                ("Masses", "f4", 0),
                ("SmoothingLength", "f4", 0),
                ("ParticleIDs", "u8", 0),
            ):
                shape, chunk = ((last - first, width), (4096, width)) if width else ((last - first,), (4096,))
                f.create_dataset(f"PartType0/{column}", shape, dtype, chunks=None if column == "SmoothingLength" else chunk, fillvalue=1)
            for row in (r for r in WRITTEN if first <= r < last):
                f["PartType0/Coordinates"][row - first] = [1e3 * H * (row % 39), 7.0, 11.0]
                f["PartType0/Masses"][row - first] = row / 1e10
                f["PartType0/ParticleIDs"][row - first] = row
    return path if files == 1 else path.parent


@pytest.mark.parametrize("files", [1, 3])
def test_slabs_beyond_32_bits(tmp_path, files):
    where = write_sparse(tmp_path / "s.hdf5", files)
    snapshot = open_snapshot(where, Background())
    assert snapshot.count("gas") == ROWS
    for row in WRITTEN:
        start, stop = max(row - 1000, 0), min(row + 1000, ROWS)
        got = snapshot.read("gas", start, stop, gas=False)
        assert got.index.dtype == np.int64 and np.array_equal(got.index, np.arange(start, stop))
        there = got.index == row
        assert got.mass[there] == pytest.approx(row / H, rel=1e-6) and got.position[there, 0] == pytest.approx(row % 39)
        others = ~np.isin(got.index, WRITTEN)
        assert (got.mass[others] == pytest.approx(1e10 / H)) and got.h[others] == pytest.approx(1 / (1e3 * H))
        assert snapshot.read("gas", row, row + 1, gas=False, ids=True).ids[0] == row
        index, position = snapshot.positions("gas", start, stop)
        assert np.array_equal(index, got.index) and np.array_equal(position, got.position)
    assert len(snapshot.fingerprint(["gas"])) == 64
    size = sum(p.stat().st_size for p in tmp_path.iterdir())
    assert size < 4e6
