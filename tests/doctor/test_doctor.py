"""`hpcdiff doctor` as a user starts it: alone, under mpirun, under torchrun; what it leaves behind, and how it ends when something hangs."""

import json
import os
import subprocess
import sys

import pytest
from conftest import LAUNCHERS, ROOT, environment, refused

from hpcdiff.doctor.__main__ import main


def doctor(*arguments, kind="alone", ranks=1, **more):
    """Run it as `python -m hpcdiff doctor`; never longer than two minutes."""
    command = [*LAUNCHERS[kind](ranks), "-m", "hpcdiff", "doctor", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(**more), timeout=120)


def verdicts(done):
    return [line for line in done.stdout.splitlines() if line.startswith("verdict: ")]


@pytest.mark.parametrize(("kind", "ranks", "meet"), [("alone", 1, "alone"), ("mpirun", 2, "MPI"), ("torchrun", 2, "torch.distributed")])
def test_it_examines_and_leaves_nothing(tmp_path, kind, ranks, meet):
    folder = tmp_path / "scratch"
    folder.mkdir()
    done = doctor(folder, "--json", tmp_path / "d.json", kind=kind, ranks=ranks)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert len(verdicts(done)) == 1 and verdicts(done)[0] in ("verdict: fit", "verdict: usable, but")
    assert not list(folder.iterdir()), "its own files are removed"
    said = json.loads((tmp_path / "d.json").read_text())
    assert said["meet_by"] == meet and [r["rank"] for r in said["ranks"]] == list(range(ranks)) and said["nodes"] == 1
    assert said["verdict"] in verdicts(done)[0]
    assert {r["pid"] for r in said["ranks"]}.__len__() == ranks
    speed, network = said["folder"]["speed"], said["network"]["all_reduce"]
    assert speed["file_a_node"]["gb_s"] > 0 and speed["small_files"]["made_per_s"] > 0
    assert ("refused" in speed["one_file"]) == (kind == "torchrun") and set(network) == {
        "alone": set(),
        "mpirun": {"MPI"},
        "torchrun": {"gloo"},
    }[kind]
    for rows in network.values():
        for row in rows:
            assert row["bus_gb_s"] == pytest.approx(2 * (ranks - 1) / ranks * row["bytes"] / row["seconds"] / 1e9)
    assert said["folder"]["locks"] == {"works": True, "error": None, "across": None}
    for r in range(ranks):
        assert f"\n{r} " in done.stdout


def test_a_config_is_held_against_the_room(tmp_path):
    (tmp_path / "c.yaml").write_text(f"run: {{dir: {tmp_path / 'run'}}}\n")
    done = doctor(tmp_path / "c.yaml", "simulate.particle_mass=1.0e5")
    assert done.returncode == 2 and "needs: snapshot" in done.stdout, done.stdout + done.stderr[-3000:]
    assert verdicts(done) == ["verdict: not usable:"] and "GB are free for you" in done.stdout
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    done = doctor("/proc")
    assert done.returncode == 2 and "nothing can be written to /proc" in done.stdout, done.stdout + done.stderr
    assert "run.dir" in done.stdout and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--jsno", "x"], "--jsno"),
        (["--json"], "--json names no file"),
        (["--json="], "--json names no file"),
        (["a", "b"], "one folder"),
        (["train.keep=3"], "one folder"),
        (["none.yaml"], "none.yaml"),
    ],
)
def test_bad_command_lines_are_one_line(arguments, says):
    refused(doctor(*arguments), says)


def test_copies_under_a_wrong_launcher_are_told_once(tmp_path):
    refused(
        doctor(tmp_path, SLURM_STEP_NUM_TASKS="4", SLURM_PROCID="0", PMI_RANK="0", PMI_SIZE="4"), "wrong launch", "4 tasks", "--mpi=pmix"
    )
    other = doctor(tmp_path, SLURM_STEP_NUM_TASKS="4", SLURM_PROCID="1", PMI_RANK="1", PMI_SIZE="4")
    assert (other.returncode, other.stdout, other.stderr) == (2, "", "")


