"""The stage with the N-body engine: files, ranks, restarts, refusals, and maps made from it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from conftest import run
from refused_config import refused_in_one_line
from scipy.spatial import cKDTree
from small_boxes import SIDE, SMALL, config, contents

from hpcdiff import maps
from hpcdiff.config import read_config
from hpcdiff.errors import Stopped, UserError
from hpcdiff.project.__main__ import main as project
from hpcdiff.sections import Split
from hpcdiff.simulate import profiles
from hpcdiff.simulate.__main__ import main
from hpcdiff.simulate.chunks import Folder
from hpcdiff.simulate.nbody import work
from hpcdiff.simulate.nbody.box import run_box
from hpcdiff.simulate.nbody.plan import Plan
from hpcdiff.simulate.work import prepare


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serial")

    def kept(*args):
        shutil.copytree(folder, folder.with_name("unfinished"))
        return real(*args)

    real = work._finish
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "_finish", kept)
        assert main(config(folder)) == 0
    return folder


@pytest.fixture
def unfinished(serial):
    """That run when all boxes were there and nothing had its name yet."""
    return serial.with_name("unfinished")


def test_snapshot_and_catalogue_are_the_contracts(serial):
    files = [h5py.File(p) for p in sorted((serial / "snapshot").iterdir())]
    head = files[0]["Header"].attrs
    assert head["NumFilesPerSnapshot"] == len(files) == 3 and head["BoxSize"] == pytest.approx(2 * SIDE * 700)
    assert (np.sum([f["Header"].attrs["NumPart_ThisFile"] for f in files], axis=0) == head["NumPart_Total"]).all()
    for f in files:
        for kind, more in (("PartType0", ["Density", "InternalEnergy", "ElectronAbundance"]), ("PartType1", [])):
            for name in ("Coordinates", "Masses", "SmoothingLength", "ParticleIDs", *more):
                value = f[kind][name][:]
                assert (
                    len(value) == 12**3
                    and np.isfinite(value).all()
                    and (value >= 0 if name in ("Coordinates", "ParticleIDs") else value > 0).all()
                )
            assert f[kind]["Coordinates"][:].max() < head["BoxSize"]
        mean = 2.7754e11 * 0.49 * SIDE**3  # of the critical density
        gas, dm = (f[kind]["Masses"][:].sum() * 1e10 / 0.7 for kind in ("PartType0", "PartType1"))
        assert gas == pytest.approx(0.045 * mean, rel=1e-3) and dm == pytest.approx(0.255 * mean, rel=1e-3)
    ids = np.concatenate([f[g]["ParticleIDs"][:] for f in files for g in ("PartType0", "PartType1")])
    assert len(np.unique(ids)) == len(ids)
    assert files[0].attrs["engine"] == "nbody (experimental: gates not run)"
    with h5py.File(serial / "halos.hdf5") as f:
        assert list(f["halo_id"]) == [0, 1, 2] and json.loads(f.attrs["provenance"])["engine"] == "nbody (experimental: gates not run)"
        assert f["mass_200m"][:] == pytest.approx(f["target_mass"][:], rel=0.3)
        assert len(np.unique(f["retention"])) == 3 and np.abs(f["retention"][:]).max() < 4
        assert len(np.unique(f["polytropic_index"])) == 3 and np.abs(f["polytropic_index"][:] - 1.2).max() < 0.16


def test_the_catalogues_masses_are_in_the_particles(serial):
    """Within R200m, R200c and R500c of its centres are the catalogue's masses, to the last particle, and within R200m `gas_fraction` of the baryons; its concentration is theirs."""
    with h5py.File(serial / "halos.hdf5") as halos:
        for i in range(3):
            with h5py.File(serial / "snapshot" / f"snapshot_{i:06d}.hdf5") as f:
                r, m = {}, {}
                for kind in ("PartType0", "PartType1"):
                    r[kind] = np.linalg.norm(f[kind]["Coordinates"][:] / 700 - halos["position"][i], axis=1)
                    m[kind] = f[kind]["Masses"][:] * 1e10 / 0.7
            mass = halos["mass_200m"][i]
            for sphere in ("200m", "200c", "500c"):
                inside = [m[kind][r[kind] < halos[f"radius_{sphere}"][i]].sum() for kind in r]
                assert sum(inside) == pytest.approx(halos[f"mass_{sphere}"][i], rel=1e-5)
                if sphere == "200m":
                    assert inside[0] == pytest.approx(0.15 * halos["gas_fraction"][i] * mass, rel=1e-5)
            r200, low = halos["radius_200c"][i], 3 * 0.033 * (1.83e12 / 1.01e11) ** (1 / 3)
            c = profiles.fitted_concentration(r["PartType1"] / r200, max(0.08, low / r200), m["PartType1"])
            assert halos["concentration_200c"][i] == pytest.approx(c, rel=0.01)
            assert halos["concentration_200m"][i] / halos["radius_200m"][i] == pytest.approx(halos["concentration_200c"][i] / r200)
            assert 0.1 < halos["mass_500c"][i] / mass < halos["mass_200c"][i] / mass < 1
            assert mass == pytest.approx(200 * 4 * np.pi / 3 * 4.0798e10 * halos["radius_200m"][i] ** 3, rel=0.01)


