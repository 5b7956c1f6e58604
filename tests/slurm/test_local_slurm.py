"""`jobs/local_slurm.sh` itself: it starts, says so twice, and leaves nothing behind, also after a crash."""

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT, environment, refused
from two_nodes import TwoNodes, control


@pytest.fixture
def place():
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    yield folder / "s"
    control("stop", folder / "s")
    shutil.rmtree(folder)


def processes(folder):
    """Command lines of what lives (a zombie has none) and has this folder's configuration in its environment, or its name in its words."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words, variables = (path / "cmdline").read_bytes(), (path / "environ").read_bytes()
        except OSError:
            continue
        if words and f"{folder}/".encode() in words + variables:
            found.append(words)
    return found


def started(folder):
    done = control("start", folder)
    if done.returncode:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    return done, TwoNodes(folder)


def test_start_twice_run_and_stop(place):
    assert control("status", place).returncode == 1
    assert "nothing runs" in control("stop", place).stdout
    done, nodes = started(place)
    assert "two nodes" in done.stdout
    again = control("start", place)
    assert again.returncode == 0 and "already" in again.stdout
    assert "127.0.0.2" in control("status", place).stdout
    names = nodes.call("srun", "-N2", "-n4", "--mpi=pmix", "printenv", "SLURMD_NODENAME", "PMIX_RANK").stdout.split()
    assert sorted(names) == ["0", "1", *["127.0.0.1"] * 2, *["127.0.0.2"] * 2, "2", "3"]
    (place.parent / "c.yaml").write_text(f"run: {{dir: {place.parent}/run}}\n")
    words = ("python", "-m", "hpcdiff.simulate", place.parent / "c.yaml")
    done = nodes.call("srun", "-N2", "-n4", "--mpi=pmi2", *words, check=False)  # Debian's Open MPI would end each rank with a page of text
    refused(done, "srun speaks PMI, and Open MPI", "--mpi=pmix")
    assert "MPI_Init" not in done.stderr and not (place.parent / "run").exists()
    assert control("stop", place).returncode == 0
    assert not place.exists() and not processes(place)
    assert control("env", place).returncode == 2


def test_stop_after_a_crash_leaves_no_process(place):
    _, nodes = started(place)
    log = place.parent / "log"
    stubborn = "trap '' TERM; echo $$ >>" + str(log) + "; while :; do sleep 1; done"
    nodes.call(
        "sbatch", "-N2", "-n2", "-o", "/dev/null", "--wrap", f'srun bash -c "{stubborn.replace("$$", chr(92) + "$" + chr(92) + "$")}"'
    )
    nodes.wait(lambda: log.exists() and len(log.read_text().split()) == 2, "both tasks have begun", 60)
    pids = log.read_text().split()
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    subprocess.run(["kill", "-9", *((place / f"{name}.pid").read_text().strip() for name in ("slurmctld", "slurmd.127.0.0.1"))], check=True)
    assert control("status", place).returncode == 1
    assert control("stop", place).returncode == 0
    assert not place.exists() and not processes(place)
    assert started(place)[0].returncode == 0  # and it can be started anew


def test_a_folder_of_the_users_is_left_alone(place):
    place.mkdir()
    (place / "precious").touch()
    done = control("start", place)
    assert done.returncode == 2 and "not a local Slurm's" in done.stderr and len(done.stderr.splitlines()) == 1
    assert "nothing runs" in control("stop", place).stdout and (place / "precious").exists()


def test_without_slurm_and_without_root_it_says_what_is_missing(place, tmp_path):
    """A PATH that has no Slurm, apt or sudo."""
    for name in ("bash", "id", "sed", "cat", "grep", "tr", "head", "mkdir", "touch", "ls", "dirname", "timeout", "rm"):
        (tmp_path / name).symlink_to(shutil.which(name))
    script = (ROOT / "jobs" / "local_slurm.sh").read_text().replace("/usr/local/sbin:/usr/sbin:/sbin", "")
    (tmp_path / "local_slurm.sh").write_text(script)
    env = environment(PATH=str(tmp_path))
    done = subprocess.run(["bash", tmp_path / "local_slurm.sh", "start", place], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "hpcdiff local_slurm: error: no munged" in done.stderr and "slurmctld, slurmd, slurm-client and munge" in done.stderr
