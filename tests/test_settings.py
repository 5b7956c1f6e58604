"""jobs/settings.sh: what a job gets on a cluster, and that nothing of the user's is changed."""

import os
import subprocess

import pytest
from conftest import ROOT

CLUSTER = {"SLURM_CPUS_PER_TASK": "8", "SLURM_NTASKS_PER_NODE": "1", "SLURM_GPUS_ON_NODE": "4", "SLURM_NNODES": "2"}


@pytest.fixture
def settings(tmp_path):
    """Source settings.sh `times` times in a bare environment, then run a command; returns the variables and what was said."""
    tools = tmp_path / "bin"
    tools.mkdir()

    def call(*commands, **more):
        variables = {"PATH": f"{tools}:{os.environ['PATH']}", "SYSFS": str(tmp_path / "sys"), "SLURM_TMPDIR": str(tmp_path), **more}
        line = f". {ROOT}/jobs/settings.sh; {'; '.join(commands)}\nenv -0 >&9"
        with open(tmp_path / "env", "wb") as out:
            shell = ["bash", "-uc", f"exec 9>{out.name}\n{line}"]
            done = subprocess.run(shell, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60)
        pairs = (tmp_path / "env").read_text().split("\0")[:-1]
        assert done.returncode == 0 and not done.stderr, done.stderr
        return dict(p.split("=", 1) for p in pairs), done.stdout

    call.tools, call.sys = tools, tmp_path / "sys"
    return call


@pytest.mark.parametrize(
    ("job", "threads"),
    [
        ({}, "2"),  # torchrun: four processes share the eight cores of the one task
        ({"SLURM_NTASKS_PER_NODE": "4"}, "8"),  # a task a GPU
        ({"SLURM_GPUS_ON_NODE": "0"}, "8"),
        ({"SLURM_GPUS_ON_NODE": "0", "HPCDIFF_PROCESSES": "2"}, "4"),
        ({"SLURM_CPUS_PER_TASK": "2"}, "1"),
        ({"SLURM_NTASKS_PER_NODE": "8", "SLURM_CPUS_PER_TASK": "1"}, "1"),
    ],
)
def test_threads_are_the_cores_of_a_process(settings, job, threads):
    found, _ = settings(**{**CLUSTER, **job})
    assert found["OMP_NUM_THREADS"] == threads
    assert found["SRUN_CPUS_PER_TASK"] == {**CLUSTER, **job}["SLURM_CPUS_PER_TASK"]


def test_processes_without_gpus_share_the_cores_too(settings):
    job = {k: v for k, v in CLUSTER.items() if k != "SLURM_GPUS_ON_NODE"}
    assert settings(**job, HPCDIFF_PROCESSES="2")[0]["OMP_NUM_THREADS"] == "4"
    bare, _ = settings()  # not in a job: srun's own default is left alone
    assert bare["OMP_NUM_THREADS"] == "1" and "SRUN_CPUS_PER_TASK" not in bare


