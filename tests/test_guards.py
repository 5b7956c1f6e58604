"""Wrong launches, two MPI libraries, files of another version, files exchanged under a reader: said before anything is written."""

import contextlib
import fcntl
import json
import shutil
import subprocess
import sys

import h5py
import pytest
from conftest import LAUNCHERS, ROOT, environment, make_maps, refused, run, start

from hpcdiff import guards
from hpcdiff.errors import UserError, disk_error
from hpcdiff.guards import WrongLaunch, first_started, mpi_libraries, refuse_launch
from hpcdiff.lock import Lock
from hpcdiff.maps import MapFile
from hpcdiff.versions import OtherVersion, refuse_version

SRUN = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_NTASKS": "4"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0", "GROUP_WORLD_SIZE": "1"}
MPIRUN = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "0"}


@pytest.mark.parametrize(
    ("mpi", "size", "variables", "says"),
    [
        (True, None, SRUN, "srun --mpi=pmix"),  # --mpi=none
        (True, 1, {**SRUN, "PMI_RANK": "2", "PMI_SIZE": "4"}, "4 tasks of this srun step, but worlds of 1"),  # an MPI library without pmi2
        (True, 2, {**SRUN, "OMPI_COMM_WORLD_SIZE": "2"}, "worlds of 2"),  # srun -n 4 mpirun -n 2
        (True, 1, {"PMI_RANK": "0", "PMI_SIZE": "3"}, "3 ranks of mpirun, but worlds of 1"),  # the mpirun of another MPI library
        (True, None, TORCHRUN, "torchrun has started 4 copies"),
        (False, None, {**SRUN, **TORCHRUN}, "--ntasks-per-node=1"),  # srun -n 4 torchrun --nproc-per-node=4: four worlds of four
        (False, None, {**SRUN, **TORCHRUN, "GROUP_WORLD_SIZE": "2"}, "4 torchruns, but 2 of them"),
        (False, None, {**MPIRUN, **TORCHRUN}, "mpirun has started 4 torchruns"),
        (False, None, MPIRUN, "torchrun --nproc-per-node=4"),
        (False, None, {**SRUN, "WORLD_SIZE": "8", "RANK": "2"}, "WORLD_SIZE says 8 ranks, and srun has started 4"),
        (False, None, {**SRUN, "WORLD_SIZE": "4"}, "RANK is None"),  # exported by hand, in a batch script
        (False, None, {"WORLD_SIZE": "2", "RANK": "2"}, "RANK is '2'"),
        (False, None, {"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE is 'two'"),
    ],
)
def test_numbers_that_do_not_fit_are_a_wrong_launch(mpi, size, variables, says):
    with pytest.raises(WrongLaunch, match="a wrong launch") as raised:
        refuse_launch("project" if mpi else "train", mpi, size, variables)
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("mpi", "size", "variables"),
    [
        (True, None, {}),
        (True, 1, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}),  # one process in a batch script, or in salloc's shell
        (False, None, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}),
        (True, 1, {**SRUN, "SLURM_PTY_PORT": "4242"}),  # a shell by srun -n 4 --pty bash
        (False, None, {**SRUN, "SLURM_PTY_PORT": "4242"}),
        (True, None, {**SRUN, "PMIX_RANK": "2"}),  # MPI will tell
        (True, 4, {**SRUN, "PMIX_RANK": "2"}),
        (True, 8, {**SRUN, "OMPI_COMM_WORLD_SIZE": "8"}),  # mpirun in a batch script starts its daemons by srun
        (True, 4, MPIRUN),
        (False, None, SRUN),
        (False, None, {**SRUN, "PMI_RANK": "2", "PMI_SIZE": "4"}),
        (False, None, {**SRUN, **TORCHRUN, "GROUP_WORLD_SIZE": "4", "WORLD_SIZE": "16"}),
        (False, None, TORCHRUN),
        (False, None, {"WORLD_SIZE": "1"}),
        (False, None, {**MPIRUN, "WORLD_SIZE": "4", "RANK": "3"}),  # set by hand for each rank
    ],
)
def test_launches_that_are_right(mpi, size, variables):
    refuse_launch("project" if mpi else "train", mpi, size, variables)


def test_one_of_the_copies_speaks():
    copies = [{"SLURM_PROCID": str(p), "RANK": str(r)} for p in range(4) for r in range(2)]
    assert [first_started(c) for c in copies] == [True] + [False] * 7 and first_started({})


