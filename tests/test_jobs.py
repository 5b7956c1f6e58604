"""Job scripts: their length, and what they do with each exit status."""

import hashlib
import subprocess

import h5py
import numpy as np
import pytest
from conftest import ROOT, environment
from fake_slurm import STAGES, config, slurm, status  # noqa: F401, fixtures

SCRIPTS = (*STAGES, "train_deepspeed")


@pytest.mark.parametrize("script", SCRIPTS)
def test_job_scripts_are_short_valid_and_name_their_stage(script):
    path = ROOT / "jobs" / f"{script}.sbatch"
    assert 10 <= len(path.read_text().splitlines()) <= 30
    assert f"-m hpcdiff.{script.split('_')[0]} " in path.read_text()
    for file in (path, ROOT / "jobs" / "requeue.sh", ROOT / "jobs" / "pipeline.sh"):
        assert subprocess.run(["bash", "-n", file]).returncode == 0


@pytest.mark.parametrize("stage", STAGES[:2])
def test_mpi_stages_run_under_srun_with_pmix(slurm, config, stage):  # noqa: F811
    done, log = slurm(f"{stage}.sbatch", config, "run.seed=3", SRUN_DOES="true")
    assert f"--mpi=pmix bash jobs/task.sh python -m hpcdiff.{stage} {config} run.seed=3" in log
    assert slurm(f"{stage}.sbatch", config, SRUN_DOES="exit 2")[0].returncode != 0


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("code", "more", "returned", "requeued"),
    [(0, {}, 0, False), (75, {"requeue": True}, 0, True), (75, {"requeue": False}, 75, False), (2, {}, 1, False), (None, {}, 1, False)],
)
def test_jobs_decide_from_the_status_file(slurm, config, script, code, more, returned, requeued):  # noqa: F811
    """A launcher's own status says little (torchrun's is 0 or 1); a status file of an earlier run must not count, nor its stop file."""
    run, stage = config.parent / "run", script.split("_")[0]
    (run / f"{stage}.status.json").write_text('{\n "exit": 0,\n "reason": "an earlier run"\n}\n')
    (run / "stop").touch()
    write = "true" if code is None else status(code, **more)
    does = f'[ ! -e "$RUN/stop" ] || exit 9; {write}; exit {int(code != 0)}'
    done, log = slurm(f"{script}.sbatch", config, SRUN_DOES=does, RUN=str(run), STAGE=stage)
    assert done.returncode == returned, done.stderr
    assert ("scontrol requeue 42" in log) == requeued and "sbatch" not in log
    assert ("by the file stop" in done.stdout) == (returned == 75)
    srun = next(line for line in log.splitlines() if line.startswith("srun "))
    assert "--kill-on-bad-exit=1" in srun
    if script in STAGES[2:]:
        assert "bash jobs/task.sh torchrun --nnodes=2 --nproc-per-node=4 --master-addr=node7 --master-port=20042" in srun
        assert "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1" in srun
    if script == "train_deepspeed":
        assert (
            f"bash jobs/task.sh python -m hpcdiff.train {config} train.engine=deepspeed" in srun
            and "torchrun" not in srun
            and "deepspeed " not in srun
        )


@pytest.mark.parametrize("job", [13313, 33313, 2**31])
def test_the_port_of_torchrun_is_none_that_linux_gives_to_outgoing_connections(slurm, config, job):  # noqa: F811
    """Those begin at 32768; jobs that follow each other have different ones."""
    ports = []
    for each in (job, job + 1):
        _, log = slurm("train.sbatch", config, SRUN_DOES="true", SLURM_JOB_ID=str(each))
        ports.append(int(log.split("--master-port=")[-1].split()[0]))
    assert ports[0] != ports[1] and all(1024 <= port < 32768 for port in ports)


