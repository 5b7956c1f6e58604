"""Started under mpirun by a test: 20 rows, written in two collective rounds by all ranks; a further word fails there on the last rank."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from small_file import part, some_maps, writer

import hpcdiff.maps.writer
from hpcdiff.errors import UserError
from hpcdiff.leaving import leave
from hpcdiff.world import MPIWorld, World, under_mpi

RUNS = [(7, 2), (0, 3), (11, 1), (3, 4), (9, 2), (12, 8)]


def main() -> None:
    world = MPIWorld() if under_mpi() else World()
    hpcdiff.maps.writer.CALL_BYTES = 4 * 8 * 8 * 3
    data = some_maps(20)
    w = writer(Path(sys.argv[1]), 20, world)
    for turn in (RUNS[:5], RUNS[5:]):  # in the second round one rank alone has rows
        w.write_many([(a, part(data, a, a + n)) for k, (a, n) in enumerate(turn) if k % world.size == world.rank])
    call = sys.argv[2] if len(sys.argv) > 2 else ""
    if call and world.rank == world.size - 1:
        real = getattr(w.file, call)

        def full() -> None:
            real()
            raise (
                OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)) if call == "close" else RuntimeError("MPI_File_sync failed: MPI_ERR_OTHER")
            )

        setattr(w.file, call, full)
    try:
        w.finish()
    except UserError as error:
        world.print(error)
        leave(2)


if __name__ == "__main__":
    main()