def test_ranks_of_mpirun_that_train_would_take_for_four_worlds_say_it_once(tmp_path):
    (tmp_path / "c.yaml").write_text(f"run: {{dir: {tmp_path / 'run'}}}\n")
    command = [*LAUNCHERS["mpirun"](3), "-m", "hpcdiff.train", str(tmp_path / "c.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=120)
    refused(done, "mpirun has started 3 copies of train")


@pytest.mark.parametrize(("stage", "says"), [("train", "mpirun has started 2 copies"), ("project", "run.seeed")])
def test_the_rank_that_speaks_may_be_late(tmp_path, stage, says):
    """mpirun ends all ranks as soon as one has left."""
    (tmp_path / "c.yaml").write_text(f"run: {{dir: {tmp_path / 'run'}{', seeed: 1' * (stage == 'project')}}}\n")
    late = "import os, sys, time; time.sleep(2 * (os.environ['OMPI_COMM_WORLD_RANK'] == '0'));"
    code = f"{late} from hpcdiff.launch import run_stage; sys.exit(run_stage('{stage}', None, None, None, [{str(tmp_path / 'c.yaml')!r}]))"
    command = [*LAUNCHERS["mpirun"](2), "-c", code]
    refused(subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=120), says)


def test_two_mpi_libraries_are_told_apart():
    maps = """\
7f00-7f01 r-xp 00000000 fe:00 11 /usr/lib/libmpi.so.40.30.4
7f02-7f03 r--p 00000000 fe:00 11 /usr/lib/libmpi.so.40.30.4
7f04-7f05 r-xp 00000000 fe:00 12 /usr/lib/openmpi/libmpi_mpifh.so.40
7f04-7f05 r-xp 00000000 fe:00 13 /usr/lib/libmpi_cxx.so.40
7f04-7f05 r-xp 00000000 fe:00 14 /lib/libhdf5_openmpi.so
7f06-7f07 rw-p 00000000 00:00 0
"""
    assert mpi_libraries(maps) == ["/usr/lib/libmpi.so.40.30.4"]
    for name in ("libmpi.so.12", "libmpich.so.12.4.2", "libmpi_gnu_91.so.12", "libmpi_cray.so"):
        more = f"{maps}7f08-7f09 r-xp 00000000 fe:00 21 /opt/a b/{name}\n"
        assert mpi_libraries(more) == [f"/opt/a b/{name}", "/usr/lib/libmpi.so.40.30.4"]


@pytest.mark.parametrize(
    ("version", "parts", "variables", "wrong"),
    [
        ("Open MPI v4.1.4, package: Debian", ["ext3x", "flux"], {"PMI_FD": "5", "PMI_RANK": "0"}, True),
        ("Open MPI v4.1.4, package: Debian", ["ext3x", "s2"], {"PMI_FD": "5", "PMI_RANK": "0"}, False),
        ("Open MPI v4.1.4, package: Debian", [], {"PMI_FD": "5", "PMI_RANK": "0"}, False),  # its parts are elsewhere, or in one piece
        ("Open MPI v5.0.6, package: x", [], {"PMI_FD": "5", "PMI_RANK": "0"}, True),
        ("Open MPI v5.0.6, package: x", [], {"PMI_FD": "5", "PMIX_RANK": "0"}, False),
        ("Open MPI v5.0.6, package: x", [], {}, False),
        ("MPICH Version: 4.2", [], {"PMI_FD": "5", "PMI_RANK": "0"}, False),
    ],
)
@pytest.mark.parametrize("below", ["openmpi", "openmpi/lib/openmpi3"])  # the second is Debian's
def test_an_mpi_library_that_does_not_speak_srun_s_pmi(tmp_path, version, parts, variables, wrong, below):
    (tmp_path / below).mkdir(parents=True)
    for part in parts:
        (tmp_path / below / f"mca_pmix_{part}.so").touch()
    (tmp_path / "libmpi.so.40.30.4").touch()
    raised = pytest.raises(WrongLaunch, match="srun --mpi=pmix") if wrong else contextlib.nullcontext()
    with raised:
        guards.refuse_unspoken_pmi(version, variables, [str(tmp_path / "libmpi.so.40.30.4")])


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_ranks_with_two_mpi_libraries_end_before_they_meet(tmp_path):
    """An empty library of that name, loaded beside the real one."""
    (tmp_path / "e.c").write_text("int hpcdiff_test_empty;\n")
    subprocess.run(["cc", "-shared", "-o", tmp_path / "libmpi_gnu_91.so.12", tmp_path / "e.c"], check=True)
    (tmp_path / "c.yaml").write_text(f"run: {{dir: {tmp_path / 'run'}}}\n")
    done = run(
        "simulate",
        tmp_path / "c.yaml",
        "simulate.clusters=1",
        "simulate.particle_mass=1.0e13",
        ranks=2,
        LD_PRELOAD=str(tmp_path / "libmpi_gnu_91.so.12"),
    )
    refused(done, "two MPI libraries", "libmpi_gnu_91.so.12", "libmpi.so")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("found", "says"), [(3, "install the hpcdiff"), (1, "make it again"), ("x", "'x'"), (None, "")])
