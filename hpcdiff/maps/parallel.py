"""Opening one file from all ranks without holding Python's lock.

h5py holds it while HDF5 opens a file. Where one rank is suspended in that moment, the others would wait inside MPI, and with them the thread
that would say which rank is silent (`silence.py`). So HDF5 is called as h5py calls it, through ctypes, which lets the lock go.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import h5py


def open_parallel(path: Path, comm) -> h5py.File:
    """An existing file, opened to read and write by all ranks of a communicator of mpi4py's. Collective.

    Raises:
        OSError: HDF5 cannot open it.
    """
    try:
        call = ctypes.CDLL(h5py.h5f.__file__).H5Fopen  # that of the library which h5py is linked to
    except (OSError, AttributeError):  # linked into h5py itself, unseen
        return h5py.File(path, "r+", driver="mpio", comm=comm)
    from mpi4py import MPI

    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_EARLIEST, h5py.h5f.LIBVER_LATEST)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_fapl_mpio(comm, MPI.INFO_NULL)
    call.restype, call.argtypes = ctypes.c_int64, (ctypes.c_char_p, ctypes.c_uint, ctypes.c_int64)
    number = call(os.fsencode(path), h5py.h5f.ACC_RDWR, access.id)
    if number < 0:
        h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDWR).close()  # says why not, without the others
        raise OSError("it cannot be opened by all ranks together")
    return h5py.File(h5py.h5f.FileID(number))