def test_help_and_the_console_script(capsys):
    assert main(["--help"]) == 0 and "hpcdiff doctor" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["alone", "mpirun"])
def test_neither_half_is_imported_here_that_the_ranks_do_not_need(tmp_path, kind):
    found, folder = tmp_path / "found", tmp_path / "run"
    found.mkdir()
    code = (
        "import os, pathlib, sys; from hpcdiff.doctor import libraries; from hpcdiff.doctor.__main__ import main; libraries.start = dict;"
        "libraries.collect = lambda processes, until: {'mpi': {'error': libraries.aside.TIMEOUT}, 'torch': {'error': libraries.aside.TIMEOUT}};"
        f"status = main([{str(folder)!r}]); has = sorted({{'torch', 'mpi4py.MPI'}} & set(sys.modules));"
        f"pathlib.Path({str(found)!r}, str(os.getpid())).write_text(' '.join(has)); sys.exit(status)"
    )
    done = subprocess.run(
        [*LAUNCHERS[kind](1 if kind == "alone" else 2), "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    # a file each: what two ranks print at once may come mixed
    assert [path.read_text() for path in found.iterdir()] == {"alone": [""], "mpirun": ["mpi4py.MPI"] * 2}[kind]


HANGS = """
import sys, time
from hpcdiff.doctor import __main__, clock, disk
clock.GRACE, clock.FLOOR = 1.0, 1.0
def small_files(world, folder, seconds=1.0):
    {body}
disk.small_files = small_files
__main__.libraries.start = dict  # they take seconds, and are not what hangs here
__main__.libraries.collect = lambda processes, until: {{"mpi": {{"error": "left out"}}, "torch": {{"error": "left out"}}}}
class Hasty(clock.Clock):
    def limit(self, name, seconds):
        return super().limit(name, 1.5 if "small" in name else seconds)
__main__.Clock = Hasty
sys.exit(__main__.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("kind", "ranks", "body", "status"),
    [
        ("alone", 1, "time.sleep(1000)", 2),
        ("mpirun", 2, "time.sleep(1000) if world.rank == 1 else world.barrier()", 2),
        ("alone", 1, "import ctypes; ctypes.PyDLL(None).sleep(1000)", 1),  # keeps Python's lock, as an HDF5 call on a dead disk does
    ],
)
def test_a_measurement_that_hangs_is_ended_and_said(tmp_path, kind, ranks, body, status):
    (tmp_path / "hangs.py").write_text(HANGS.format(body=body))
    folder = tmp_path / "scratch"
    folder.mkdir()
    command = [*LAUNCHERS[kind](ranks), str(tmp_path / "hangs.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)), timeout=120)
    assert done.returncode == status, done.stdout + done.stderr[-3000:]
    if status == 2:
        assert verdicts(done) == ["verdict: not usable:"] and "making small files" in done.stdout and "did not end in time" in done.stdout
        assert "locks: work" in done.stdout or "limits" in done.stdout, "what was found before is not lost"
        assert not list(folder.iterdir())
    else:
        assert "small_files" in done.stderr  # where it was


def test_a_rank_that_is_behind_is_named(tmp_path):
    from hpcdiff.doctor.clock import Clock
    from hpcdiff.world import World

    class Four(World):
        rank, size = 0, 4

    clock = Clock(lambda name, behind: None)
    clock.world, clock.folder = Four(), tmp_path
    for rank, passed in enumerate((5, 4, 5, 4)):
        (tmp_path / f"rank-{rank:06d}").write_text(str(passed))
    assert clock.behind() == "ranks 1, 3"
    for rank in range(4):
        (tmp_path / f"rank-{rank:06d}").write_text("5")
    assert clock.behind() == "" and os.path.isdir(tmp_path)


def test_it_runs_without_any_launcher_module(tmp_path):
    """As `python -m hpcdiff.doctor`."""
    done = subprocess.run([sys.executable, "-m", "hpcdiff.doctor", "--help"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "usage: hpcdiff doctor" in done.stdout