def test_versions(found, says):
    if found is None:
        refuse_version("map file", None, 2, "m.h5", "make it again")
        refuse_version("map file", 2, 2, "m.h5", "make it again")
        return
    with pytest.raises(OtherVersion, match=says) as raised:
        refuse_version("map file", found, 2, "m.h5", "make it again")
    assert f"version {found!r}" in str(raised.value) and "version 2" in str(raised.value)


def test_a_map_file_of_another_version_is_refused_finished_or_not(tmp_path):
    make_maps(tmp_path / "maps.h5")
    with h5py.File(tmp_path / "maps.h5", "r+") as f:
        f.attrs["version"] = 2
    shutil.copy(tmp_path / "maps.h5", tmp_path / "m.h5.partial")
    (tmp_path / "c.yaml").write_text(f"run: {{dir: {tmp_path}}}\n")
    refused(run("train", tmp_path / "c.yaml"), "the map file has version 2, and version 1", "maps.h5")
    with pytest.raises(UserError, match="unfinished map file has version 2"):
        make_maps(tmp_path / "m.h5")


def test_a_model_of_another_version_is_refused(tmp_path):
    from hpcdiff.model import read_model_config

    (tmp_path / "config.json").write_text(json.dumps({"format": "hpcdiff-model", "version": 7}))
    with pytest.raises(UserError, match="the model has version 7, and version 1"):
        read_model_config(tmp_path)


def test_samples_of_another_version_are_refused_and_a_shard_is_not_removed(tmp_path):
    import numpy as np

    from hpcdiff.sample.shards import Shards, stored_header

    header = {"config": {"sample": {"steps": 3}}, "inputs": {"maps": "a"}}
    shards = Shards(tmp_path, header, (), ["gas"], np.arange(2), (1, 4, 4))
    shards.open()
    shards.write(np.arange(2), np.zeros(2, int), {"gas": np.ones((2, 4, 4), np.float32)})
    (shard,) = shards._paths()
    with h5py.File(shard, "r+") as f:
        f.attrs["version"] = 2
    with pytest.raises(OtherVersion, match="shard has version 2"):
        shards.finished()
    assert shard.exists(), "a newer version's work is no damage"
    with h5py.File(tmp_path / "samples.h5", "w") as f:
        f.attrs.update({"format": "hpcdiff-samples", "version": 2})
    with pytest.raises(OtherVersion, match="samples file has version 2"):
        stored_header(tmp_path / "samples.h5")


def test_metrics_and_sweeps_of_another_version_are_refused(tmp_path):
    from hpcdiff.evaluate.__main__ import main as evaluate
    from hpcdiff.sweep.members import read_members

    said = {"format": "hpcdiff-metrics", "version": 2, "config": {"task": {"outputs": []}}, "profile": {"all": {}}}
    (tmp_path / "metrics.json").write_text(json.dumps(said))
    from hpcdiff.evaluate.pair import Run

    with pytest.raises(OtherVersion, match="metrics file has version 2"):
        Run(str(tmp_path))
    assert evaluate(["--compare", str(tmp_path), str(tmp_path)]) == 2
    (tmp_path / "members.json").write_text(json.dumps({"format": "hpcdiff-sweep", "version": 2}))
    with pytest.raises(OtherVersion, match="list of members has version 2"):
        read_members(tmp_path)


def test_maps_that_are_replaced_under_a_reader_are_not_mixed_with_the_old(tmp_path):
    path = tmp_path / "maps.h5"
    make_maps(path)
    maps = MapFile(path)
    first = maps.read("gas", maps.rows("train")[:2])
    path.touch()  # against a purge
    assert (maps.read("gas", maps.rows("train")[:2]) == first).all()
    path.unlink()
    make_maps(path, seed=1)
    with pytest.raises(UserError, match="replaced while it was read"):
        maps.read("gas", maps.rows("train")[:2])


