"""The Slurm array: what is submitted, what is not submitted again, and what the job script does; Slurm is replaced by recorders."""

import json
import os
import subprocess

import pytest
from conftest import ROOT, environment, refused
from fake_slurm import record

from hpcdiff.spans import spans

STAGES = ("train", "sample", "evaluate")


@pytest.fixture
def sweep(tmp_path):
    """A sweep of five members with a map file (empty: nothing reads it here)."""
    (tmp_path / "base.yaml").write_text(f"run: {{dir: {tmp_path}/base}}\n")
    (tmp_path / "maps.h5").touch()
    path = tmp_path / "sweep.yaml"
    path.write_text(
        f"base: {tmp_path}/base.yaml\ndir: {tmp_path}/s\nmaps: {tmp_path}/maps.h5\nthrottle: 3\n"
        "sbatch: [--time=1:00:00]\nvary: {run.seed: [0, 1, 2, 3, 4]}\n"
    )
    return path


@pytest.fixture
def slurm(tmp_path):
    """Runs a command with Slurm's own replaced by recorders; $QUEUED is what squeue lists, srun does what $SRUN_DOES says."""
    tools, log = tmp_path / "bin", tmp_path / "log"
    commands = {
        "srun": 'eval "${SRUN_DOES:-true}"',
        "sbatch": '[ -n "${REFUSE:-}" ] && { echo "sbatch: error: $REFUSE" >&2; exit 1; }; echo "$((100 + $(grep -c ^sbatch "$LOG")));cluster"',
        "squeue": '[ -n "${QUEUED:-}" ] || { echo "Invalid job id specified" >&2; exit 1; }; printf "%s\\n" $QUEUED',
        "scontrol": '[ "$1" = show ] && echo node7; [ "$1" != requeue ] || [ -z "${FORBIDDEN:-}" ]',
        "scancel": "true",
    }
    record(tools, commands)
    log.touch()

    def call(*words, **more):
        env = environment(LOG=str(log), SLURM_JOB_ID="42", SLURM_NNODES="1", SLURM_JOB_NODELIST="node7", SLURM_GPUS_ON_NODE="1", **more)
        env["PATH"] = f"{tools}:{os.environ['PATH']}"
        log.write_text("")
        done = subprocess.run([*map(str, words)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
        return done, log.read_text().splitlines()

    return call


def submit(slurm, path, **more):
    done, log = slurm("python", "-m", "hpcdiff.sweep", path, **more)
    return done, [line for line in log if line.startswith("sbatch")]


def end(folder, status, reason="x"):
    """A member whose stages all ended so."""
    for stage, product in zip(STAGES, ("model", "samples.h5", "metrics.json"), strict=True):
        (folder / f"{stage}.status.json").write_text(json.dumps({"exit": status, "reason": reason}))
        (folder / product).touch()


def test_spans():
    assert [spans(n) for n in ([0, 1, 2, 5, 7, 8], [3], [], [8, 7, 7])] == ["0-2,5,7-8", "3", "", "7-8"]


def test_one_array_and_only_what_is_not_finished(slurm, sweep, tmp_path):
    done, calls = submit(slurm, sweep)
    assert done.returncode == 0, done.stderr
    assert calls == [f"sbatch --parsable --array=0-4%3 --time=1:00:00 jobs/sweep.sbatch {tmp_path}/s train sample evaluate"]
    members = sorted(p for p in (tmp_path / "s").iterdir() if p.is_dir())
    assert [m.name for m in members] == [f"00{n}-seed{n}" for n in range(5)]
    end(members[1], 0)
    end(members[2], 2, "the map file is not there")
    end(members[3], 75)
    done, calls = submit(slurm, sweep)  # the array has left the queue
    assert "--array=0,2-4%3" in calls[0]
    done, calls = submit(slurm, sweep, QUEUED="0 3 4")  # it is at work still, but for 2
    assert "--array=2%3" in calls[0] and "3 are in the queue already" in done.stdout
    done, calls = submit(slurm, sweep, QUEUED="0 2 3 4")
    assert calls == [] and done.returncode == 0
    for m in members:
        end(m, 0)
    done, calls = submit(slurm, sweep)
    assert calls == [] and done.returncode == 0 and "0 to run" in done.stdout
    (members[4] / "metrics.json").unlink()
    assert "--array=4%3" in submit(slurm, sweep)[1][0]


def test_sbatchs_refusal_is_one_line_and_forgets_nothing(slurm, sweep, tmp_path):
    done, _ = submit(slurm, sweep, REFUSE="Invalid job array specification")
    done.args = ["sweep"]
    refused(done, "sbatch refused", "Invalid job array")
    assert done.returncode == 2 and not (tmp_path / "s" / "submitted.json").exists()


def job(slurm, folder, number, does, **more):
    """Runs one task of the array; `does` is what srun does, with $stage the stage's name."""
    does = f'stage=$(echo "$*" | sed "s/.*hpcdiff[.]\\([a-z]*\\) .*/\\1/"); {does}'
    return slurm(
        "bash", "jobs/sweep.sbatch", folder, *STAGES, SRUN_DOES=does, SLURM_ARRAY_JOB_ID="40", SLURM_ARRAY_TASK_ID=str(number), **more
    )


def stages_run(log):
    return [line.split("hpcdiff.")[1].split()[0] for line in log if line.startswith("srun")]


def test_the_job_runs_its_own_member_and_stops_at_what_fails(slurm, sweep, tmp_path):
    assert submit(slurm, sweep)[0].returncode == 0
    folder, member = tmp_path / "s", tmp_path / "s" / "003-seed3"
    write = f"printf '{{\\n \"exit\": %s\\n}}\\n' $CODE >{member}/$stage.status.json"
    done, log = job(slurm, folder, 3, f"CODE=0; {write}")
    assert done.returncode == 0 and stages_run(log) == list(STAGES), done.stderr
    assert all(f"{member}/config.yaml" in line and "--signals-to-handle" in line for line in log if line.startswith("srun"))
    done, log = job(slurm, folder, 3, "true")
    assert done.returncode == 0 and stages_run(log) == []  # all was done
    (member / "sample.status.json").write_text('{"exit": 1}')
    done, log = job(slurm, folder, 3, f"CODE=2; {write}")
    assert done.returncode == 1 and stages_run(log) == ["sample"] and not any("requeue" in line for line in log)
    done, log = job(slurm, folder, 4, "true")
    assert done.returncode == 1 and stages_run(log) == ["train"]  # no status file: not done
    assert job(slurm, folder, 9, "true")[0].returncode == 2  # no such member


def test_what_is_lost_is_made_again(slurm, sweep, tmp_path):
    """Who removes metrics.json wants it anew; the job must not take the old status for it."""
    assert submit(slurm, sweep)[0].returncode == 0
    member = tmp_path / "s" / "002-seed2"
    for stage in STAGES:
        (member / f"{stage}.status.json").write_text('{\n "exit": 0,\n "reason": "x"\n}\n')
    for product in ("model", "samples.h5"):
        (member / product).touch()
    _, calls = submit(slurm, sweep)
    assert "--array=0-4%3" in calls[0]
    write = f"printf '{{\n \"exit\": 0\n}}\n' >{member}/$stage.status.json"
    assert stages_run(job(slurm, tmp_path / "s", 2, write)[1]) == ["evaluate"]


def test_a_stopped_member_is_requeued_and_goes_on(slurm, sweep, tmp_path):
    assert submit(slurm, sweep)[0].returncode == 0
    folder, member = tmp_path / "s", tmp_path / "s" / "002-seed2"
    write = f"printf '{{\\n \"exit\": %s\\n}}\\n' $CODE >{member}/$stage.status.json"
    done, log = job(slurm, folder, 2, f"CODE=0; [ $stage = sample ] && CODE=75; {write}")
    assert done.returncode == 0 and stages_run(log) == ["train", "sample"], done.stderr
    assert "scontrol requeue 40_2" in log  # 42 or 40 may stand for the whole array, whose other members would be ended
    done, log = job(slurm, folder, 2, f"CODE=0; {write}")
    assert done.returncode == 0 and stages_run(log) == ["sample", "evaluate"] and not any("requeue" in line for line in log)


def test_the_time_limits_signal_becomes_the_stop_file(slurm, sweep, tmp_path):
    assert submit(slurm, sweep)[0].returncode == 0
    member = tmp_path / "s" / "001-seed1"
    does = f"kill -USR1 $PPID; sleep 1; cat {member}/stop >{member}/seen; printf '{{\\n \"exit\": 75\\n}}\\n' >{member}/$stage.status.json"
    done, log = job(slurm, tmp_path / "s", 1, does)
    assert (member / "seen").read_text() == "requeue 42\n" and "scontrol requeue 40_1" in log and stages_run(log) == ["train"], done.stderr


def test_a_signal_between_two_stages_stops_the_next_one(slurm, sweep, tmp_path):
    assert submit(slurm, sweep)[0].returncode == 0
    member = tmp_path / "s" / "001-seed1"
    write = f"printf '{{\n \"exit\": %s\n}}\n' $CODE >{member}/$stage.status.json"
    does = f"CODE=0; if [ $stage = train ]; then kill -USR1 $PPID; sleep 0.5; else cp {member}/stop {member}/seen; CODE=75; fi; {write}"
    done, log = job(slurm, tmp_path / "s", 1, does)
    assert stages_run(log) == ["train", "sample"] and (member / "seen").read_text() == "requeue 42\n", done.stderr
    assert "scontrol requeue 40_1" in log


def test_a_chain_of_members_goes_on_member_by_member(slurm, sweep, tmp_path):
    """Links of one name would wait for each other, and for the array's tasks that have not begun."""
    assert submit(slurm, sweep)[0].returncode == 0
    member = f"{tmp_path}/s/00$SLURM_ARRAY_TASK_ID-seed$SLURM_ARRAY_TASK_ID"
    does = f"printf '{{\n \"exit\": 75\n}}\n' >{member}/$stage.status.json"
    links = []
    for number in (1, 2):
        done, log = job(slurm, tmp_path / "s", number, does, FORBIDDEN="1", SLURM_JOB_NAME="hpcdiff-sweep")
        links += [line for line in log if line.startswith("sbatch")]
        assert done.returncode == 0 and f"--array={number} " in links[-1] and f"afterany:40_{number} " in links[-1], done.stderr
        assert links[-1].endswith(f"jobs/sweep.sbatch {tmp_path}/s train sample evaluate")
    assert [next(w for w in line.split() if w.startswith("--job-name")) for line in links] == [
        f"--job-name=hpcdiff-sweep.00{n}-seed{n}" for n in (1, 2)
    ]


def test_the_script_is_short_and_valid():
    text = (ROOT / "jobs" / "sweep.sbatch").read_text()
    assert 10 <= len(text.splitlines()) <= 30
    assert subprocess.run(["bash", "-n", ROOT / "jobs" / "sweep.sbatch"]).returncode == 0


def test_a_chained_link_counts_as_queued(slurm, sweep, tmp_path):
    """Where requeueing is forbidden a member goes on in a job that the array does not know of."""
    assert submit(slurm, sweep)[0].returncode == 0
    member = f"{tmp_path}/s/001-seed1"
    does = f"printf '{{\n \"exit\": 75\n}}\n' >{member}/$stage.status.json"
    assert job(slurm, tmp_path / "s", 1, does, FORBIDDEN="1", SLURM_JOB_NAME="hpcdiff-sweep")[0].returncode == 0
    link = (tmp_path / "s" / "chained").read_text().strip()
    assert link.isdigit()
    done, log = slurm("python", "-m", "hpcdiff.sweep", sweep, QUEUED="1")
    assert any(line.startswith("squeue") and f"--jobs={link}" in line for line in log), log
    assert any("--array=0,2-4" in line for line in log), log
