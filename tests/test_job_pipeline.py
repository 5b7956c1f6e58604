"""`jobs/pipeline.sh`: the chain that it submits, what it refuses, and what it says of the stages."""

import fcntl
import json

import pytest
from fake_slurm import STAGES, config, slurm, status  # noqa: F401, fixtures


def test_the_pipeline_is_a_chain(slurm, config):  # noqa: F811
    done, log = slurm("pipeline.sh", config)
    assert done.returncode == 0, done.stderr
    lines = [line for line in log.splitlines() if line.startswith("sbatch")]
    assert [line.split("jobs/")[1].split(".")[0] for line in lines] == list(STAGES)
    assert "--dependency" not in lines[0]
    assert all(f"--dependency=afterok:{101 + i}" in line for i, line in enumerate(lines[1:]))
    assert all(str(config) in line for line in lines)


def test_the_pipeline_trains_with_the_engine_of_the_config(slurm, config):  # noqa: F811
    _, log = slurm("pipeline.sh", config, "train.engine=deepspeed", FIRST="train")
    assert [line.split("jobs/")[1].split(".")[0] for line in log.splitlines() if line.startswith("sbatch")] == [
        "train_deepspeed",
        "sample",
        "evaluate",
    ]


def test_the_pipeline_starts_where_told_and_refuses_a_bad_config_before_it_submits(slurm, config):  # noqa: F811
    done, log = slurm("pipeline.sh", config, FIRST="sample")
    assert done.returncode == 0 and sum(line.startswith("sbatch") for line in log.splitlines()) == 2
    done, again = slurm("pipeline.sh", config, "trian.lr=1")
    assert done.returncode == 2 and again == log
    assert slurm("pipeline.sh")[0].returncode == 2
    assert slurm("pipeline.sh", config, FIRST="smaple")[0].returncode == 2


def test_the_pipeline_hands_options_to_sbatch(slurm, config):  # noqa: F811
    """Each to every job, or to one stage's alone; none of them reaches the stages."""
    done, log = slurm("pipeline.sh", "--account=me", "train:--nodes=4", config, "run.seed=3", "--overwrite", "train:--time=9")
    assert done.returncode == 0, done.stderr
    lines = [line for line in log.splitlines() if line.startswith("sbatch")]
    assert all(
        f"--account=me jobs/{s}.sbatch {config} run.seed=3 --overwrite" in line
        for s, line in zip(STAGES, lines, strict=True)
        if s != "train"
    )
    assert "--account=me --nodes=4 --time=9 jobs/train.sbatch" in lines[2]


def test_a_pipeline_that_cannot_be_submitted_whole_is_not_submitted(slurm, config):  # noqa: F811
    done, log = slurm("pipeline.sh", config, REFUSES="jobs/sample.sbatch")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "sbatch refused sample (invalid partition specified: big)" in done.stderr and "nothing was submitted" in done.stderr
    assert "scancel 101 102 103" in log


def test_what_a_refused_pipeline_had_known_before_is_not_forgotten(slurm, config):  # noqa: F811
    run = config.parent / "run"
    said = json.dumps({"exit": 0, "reason": "27 clusters"}, indent=1, sort_keys=True)
    (run / "simulate.status.json").write_text(said)
    (run / ".jobs").write_text("simulate 7 /x/old.log\n")
    forgotten = {"QUEUED": 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1'}
    assert slurm("pipeline.sh", config, REFUSES="jobs/train.sbatch", **forgotten)[0].returncode == 2
    lines = slurm("pipeline.sh", "--status", config, **forgotten)[0].stdout.splitlines()
    assert lines[0].split(maxsplit=1)[1] == "done: 27 clusters" and lines[1].split(maxsplit=1)[1] == "not submitted"


def test_the_pipeline_says_how_far_each_stage_is(slurm, config):  # noqa: F811
    """A failed stage, with its reason and its log; those after it; jobs in the queue, which are not submitted a second time."""
    assert slurm("pipeline.sh", config)[0].returncode == 0
    run = config.parent / "run"
    files = {"simulate": (0, "27 clusters"), "project": (2, "no halos, here, mend it")}
    for stage, (code, reason) in files.items():
        (run / f"{stage}.status.json").write_text(json.dumps({"exit": code, "reason": reason}, indent=1, sort_keys=True))
    lines = slurm("pipeline.sh", "--status", config)[0].stdout.splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines] == [
        "done: 27 clusters",
        "failed: no halos, here, mend it (see /x/y.log)",
        *["not run, since project did not end well"] * 3,
    ]
    (run / "project.status.json").unlink()
    lines = slurm("pipeline.sh", "--status", config)[0].stdout.splitlines()
    assert "job 102 ended without a word" in lines[1] and "/x/y.log" in lines[1]
    queued = {"QUEUED": 'case "$*" in *103*) echo "103 PENDING Dependency" ;; esac'}
    assert "job 103: PENDING Dependency" in slurm("pipeline.sh", "--status", config, **queued)[0].stdout
    for first in ("simulate", "sample"):  # a stage that waits for it must not be submitted beside it
        done, log = slurm("pipeline.sh", config, FIRST=first, **queued)
        assert done.returncode == 2 and "train of this run is in the queue already, job 103" in done.stderr and log.count("sbatch --") == 5
    (run / "train.status.json").write_text(json.dumps({"exit": 0, "reason": "seen"}, indent=1))
    silent = {"QUEUED": 'echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1'}
    lines = slurm("pipeline.sh", "--status", config, **silent)[0].stdout.splitlines()
    assert lines[1].endswith("not known, since squeue does not answer (job 102)") and lines[2].endswith("done: seen")
    done, log = slurm("pipeline.sh", config, **silent)
    assert done.returncode == 2 and "squeue does not answer" in done.stderr and log.count("sbatch --") == 5
    forgotten = {"QUEUED": 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1'}
    assert "ended without a word" in slurm("pipeline.sh", "--status", config, **forgotten)[0].stdout.splitlines()[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-N", "4"], "there is no config file 4, "),
        (["{config}x"], "c.yamlx, "),
        (["trian:--nodes=4", "{config}"], "trian is no stage, trian:--nodes=4"),
        (["{config}", "run.seed=x"], "run.seed"),
        (["{config}", "run.sed=1"], "run.seed"),
    ],
)
def test_a_wrong_command_line_of_the_pipeline_is_one_line(slurm, config, words, says):  # noqa: F811
    done, log = slurm("pipeline.sh", *(word.format(config=config) for word in words))
    assert done.returncode == 2 and log == "" and done.stderr.count("\n") == 1 and says in done.stderr, done.stderr


def test_overwrite_may_stand_anywhere(slurm, config):  # noqa: F811
    done, log = slurm("pipeline.sh", "--overwrite", config, FIRST="evaluate")
    assert done.returncode == 0 and f"jobs/evaluate.sbatch {config} --overwrite" in log, done.stderr
    more = {"SRUN_DOES": status(0), "RUN": str(config.parent / "run"), "STAGE": "train"}
    assert slurm("train.sbatch", "--overwrite", config, **more)[0].returncode == 0


def test_two_pipelines_on_one_run_at_once(slurm, config):  # noqa: F811
    with open(config.parent / "run" / ".jobs.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done, log = slurm("pipeline.sh", config, FIRST="evaluate")
    assert done.returncode == 2 and "another pipeline.sh submits this run just now" in done.stderr and "sbatch" not in log
    assert slurm("pipeline.sh", config, FIRST="evaluate")[0].returncode == 0