@pytest.mark.parametrize("name", ["USR1", "TERM"])
@pytest.mark.parametrize("users", [False, True])
def test_a_signal_to_the_job_becomes_the_stop_file(slurm, config, name, users):  # noqa: F811
    """The step goes on to its end; a file that the user has made stays the user's."""
    run = config.parent / "run"
    touch = 'touch "$RUN/stop"; ' if users else ""
    does = f'{touch}kill -{name} $PPID; sleep 0.5; cp "$RUN/stop" "$RUN/seen"; {status(75, requeue=not users)}; exit 1'
    done, log = slurm("train.sbatch", config, SRUN_DOES=does, RUN=str(run), STAGE="train")
    assert (run / "seen").read_text() == ("" if users else "requeue 42\n")
    assert ("scontrol requeue 42" in log) != users and done.returncode == (75 if users else 0), done.stderr
    assert not [p.name for p in run.iterdir() if p.name.startswith(".stop")]


def test_a_step_killed_before_it_could_save_goes_on_if_its_time_was_over(slurm, config):  # noqa: F811
    done, log = slurm("train.sbatch", config, SRUN_DOES="kill -USR1 $PPID; sleep 0.3; exit 137")
    assert "scontrol requeue 42" in log and done.returncode == 0


@pytest.mark.parametrize(
    ("state", "requeued"),
    [
        ("RUNNING Reason=None", True),
        ("COMPLETING Reason=TimeLimit", True),
        ("COMPLETING Reason=None", False),
        ("CANCELLED Reason=None", False),
    ],
)
def test_a_cancelled_job_is_not_requeued(slurm, config, state, requeued):  # noqa: F811
    """What `scontrol show job` says in the batch shell after scancel and at the time limit, as seen in Slurm 22.05."""
    does = f"kill -TERM $PPID; sleep 0.3; {status(75, requeue=True)}"
    done, log = slurm("train.sbatch", config, SRUN_DOES=does, RUN=str(config.parent / "run"), STAGE="train", STATE=state)
    assert done.returncode == (0 if requeued else 75) and "sbatch" not in log
    assert ("scontrol requeue" in log) == requeued and ("cancelled" in done.stdout) != requeued


@pytest.mark.parametrize("script", ["train", "train_deepspeed", "project"])
def test_where_requeueing_is_forbidden_another_link_is_chained(slurm, config, script):  # noqa: F811
    variables = {"JOB_NAME": "mine", "CPUS_PER_TASK": "8", "NTASKS_PER_NODE": "4"}
    more = {f"SLURM_{k}": v for k, v in variables.items()}
    stage = script.split("_")[0]
    does = status(75, requeue=True)
    arguments = (config, "--overwrite", "run.seed=3")
    run = str(config.parent / "run")
    done, log = slurm(f"{script}.sbatch", *arguments, SRUN_DOES=does, RUN=run, STAGE=stage, REQUEUE_DOES="exit 1", **more)
    assert done.returncode == 0, done.stderr
    link = next(line for line in log.splitlines() if line.startswith("sbatch "))
    assert link.endswith(f" jobs/{script}.sbatch {config} run.seed=3")  # --overwrite would now remove the work
    request = "dependency=singleton,afterany:42 job-name=mine.run partition=gpu account=nullius time=12:00:00 mem=64G output=/x/y.log nodes=2 cpus-per-task=8"
    for option in request.split():
        assert f"--{option} " in link
    assert not any(f"--{option}" in link for option in ("qos", "array", "constraint", "mem-per-cpu"))
    _, log = slurm(f"{script}.sbatch", *arguments, SRUN_DOES=does, RUN=run, STAGE=stage, REQUEUE_DOES="exit 1", SLURM_JOB_NAME="mine.run")
    assert log.count("--job-name=mine.run ") == 2  # the link after it, too; a chain must not wait for the user's other runs
    # what waited for this job waits for the next link: 51 and 52, not 50, which waits for job 420
    assert [line for line in log.splitlines() if "update" in line] == [
        f"scontrol update JobId={job} Dependency=afterok:{link}" for link in (101, 102) for job in (51, 52)
    ]


