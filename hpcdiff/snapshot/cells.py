"""A snapshot's own spatial index: which rows lie where in the box (SWIFT's `Cells`)."""

from __future__ import annotations

from dataclasses import dataclass

import h5py
import numpy as np

from hpcdiff.snapshot.nearest import NEIGHBOURS, SMALLEST


@dataclass
class Cells:
    """Runs of rows and where their particles are; together they are all rows of a kind, in order.

    Attributes:
        start, stop: int64 (m,), rows, within the kind.
        low, high: float64 (m, 3), comoving Mpc: along each axis the particle centres lie between these, on the periodic
            box; low may be below 0 and high above the box. Kernels reach further.
        width: float64 (3,), comoving Mpc, sides of a cell as the code had it; its particles may lie in a part of it alone, or
            have drifted out of it. The code looks for neighbours in adjoining cells, so none of its own kernels is wider.
    """

    start: np.ndarray
    stop: np.ndarray
    low: np.ndarray
    high: np.ndarray
    width: np.ndarray


def read_cells(f: h5py.File, name: str, n: int, to_mpc: float) -> Cells | None:
    """The index of one `PartTypeN`; None where there is none, or it does not cover the rows.

    Particles drift after the last rebuild of the tree, by less than a cell. Where the file does not say how far they
    are (`MinPositions`, `MaxPositions`), the bounds are wider than the cell by that.

    Args:
        f: a file of the snapshot: each holds the index of all.
        name: of the group.
        n: rows of the snapshot.
        to_mpc: comoving Mpc a unit of length.
    """
    index = f.get("Cells")
    offsets = next((o for o in ("OffsetsInFile", "Offsets") if index is not None and f"{o}/{name}" in index), None)
    if offsets is None or f"Counts/{name}" not in index or "Centres" not in index or "size" not in index["Meta-data"].attrs:
        return None
    count, start = index[f"Counts/{name}"][:].astype(np.int64), index[f"{offsets}/{name}"][:].astype(np.int64)
    if f"Files/{name}" in index:
        file = index[f"Files/{name}"][:].astype(np.int64)
        held = np.zeros(file.max(initial=0) + 1, np.int64)
        np.add.at(held, file, count)
        start += (np.cumsum(held) - held)[file]
    half = np.broadcast_to(np.ravel(index["Meta-data"].attrs["size"]).astype(float) / 2, (3,))
    centre = index["Centres"][:].astype(float)
    if f"MinPositions/{name}" in index and f"MaxPositions/{name}" in index:
        low, high = index[f"MinPositions/{name}"][:].astype(float), index[f"MaxPositions/{name}"][:].astype(float)
    else:
        low, high = centre - 3 * half, centre + 3 * half
    some = np.flatnonzero(count > 0)
    order = some[np.argsort(start[some], kind="stable")]
    start, stop = start[order], (start + count)[order]
    if not len(order) or start[0] != 0 or stop[-1] != n or (start[1:] != stop[:-1]).any():
        return None
    return Cells(start, stop, low[order] * to_mpc, high[order] * to_mpc, 2 * half * to_mpc)


def largest_kernels(snapshot, kind: str, cells: Cells) -> np.ndarray | None:
    """No support radius in a cell is larger than this, float64 (m,), comoving Mpc, infinite where nothing is known; None = nowhere.

    The code's own kernels are no wider than its cells. A radius found from neighbours reaches the 64th: where a cell holds more
    particles than that, all are within the cell's diagonal of each other.
    """
    if not snapshot.has_h[kind]:
        diagonal = np.sqrt(((cells.high - cells.low) ** 2).sum(axis=1))
        return np.where(cells.stop - cells.start > NEIGHBOURS, np.maximum(diagonal, SMALLEST * snapshot.box) * (1 + 1e-6), np.inf)
    if "support" in snapshot.columns[kind]:
        return np.full(len(cells.start), cells.width.min())
    return None  # from volumes, of which the index says nothing
