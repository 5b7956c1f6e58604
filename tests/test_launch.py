"""Exit statuses, one-line errors, guards against wrong launches, and ranks that fail together."""

import importlib
import json
import os
import subprocess
import sys
import time

import pytest
from conftest import LAUNCHERS, ROOT, environment, make_maps, refused, run, start

from hpcdiff import launch, world
from hpcdiff.errors import Busy, Stopped, UserError
from hpcdiff.versions import OtherVersion


def config(tmp_path, text=""):
    (tmp_path / "c.yaml").write_text(f"run: {{dir: {tmp_path / 'run'}}}\n{text}")
    return tmp_path / "c.yaml"


@pytest.mark.parametrize("stage", world.STAGES)
def test_every_stage_refuses_bad_command_lines(tmp_path, stage):
    refused(run(stage), "no config file", "usage")
    refused(run(stage, tmp_path / "none.yaml"), "cannot read the config", "none.yaml")
    refused(run(stage, config(tmp_path), "run.sede=1"), "run.sede", "run.seed")
    refused(run(stage, config(tmp_path), "--dryrun"), "--dryrun", "--dry-run")
    helped = run(stage, "--help")
    assert helped.returncode == 0 and helped.stdout.startswith(f"usage: python -m hpcdiff.{stage} CONFIG.yaml")
    assert "exit status: 0 done" in helped.stdout and ("--check" in helped.stdout) == (stage == "project")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stage", world.STAGES)
def test_help_is_printed_by_one_rank(monkeypatch, capsys, stage):
    main = importlib.import_module(f"hpcdiff.{stage}.__main__").main
    for rank, said in ((0, True), (1, False)):
        for name in ("RANK", "PMI_RANK"):
            monkeypatch.setenv(name, str(rank))
        assert main(["--help"]) == 0 and ("usage: " in capsys.readouterr().out) == said


@pytest.mark.parametrize("stage", world.STAGES)
def test_dry_runs_need_nothing_and_touch_nothing(tmp_path, stage):
    done = run(stage, config(tmp_path), "--dry-run")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "npix: 128" in done.stdout and f"# {stage}" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stage", world.STAGES)
