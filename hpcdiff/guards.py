"""Wrong launches: programs that each believe to be rank 0, ranks that never come, two MPI libraries in one process.

Whoever starts a stage may start it more than once: srun its tasks, mpirun its ranks, torchrun its agents. The environment says how many each
has started; if that is more than the ranks that find each other, there are several worlds, and all of them would write the same files.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from hpcdiff.errors import UserError

MPI_LIBRARY = re.compile(r"lib(mpi|mpich|mpi_(gnu|cray|crayclang|intel|nvidia|amd|aocc|pgi)[\w.]*)\.(so[.\d]*|\d+\.dylib)")
"""The file name of an MPI library, not of its parts for Fortran, C++ or Java."""
MPI_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_RANK", "PMIX_RANK", "PALS_APID")
"""An MPI launcher sets one of these: Open MPI, MPICH's kin, PMIx (also srun's), Cray's PALS (also srun's cray_shasta)."""
LAUNCHER = ("OMPI_", "PMI", "PALS_", "TORCHELASTIC", "MASTER_", "SLURM_", "HYDI_", "MPI_LOCAL")
"""How the names of the variables begin that tell a process of its fellow ranks."""
LAST_WORD = 5.0
"""Seconds that a rank without a word waits before it leaves."""


class WrongLaunch(UserError):
    """The processes were not started as one world; every copy raises this, and `first_started` is the one that says it."""


def under_mpi(environment: Mapping[str, str] = os.environ) -> bool:
    """Has an MPI launcher started this process?"""
    return any(name in environment for name in MPI_VARIABLES)


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """What is left of an environment for a program that is to take itself for one process alone."""
    return {k: v for k, v in environment.items() if not k.startswith(LAUNCHER) and k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}


def started(environment: Mapping[str, str]) -> tuple[int, str]:
    """How many processes or torchruns were started by srun or mpirun, and by which; 1 where neither is seen.

    A job's own number (SLURM_NTASKS) counts nothing: a batch script, and a shell of salloc, are one process of such a job. Nor do the tasks
    of `srun --pty`, the usual way to a shell on a node: all but one of them are gone.
    """
    if "SLURM_PTY_PORT" not in environment and (tasks := _number(environment, "SLURM_STEP_NUM_TASKS")) > 1:
        return tasks, "srun"
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        if (ranks := _number(environment, name)) > 1:
            return ranks, "mpirun"
    return 1, ""


def refuse_launch(stage: str, mpi: bool, size: int | None = None, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to start where the launchers' numbers do not fit each other; without `size`, before any rank looks for another.

    Args:
        stage: its name. mpi: do its ranks meet by MPI (else by torch.distributed)?
        size: ranks that have found each other, where that is known already.
    Raises:
        WrongLaunch: several worlds, or ranks that never come.
    """
    number, launcher = started(environment)
    torchrun = "TORCHELASTIC_RUN_ID" in environment
    if mpi:
        if torchrun and _number(environment, "WORLD_SIZE") > 1 and (size or 1) < _number(environment, "WORLD_SIZE"):
            what = f"a wrong launch: torchrun has started {environment['WORLD_SIZE']} copies of {stage}, whose ranks meet by MPI"
            raise WrongLaunch(what, "the torchrun line", f"use mpirun or srun --mpi=pmix -m hpcdiff.{stage}, or start it once")
        found = size if size is not None else None if under_mpi(environment) else 1
        if found is not None and found < number:
            what = (
                f"a wrong launch: {number} {'tasks of this srun step' if launcher == 'srun' else 'ranks of mpirun'}, but worlds of {found}"
            )
            how = "use srun --mpi=pmix, or another of `srun --mpi=list`, that its MPI library speaks"
            if launcher == "mpirun":
                how = "use the mpirun of the MPI library that mpi4py has loaded: python -m hpcdiff doctor"
            raise WrongLaunch(what, f"the {launcher} line", how)
        return
    if torchrun:
        agents = _number(environment, "GROUP_WORLD_SIZE") or 1
        if agents < number:
            what = f"a wrong launch: {launcher} has started {number} torchruns, but {agents} of them found each other"
            how = "start one torchrun a node (--ntasks-per-node=1) with --nnodes, --node-rank and one --master-addr: see jobs/requeue.sh"
            raise WrongLaunch(what, f"the {launcher} line", how)
        return
    if "WORLD_SIZE" in environment:
        _check_torch_variables(environment)
        found = _number(environment, "WORLD_SIZE")
        if launcher and found != number:
            what = f"a wrong launch: WORLD_SIZE says {found} ranks, and {launcher} has started {number}"
            raise WrongLaunch(what, "the environment", "unset WORLD_SIZE, RANK and LOCAL_RANK: srun's own variables are used then")
    elif launcher == "srun" and "SLURM_PROCID" not in environment:
        raise WrongLaunch(f"a wrong launch: {number} tasks of this srun step, but worlds of 1", "the srun line", "see jobs/train.sbatch")
    elif launcher == "mpirun":
        what = f"a wrong launch: mpirun has started {number} copies of {stage}, whose ranks meet by torch.distributed"
        raise WrongLaunch(what, "the mpirun line", f"use torchrun --nproc-per-node={number} -m hpcdiff.{stage}, or plain srun")


