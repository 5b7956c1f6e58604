"""The shipped job scripts on a real Slurm of two nodes: the whole pipeline, a chain that breaks and is mended, DeepSpeed."""

import json
import shutil

import h5py
import numpy as np
import pytest
from conftest import run
from safetensors.numpy import load_file
from tiny_pipeline import STAGES, TINY, assert_same_maps
from two_nodes import TASKS, nodes  # noqa: F401, a fixture


@pytest.fixture(scope="module")
def pipeline(nodes):  # noqa: F811
    """Runs `jobs/pipeline.sh` with two nodes of two tasks, and gives what it printed."""

    def call(*words, check=True, **more):
        return nodes.call("bash", "jobs/pipeline.sh", *words, check=check, SBATCH_OUTPUT=f"{nodes.folder.parent}/run/%x-%j.log", **more)

    return call


@pytest.fixture(scope="module")
def whole(nodes, pipeline):  # noqa: F811
    """A run by `jobs/pipeline.sh`. At first the catalogue that the config names is not there, so that `project` fails in its job."""
    folder = nodes.folder.parent / "run"
    folder.mkdir()
    config = folder / "c.yaml"
    text = TINY.format(dir=folder).replace("npix: 16", f"npix: 16, halos: {folder}/mine.hdf5")
    config.write_text(text.replace("mine.hdf5", "halos.hdf5"))
    words = (*TASKS, config, f"project.halos={folder}/mine.hdf5")
    first = pipeline(*words)
    twice = pipeline(*words, check=False)
    nodes.wait_empty()
    broken = pipeline("--status", *words[len(TASKS) :]).stdout
    left = {stage for stage in STAGES if (folder / f"{stage}.status.json").exists()}
    shutil.copy(folder / "halos.hdf5", folder / "mine.hdf5")
    again = pipeline(*words)
    nodes.wait_empty()
    mended = pipeline("--status", *words[len(TASKS) :]).stdout
    return {
        "dir": folder,
        "config": config,
        "first": first,
        "twice": twice,
        "broken": broken,
        "left": left,
        "again": again,
        "mended": mended,
    }


def log_of(whole, stage, which):
    """The log of this stage's job, as `pipeline.sh` printed its place."""
    line = next(line for line in whole[which].stdout.splitlines() if line.startswith(f"{stage}: job "))
    path = whole["dir"] / line.rsplit("/", 1)[1]
    return path.read_text() if path.exists() else None


def lines_of(status):
    return dict(line.split(maxsplit=1) for line in status.splitlines())


def test_the_chain_stops_at_the_failed_stage_and_says_which(whole):
    said = lines_of(whole["broken"])
    assert said["simulate"].startswith("done:"), said
    assert said["project"].startswith("failed:") and "mine.hdf5" in said["project"] and "hpcdiff-project-" in said["project"], said
    assert [said[s] for s in STAGES[2:]] == ["not run, since project did not end well"] * 3
    assert whole["left"] == {"simulate", "project"}
    log = log_of(whole, "project", "first")
    assert log.count("hpcdiff project: error: ") == 1 and "hpcdiff project: job " in log and "failed" in log and "mine.hdf5" in log
    assert all(log_of(whole, stage, "first") is None for stage in STAGES[2:])


def test_a_chain_that_is_still_queued_is_not_submitted_twice(whole):
    assert whole["twice"].returncode == 2 and "is in the queue already" in whole["twice"].stderr


def test_the_same_command_goes_on_from_there(whole):
    assert "done already" in log_of(whole, "simulate", "again")
    said = lines_of(whole["mended"])
    for stage in STAGES:
        assert said[stage].startswith("done:"), f"{said[stage]}\n{log_of(whole, stage, 'again')}"
    for name in ("maps.h5", "model/model.safetensors", "samples.h5", "metrics.json", "report.html"):
        assert (whole["dir"] / name).is_file(), name


def test_every_stage_ran_on_two_nodes_with_two_ranks_each(whole):
    """The chunks of the simulation and the maps know their ranks; the torch stages say theirs in the log."""
    with h5py.File(whole["dir"] / "maps.h5") as f:
        assert json.loads(f.attrs["provenance"])["ranks"] == 4
    with h5py.File(whole["dir"] / "halos.hdf5") as f:
        assert json.loads(f.attrs["provenance"])["ranks"] == 4
    for stage in ("train", "sample"):
        said = log_of(whole, stage, "again")
        assert "on 4 rank(s)" in said, said[-4000:]
    with h5py.File(whole["dir"] / "samples.h5") as f:
        assert json.loads(f.attrs["provenance"])["ranks"] == 4


def test_the_results_are_those_of_a_run_without_slurm(whole, tmp_path):
    """Maps byte for byte; samples of the same model within 1e-5 of the field's range; metrics of the same samples byte for byte."""
    (tmp_path / "c.yaml").write_text(TINY.format(dir=tmp_path))
    for stage in ("simulate", "project"):
        done = run(stage, tmp_path / "c.yaml")
        assert done.returncode == 0, done.stderr
    assert_same_maps(whole["dir"] / "maps.h5", tmp_path / "maps.h5")
    shutil.copytree(whole["dir"] / "model", tmp_path / "model")
    done = run("sample", tmp_path / "c.yaml")
    assert done.returncode == 0, done.stderr
    with h5py.File(whole["dir"] / "samples.h5") as a, h5py.File(tmp_path / "samples.h5") as b, h5py.File(tmp_path / "maps.h5") as m:
        for field in a["samples"]:
            x, y = a["samples"][field][:], b["samples"][field][:]
            assert x.shape == y.shape and np.abs(x - y).max() <= 1e-5 * np.ptp(m["fields"][field][:]), field
    shutil.copy(whole["dir"] / "samples.h5", tmp_path / "samples.h5")
    done = run("evaluate", tmp_path / "c.yaml", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "metrics.json").read_bytes() == (whole["dir"] / "metrics.json").read_bytes()


def test_deepspeeds_job_script_trains_the_same_weights(whole, nodes):  # noqa: F811
    folder = nodes.folder.parent / "zero"
    folder.mkdir()
    words = (whole["config"], f"run.dir={folder}", f"run.maps={whole['dir']}/maps.h5", "train.zero_stage=2")
    job = nodes.submit("train_deepspeed.sbatch", folder / "j.log", *words)
    nodes.wait_empty()
    log = (folder / "j.log").read_text()
    assert nodes.job(job, "JobState") == "COMPLETED", log[-3000:]
    assert "engine deepspeed" in log and "on 4 rank(s)" in log
    a, b = (load_file(d / "model" / "model.safetensors") for d in (whole["dir"], folder))
    assert set(a) == set(b) and max(np.abs(a[k] - b[k]).max() for k in a) < 1e-4


def test_what_sbatch_refuses_leaves_no_half_chain(pipeline, nodes, tmp_path):  # noqa: F811
    """Four GPUs a node, as train.sbatch asks, are not here: the stages before it are taken back."""
    (tmp_path / "c.yaml").write_text(TINY.format(dir=tmp_path))
    done = pipeline(*TASKS, "train:--gpus-per-node=4", tmp_path / "c.yaml", check=False)
    assert done.returncode == 2 and "sbatch refused train" in done.stderr and "nothing was submitted" in done.stderr
    nodes.wait(lambda: not nodes.queue().strip(), "simulate and project are cancelled", 60)
    assert nodes.job(int(done.stdout.split("project: job ")[1].split(",")[0]), "JobState") == "CANCELLED"