def test_the_papers_config_passes_a_dry_run(tmp_path, stage):
    done = run(stage, ROOT / "configs" / "hsu2025.yaml", f"run.dir={tmp_path / 'run'}", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert stage != "train" or "45835912 parameters" in done.stdout


def test_the_console_script_is_the_same_program(tmp_path):
    hpcdiff = [sys.executable, "-m", "hpcdiff"]
    done = subprocess.run([*hpcdiff, "sample", config(tmp_path), "--dry-run"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "# sample" in done.stdout
    wrong = subprocess.run([*hpcdiff, "smaple"], capture_output=True, text=True, cwd=ROOT)
    assert wrong.returncode == 2 and "'sample'" in wrong.stderr and wrong.stderr.count("\n") == 1


@pytest.mark.parametrize(("stage", "ranks"), [("project", 3), ("train", 2)])
def test_an_error_is_printed_once_however_many_ranks(tmp_path, stage, ranks):
    done = run(stage, config(tmp_path), ranks=ranks, timeout=60)
    refused(done, "not there")
    status = json.loads((tmp_path / "run" / f"{stage}.status.json").read_text())
    assert status["exit"] == 2 and "not there" in status["reason"]


@pytest.mark.parametrize("stage", world.STAGES)
def test_many_tasks_that_each_run_alone_are_a_wrong_launch(tmp_path, stage):
    """`srun -n 4` without an MPI plug-in, or without ranks: four copies of rank 0 must not write one file."""
    more = {"SLURM_STEP_NUM_TASKS": "4"}
    done = run(stage, config(tmp_path), **more)
    refused(done, "wrong launch", "4 tasks")


def test_srun_variables_become_torchs(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that it is gone again after the test, which sets it
        monkeypatch.delenv(name)
    for name, value in {"STEP_NUM_TASKS": "4", "PROCID": "3", "LOCALID": "1", "JOB_ID": "7", "STEP_NODELIST": "gpu[07-09,12],cpu1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    world._environment_of_srun()
    assert [os.environ[k] for k in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR")] == ["4", "3", "1", "gpu07"]
    for nodes, first in {"n1": "n1", "n1,n2": "n1", "r[1-2]n[03,7-9]-ib,r5n1": "r1n03-ib", "nid[000512]": "nid000512"}.items():
        monkeypatch.delenv("MASTER_ADDR")
        monkeypatch.setenv("SLURM_STEP_NODELIST", nodes)
        world._environment_of_srun()
        assert os.environ["MASTER_ADDR"] == first


@pytest.mark.parametrize("job", [None, 0, 7, 11999, 12000, 13313, 33313, 2**31])
def test_the_port_of_a_job_is_none_that_linux_gives_to_outgoing_connections(monkeypatch, job):
    """Those begin at 32768, and what is below 1024 is root's."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, "")  # so that it is gone again after the test, which sets it
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("SLURM_PROCID", "0")
    if job is not None:
        monkeypatch.setenv("SLURM_JOB_ID", str(job))
    world._environment_of_srun()
    assert 1024 <= int(os.environ["MASTER_PORT"]) < 32768


def test_plain_srun_like_processes_form_one_world(tmp_path):
    """Two processes with Slurm's variables alone, as plain `srun -n 2` starts them."""
    common = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": str(time.time_ns() % 10000), "SLURM_STEP_NODELIST": "localhost"}
    code = "from hpcdiff.world import TorchWorld; w = TorchWorld(); print(w.allgather({'rank': w.rank}), w.stop_agreed()); w.close()"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment(**common, SLURM_PROCID=str(r), SLURM_LOCALID=str(r)),
            stdout=subprocess.PIPE,
            text=True,
        )
        for r in range(2)
    ]
    said = [p.communicate(timeout=60)[0] for p in both]
    assert said == ["[{'rank': 0}, {'rank': 1}] False\n"] * 2


def test_a_second_run_on_one_folder_is_refused_while_the_first_works(tmp_path):
    path = config(tmp_path, "simulate: {clusters: 60, particle_mass: 2.0e10}")
    first = start("simulate", path)
    try:
        while not (tmp_path / "run" / ".simulate.lock").exists():
            assert first.poll() is None
            time.sleep(0.02)
        time.sleep(0.2)
        refused(run("simulate", path), "another simulate is at work", f"pid {first.pid}")
        refused(run("simulate", path, ranks=2), "another simulate is at work", f"pid {first.pid}")
        assert not (tmp_path / "run" / "simulate.status.json").exists(), "the first is at work: how it ends is its own to say"
    finally:
        first.kill()
        first.wait()


@pytest.mark.parametrize("stage", world.STAGES)
def test_a_run_folder_that_cannot_be_made_is_one_line(tmp_path, stage):
    (tmp_path / "run").write_text("a file")
    refused(run(stage, config(tmp_path)), "run")
    refused(run(stage, config(tmp_path), "run.dir=/proc/no_such"), "no folder can be made here, /proc/no_such")
    refused(run(stage, config(tmp_path), f"run.dir={tmp_path / ('x' * 300)}"), "a path is too long")


def test_a_run_folder_that_cannot_be_made_ends_all_ranks(tmp_path):
    refused(run("project", config(tmp_path), f"run.dir={tmp_path / ('x' * 300)}", ranks=2), "a path is too long")


def test_failing_together(tmp_path):
    class Three(world.World):
        rank, size = 1, 3

        def allgather(self, value):
            return [["", ""], value, ["UserError", "rank 2 said this, there, so"]]

    with pytest.raises(UserError, match="rank 2 said this"), Three().together():
        pass
    with pytest.raises(UserError, match="mine"), Three().together():
        raise UserError("mine")
    with pytest.raises(UserError, match="version 2"), Three().together():
        raise OtherVersion("of version 2")  # whatever kind of UserError it is
    with pytest.raises(UserError, match="disk is full"), Three().together():
        raise OSError(28, "No space left on device", "somewhere")
    full = Three()
    full.folder = tmp_path / "run"
    with pytest.raises(UserError, match=f"the disk is full, {full.folder}, "), full.together():
        raise OSError(28, "No space left on device")
    with pytest.raises(Busy, match="at work"), Three().together():  # stays what it is: the status file is the other's
        raise Busy("another train is at work")
    with pytest.raises(Stopped), world.World().together():
        raise Stopped("")
    with pytest.raises(KeyError), world.World().together():
        raise KeyError("a fault of ours is not dressed up")


def test_a_fault_of_ours_is_a_traceback_and_status_1(tmp_path, capsys):
    def broken(config, world):
        raise RuntimeError("a bug")

    code = launch.run_stage("simulate", lambda c: [], broken, lambda c: [], [str(config(tmp_path))])
    assert code == 1 and "RuntimeError: a bug" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "simulate.status.json").read_text())["exit"] == 1


ONE_FAILS = """
import os, sys, time
from hpcdiff import launch
from hpcdiff.errors import Busy, Stopped, UserError
launch.PATIENCE = 1.0
def work(config, world):
    if world.rank == int(sys.argv[2]):
        raise UserError("its disk is gone", "node 7", "mount it")
    if sys.argv[3] == "others die":
        time.sleep(0.5)
        os._exit(1)
    while True:
        world.allgather(world.rank)
sys.exit(launch.run_stage(sys.argv[1], lambda config: [], work, lambda config: [], sys.argv[4:]))
"""


@pytest.mark.parametrize(
    ("stage", "fails", "others"), [("project", 1, "work"), ("project", 0, "work"), ("train", 1, "work"), ("train", 1, "others die")]
)
def test_an_error_of_one_rank_alone_ends_all(tmp_path, stage, fails, others):
    (tmp_path / "one.py").write_text(ONE_FAILS)
    command = LAUNCHERS["mpirun" if stage == "project" else "torchrun"](3 if stage == "project" else 2)
    command = [*command, str(tmp_path / "one.py"), stage, str(fails), others, str(config(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)), timeout=60)
    if stage == "project":
        refused(done, "its disk is gone", "node 7")
    else:  # gloo makes the others' calls fail, with tracebacks, when a rank is gone
        assert done.stderr.count("hpcdiff train: error: its disk is gone, node 7") == 1 and done.returncode
    assert json.loads((tmp_path / "run" / f"{stage}.status.json").read_text())["exit"] == 2


@pytest.mark.parametrize("words", [["hpcdiff.simulate", "CONFIG", "--dry-run"], ["hpcdiff.maps", "info", "MAPS"]])
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path, words):
    """As in `... | head -0`."""
    make_maps(tmp_path / "m.h5")
    words = [{"CONFIG": str(config(tmp_path)), "MAPS": str(tmp_path / "m.h5")}.get(word, word) for word in words]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", *words], stdout=writing, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