def test_smoothing_lengths_and_densities_are_those_of_64_neighbours(serial):
    """Of the particles' own kind; a gas particle's density is its mass times the number density about it."""
    with h5py.File(serial / "snapshot" / "snapshot_000002.hdf5") as f:
        for kind in ("PartType0", "PartType1"):
            x, h = f[kind]["Coordinates"][:] / 700 % SIDE, f[kind]["SmoothingLength"][:] / 700
            tree = cKDTree(x, boxsize=SIDE)
            within = tree.query_ball_point(x, 1.0001 * h, return_length=True)
            assert (np.percentile(within, [5, 90]) == 65).all()  # with itself
        volume = 4 * np.pi / 3 * (f["PartType0"]["SmoothingLength"][:]) ** 3
        inside = f["PartType0"]["Density"][:] * volume / f["PartType0"]["Masses"][:]
        assert np.median(inside) == pytest.approx(65, rel=0.15)


def test_any_number_of_ranks_gives_the_same_bytes(serial, tmp_path):
    done = run("simulate", *config(tmp_path / "run"), ranks=2)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "run") == contents(serial)


def test_stopped_and_killed_and_run_again_gives_the_same_bytes(serial, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "hpcdiff.simulate", *config(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    there = ("snapshot/*.hdf5", "draws/00*.npz")  # a finished box, and the first state of the next one
    while not all(list(folder.glob(f"simulate.partial/{name}")) for name in there) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 75 and "stopped" in said
    assert len(list(folder.glob("simulate.partial/draws/00*.npz"))) == 1  # the box that was being evolved
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(folder.glob("simulate.partial/snapshot/*.hdf5"))) < 2 and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was too fast to be killed"
    made = []

    def watched(plan, files, box, *rest):
        made.append(box)
        run_box(plan, files, box, *rest)

    monkeypatch.setattr("hpcdiff.simulate.nbody.work.run_box", watched)
    assert main(config(folder)) == 0
    assert len(made) == 1 and contents(folder) == contents(serial)
    assert not (folder / "simulate.partial").exists()


@pytest.mark.parametrize("what", ["draws/halos_{:06d}.npz", "snapshot/snapshot_{:06d}.hdf5", "none"])
def test_a_damaged_box_of_an_unfinished_run_is_made_again_alone(serial, unfinished, tmp_path, monkeypatch, capsys, what):
    """One bit flipped in its rows of the catalogue or in its chunk; a saved state that is damaged begins anew."""
    folder, made = tmp_path / "run", []
    shutil.copytree(unfinished, folder)
    path = folder / "simulate.partial" / what.format(1)
    if path.exists():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        (folder / "simulate.partial" / "draws" / "000001.npz").write_bytes(data)  # no state: evolved from the start

    def watched(plan, files, box, *rest):
        made.append(box)
        run_box(plan, files, box, *rest)

    monkeypatch.setattr("hpcdiff.simulate.nbody.work.run_box", watched)
    assert main(config(folder)) == 0
    assert made == ([1] if what != "none" else []) and contents(folder) == contents(serial)
    said = capsys.readouterr().out
    assert (f"{path} is damaged, or of another version of hpcdiff, and is made again" in said) == bool(made)
    assert f"goes on: {3 - len(made)} of 3 boxes are done, 0 have been begun" in said


@pytest.mark.parametrize("killed", [False, True])
def test_a_chunk_that_a_finished_run_lacks_is_made_again_alone(serial, tmp_path, monkeypatch, capsys, killed):
    """One is gone and one cut short; also if the run is killed when the first of them is there again."""
    folder, made = tmp_path / "run", []
    shutil.copytree(serial, folder)
    (folder / "snapshot" / "snapshot_000000.hdf5").unlink()
    os.truncate(folder / "snapshot" / "snapshot_000002.hdf5", 5000)

    def watched(plan, files, box, *rest):
        if killed and made:
            raise Stopped("as by a signal")
        made.append(box)
        run_box(plan, files, box, *rest)

    with monkeypatch.context() as patch:
        patch.setattr("hpcdiff.simulate.nbody.work.run_box", watched)
        assert main(config(folder)) == (75 if killed else 0)
        assert "snapshot_000002.hdf5 is gone or not a whole file, and is made again" in capsys.readouterr().out
    assert set(made) <= {0, 2} and len(made) == (1 if killed else 2)
    assert main(config(folder)) == 0
    assert contents(folder) == contents(serial) and not (folder / "simulate.partial").exists()


def test_a_box_of_another_version_is_not_made_again_alone(serial, tmp_path, capsys):
    """What its masses mean may have changed since; the finished run stays as it is."""
    folder = tmp_path / "run"
    shutil.copytree(serial, folder)
    with h5py.File(folder / "halos.hdf5", "r+") as f:
        f.attrs["rows"] -= 1
    (folder / "snapshot" / "snapshot_000000.hdf5").unlink()
    before = contents(folder)
    for _ in range(2):
        assert main(config(folder)) == 2
        assert f"of another version of hpcdiff: no box can be made again alone, {folder / 'halos.hdf5'}" in capsys.readouterr().err
        assert contents(folder) == before
    shutil.copy(serial / "snapshot" / "snapshot_000000.hdf5", folder / "snapshot")
    assert main(config(folder)) == 0 and "done already" in capsys.readouterr().out


def test_every_dataset_has_checksums(serial):
    """A flipped bit is an error for whoever reads it, in any chunk and in the catalogue."""
    for path in (*(serial / "snapshot").iterdir(), serial / "halos.hdf5"):
        with h5py.File(path) as f:
            groups = [f[name] for name in f if name.startswith("PartType")] or [f]
            found = [group[name].fletcher32 for group in groups for name in group]
            assert len(found) >= 9 and all(found)


def test_a_finished_run_says_so_and_another_config_is_refused(serial, capsys):
    assert main(config(serial)) == 0
    assert "done already" in capsys.readouterr().out
    assert main(config(serial, "simulate.accuracy=0.5")) == 2
    assert "simulate.accuracy was 1.0 and is now 0.5" in capsys.readouterr().err


def split_of_three():
    """One halo for each part."""
    parts = {"train": 0.34, "val": 0.33, "test": 0.33}
    seed = next(i for i in range(1000) if len(set(maps.deal(np.arange(3), Split(**parts, seed=i)))) == 3)
    return f"project.split={{train: 0.34, val: 0.33, test: 0.33, seed: {seed}}}"


def test_maps_are_made_from_it(serial):
    done = run("project", *config(serial), "project.npix=16", "project.views.axes=[z]", split_of_three())
    assert done.returncode == 0, done.stderr
    with h5py.File(serial / "maps.h5") as f:
        assert json.loads(f.attrs["provenance"])["simulation_engine"] == "nbody (experimental: gates not run)"
        for name, least in (("dm", 20), ("gas", 10), ("sz", 1)):
            image = f["fields"][name][:]
            assert (image[:, 6:10, 6:10].mean(axis=(1, 2)) > 3 * image[:, :2].mean(axis=(1, 2))).all()
            assert image.max() > least


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("cosmology.Ob0=0", "has gas, and cosmology.Ob0 is 0"),
        ("simulate.mass_range=[3e14, 4.8e15]", "cannot hold a cluster of 4.8e+15 Msun, simulate.cell, take at least 94.4 Mpc"),
        ("simulate.particle_mass=1e13", "simulate.particle_mass, take"),
        ("simulate.mass_range=[1e14, 1e15]", "fewer than 100 particles"),
        ("simulate.particle_mass=1e5", "simulate.particle_mass, take 2.96e+06 to 2.54e+12"),
        ("simulate.particle_mass=1e14", "simulate.particle_mass, take 2.96e+06 to 2.54e+12"),
        ("simulate.accuracy=2", "at most 1"),
        ("simulate.box=29", "a box of 29 Mpc has 0.046 halos of 3e+14 to 5e+14 Msun in the mean, simulate.mass_range"),
        ("simulate.accuracy=1e-9", "must be at least 0.001"),
        ("simulate.softening=-3", "must be above 0"),
        ("simulate.softening=1e4", "simulate.softening, take at most 206 kpc"),
        ("simulate.softening=210", "more than a halo of 3e+14 Msun bears, simulate.softening, take at most 206 kpc"),
    ],
)
def test_bad_configs_are_refused_in_one_line(tmp_path, capsys, change, said):
    refused_in_one_line(main, config(tmp_path / "run", change), tmp_path / "run", said, capsys)


