"""The stage's files, restarts and refusals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from refused_config import refused_in_one_line

from hpcdiff.config import read_config
from hpcdiff.simulate import chunks
from hpcdiff.simulate.__main__ import main
from hpcdiff.simulate.plan import Plan

SMALL = ["simulate.clusters=9", "simulate.mass_range=[3e14, 1.2e15]", "simulate.cell=34", "simulate.particle_mass=6e11"]
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n"]


def config(folder, *more):
    folder.mkdir(exist_ok=True)
    (folder / "c.yaml").write_text("run: {seed: 5}\n")
    return [str(folder / "c.yaml"), f"run.dir={folder}", *SMALL, *more]


def command(folder, *more, ranks=0):
    return [*(MPIRUN + [str(ranks)] if ranks else []), sys.executable, "-m", "hpcdiff.simulate", *config(folder, *more)]


def run(folder, *more, ranks=0):
    return subprocess.run(
        command(folder, *more, ranks=ranks), capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def contents(folder):
    """Bytes of every chunk, and of every column of the catalogue."""
    found = {p.name: p.read_bytes() for p in (folder / "snapshot").iterdir()}
    with h5py.File(folder / "halos.hdf5") as f:
        return found | {name: f[name][:].tobytes() for name in f}


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serial")
    assert main(config(folder)) == 0
    return folder


def test_layout_is_the_contracts(serial):
    assert sorted(p.name for p in serial.iterdir() if p.name != ".simulate.lock") == [
        "c.yaml",
        "halos.hdf5",
        "simulate.status.json",
        "snapshot",
    ]
    assert json.loads((serial / "simulate.status.json").read_text())["exit"] == 0
    files = [h5py.File(p) for p in sorted((serial / "snapshot").iterdir())]
    head = files[0]["Header"].attrs
    assert head["NumFilesPerSnapshot"] == len(files) == 27
    assert head["BoxSize"] == pytest.approx(3 * 34 * 1e3 * 0.7)
    assert (head["Time"], head["Redshift"], head["HubbleParam"]) == (1, 0, 0.7)
    assert (head["Omega0"], head["OmegaBaryon"]) == (0.3, 0.045)
    assert head["OmegaLambda"] == pytest.approx(0.7)
    assert (np.sum([f["Header"].attrs["NumPart_ThisFile"] for f in files], axis=0) == head["NumPart_Total"]).all()
    for group, more in (("PartType0", ["Density", "InternalEnergy", "ElectronAbundance"]), ("PartType1", [])):
        for f in files:
            n = f["Header"].attrs["NumPart_ThisFile"][int(group[-1])]
            for name in ("Coordinates", "Masses", "SmoothingLength", "ParticleIDs", *more):
                value = f[group][name][:]
                assert len(value) == n and np.isfinite(value).all()
                assert (value >= 0 if name in ("Coordinates", "ParticleIDs") else value > 0).all()
            assert f[group]["Coordinates"][:].max(initial=0) < head["BoxSize"]
    ids = np.concatenate([f[g]["ParticleIDs"][:] for f in files for g in ("PartType0", "PartType1")])
    assert len(np.unique(ids)) == len(ids) == head["NumPart_Total"].sum()
    with h5py.File(serial / "halos.hdf5") as f:
        assert f.attrs["format"] == "hpcdiff-halos" and f.attrs["inputs"] == "{}"
        assert json.loads(f.attrs["provenance"])["engine"] == "halo_model (experimental: gates not run)" == files[0].attrs["engine"]
        assert f["halo_id"].dtype == np.int64 and list(f["halo_id"]) == list(range(9))
        assert f["position"].shape == (9, 3) and (f["position"][:] > 0).all() and (f["position"][:] < 102).all()
        gap = f["position"][:][:, None] - f["position"][:]
        gap = np.linalg.norm(gap - 102 * np.round(gap / 102), axis=-1)
        assert gap[~np.eye(9, dtype=bool)].min() > 0.75 * 34  # no two clusters in one map


@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_gives_the_same_bytes(serial, tmp_path, ranks):
    done = run(tmp_path / "run", ranks=ranks)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "run") == contents(serial)


def test_killed_and_run_again_gives_the_same_bytes(serial, tmp_path):
    folder = tmp_path / "run"
    for least in (1, 12):  # while drawing or just after, and well into the chunks
        process = subprocess.Popen(command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(list(folder.glob("simulate.partial/snapshot/*.hdf5"))) < least and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was too fast to be killed"
        assert not (folder / "halos.hdf5").exists() and not (folder / "snapshot").exists()
    first = {p.name: p.stat().st_mtime_ns for p in folder.glob("simulate.partial/snapshot/*.hdf5")}
    refused = run(folder, "run.seed=6")
    assert refused.returncode == 2 and "run.seed was 5 and is now 6" in refused.stderr
    assert run(folder, ranks=2).returncode == 0
    assert contents(folder) == contents(serial)
    kept = {p.name: p.stat().st_mtime_ns for p in (folder / "snapshot").iterdir()}
    assert all(kept[name] == when for name, when in first.items())  # finished chunks were taken up


def test_killed_between_the_last_renames(serial, tmp_path):
    folder = tmp_path / "run"
    assert main(config(folder)) == 0
    (folder / "simulate.partial").mkdir()
    with h5py.File(folder / "halos.hdf5") as f:
        (folder / "simulate.partial" / "config.yaml").write_text(f.attrs["config"])
    (folder / "halos.hdf5").unlink()
    assert main(config(folder)) == 0
    assert contents(folder) == contents(serial) and not (folder / "simulate.partial").exists()


def test_a_signal_stops_it_and_the_same_command_goes_on(serial, tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not list(folder.glob("simulate.partial/snapshot/*.hdf5")) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 75 and "stopped" in said
    assert json.loads((folder / "simulate.status.json").read_text())["exit"] == 75
    assert main(config(folder)) == 0
    assert contents(folder) == contents(serial)


def test_a_finished_run_says_so(serial, capsys):
    before = {p: p.stat().st_mtime_ns for p in serial.rglob("*.hdf5")}
    assert main(config(serial)) == 0
    assert "done already" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in serial.rglob("*.hdf5")}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("simulate.cell=35", "simulate.cell was 34.0 and is now 35.0"),
        ("run.seed=1", "run.seed was 5 and is now 1"),
        ("cosmology.h=0.71", "cosmology.h was 0.7 and is now 0.71"),
    ],
)
def test_another_config_is_refused(serial, capsys, change, said):
    assert main(config(serial, change)) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and error.startswith("hpcdiff simulate: error: ") and "\n" not in error


@pytest.mark.parametrize("how", ["gone", "cut short"])
def test_a_chunk_that_a_finished_run_lacks_is_made_again_alone(serial, tmp_path, capsys, monkeypatch, how):
    folder, made = tmp_path / "run", []
    shutil.copytree(serial, folder)
    path = folder / "snapshot" / "snapshot_000004.hdf5"
    path.unlink() if how == "gone" else os.truncate(path, path.stat().st_size // 2)
    real = chunks.write_chunk
    monkeypatch.setattr(chunks, "write_chunk", lambda plan, files, block, *rest: made.append(block) or real(plan, files, block, *rest))
    capsys.readouterr()
    assert main(config(folder)) == 0
    assert f"{path} is gone or not a whole file, and is made again" in capsys.readouterr().out
    assert made == [4] and contents(folder) == contents(serial) and not (folder / "simulate.partial").exists()
    assert main(config(folder)) == 0 and "done already" in capsys.readouterr().out


def test_what_is_not_ours_is_neither_removed_nor_made_again(serial, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(serial, folder)
    path = folder / "snapshot" / "snapshot_000004.hdf5"
    path.unlink()
    with h5py.File(path, "w") as f:
        f["mine"] = 1
    before = contents(folder)
    assert main(config(folder)) == 2
    assert f"a file that this stage did not write stands in its snapshot, {path}, move it" in capsys.readouterr().err
    path.unlink()
    (folder / "snapshot" / "README").write_text("mine")
    assert main(config(folder)) == 2 and "README, move it" in capsys.readouterr().err
    (folder / "snapshot" / "README").unlink()
    assert main(config(folder)) == 0 and contents(folder) == contents(serial) != before


def test_a_reopened_run_too_needs_room(serial, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(serial, folder)
    (folder / "snapshot" / "snapshot_000004.hdf5").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("hpcdiff.files.free_bytes", lambda path: 1000)
        assert main(config(folder)) == 2
        assert "GB are free" in capsys.readouterr().err
    plan = Plan(read_config(config(folder)[0], config(folder)[1:]))
    there = sum(path.stat().st_size for path in (folder / "snapshot").iterdir())  # need not be written again
    monkeypatch.setattr("hpcdiff.files.free_bytes", lambda path: plan.disk_bytes() - there + 10_000)
    assert main(config(folder)) == 0 and contents(folder) == contents(serial)


def test_another_seed_gives_other_particles(serial, tmp_path):
    assert main(config(tmp_path / "run", "run.seed=6")) == 0
    a, b = (h5py.File(f / "snapshot" / "snapshot_000000.hdf5")["PartType1/Coordinates"] for f in (serial, tmp_path / "run"))
    assert not np.isin(a[:, 0], b[:, 0]).any()


def test_dry_run_touches_nothing(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*config(folder), "--dry-run"]) == 0
    out = capsys.readouterr().out
    for words in ("9 clusters in 3^3 cells", "box of 102 Mpc", "particles of each type", "chunk files", "memory"):
        assert words in out
    assert [p.name for p in folder.iterdir()] == ["c.yaml"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("cosmology.Ob0=0", "has gas, and cosmology.Ob0 is 0"),
        ("simulate.cell=12", "simulate.cell, take at least"),
        ("simulate.particle_mass=1e13", "simulate.particle_mass, take at most"),
        ("simulate.particle_mass=1e5", "GB are free"),
    ],
)
def test_bad_configs_are_refused_in_one_line(tmp_path, capsys, change, said):
    refused_in_one_line(main, config(tmp_path / "run", change), tmp_path / "run", said, capsys)


@pytest.mark.parametrize("change", ["box=100", "surroundings=90", "softening=33", "accuracy=0.2", "device=auto"])
def test_options_of_the_other_engine_are_refused(tmp_path, capsys, change):
    key = change.split("=")[0]
    said = f"simulate.{key} is of the engine nbody, and simulate.engine is halo_model, simulate.{key}, take engine nbody or set it to "
    refused_in_one_line(main, config(tmp_path / "run", f"simulate.{change}"), tmp_path / "run", said, capsys)


def test_the_cell_that_is_named_fits(tmp_path, capsys):
    assert main([*config(tmp_path / "run", "simulate.cell=12"), "--dry-run"]) == 2
    cell = capsys.readouterr().err.split("take at least ")[1].split(" Mpc")[0]
    assert main([*config(tmp_path / "run", f"simulate.cell={cell}"), "--dry-run"]) == 0


def test_too_little_memory_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hpcdiff.memory.free_bytes", lambda: 1e6)
    assert main(config(tmp_path / "run")) == 2
    assert "GB of memory" in capsys.readouterr().err


def test_a_full_disk_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hpcdiff.files.free_bytes", lambda path: 1000)
    assert main(config(tmp_path / "run")) == 2
    assert "GB are free" in capsys.readouterr().err


def test_a_foreign_snapshot_is_left_alone(tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = config(folder)
    (folder / "snapshot").mkdir()
    (folder / "snapshot" / "mine.hdf5").write_bytes(b"mine")
    assert main(arguments) == 2
    assert "did not write" in capsys.readouterr().err and not (folder / "simulate.partial").exists()


def test_an_unwritable_folder_is_refused_on_every_rank(tmp_path):
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [*MPIRUN, "2", sys.executable, "-m", "hpcdiff.simulate", config(tmp_path / "c")[0], *SMALL, f"run.dir={tmp_path / 'file'}"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.count("hpcdiff simulate: error:") == 1 and "Traceback" not in done.stderr


def test_torch_is_not_imported():
    code = "import sys, hpcdiff.simulate.__main__, hpcdiff.simulate.work; sys.exit('torch' in sys.modules or 'mpi4py' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