def test_what_the_user_has_set_stays(settings):
    mine = {
        "OMP_NUM_THREADS": "5",
        "SRUN_CPUS_PER_TASK": "3",
        "NCCL_DEBUG": "INFO",
        "NUMBA_CACHE_DIR": "",
        "FI_MR_CACHE_MONITOR": "memhooks",
    }
    (settings.sys / "class" / "cxi" / "cxi0").mkdir(parents=True)
    found, _ = settings(**CLUSTER, **mine)
    assert {k: found[k] for k in mine} == mine
    assert found["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "280"


def test_a_job_submitted_by_a_job_does_not_keep_that_one_s_settings(settings, tmp_path):
    """A chain passes its environment on: cores and the other node's disk are settled anew, what the user has changed since is kept."""
    first, _ = settings(**CLUSTER)
    passed = {k: v for k, v in first.items() if k.startswith(("HPCDIFF", "OMP", "SRUN", "NUMBA", "TORCH", "TRITON", "NCCL", "PYTHON"))}
    (tmp_path / "node2").mkdir()
    passed |= {"NCCL_DEBUG": "INFO", "SLURM_TMPDIR": str(tmp_path / "node2"), "SLURM_CPUS_PER_TASK": "16", "SLURM_NTASKS_PER_NODE": "2"}
    second, _ = settings(**passed)
    assert second["OMP_NUM_THREADS"] == second["SRUN_CPUS_PER_TASK"] == "16" and second["NCCL_DEBUG"] == "INFO"
    assert second["NUMBA_CACHE_DIR"].startswith(str(tmp_path / "node2")) and not first["NUMBA_CACHE_DIR"].startswith(
        str(tmp_path / "node2")
    )


def test_compiled_code_is_kept_in_a_folder_of_ones_own(settings, tmp_path):
    found, _ = settings()
    place = tmp_path / f"hpcdiff-{os.getuid()}"
    assert found["HPCDIFF_CACHE"] == str(place) and place.stat().st_mode & 0o077 == 0  # numba's cache is pickled
    for name in ("NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        assert found[name].startswith(f"{place}/")
    found, _ = settings(HPCDIFF_CACHE="/elsewhere")
    assert found["NUMBA_CACHE_DIR"] == "/elsewhere/numba"
    found, _ = settings(SLURM_TMPDIR="/proc")  # cannot be written: the next best
    assert found["HPCDIFF_CACHE"] == f"/tmp/hpcdiff-{os.getuid()}"


@pytest.mark.skipif(os.getuid() != 0, reason="needs to give a folder to someone else")
def test_somebody_else_s_folder_is_not_trusted(settings, tmp_path):
    place = tmp_path / f"hpcdiff-{os.getuid()}"
    place.mkdir()
    os.chown(place, 65534, -1)
    assert settings()[0]["HPCDIFF_CACHE"] == f"/tmp/hpcdiff-{os.getuid()}"


def test_slingshot_is_set_up_where_it_is(settings, tmp_path):
    found, said = settings(**CLUSTER)
    assert "NCCL_SOCKET_IFNAME" not in found and not any(k.startswith("FI_") for k in found) and not said
    (settings.sys / "class" / "cxi" / "cxi0").mkdir(parents=True)
    found, said = settings(**CLUSTER)
    assert found["NCCL_SOCKET_IFNAME"] == "hsn" and found["FI_MR_CACHE_MONITOR"] == "userfaultfd"
    assert said.count("\n") == 1 and "no libnccl-net.so" in said
    (tmp_path / "ofi").mkdir()
    (tmp_path / "ofi" / "libnccl-net-ofi.so").touch()
    assert not settings(**CLUSTER, LD_LIBRARY_PATH=f"/usr/lib:{tmp_path / 'ofi'}")[1]
    cpu = {k: v for k, v in CLUSTER.items() if k != "SLURM_GPUS_ON_NODE"}
    assert not any(k.startswith(("FI_", "NCCL_SOCKET")) for k in settings(**cpu)[0])  # MPI's libfabric is the site's affair


def test_infiniband_wants_memory_that_may_be_locked(settings):
    (settings.sys / "class" / "infiniband" / "mlx5_0").mkdir(parents=True)
    with_limit = subprocess.run(
        ["bash", "-c", f"ulimit -l 64; SYSFS={settings.sys} SLURM_TMPDIR={settings.tools} . {ROOT}/jobs/settings.sh"],
        capture_output=True,
        text=True,
    )
    assert "64 kB may be locked in memory" in with_limit.stdout and not with_limit.stderr
    raised = subprocess.run(
        [
            "bash",
            "-c",
            f"ulimit -S -l 64; SYSFS={settings.sys} SLURM_TMPDIR={settings.tools} . {ROOT}/jobs/settings.sh; ulimit -l; ulimit -H -l",
        ],
        capture_output=True,
        text=True,
    )
    assert raised.stdout.split()[-2] == raised.stdout.split()[-1]


def lustre(settings, default="1", kind="lustre"):
    """stat and lfs as on a Lustre file system whose folders have this stripe count; lfs writes down what it is told."""
    log = settings.tools / "log"
    log.unlink(missing_ok=True)
    log.touch()
    (settings.tools / "stat").write_text(f"#!/bin/sh\necho {kind}\n")
    (settings.tools / "lfs").write_text(f'#!/bin/sh\ncase $1 in getstripe) echo {default} ;; *) echo "$@" >>{log} ;; esac\n')
    for name in ("stat", "lfs"):
        (settings.tools / name).chmod(0o755)
    return log


def test_a_new_run_folder_is_striped_on_lustre(settings, tmp_path):
    log, run = lustre(settings), tmp_path / "runs" / "a"
    found, _ = settings(f"lay_out {run}")
    assert run.is_dir() and found["OMPI_MCA_io"] == "^ompio"
    words = log.read_text().split()
    assert words[0] == "setstripe" and words[-1] == str(run)
    parts = log.read_text().split("-E ")[1:]
    assert [p.split()[0] for p in parts] == ["256M", "4G", "-1"] and [p.split()[2] for p in parts] == [
        "1",
        "4",
        "16",
    ]  # wider for larger files
    log = lustre(settings)
    settings(f"lay_out {run}")
    assert log.read_text() == ""  # files that are there already keep their layout
    settings(f"lay_out {tmp_path / 'b'}", HPCDIFF_STRIPE="-c 8 -S 4M")
    assert log.read_text() == f"setstripe -c 8 -S 4M {tmp_path / 'b'}\n"


@pytest.mark.parametrize(("default", "kind", "more"), [("-1", "lustre", {}), ("1", "nfs", {}), ("1", "lustre", {"HPCDIFF_STRIPE": "no"})])
def test_the_layout_of_the_site_is_left_alone(settings, tmp_path, default, kind, more):
    log, run = lustre(settings, default, kind), tmp_path / "runs" / "a"
    found, _ = settings(f"lay_out {run}", **more)
    assert log.read_text() == "" and not run.exists()
    assert ("OMPI_MCA_io" in found) == (kind == "lustre")
