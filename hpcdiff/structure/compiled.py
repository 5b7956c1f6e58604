"""How the loops over pixels are compiled."""

from __future__ import annotations

import numba


def jit(function):
    """numba.njit without the GIL, kept on disk where a cache can be written; sums keep their order."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # a read-only installation and no home to write to
        return numba.njit(nogil=True)(function)
