"""A snapshot of 5x10^9 rows a kind that take no room on the disk, because all but a few thousand are never written.

Clusters' particles stand in runs of rows across 2^31, 2^32 and the border of two files; the same particles in the same order make a
small snapshot. Whatever reads the large one right gives the maps of the small one, bit for bit.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

H = 0.7
BOX = 400.0
"""Comoving Mpc."""
ROWS = 5_000_000_000
MEMBERS = 3000
"""Rows of each kind a cluster, in one run."""
STARTS = (0, ROWS // 3 - 500, 2**31 - 777, 2**32 - 1234, ROWS - MEMBERS)
"""Where each cluster's run begins."""
CELLS = 16
"""Of the snapshot's own index, along a side."""
MASS = {"PartType0": 5e13, "PartType1": 2.5e14}
"""Msun a cluster."""
KPC, MSUN = 1e3 * H, H / 1e10
"""Stored units a comoving Mpc and a Msun."""


def clusters() -> tuple[np.ndarray, np.ndarray]:
    """Cells (n, 3) of the index that the clusters are in, far apart, and the clusters' positions, comoving Mpc."""
    cell = np.array([[2, 2, 2], [8, 2, 13], [13, 8, 8], [2, 13, 8], [9, 13, 2]])
    return cell, (cell + [0.5, 0.45, 0.55]) * BOX / CELLS