@pytest.mark.parametrize("stage", STAGES[:4])
def test_requeues_without_progress_end(slurm, config, stage):  # noqa: F811
    """What each start leaves beside the work itself is no progress: its config anew, half a file, times, Open MPI's locks."""
    run = config.parent / "run"
    part = run / {"train": "checkpoints", "sample": "samples.partial", "simulate": "simulate.partial/snapshot"}.get(stage, "")
    part.mkdir(parents=True, exist_ok=True)
    left = {
        "simulate": "date +%s%N >$RUN/simulate.partial/config.yaml; touch $RUN/simulate.partial/x$$.tmp",
        "sample": "date >$RUN/samples.partial/.part-$$.tmp",
        "project": "touch $RUN/maps.h5.partial; touch $RUN/maps.h5.partial-17-$$.lock",
        "train": "true",
    }[stage]

    def once(number):
        if stage == "train":
            (part / f"{number:012d}").mkdir(exist_ok=True)
        elif stage == "project":
            with h5py.File(run / "maps.h5.partial", "w") as f:
                f["catalog/checksum"] = (np.arange(300) < number).astype("<u4")
        elif not (file := part / f"part-{number}.h5").exists():
            file.touch()
        done, log = slurm(f"{stage}.sbatch", config, SRUN_DOES=f"{left}; {status(75, requeue=True)}", RUN=str(run), STAGE=stage)
        return done.returncode, log.count("scontrol requeue"), done.stderr

    assert [once(n)[:2] for n in (64, 64, 128, 128, 256, 256)] == [(0, n) for n in range(1, 7)]
    code, requeues, said = once(256)
    assert code == 1 and requeues == 6 and said.count("came no further") == 1
    assert once(256)[:2] == (0, 7)  # who starts it again may try again


def test_a_run_that_never_saves_is_restarted_twice(slurm, config):  # noqa: F811
    run = str(config.parent / "run")
    codes = [slurm("train.sbatch", config, SRUN_DOES=status(75, requeue=True), RUN=run, STAGE="train")[0].returncode for _ in range(3)]
    assert codes == [0, 0, 1]


def test_the_environment_never_replaces_a_folder_of_the_users(tmp_path):
    """HPCDIFF_VENV=/scratch/me is a place, not something to remove."""
    text = b"".join((ROOT / name).read_bytes() for name in ("requirements.lock", "setup.cfg", "jobs/env.sh"))
    name = hashlib.sha256(text).hexdigest()[:16]
    place = tmp_path / "me"
    for made in (tmp_path / f"me-{name}", place / f".venv-{name}"):  # as if it had been built
        (made / "bin").mkdir(parents=True)
        (made / "bin" / "activate").write_text("HERE=yes\n")
        (made / ".ready").touch()
    (place / "precious").touch()
    for _ in range(2):
        done = subprocess.run(
            ["bash", "-c", ". jobs/env.sh && echo $HERE"],
            cwd=ROOT,
            env=environment(HPCDIFF_VENV=str(place)),
            capture_output=True,
            text=True,
        )
        assert done.stdout == "yes\n", done.stderr
        assert (place / "precious").exists() and (place / ".venv").readlink() == place / f".venv-{name}"


@pytest.mark.parametrize(
    ("code", "ping", "requeued"),
    [(None, "exit 1", True), (1, "exit 1", True), (1, "true", False), (None, "true", False), (2, "exit 1", False)],
)
def test_a_job_that_has_lost_a_node_is_requeued_and_a_failed_one_says_why(slurm, config, code, ping, requeued):  # noqa: F811
    """Slurm may not know for minutes that a node is dead, so the script asks all of them; a user's fault is not tried again."""
    write = "true" if code is None else status(code)
    variables = {"SRUN_DOES": f"{write}; exit 1", "PING_DOES": ping, "RUN": str(config.parent / "run"), "STAGE": "train"}
    done, log = slurm("train.sbatch", config, **variables)
    assert ("scontrol requeue 42" in log) == requeued and done.returncode == (0 if requeued else 1), done.stderr
    assert ("has lost a node" if requeued else "job 42 failed (") in done.stderr and ("without a word" in done.stderr) == (code is None)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("first", "code", "requeued"),
    [("told", None, True), ("told", 1, True), ("told", 2, False), ("failed", None, False), ("failed", 1, False)],
)
def test_term_while_a_stage_starts_is_no_fault_of_its_own(slurm, config, script, first, code, requeued):  # noqa: F811
    """What task.sh has noted decides where there is no status, or one of the ranks that outlived the told one; a note of an earlier run does not."""
    run, stage = config.parent / "run", script.split("_")[0]
    note, older = (run / f".{stage}.end.{job}" for job in (42, 41))
    for left in (note, older):
        left.write_text("failed" if requeued else "told")
    write = "true" if code is None else status(code)
    does = f'[ ! -e "$HPCDIFF_END" ] || exit 9; echo {first} >"$HPCDIFF_END"; {write}; exit 1'
    done, log = slurm(f"{script}.sbatch", config, SRUN_DOES=does, RUN=str(run), STAGE=stage)
    assert ("scontrol requeue 42" in log) == requeued and done.returncode == (0 if requeued else 1), done.stderr
    assert ("job 42 was told to end before it could save (" if requeued else "job 42 failed (") in done.stderr
    assert not note.exists() and not older.exists()


