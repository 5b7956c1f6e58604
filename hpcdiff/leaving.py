"""The end of a stage's process, with the status that it has earned."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys


def leave(status: int) -> None:
    """End the process with this status, without HDF5's own clean-up: after a write that failed it may crash there."""
    atexit._run_exitfuncs()
    if (mpi := sys.modules.get("mpi4py.MPI")) is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.Finalize()
    with contextlib.suppress(OSError):  # who read it has left
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)
