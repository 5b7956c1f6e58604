"""Job scripts: their length, and what they do with each exit status, with Slurm's commands replaced by recorders."""

import os
import subprocess

import pytest
from conftest import ROOT, environment

STAGES = ("simulate", "project", "train", "sample", "evaluate")


@pytest.fixture
def slurm(tmp_path):
    """A PATH whose srun, sbatch, scontrol and scancel write down their arguments; srun then does what $SRUN_DOES says."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, does in {
        "srun": 'eval "${SRUN_DOES:-true}"',
        "sbatch": 'echo "$((100 + $(grep -c sbatch "$LOG")));cluster"',
        "scontrol": '[ "$1" = show ] && echo node7; true',
        "scancel": "true",
    }.items():
        (tools / name).write_text(f'#!/bin/bash\necho "{name} $*" >>"$LOG"\n{does}\n')
        (tools / name).chmod(0o755)
    log = tmp_path / "log"
    log.touch()

    def call(script, *arguments, **more):
        variables = {
            "LOG": str(log),
            "SLURM_JOB_ID": "42",
            "SLURM_NNODES": "2",
            "SLURM_JOB_NODELIST": "node[7-8]",
            "SLURM_GPUS_ON_NODE": "4",
        }
        env = environment(**variables, **more)
        env["PATH"] = f"{tools}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", f"jobs/{script}", *map(str, arguments)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
        )
        return done, log.read_text()

    return call


@pytest.fixture
def config(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "c.yaml").write_text(f"run: {{dir: {tmp_path / 'run'}}}\n")
    return tmp_path / "c.yaml"


@pytest.mark.parametrize("stage", STAGES)
def test_job_scripts_are_short_valid_and_name_their_stage(stage):
    path = ROOT / "jobs" / f"{stage}.sbatch"
    assert 10 <= len(path.read_text().splitlines()) <= 30
    assert f"-m hpcdiff.{stage} " in path.read_text()
    assert subprocess.run(["bash", "-n", path]).returncode == 0


@pytest.mark.parametrize("stage", STAGES[:2])
def test_mpi_stages_run_under_srun_with_pmix(slurm, config, stage):
    done, log = slurm(f"{stage}.sbatch", config, "run.seed=3", SRUN_DOES="true")
    assert f"srun --mpi=pmix python -m hpcdiff.{stage} {config} run.seed=3" in log
    assert slurm(f"{stage}.sbatch", config, SRUN_DOES="exit 2")[0].returncode != 0


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("status", "code", "requeued"), [(0, 0, False), (75, 0, True), (2, 1, False), (1, 1, False), (None, 1, False)])
def test_jobs_decide_from_the_status_file(slurm, config, stage, status, code, requeued):
    """A launcher's own status says little (torchrun's is 0 or 1); a status file of an earlier run must not count."""
    file = config.parent / "run" / f"{stage}.status.json"
    file.write_text('{\n "exit": 0,\n "reason": "an earlier run"\n}\n')
    write = "true" if status is None else f'printf \'{{\\n "exit": {status},\\n "reason": "x"\\n}}\\n\' >{file}'
    done, log = slurm(f"{stage}.sbatch", config, SRUN_DOES=f"{write}; exit {int(status != 0)}")
    assert done.returncode == code, done.stderr
    assert ("scontrol requeue 42" in log) == requeued
    if stage in STAGES[2:]:
        assert "torchrun --nnodes=2 --nproc-per-node=4" in log and "node7:20042" in log


def test_the_time_limits_signal_reaches_the_step(slurm, config):
    file = config.parent / "run" / "train.status.json"
    does = f"kill -USR1 $PPID; sleep 1; printf '{{\\n \"exit\": 75\\n}}\\n' >{file}; exit 1"
    done, log = slurm("train.sbatch", config, SRUN_DOES=does)
    assert "scancel --signal=TERM 42.0" in log and "scontrol requeue 42" in log and done.returncode == 0, done.stderr


def test_the_pipeline_is_a_chain(slurm, config):
    done, log = slurm("pipeline.sh", config)
    assert done.returncode == 0, done.stderr
    lines = [line for line in log.splitlines() if line.startswith("sbatch")]
    assert [line.split("jobs/")[1].split(".")[0] for line in lines] == list(STAGES)
    assert "--dependency" not in lines[0]
    assert all(f"--dependency=afterok:{101 + i}" in line for i, line in enumerate(lines[1:]))
    assert all(str(config) in line for line in lines)


def test_the_pipeline_starts_where_told_and_refuses_a_bad_config_before_it_submits(slurm, config):
    done, log = slurm("pipeline.sh", config, FIRST="sample")
    assert done.returncode == 0 and sum(line.startswith("sbatch") for line in log.splitlines()) == 2
    done, again = slurm("pipeline.sh", config, "trian.lr=1")
    assert done.returncode == 2 and again == log
    assert slurm("pipeline.sh")[0].returncode == 2
    assert slurm("pipeline.sh", config, FIRST="smaple")[0].returncode == 2