@pytest.mark.parametrize(
    ("does", "code", "noted"),
    [
        ("exit 0", 0, None),
        ("exit 3", 3, "failed"),
        ("kill -KILL $$", 137, "failed"),
        ("kill -TERM $PPID; sleep 0.5; exit 0", 0, "told"),
        ("kill -TERM $PPID; sleep 0.5; exit 75", 75, "told"),
        ("trap 'sleep 0.5; exit 4' TERM; kill -TERM $PPID; kill -TERM $$; sleep 5", 4, "told"),
        ("kill -USR1 $PPID; sleep 0.5; exit 5", 5, "failed"),
        ("kill -INT $PPID; sleep 0.5; exit 0", 0, None),
    ],
)
@pytest.mark.parametrize("before", [None, "told", "failed"])
def test_a_task_notes_whether_its_end_was_asked_for(tmp_path, does, code, noted, before):
    """The first note of a step stands: later ends follow from the first. The exit status is the command's, also after a signal."""
    note = tmp_path / "end"
    if before:
        note.write_text(f"{before}\n")
    env = environment(HPCDIFF_END=str(note), SLURM_NODEID="3")
    words = ["bash", ROOT / "jobs" / "task.sh", "bash", "-c", f"echo node $PET_NODE_RANK; {does}"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == code and done.stdout == "node 3\n"
    assert (note.read_text().strip() if note.exists() else None) == (before or noted)


@pytest.mark.parametrize(("asked", "gres"), [({}, "gpu:2,disk:1"), ({"SLURM_GPUS_PER_NODE": "2"}, "disk:1")])
def test_a_chained_link_asks_for_the_same_resources(slurm, config, asked, gres):  # noqa: F811
    shown = "JobId=42 Licenses=matlab:1 TresPerNode=gres:gpu:2,gres:disk:1 TimeLimit=1:00:00"
    variables = {"SRUN_DOES": status(75, requeue=True), "RUN": str(config.parent / "run"), "STAGE": "train", "SHOWN": shown}
    _, log = slurm("train.sbatch", config, REQUEUE_DOES="exit 1", SLURM_NTASKS="4", **variables, **asked)
    link = next(line for line in log.splitlines() if line.startswith("sbatch "))
    for option in (f"--gres={gres}", "--licenses=matlab:1", "--ntasks=4"):
        assert f" {option} " in link
    assert ("--gpus-per-node=2" in link) == bool(asked)


def test_torchrun_has_the_cores_of_all_tasks_and_a_process_for_each_where_there_are_no_gpus(slurm, config):  # noqa: F811
    """One torchrun a node, however many tasks a node were asked for."""
    more = {"SRUN_DOES": status(0), "RUN": str(config.parent / "run"), "STAGE": "sample"}
    _, log = slurm("sample.sbatch", config, SLURM_NTASKS_PER_NODE="4", SLURM_CPUS_PER_TASK="8", SLURM_GPUS_ON_NODE="", **more)
    line = "--ntasks=2 --ntasks-per-node=1 --cpus-per-task=32 bash jobs/task.sh torchrun --nnodes=2 --nproc-per-node=4 "
    assert line in log
    _, log = slurm("sample.sbatch", config, SLURM_NTASKS_PER_NODE="4", SLURM_CPUS_PER_TASK="8", SLURM_GPUS_ON_NODE="0", **more)
    assert log.count(line) == 2