def particles(seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """{group: datasets}, in stored units, cluster by cluster."""
    rng, centres = np.random.default_rng(seed), clusters()[1]
    out = {}
    for group, mass in MASS.items():
        n = MEMBERS * len(centres)
        position = np.repeat(centres, MEMBERS, axis=0) + np.clip(rng.normal(0, 1.0, (n, 3)), -8, 8)
        out[group] = {"Coordinates": position * KPC, "Masses": np.full(n, mass / MEMBERS * MSUN)}
        out[group]["SmoothingLength"] = 10 ** rng.uniform(-1.5, 0, n) * KPC
    gas = out["PartType0"]
    gas["Density"] = 10 ** rng.uniform(-8, -5, n)
    gas["InternalEnergy"] = 10 ** rng.uniform(5, 6.5, n)
    gas["ElectronAbundance"] = np.full(n, 1.1)
    return out


def write(folder: Path, rows: int, files: int = 1, chunked: bool = True, cells: bool = False) -> int:
    """Write the clusters' particles into a snapshot of `rows` rows of each kind (the least number: nothing between them).

    Args:
        folder: for the files and `groups.hdf5`, the clusters' catalogue with their members.
        chunked: datasets in chunks, of which most are never allocated and read as a fill value; else in one piece, with holes.
        cells: with an index of which rows lie where, all the rows that are not written being far from the clusters.
    Returns:
        Bytes that the files take on the disk.
    """
    folder.mkdir(parents=True)
    data, n = particles(), len(STARTS)
    starts = np.array(STARTS) if rows == ROWS else np.arange(n) * MEMBERS
    total = np.array([rows, rows, 0, 0, 0, 0], np.uint64)
    paths = [folder / f"s.{k}.hdf5" for k in range(files)]
    for k, path in enumerate(paths):
        first, last = rows * k // files, rows * (k + 1) // files
        with h5py.File(path, "w", libver="latest") as f:
            about = {"BoxSize": BOX * KPC, "NumPart_ThisFile": [last - first, last - first, 0, 0, 0, 0], "NumFilesPerSnapshot": files}
            about |= {"NumPart_Total": (total & 0xFFFFFFFF).astype(np.uint32), "NumPart_Total_HighWord": (total >> 32).astype(np.uint32)}
            about |= {
                "MassTable": np.zeros(6),
                "Time": 1.0,
                "Redshift": 0.0,
                "HubbleParam": H,
                "Omega0": 0.3,
                "OmegaLambda": 0.7,
                "OmegaBaryon": 0.045,
            }
            f.create_group("Header").attrs.update(about)
            for group, columns in data.items():
                for name, values in columns.items():
                    _fill(f, f"{group}/{name}", values, starts, first, last, chunked)
            if cells:
                _index(f, starts, rows)
    _groups(folder / "groups.hdf5", starts)
    return sum(path.stat().st_blocks * 512 for path in paths)


def _fill(f: h5py.File, name: str, values: np.ndarray, starts: np.ndarray, first: int, last: int, chunked: bool) -> None:
    shape = (last - first, *values.shape[1:])
    how = {"chunks": (4096, *shape[1:]), "fillvalue": 1.0} if chunked else {"fill_time": "never"}
    data = f.create_dataset(name, shape, values.dtype, **how)
    for k, start in enumerate(starts.tolist()):
        a, b = max(start, first), min(start + MEMBERS, last)
        if a < b:
            data[a - first : b - first] = values[k * MEMBERS + a - start : k * MEMBERS + b - start]


def _index(f: h5py.File, starts: np.ndarray, rows: int) -> None:
    """Every cluster's run is a cell; the rows between are those of cells at least three from each cluster's, 40 a gap."""
    mine = clusters()[0]
    every = np.stack(np.meshgrid(*[np.arange(CELLS)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    apart = abs(every[:, None] - mine)
    far = every[(np.minimum(apart, CELLS - apart).max(axis=2) >= 3).all(axis=1)]
    cell, count = [], []
    ends = np.concatenate([[0], starts + MEMBERS])
    for k, (a, b) in enumerate(zip(ends, [*starts, rows], strict=True)):
        edges = np.linspace(a, b, 41).astype(np.int64)
        cell += list(far[k * 40 : (k + 1) * 40])
        count += np.diff(edges).tolist()
        if k < len(mine):
            cell.append(mine[k])
            count.append(MEMBERS)
    centre, count = (np.array(cell) + 0.5) * BOX / CELLS * KPC, np.array(count)
    order = np.random.default_rng(1).permutation(len(count))  # an index need not stand in the order of the rows
    start = np.cumsum(count) - count
    f["Cells/Centres"] = centre[order]
    f.create_group("Cells/Meta-data").attrs["size"] = np.full(3, BOX / CELLS * KPC)
    for group in MASS:
        f[f"Cells/Counts/{group}"], f[f"Cells/Offsets/{group}"] = count[order], start[order]
        for name, side in (("MinPositions", -0.5), ("MaxPositions", 0.5)):
            f[f"Cells/{name}/{group}"] = centre[order] + side * BOX / CELLS * KPC


def _groups(path: Path, starts: np.ndarray) -> None:
    n = len(starts)
    with h5py.File(path, "w") as f:
        header = {"Ngroups_Total": n, "NumFiles": 1, "Redshift": 0.0, "BoxSize": BOX * KPC, "HubbleParam": H, "Omega0": 0.3}
        f.create_group("Header").attrs.update(header)
        f["Group/GroupPos"] = clusters()[1] * KPC
        f["Group/Group_M_Mean200"] = np.full(n, 2e14 * MSUN)
        length = np.zeros((n, 6), np.int32)
        length[:, :2] = MEMBERS
        f["Group/GroupLenType"] = length
        f["Group/GroupOffsetType"] = np.where(length > 0, starts[:, None], 0)


def write_config(path: Path, snapshot: Path, particles: str, memory_gb: float) -> Path:
    """A config of six views a cluster, with its results beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    split = "{train: 1.0, val: 0.0, test: 0.0}"
    views = "{sightlines: 2}"
    keys = f"npix: 48, width: 9.0, depth: 9.0, particles: {particles}, memory_gb: {memory_gb}, split: {split}, views: {views}"
    where = f"snapshot: '{snapshot}/s.*.hdf5', halos: '{snapshot}/groups.hdf5'"
    path.write_text(f"run: {{dir: '{path.parent}'}}\nproject: {{{where}, {keys}}}\n")
    return path


def maps(path: Path) -> dict[str, bytes]:
    """Bytes of every dataset of a map file below /fields and /catalog."""
    found = {}
    with h5py.File(path) as f:
        for group in ("fields", "catalog"):
            for name, values in f[group].items():
                found[f"{group}/{name}"] = values[:].tobytes()
    return found
