"""Signals, requeues and dead nodes on a real Slurm of two nodes: a disturbed job goes on and ends as an undisturbed one."""

import getpass
import time

import h5py
import numpy as np
import pytest
from conftest import make_maps, run
from tiny_pipeline import TINY
from two_nodes import TASKS, nodes  # noqa: F401, a fixture

MORE = ("train.images=2400", "train.checkpoint_every=200", "train.validate_every=2400", "train.log_every=200")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A training of four ranks without Slurm: its folder with config, maps and model."""
    folder = tmp_path_factory.mktemp("undisturbed")
    make_maps(folder / "maps.h5", halos=40)
    (folder / "c.yaml").write_text(TINY.format(dir=folder))
    done = run("train", folder / "c.yaml", *MORE, ranks=4, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture
def place(nodes):  # noqa: F811
    """A folder that logs are shown of when a wait is over; jobs of a failed test are cancelled."""
    folder = nodes.folder.parent / f"job{len(list(nodes.folder.parent.iterdir()))}"
    folder.mkdir()
    yield folder
    if nodes.queue().strip():
        nodes.call("scancel", "--state=PENDING,RUNNING,SUSPENDED", "-u", getpass.getuser(), check=False)
        nodes.wait_empty()


def newest(folder):
    """Images in the newest whole checkpoint."""
    return max((int(p.name) for p in (folder / "checkpoints").glob("[0-9]" * 12)), default=0)


def train(nodes, undisturbed, place, *options):  # noqa: F811
    words = (undisturbed / "c.yaml", f"run.dir={place}", f"run.maps={undisturbed}/maps.h5", *MORE)
    return nodes.submit("train.sbatch", place / "j.log", *words, options=(*TASKS, *options))


def same_weights(a, b):
    return (a / "model" / "model.safetensors").read_bytes() == (b / "model" / "model.safetensors").read_bytes()


def test_a_disturbed_training_ends_with_the_same_weights(nodes, undisturbed, place):  # noqa: F811
    """One after the other: a daemon that restarts, the signal before a time limit, a requeue by hand, TERM while ranks start, the death of either node.

    Four ranks sum gradients in one order, before a restart and after. Slurm may send a TERM of its own to the run after a node's death,
    when it clears what the run before has left: that is one restart more, and changes nothing else.
    """
    job, log = train(nodes, undisturbed, place), place / "j.log"

    def restarted():
        return int(nodes.job(job, "Restarts"))

    def work_on(restarts):
        nodes.wait(lambda: restarted() >= restarts, f"restart {restarts}")
        saved = newest(place)
        nodes.wait(lambda: newest(place) >= saved + 200, f"a checkpoint after restart {restarts}")

    work_on(0)
    nodes.call("kill", "-9", (nodes.folder / "slurmd.127.0.0.2.pid").read_text().strip())
    nodes.start_node("127.0.0.2")  # the job's own daemons live on: nothing happens
    work_on(0)
    nodes.call("scancel", "--signal=USR1", "--batch", job)
    work_on(1)
    assert "stopped by the job script: saved at image" in log.read_text()
    nodes.call("scontrol", "requeue", job)
    nodes.wait(lambda: restarted() == 2 and f"{job}.0" in nodes.call("squeue", "-h", "--steps", "-o", "%i").stdout, "its ranks start")
    time.sleep(0.5)
    nodes.call("scancel", "--signal=TERM", job)
    work_on(3)
    assert "was told to end before it could save" in log.read_text()
    for node in ("127.0.0.2", "127.0.0.1"):  # the latter has the job's own shell: then it is Slurm that requeues
        count = restarted()
        nodes.kill_node(node)
        nodes.wait(lambda count=count: restarted() > count, f"the death of {node} is noticed")
        nodes.start_node(node)
        work_on(count + 1)
    nodes.wait_empty()
    text = log.read_text()
    assert nodes.job(job, "JobState") == "COMPLETED" and restarted() >= 5, text[-3000:]
    assert text.count("to 2400 on 4 rank(s)") >= 5 and text.count("from image 0 to 2400") == 1
    assert same_weights(place, undisturbed)


def test_where_requeueing_is_forbidden_a_chain_goes_on_and_what_waits_follows_it(nodes, undisturbed, place):  # noqa: F811
    job, log = train(nodes, undisturbed, place, "--no-requeue"), place / "j.log"
    options = (f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes", "--gpus-per-node=0", "-o", "/dev/null")
    waiting = int(nodes.call("sbatch", "--parsable", *options, "--wrap", "true").stdout)
    nodes.wait(lambda: newest(place) >= 200, "the first checkpoint")
    nodes.call("scancel", "--signal=USR1", "--batch", job)
    nodes.wait(lambda: "so job " in log.read_text(), "another link is chained")
    link = int(log.read_text().split("so job ")[1].split()[0])
    nodes.wait(lambda: f"afterok:{link}" in nodes.job(waiting, "Dependency"), "what waited for the job waits for the link", 60)
    nodes.wait_empty()
    assert nodes.job(link, "JobState") == nodes.job(waiting, "JobState") == "COMPLETED", log.read_text()[-3000:]
    assert nodes.job(link, "NumNodes") == "2" and "on 4 rank(s)" in log.read_text().split("so job ")[1]
    assert same_weights(place, undisturbed)


def test_sampling_goes_on_after_a_requeue(nodes, undisturbed, place):  # noqa: F811
    words = (
        undisturbed / "c.yaml",
        f"run.maps={undisturbed}/maps.h5",
        f"run.model={undisturbed}/model",
        "sample.steps=100",
        "sample.batch_size=8",
    )
    job = nodes.submit("sample.sbatch", place / "j.log", *words, f"run.dir={place}", "sample.samples=24")
    nodes.wait(lambda: any(p.suffix == ".h5" for p in place.glob("samples.partial/*")), "the first shard")
    nodes.call("scancel", "--signal=USR1", "--batch", job)
    nodes.wait(lambda: nodes.job(job, "Restarts") == "1", "the job has requeued itself")
    nodes.wait_empty()
    assert nodes.job(job, "JobState") == "COMPLETED", (place / "j.log").read_text()[-3000:]
    (place / "alone").mkdir()
    done = run("sample", *words, f"run.dir={place}/alone", "sample.samples=24", timeout=600)
    assert done.returncode == 0, done.stderr
    with h5py.File(place / "samples.h5") as a, h5py.File(place / "alone" / "samples.h5") as b:
        for field in a["samples"]:
            x, y = a["samples"][field][:], b["samples"][field][:]
            assert x.shape == y.shape and np.abs(x - y).max() <= 1e-5 * np.ptp(y), field


def test_a_task_of_a_sweeps_array_goes_on_alone(nodes, undisturbed, place):  # noqa: F811
    """Its own number is JOB_TASK: requeueing the plain one would end the other."""
    text = TINY.format(dir=place / "base").replace("images: 160", "images: 2400, checkpoint_every: 200, validate_every: 2400")
    (place / "base.yaml").write_text(text)
    (place / "sweep.yaml").write_text(
        f"base: {place}/base.yaml\ndir: {place}/s\nmaps: {undisturbed}/maps.h5\nstages: [train]\nvary: {{run.seed: [0, 1]}}\n"
        f"sbatch: [--nodes=1, --ntasks-per-node=1, --cpus-per-task=1, --output={place}/%a.log]\n"
    )
    said = nodes.call("python", "-m", "hpcdiff.sweep", place / "sweep.yaml").stdout
    array = said.split("job ")[1].split(":")[0]
    members = [place / "s" / f"00{n}-seed{n}" for n in (0, 1)]
    nodes.wait(lambda: newest(members[0]) >= 200 and newest(members[1]) >= 200, "the first checkpoints")
    nodes.call("scancel", "--signal=USR1", "--batch", f"{array}_0")
    log = place / "0.log"
    nodes.wait(lambda: "PENDING" in nodes.queue(), "it has requeued itself")
    again = nodes.call("python", "-m", "hpcdiff.sweep", place / "sweep.yaml").stdout
    assert "in the queue already" in again and "--array" not in again, again
    nodes.wait_empty()
    assert log.read_text().count("from image 0 ") == 1 and log.read_text().count("seen; the model is in") == 1, log.read_text()[-3000:]
    assert (place / "1.log").read_text().count("from image ") == 1  # the other was left alone
    assert "0 to run" in nodes.call("python", "-m", "hpcdiff.sweep", place / "sweep.yaml", "--dry-run").stdout


ENDS = {"abort": "MPI.COMM_WORLD.Abort(1)", "exit": "os._exit(1)", "kill": "os.kill(os.getpid(), 9)"}


@pytest.mark.parametrize("end", ENDS)
def test_a_rank_that_dies_by_itself_is_not_taken_for_one_that_was_told(nodes, place, end):  # noqa: F811
    """The others get a TERM for it, of which the note must not speak. After MPI's abort Slurm may kill all tasks before one has noted anything: no word is a fault too."""
    code = "import os, time; from mpi4py import MPI; MPI.COMM_WORLD.barrier(); "
    code += f"time.sleep(0.3); MPI.COMM_WORLD.rank == 3 and {ENDS[end]}; time.sleep(60)"
    options = ("--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=1", "--gpus-per-node=0", "--kill-on-bad-exit=1", "--mpi=pmix")
    done = nodes.call("srun", *options, "bash", "jobs/task.sh", "python", "-c", code, check=False, HPCDIFF_END=str(place / "end"))
    noted = (place / "end").read_text() if (place / "end").exists() else ""
    assert done.returncode and noted in ({"failed\n", ""} if end == "abort" else {"failed\n"}), (noted, done.stderr[-2000:])