@pytest.mark.parametrize("side", [45, 50, 57, 65, 70])
@pytest.mark.parametrize("mass", [2e12, 1e15])
def test_the_particles_that_are_named_are_taken(tmp_path, capsys, side, mass):
    """What a refusal of too heavy ones says, after the lattice of whole numbers of them has rounded it."""
    more = [f"simulate.box={side}", "simulate.mass_range=[8e13, 2e15]"]
    assert main([*config(tmp_path, *more, f"simulate.particle_mass={mass}"), "--dry-run"]) == 2
    said = capsys.readouterr().err
    for _ in range(2):  # what a lattice at all can have, then what the halos need
        named = re.search(r"take (?:at most |\S+ to )(\S+)", said)[1]
        status = main([*config(tmp_path, *more, f"simulate.particle_mass={named}"), "--dry-run"])
        said = capsys.readouterr().err
        if not status:
            break
    assert status == 0


@pytest.mark.parametrize(
    "foreign", ["snapshot/snapshot_099.hdf5", "snapshot/snapshot_000000.hdf5", "snapshot/readme", "halos.hdf5", "halos"]
)
def test_overwrite_removes_nothing_that_the_stage_did_not_write(tmp_path, capsys, foreign):
    path = tmp_path / ("halos.hdf5" if foreign == "halos" else foreign)
    path.parent.mkdir(exist_ok=True)
    if foreign.endswith("hdf5"):
        with h5py.File(path, "w") as f:
            f.create_group("PartType1")
    else:
        path.write_text("mine")
    before = path.read_bytes()
    assert main([*config(tmp_path), "--overwrite"]) == 2
    said = capsys.readouterr().err
    assert f"simulate did not write this and does not remove it, {path}, move it" in said and path.read_bytes() == before
    assert main(config(tmp_path)) == 2 and "--overwrite" not in capsys.readouterr().err
    assert path.read_bytes() == before


