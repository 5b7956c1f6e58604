"""The training views that the baselines are fitted on."""

from __future__ import annotations

import numpy as np

from hpcdiff.maps import MapFile, splitmix64

LIMIT = 4096
"""Most training views that are read; more change no baseline by what could be seen, and every one costs a read."""


def chosen(halo: np.ndarray, rows: np.ndarray, limit: int = LIMIT) -> np.ndarray:
    """At most `limit` of `rows`, rising, dealt over the halos: each gives its first view before any gives its second.

    Which view of a halo comes first, and which halos where not all have their turn, is said by a hash of row and halo id.

    Args:
        halo: int64 (n,), halo id of each row. rows: int64 (n,).
    """
    if len(rows) <= limit:
        return np.sort(rows)
    of_row, of_halo = splitmix64(rows), splitmix64(halo)
    order = np.lexsort((of_row, of_halo))
    first = np.flatnonzero(np.r_[True, np.diff(halo[order]) != 0])
    turn = np.arange(len(rows)) - np.repeat(first, np.diff(np.r_[first, len(rows)]))
    return np.sort(rows[order[np.argsort(turn, kind="stable")[:limit]]])


def read(maps: MapFile, fields: list[str], rows: np.ndarray) -> np.ndarray:
    """Maps of several fields, float64 (n, fields, npix, npix)."""
    return np.stack([maps.read(f, rows) for f in fields], 1).astype(np.float64)


def solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The least-squares solution of symmetric equations of any scale; directions without signal get nothing."""
    scale = np.sqrt(np.diag(matrix))
    scale = np.where(scale > 0, scale, 1.0)
    inverse = np.linalg.pinv(matrix / scale[:, None] / scale, rcond=1e-10, hermitian=True)
    return np.einsum("ab,bc->ac", inverse, right / scale[:, None]) / scale[:, None]
