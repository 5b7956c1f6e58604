"""What is drawn in one network call: batches of (view, sample) pairs, the same for any number of ranks."""

from __future__ import annotations

import numpy as np

SHARES = 32
"""Batches that even a small job is cut into, so that few views keep many ranks busy."""
PIXELS = 2**14
"""Pixels of a field that make a network call worth its overhead: batches are not cut smaller."""


def batch_rows(total: int, batch_size: int, npix: int) -> int:
    """Rows of every network call, for `total` samples: `batch_size`, or fewer where there would be fewer than `SHARES` batches.

    It depends on the job alone, not on the ranks nor on what is left to do, so that neither changes a bit of the samples.
    """
    return min(batch_size, total, max(-(-total // SHARES), -(-PIXELS // npix**2)))


def batches_left(have: np.ndarray, size: int) -> list[np.ndarray]:
    """Batches of what is not drawn yet.

    Args:
        have: bool (M, S), the samples that are finished. size: rows of a batch.
    Returns:
        flat positions int64 (n <= size,) in (M, S), one array a batch; a batch never mixes what an undisturbed run would draw apart.
    """
    flat = have.ravel()
    parts = (np.arange(i, min(i + size, len(flat))) for i in range(0, len(flat), size))
    return [rows[~flat[rows]] for rows in parts if not flat[rows].all()]