def first_started(environment: Mapping[str, str] = os.environ) -> bool:
    """Among copies that each are rank 0 of a world: is this the first by every launcher's count?"""
    names = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "PALS_RANKID", "RANK")
    return all(environment.get(name, "0") == "0" for name in names)


def say_once(stage: str, error: UserError, mine: bool, joined: bool) -> None:
    """An error that every rank meets, said by one of them.

    Args:
        mine: this rank says it. joined: the ranks have met, and will leave together. Where they have not, the others wait before they
            leave: a launcher ends all when the first has left, and would end the one that speaks before it has spoken.
    """
    if mine:
        print(f"hpcdiff {stage}: error: {error}", file=sys.stderr, flush=True)
    elif not joined:
        time.sleep(LAST_WORD)


def mpi_libraries(maps: str | None = None) -> list[str]:
    """The MPI libraries that this process has loaded, by path, each file once.

    Args:
        maps: text as of /proc/self/maps; None = this process's. Where there is no such file, none are found.
    """
    if maps is None:
        try:
            maps = Path("/proc/self/maps").read_text()
        except OSError:
            return []
    found: dict[tuple[str, str], str] = {}
    for line in maps.splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and MPI_LIBRARY.fullmatch(fields[5].rpartition("/")[2]):
            found[fields[3], fields[4]] = fields[5]  # by device and inode: links are no second library
    return sorted(found.values())


def refuse_mixed_mpi() -> None:
    """Refuse to go on with two MPI libraries in one process: mpi4py's communicator would be nonsense to HDF5's.

    Raises:
        UserError: mpi4py and HDF5 have loaded different ones.
    """
    found = mpi_libraries()
    if len(found) > 1:
        how = "build h5py and mpi4py with the MPI that is loaded (bash jobs/env.sh), and load no other module"
        raise UserError(f"two MPI libraries in one process: {' and '.join(found)}", "mpi4py and h5py", how)


def refuse_unspoken_pmi(version: str, environment: Mapping[str, str] = os.environ, libraries: list[str] | None = None) -> None:
    """Refuse `srun --mpi=pmi2` before an Open MPI that speaks PMIx alone ends each process with a page of its own.

    Args:
        version: `MPI.Get_library_version()`, which may be asked before MPI is initialised.
        libraries: paths of the MPI libraries; None = those of this process. Where its components lie elsewhere, nothing is refused.
    Raises:
        WrongLaunch: it is of version 5 or later, or has components for PMIx beside it and none for PMI-1 and PMI-2.
    """
    found = re.match(r"Open MPI v?(\d+)", version)
    if found is None or "PMI_FD" not in environment or "PMIX_RANK" in environment:
        return
    if int(found[1]) < 5:
        folders = [Path(path).resolve().parent for path in (mpi_libraries() if libraries is None else libraries)]
        parts = {p.name for f in folders for where in ("openmpi*", "openmpi*/lib/openmpi*") for p in f.glob(f"{where}/mca_pmix_*.so")}
        if not parts or parts & {"mca_pmix_s1.so", "mca_pmix_s2.so"}:
            return
    what = f"a wrong launch: srun speaks PMI, and Open MPI {found[1]} here PMIx alone"
    raise WrongLaunch(what, "the srun line", "use srun --mpi=pmix, or another of `srun --mpi=list`")


def _check_torch_variables(environment: Mapping[str, str]) -> None:
    size = _number(environment, "WORLD_SIZE")
    rank, local = _number(environment, "RANK", -1), environment.get("LOCAL_RANK", "0")
    if size < 1 or (size > 1 and not 0 <= rank < size) or not local.isdigit():
        said = ", ".join(f"{name} is {environment.get(name)!r}" for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
        what = f"a wrong launch: {said}"
        raise WrongLaunch(what, "the environment", "unset all three, or start by torchrun or srun, which set them for each rank")


def _number(environment: Mapping[str, str], name: str, otherwise: int = 0) -> int:
    text = environment.get(name, "")
    return int(text) if text.isdigit() else otherwise
