"""Slurm's commands replaced by recorders, for the tests of the job scripts."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT, environment

STAGES = ("simulate", "project", "train", "sample", "evaluate")


def record(tools, commands):
    """Programs in a new folder that write their arguments into the file $LOG and then do as told; {name: lines of bash}."""
    tools.mkdir()
    for name, does in commands.items():
        (tools / name).write_text(f'#!/bin/bash\necho "{name} $*" >>"$LOG"\n{does}\n')
        (tools / name).chmod(0o755)


@pytest.fixture
def slurm(tmp_path):
    """A PATH whose srun, sbatch, scontrol and squeue write down their arguments; srun and requeueing then do as $SRUN_DOES, $REQUEUE_DOES say.

    A dry run reads the config alone: five of them load torch for ten seconds.
    """
    tools = tmp_path / "bin"
    commands = {
        "srun": 'case "$*" in *" true") eval "${PING_DOES:-true}" ;; *) eval "${SRUN_DOES:-true}" ;; esac',
        "sbatch": 'case "$*" in *"${REFUSES:-nothing}"*) echo "sbatch: error: invalid partition specified: big" >&2; exit 1 ;; esac; echo "$((100 + $(grep -c sbatch "$LOG")));cluster"',
        "scontrol": 'case "$*" in "show host"*) echo node7 ;; *"show job"*) echo "$SHOWN JobState=${STATE:-RUNNING Reason=None} StdOut=/x/y.log" ;; requeue*) eval "${REQUEUE_DOES:-true}" ;; esac',
        "squeue": 'case "$*" in *" -j "*) eval "${QUEUED:-true}" ;; *) printf "50 afterok:420(unfulfilled)\\n51 afterok:42(unfulfilled)\\n52 afterok:42\\n" ;; esac',
        "scancel": "true",
    }
    record(tools, commands)
    dry = 'case "$*" in *" --dry-run"*) set -- -m hpcdiff.config get run.dir "${@:3}"; exec >/dev/null ;; esac'
    (tools / "python").write_text(f'#!/bin/bash\n{dry}\nexec {sys.executable} "$@"\n')
    (tools / "python").chmod(0o755)
    log = tmp_path / "log"
    log.touch()

    def call(script, *arguments, **more):
        variables = {
            "LOG": str(log),
            "HPCDIFF_VENV": "none",  # the python above
            "SHOWN": "JobId=42 JobName=mine Account=nullius QOS=(null) TimeLimit=12:00:00 Partition=gpu MinMemoryNode=64G Features=(null)",
            "SLURM_JOB_ID": "42",
            "SLURM_NNODES": "2",
            "SLURM_JOB_NODELIST": "node[7-8]",
            "SLURM_GPUS_ON_NODE": "4",
        }
        env = environment(**{**variables, **more})
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


def status(exit, **more):
    """A shell command that writes a status file as stages do."""
    text = json.dumps({"exit": exit, "reason": "x", **more}, indent=1, sort_keys=True)
    return f"printf '%s\\n' '{text}' >\"$RUN/$STAGE.status.json\""
