"""Members run here: two small ones from beginning to end, then again; one that is stopped; one that fails."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from conftest import ROOT, environment, make_maps, refused, run

from hpcdiff.sweep.local import stage_environment

BASE = """
run: {{dir: {dir}/base}}
task: {{transform: asinh}}
network: {{channels: 4, multipliers: [1], blocks: 1}}
diffusion: {{precondition: edm}}
train: {{batch_size: 6, images: 12, precision: fp32, lr: 1.0e-3, ema: 0.9}}
sample: {{steps: 3, samples: 2, batch_size: 12, init: matched}}
"""


@pytest.fixture
def sweep(tmp_path):
    """Writes SWEEP.yaml over a small map file; keys may be replaced."""
    make_maps(tmp_path / "maps.h5")
    (tmp_path / "base.yaml").write_text(BASE.format(dir=tmp_path))

    def make(**keys):
        path = tmp_path / "sweep.yaml"
        tree = {"base": str(tmp_path / "base.yaml"), "dir": str(tmp_path / "s"), "maps": str(tmp_path / "maps.h5"), **keys}
        path.write_text(yaml.safe_dump(tree))
        return path

    return make


def test_two_members_from_beginning_to_end_and_nothing_twice(sweep, tmp_path):
    path = sweep(vary={"run.seed": [0, 1]})
    done = run("sweep", path, "--local", "2", "--gather")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 members are done" in done.stdout
    rows = json.loads((tmp_path / "s" / "table.json").read_text())["rows"]
    (found,) = [r for r in rows if (r["field"], r["quantity"]) == ("gas", "squared_error")]
    each = [
        json.loads((tmp_path / "s" / f"00{n}-seed{n}" / "metrics.json").read_text())["squared_error"]["all"]["gas"]["mean"] for n in (0, 1)
    ]
    assert each[0] != each[1] and found["mean"] == pytest.approx(sum(each) / 2)
    half = 12.706204736174694 * abs(each[0] - each[1]) / 2  # t of one degree of freedom; the deviation of two is |a - b| / sqrt 2
    assert found["high"] - found["mean"] == pytest.approx(half, rel=1e-6)
    assert found["halo_error"] > 0 and [r for r in rows if r["quantity"] == "validation_loss"]
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("*/metrics.json")}
    done = run("sweep", path, "--local", "2")
    assert done.returncode == 0 and "0 to run" in done.stdout
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "s").glob("*/metrics.json")}


def test_a_member_that_fails_is_named_and_the_others_end(sweep, tmp_path):
    path = sweep(stages=["train"], vary={"task.inputs": [["sz"], ["temperature"]]})
    done = run("sweep", path, "--local", "1")
    refused(done, "1 of 2 members failed", "001-inputs_temperature: train", "does not hold")
    assert json.loads((tmp_path / "s" / "000-inputs_sz" / "train.status.json").read_text())["exit"] == 0


def test_a_signal_reaches_the_stages_and_the_same_command_goes_on(sweep, tmp_path):
    path = sweep(stages=["train"], vary={"run.seed": [0, 1]}, members=[{"train.images": 60000, "run.seed": 2}])
    command = [sys.executable, "-m", "hpcdiff.sweep", str(path), "--local", "3"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    long = tmp_path / "s" / "002-seed2-images60000"
    deadline = time.monotonic() + 120
    while not (long / "stats.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75 and "same command goes on" in err, out + err
    assert json.loads((long / "train.status.json").read_text())["exit"] == 75
    done = run("sweep", path, "--gather")
    assert "002-seed2-images60000: unfinished" in done.stdout


def test_near_the_end_of_a_slurm_job_no_member_begins_and_that_is_said(sweep, tmp_path):
    path = sweep(stages=["train"], vary={"run.seed": [0, 1]})
    now = int(time.time())
    times = {"SLURM_JOB_START_TIME": str(now - 7000), "SLURM_JOB_END_TIME": str(now + 200)}
    done = run("sweep", path, "--local", "1", **times)
    assert done.returncode == 75 and "2 members are not finished" in done.stderr, done.stdout + done.stderr
    assert not list((tmp_path / "s").glob("*/checkpoints"))


def test_a_stage_knows_the_jobs_end_but_takes_itself_for_no_rank_of_it(monkeypatch):
    for name in ("SLURM_JOB_END_TIME", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "WORLD_SIZE", "PMIX_RANK"):
        monkeypatch.setenv(name, "7")
    found = stage_environment("GPU-1")
    assert found["SLURM_JOB_END_TIME"] == "7" and found["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    assert not {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "WORLD_SIZE", "PMIX_RANK"} & set(found)
