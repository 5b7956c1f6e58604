"""Compiling with numba, kept on disk where a cache can be written."""

from __future__ import annotations

import numba


def compiled(function=None, **options: bool):
    """numba.njit without the GIL and without looking for divisions by zero, which keeps loops scalar; options are numba's (`parallel`, `fastmath`)."""
    if function is None:
        return lambda f: compiled(f, **options)
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy", **options)(function)
    except RuntimeError:  # no folder that a cache could be written to
        return numba.njit(nogil=True, error_model="numpy", **options)(function)
