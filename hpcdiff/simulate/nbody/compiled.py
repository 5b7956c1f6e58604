"""Compiling with numba, anew in each process."""

from __future__ import annotations

import numba


def compiled(function=None, **options: bool):
    """numba.njit without the GIL and without looking for divisions by zero, which keeps loops scalar; options are numba's (`parallel`, `fastmath`).

    Nothing is kept on disk: code from numba's cache was seen to round otherwise than code that has just been compiled, and gravity makes
    a last bit into parsecs: a run that was killed and goes on would end with other bytes. Compiling takes some 10 s a process.
    """
    if function is None:
        return lambda f: compiled(f, **options)
    return numba.njit(nogil=True, error_model="numpy", **options)(function)