def test_overwrite_removes_what_it_wrote_also_if_it_is_damaged(serial, tmp_path):
    for name in ("snapshot", "halos.hdf5"):
        (shutil.copytree if name == "snapshot" else shutil.copy)(serial / name, tmp_path / name)
    for path in (tmp_path / "halos.hdf5", tmp_path / "snapshot" / "snapshot_000000.hdf5"):
        os.truncate(path, 3000)
    assert main([*config(tmp_path), "--overwrite"]) == 0
    assert contents(tmp_path) == contents(serial)


def test_a_snapshot_whose_catalogue_is_gone_is_made_again_when_asked(serial, tmp_path, capsys):
    shutil.copytree(serial / "snapshot", tmp_path / "snapshot")
    assert main(config(tmp_path)) == 2
    assert "the catalogue of the snapshot that stands there is gone" in (said := capsys.readouterr().err) and "--overwrite" in said
    assert main([*config(tmp_path), "--overwrite"]) == 0
    assert contents(tmp_path) == contents(serial)


def test_maps_beyond_the_cells_are_said(serial, capsys):
    """By `project` and by its check, of views along the axes and turned ones."""
    arguments = [*config(serial, "project.npix=16", "project.views.axes=[z]", split_of_three()), "--check"]
    for side, more, reach in ((46, [], "23"), (44, ["project.views.sightlines=2"], "38.1"), (44, [], None)):
        assert project([*arguments, f"project.width={side}", f"project.depth={side}", *more]) == 0
        said = capsys.readouterr().out
        assert ("beyond its cell" in said) == (reach is not None)
        if reach:
            n = 3 * (1 + len(more))
            assert f"{n} of {n} views reach up to {reach} Mpc from their cluster, beyond its cell of 45 Mpc" in said