def test_overwrite_is_refused_while_a_later_stage_reads(tmp_path):
    (tmp_path / "c.yaml").write_text(f"run: {{dir: {tmp_path}}}\n")
    make_maps(tmp_path / "maps.h5")
    reader = Lock(tmp_path / ".train.lock")
    assert reader.acquire()
    done = run("project", tmp_path / "c.yaml", "--overwrite")
    refused(done, "train is at work on what project --overwrite would remove", "pid")
    assert (tmp_path / "maps.h5").exists() and Lock(tmp_path / ".project.lock").holder() == ""
    assert json.loads((tmp_path / "project.status.json").read_text())["exit"] == 2
    reader.release()
    refused(run("project", tmp_path / "c.yaml", "--overwrite"), "snapshot")
    assert not (tmp_path / "maps.h5").exists()


def test_a_holder_that_has_not_written_its_name_yet(tmp_path):
    (tmp_path / "c.yaml").write_text(f"run: {{dir: {tmp_path}}}\n")
    with open(tmp_path / ".simulate.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(run("simulate", tmp_path / "c.yaml"), "another simulate is at work (it has only just begun)")


def test_copies_that_no_number_betrays_meet_at_the_lock(tmp_path):
    """`srun -n 2 mpirun -n 4`: each world is as large as the step, so only the second finds out, and says what it may be."""
    (tmp_path / "c.yaml").write_text(f"run: {{dir: {tmp_path / 'run'}}}\nsimulate: {{clusters: 60, particle_mass: 2.0e10}}\n")
    job = {"SLURM_JOB_ID": "7", "SLURM_CLUSTER_NAME": "tiny"}
    first = start("simulate", tmp_path / "c.yaml", **job)
    try:
        lock = Lock(tmp_path / "run" / ".simulate.lock")
        while not lock.holder():
            assert first.poll() is None
        refused(
            run("simulate", tmp_path / "c.yaml", **job),
            "another simulate is at work",
            "job 7",
            "same job",
            "mpirun or torchrun more than once",
        )
        refused(run("simulate", tmp_path / "c.yaml", SLURM_JOB_ID="8"), "job 7", "wait for it or end it")
    finally:
        first.kill()
        first.wait()


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_folder_without_file_locks(tmp_path):
    """flock that is refused, as the system's word ENOSYS (38), which HDF5 passes over, or as ENOLCK (37), EOPNOTSUPP (95), which it does not."""
    code = '#include <errno.h>\n#include <stdlib.h>\nint flock(int f, int o) { errno = atoi(getenv("NO_LOCKS")); return -1; }\n'
    (tmp_path / "n.c").write_text(code)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "n.so", tmp_path / "n.c"], check=True)
    (tmp_path / "c.yaml").write_text(
        f"run: {{dir: {tmp_path / 'run'}}}\nsimulate: {{clusters: 1, mass_range: [2.0e14, 1.0e15], cell: 32.0, particle_mass: 1.0e12}}\n"
    )
    variables = {"LD_PRELOAD": str(tmp_path / "n.so"), "HDF5_USE_FILE_LOCKING": "BEST_EFFORT"}
    assert run("simulate", tmp_path / "c.yaml", NO_LOCKS="38", **variables).returncode == 0
    assert Lock(tmp_path / "run" / ".simulate.lock").holder() == ""
    for number in ("37", "95"):
        refused(run("project", tmp_path / "c.yaml", NO_LOCKS=number, **variables), "HDF5_USE_FILE_LOCKING=FALSE")
        said = disk_error(OSError(int(number), "Unable to create file (unable to lock file)"))
        assert "file locks" in said and "HDF5_USE_FILE_LOCKING=FALSE" in said
    off = run("project", tmp_path / "c.yaml", NO_LOCKS="37", **{**variables, "HDF5_USE_FILE_LOCKING": "FALSE"})
    refused(off, "split")  # of one halo: it has read its inputs


def test_the_guards_leave_torch_and_mpi_alone():
    code = "import sys, hpcdiff.guards, hpcdiff.lock; print([m for m in ('torch', 'mpi4py', 'h5py') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr
    assert guards.MPI_VARIABLES[0] == "OMPI_COMM_WORLD_SIZE"