def test_too_little_memory_says_what_would_fit(tmp_path, capsys, monkeypatch):
    free = 0.26e9
    monkeypatch.setattr("hpcdiff.memory.free_bytes", lambda: free)
    assert main(config(tmp_path / "run", "simulate.particle_mass=1e11", "simulate.clusters=1")) == 2
    said = capsys.readouterr().err
    assert "GB of memory" in said
    mass = said.split("at least ")[1].strip()
    assert main([*config(tmp_path / "run", f"simulate.particle_mass={mass}", "--dry-run")]) == 0


def test_each_rank_needs_room_for_the_box_that_it_is_at_work_on(tmp_path, capsys, monkeypatch):
    """The states of three boxes, each twice while it is saved; a fourth rank has none."""
    plan = Plan(read_config(config(tmp_path)[0], SMALL))
    one, two, three, four = (plan.disk_bytes(ranks) for ranks in (1, 2, 3, 4))
    assert three - two == two - one == 2 * 12**3 * (24 + 24 + 8 * 12) * 2 and four == three
    monkeypatch.setattr("hpcdiff.files.free_bytes", lambda path: one + 1)
    arguments = Folder(tmp_path / "run"), 1
    prepare(plan.config, plan, *arguments, 1)
    with pytest.raises(UserError, match="GB are free"):
        prepare(plan.config, plan, *arguments, 2)


def test_dry_run_says_the_plan_and_touches_nothing(tmp_path, capsys):
    assert main([*config(tmp_path / "run"), "--dry-run"]) == 0
    out = capsys.readouterr().out
    for words in (
        "3 clusters, each in its own periodic box of 45 Mpc",
        "12^3 particles of each type",
        "mesh 48^3",
        "core minutes a box",
        "memory",
        "engine: nbody (experimental: gates not run)",
    ):
        assert words in out
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["c.yaml"]
