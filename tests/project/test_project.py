"""The stage as a user runs it: any number of ranks, killed and run again, what the maps hold, and what is refused."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import DATA, kill, refused, run, start
from tiny_box import BOX, particles, write_config, write_halos, write_snapshot

from hpcdiff.cosmology import K_B, M_E_C2, M_P, MPC_CM, MSUN_G, SIGMA_T, Background
from hpcdiff.project.__main__ import main

CENTRES = np.random.default_rng(5).uniform(0, BOX, (9, 3))
CENTRES[0] = [0.1, 39.95, 20.0]  # its map crosses the edge of the box


@pytest.fixture(scope="module")
def box(tmp_path_factory) -> Path:
    """A folder with snapshot chunks, a catalogue and a config of 9 halos x 2 sightlines x 3 axes."""
    folder = tmp_path_factory.mktemp("box")
    (folder / "snapshot").mkdir()
    write_snapshot(folder / "snapshot" / "s.hdf5", particles(centres=CENTRES), chunks=3)
    write_halos(folder / "halos.hdf5", CENTRES)
    seed = 4
    write_config(
        folder / "config.yaml",
        folder / "alone",
        folder / "snapshot",
        folder / "halos.hdf5",
        views={"sightlines": 2},
        split={"train": 0.4, "val": 0.3, "test": 0.3, "seed": seed},
    )
    assert main([str(folder / "config.yaml")]) == 0
    return folder


def config_of(folder: Path) -> str:
    return str(folder / "config.yaml")


def contents(path: Path) -> dict[str, bytes]:
    with h5py.File(path) as f:
        return {f"{g}/{name}": data[:].tobytes() for g in ("fields", "catalog") for name, data in f[g].items()}


@pytest.mark.parametrize("ranks", [2, 3])
def test_serial_is_parallel(box, ranks):
    done = run("project", config_of(box), f"run.dir={box}/ranks{ranks}", ranks=ranks)
    assert done.returncode == 0, done.stderr
    assert contents(box / "alone" / "maps.h5") == contents(box / f"ranks{ranks}" / "maps.h5")


def test_killed_and_run_again_gives_the_same_bytes(box):
    """Kill as soon as the first view stands in the file; run again on another number of ranks."""
    work = box / "killed"
    process = start("project", config_of(box), f"run.dir={work}", ranks=2)
    partial, views = work / "maps.h5.partial", 0
    for _ in range(6000):
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError, KeyError), h5py.File(partial, "r") as f:
            views = int((f["catalog/checksum"][:] != 0).sum())
        if views:
            kill(process)
            break
        time.sleep(0.005)
    finished = (work / "maps.h5").exists()
    done = run("project", config_of(box), f"run.dir={work}", ranks=1)
    assert done.returncode == 0, done.stderr
    assert contents(box / "alone" / "maps.h5") == contents(work / "maps.h5")
    assert ("from before" in done.stdout or "nothing to do" in done.stdout) if views or finished else True


def test_only_missing_views_are_made(box):
    """Views that a dead run left are kept as they are, broken ones are made again."""
    work = box / "half"
    work.mkdir()
    shutil.copy(box / "alone" / "maps.h5", work / "maps.h5.partial")
    with h5py.File(work / "maps.h5.partial", "r+") as f:
        f["fields/gas"][7] = 0
        f["catalog/checksum"][12:18] = 0
    done = run("project", config_of(box), f"run.dir={work}")
    assert done.returncode == 0 and "7 of them from before" in done.stdout, done.stdout + done.stderr
    assert contents(box / "alone" / "maps.h5") == contents(work / "maps.h5")


def test_a_signal_saves_and_ends_with_75(box):
    process = start("project", config_of(box), f"run.dir={box}/stopped", "project.npix=96", "project.views.sightlines=40")
    for _ in range(4000):
        if (box / "stopped" / "maps.h5.partial").exists() or process.poll() is not None:
            break
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) == 75
    assert json.loads((box / "stopped" / "project.status.json").read_text())["exit"] == 75
    assert not (box / "stopped" / "maps.h5").exists()


def test_finished_says_so_and_another_config_is_refused(box, capsys):
    before = (box / "alone" / "maps.h5").read_bytes()
    assert main([config_of(box)]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main([config_of(box), "project.width=7"]) == 2
    assert "project.width was 8.0 and is now 7" in capsys.readouterr().err
    assert before == (box / "alone" / "maps.h5").read_bytes()


def test_other_particles_are_noticed(box, tmp_path, capsys):
    (tmp_path / "snapshot").mkdir()
    shutil.copy(box / "alone" / "maps.h5", tmp_path / "maps.h5")
    moved = particles(centres=CENTRES)
    moved[1]["Coordinates"][100] += 0.01
    old = box / "snapshot"
    kept = {p: p.read_bytes() for p in old.iterdir()}
    try:
        write_snapshot(old / "s.hdf5", moved, chunks=3)
        assert main([config_of(box), f"run.dir={tmp_path}"]) == 2
    finally:
        for p, content in kept.items():
            p.write_bytes(content)
    assert "inputs.snapshot was" in capsys.readouterr().err


def test_root_and_field_attributes(box):
    with h5py.File(box / "alone" / "maps.h5") as f:
        a = dict(f.attrs)
        assert (a["format"], a["npix"], a["width_mpc"], a["depth_mpc"]) == ("hpcdiff-maps", 24, 8.0, 8.0)
        assert a["pixel_mpc"] == pytest.approx(1 / 3) and (a["Om0"], a["Ob0"], a["h"]) == (0.3, 0.045, 0.7)
        assert set(json.loads(a["inputs"])) == {"snapshot", "halos"} and json.loads(a["provenance"])["ranks"] == 1
        mean = Background().rho_mean(0, "dm")
        assert f["fields/dm"].attrs["to_msun_per_mpc2"] == pytest.approx(8 * mean)
        assert f["fields/sz"].attrs["units"] == "uK" and f["fields/xray"].attrs["gaunt"] == 1.2
        assert f["fields/gas"].id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS


def column_sums(data, centre, frame, depth, box=BOX, a=1.0):
    """Offsets (physical Mpc) along i and j of the particles in front of and behind the centre within depth/2, and which they are."""
    d = data["Coordinates"] - centre
    seen = (d - box * np.rint(d / box)) * a @ frame.T
    inside = abs(seen[:, 2]) < depth / 2
    return seen[inside], inside


@pytest.mark.parametrize("z", [0.0, 0.8])
def test_every_field_holds_what_its_particles_bring(tmp_path, z):
    """With point-like kernels each map is a histogram of the particles' own numbers, whatever the view and the redshift."""
    data, a = particles(seed=2, n=400, centres=CENTRES), 1 / (1 + z)
    for kind in (0, 1):
        data[kind]["SmoothingLength"][:] = 1e-7
    data[4] = {name: data[1][name][:100] for name in ("Coordinates", "Masses", "SmoothingLength")}
    write_snapshot(tmp_path / "s.hdf5", data, z=z)
    write_halos(tmp_path / "halos.csv", CENTRES)
    names = ["gas", "dm", "star", "total", "sz", "compton_y", "xray"]
    write_config(
        tmp_path / "c.yaml",
        tmp_path,
        tmp_path / "s.hdf5",
        tmp_path / "halos.csv",
        fields=names,
        views={"sightlines": 3},
        split={"train": 1.0, "val": 0.0, "test": 0.0},
    )
    assert main([str(tmp_path / "c.yaml")]) == 0
    gas = data[0]
    grams, electrons = gas["Masses"] * MSUN_G, 0.76 * 1.1
    temperature = 2 / 3 * gas["InternalEnergy"] * 1e10 * 4 / (1 + 3 * 0.76 + 4 * electrons) * M_P / K_B
    y = SIGMA_T / M_E_C2 * grams * electrons / M_P * K_B * temperature / MPC_CM**2
    n_e = gas["Density"] * electrons / M_P
    light = 1.4e-27 * 1.2 * np.sqrt(temperature) * n_e * 1.13 * n_e * grams / gas["Density"] / MPC_CM**2
    mean = {k: Background().rho_mean(z, k) * 8.0 for k in ("gas", "dm", "total")}
    brought = {
        "gas": [(0, gas["Masses"] / mean["gas"])],
        "dm": [(1, data[1]["Masses"] / mean["dm"])],
        "star": [(4, data[4]["Masses"] / mean["gas"])],
        "total": [(k, data[k]["Masses"] / mean["total"]) for k in (0, 1, 4)],
        "sz": [(0, 2.7255e6 * y)],
        "compton_y": [(0, y)],
        "xray": [(0, light)],
    }
    edges = np.linspace(-4, 4, 25)
    with h5py.File(tmp_path / "maps.h5") as f:
        assert len(f["catalog/halo_id"]) == 81
        for row in (0, 1, 2, 5, 40, 80):
            for name in names:
                expected = np.zeros((24, 24))
                for kind, values in brought[name]:
                    seen, inside = column_sums(data[kind], f["catalog/position"][row], f["catalog/frame"][row], 8.0, a=a)
                    expected += np.histogram2d(seen[:, 0], seen[:, 1], [edges, edges], weights=values[inside])[0] * 9
                assert expected.any()
                assert f["fields"][name][row] == pytest.approx(expected, rel=1e-5, abs=1e-6 * expected.max()), (row, name)


def test_an_isothermal_beta_model(tmp_path):
    """beta = 2/3: columns (pi/2) rho0 rc^2/b of gas and pressure with b^2 = rc^2 + R^2 and beyond it, (pi/2) rho0^2 rc^4/b^3 of rho^2."""
    rng = np.random.default_rng(0)
    n, rc, edge, rho0 = 300_000, 1.0, 12.0, 1e14  # Mpc, Msun/Mpc^3
    grid = np.linspace(0, edge, 20001)
    enclosed = grid - rc * np.arctan(grid / rc)  # of rho = rho0 / (1 + r^2/rc^2)
    r = np.interp(rng.random(n), enclosed / enclosed[-1], grid)
    direction = rng.normal(size=(n, 3))
    position = np.array([20.0, 20, 20]) + direction / np.linalg.norm(direction, axis=1)[:, None] * r[:, None]
    mass = 4 * np.pi * rho0 * rc**2 * enclosed[-1] / n
    rho = rho0 / (1 + (r / rc) ** 2)
    to_cgs, temperature = MSUN_G / MPC_CM**3, 5e7
    gas = {
        "Coordinates": position,
        "Masses": np.full(n, mass),
        "SmoothingLength": np.cbrt(3 * 64 * mass / (4 * np.pi * rho)),
        "Density": rho * to_cgs,
        "Temperature": np.full(n, temperature),
    }
    write_snapshot(tmp_path / "s.hdf5", {0: gas, 1: gas})
    write_halos(tmp_path / "halos.csv", np.full((1, 3), 20.0), mass_200m=np.array([1.65e16]))
    (tmp_path / "c.yaml").write_text(
        f"run: {{dir: {tmp_path}}}\nproject: {{snapshot: {tmp_path}/s.hdf5, halos: {tmp_path}/halos.csv, npix: 32, width: 8, depth: 20,"
        " views: {axes: [y]}, split: {train: 1, val: 0, test: 0}}\n"
    )
    assert main([str(tmp_path / "c.yaml")]) == 0
    x = (np.arange(32) - 15.5) / 4
    distance = np.hypot(x[:, None], x)
    b = np.hypot(rc, distance)
    reach = np.minimum(10.0, np.sqrt(edge**2 - distance**2))
    column = 2 * rho0 * rc**2 / b * np.arctan(reach / b)  # Msun/Mpc^2
    squared = rho0**2 * rc**4 / b**3 * (np.arctan(reach / b) + reach * b / (reach**2 + b**2))
    ring = (distance > 0.5) & (distance < 3.5)
    with h5py.File(tmp_path / "maps.h5") as f:
        maps = {name: data[0].astype(float) for name, data in f["fields"].items()}
    y = SIGMA_T / M_E_C2 * column * MSUN_G / MPC_CM**2 / (1.13 * M_P) * K_B * temperature
    light = 1.4e-27 * 1.2 * np.sqrt(temperature) * 1.13 * (to_cgs / (1.13 * M_P)) ** 2 * squared * MPC_CM
    truth = {"gas": column / (Background().rho_mean(0, "gas") * 20), "sz": 2.7255e6 * y, "xray": light}
    for name, expected in truth.items():
        ratio = maps[name][ring] / expected[ring]
        assert ratio.mean() == pytest.approx(1, abs=0.01), name  # the kernel's own smoothing stays below that
        assert ratio.std() < 0.06, name  # shot noise


@pytest.mark.skipif(not DATA.is_dir(), reason=f"real snapshots are not at hand ({DATA})")
def test_masses_of_a_gadget4_run(tmp_path):
    """The mass in each map against its particles: whole where the kernel lies inside, none where it lies outside."""
    config = write_config(
        tmp_path / "c.yaml",
        tmp_path,
        DATA / "gadget4_lcdm_gas.hdf5",
        DATA / "gadget4_lcdm_gas_halos.csv",
        fields=["gas", "dm"],
        npix=32,
        width=12.8,
        depth=12.8,
    )
    assert main([str(config)]) == 0
    with h5py.File(DATA / "gadget4_lcdm_gas.hdf5") as f:
        box, table = f["Header"].attrs["BoxSize"] / 700, f["Header"].attrs["MassTable"] * 1e10 / 0.7
        stored = {name: f[f"PartType{k}/Coordinates"][:] / 700 for k, name in enumerate(("gas", "dm"))}
        h = {"gas": f["PartType0/SmoothingLength"][:] / 700}
    from scipy.spatial import cKDTree

    position = stored["dm"] % box
    h["dm"] = cKDTree(position, boxsize=box).query(position, k=[65])[0][:, 0]
    with h5py.File(tmp_path / "maps.h5") as f:
        for row in range(len(f["catalog/halo_id"])):
            for name, mass in zip(("gas", "dm"), table, strict=True):
                frame = f["catalog/frame"][row]
                seen, inside = column_sums({"Coordinates": stored[name]}, f["catalog/position"][row], frame, 12.8, box)
                far = abs(seen[:, :2]).max(axis=1)
                low, high = (mass * (far + sign * h[name][inside] < 6.4).sum() for sign in (1, -1))
                data = f["fields"][name]
                got = data[row].sum(dtype=float) * 0.4**2 * data.attrs["to_msun_per_mpc2"]
                assert low * (1 - 1e-5) <= got <= high * (1 + 1e-5)
                assert got == pytest.approx(mass * (far < 6.4).sum(), rel=0.15)


def broken(tmp_path: Path, what: str) -> tuple[Path, tuple[str, ...]]:
    """A config whose input has one fault, and the words that its error line must hold."""
    data, position, project = particles(n=60, centres=CENTRES), CENTRES.copy(), {}
    says: tuple[str, ...] = ()
    more: dict = {"halo_id": np.arange(9)}
    snapshot, halos = tmp_path / "s.hdf5", tmp_path / "halos.hdf5"
    if what == "no gas":
        del data[0]
        says = ("no gas particles", "project.fields")
    elif what == "nan coordinates":
        data[1]["Coordinates"][-1] = np.nan  # the last rank reads it
        says = ("not finite",)
    elif what == "negative mass":
        data[0]["Masses"][3] = -1
        says = ("negative",)
    elif what == "zero h":
        data[1]["SmoothingLength"][-1] = 0
        says = ("smoothing lengths",)
    elif what == "halo outside":
        position[4, 1] = BOX + 1
        says = ("halo 4", "outside the box")
    elif what == "halo twice":
        more["halo_id"] = np.array([0, 1, 2, 3, 4, 5, 6, 7, 3])
        says = ("halo_id 3", "twice")
    elif what == "too wide":
        project["width"] = 41
        says = ("project.width", "does not fit into the box")
    elif what == "empty split":
        project["split"] = {"train": 0.98, "val": 0.01, "test": 0.01}
        says = ("project.split.seed=",)
    elif what == "mesh":
        project |= {"method": "mesh", "oversample": 2}
        says = ("project.method = mesh", "oversampling")
    elif what == "nothing there":  # gas alone, which cannot be held against the masses
        position, project["fields"], project["width"], project["depth"] = np.full_like(position, 2.0), ["gas"], 1.0, 1.0
        data[0]["Coordinates"] = 20 + 0.1 * data[0]["Coordinates"]
        data[0]["SmoothingLength"][:] = 0.1
        says = ("not one particle",)
    elif what == "cosmology":
        says = ("cosmology.h", "0.6", "0.7")
    project.setdefault("split", {"train": 1.0, "val": 0.0, "test": 0.0})
    write_snapshot(snapshot, data)
    write_halos(halos, position, **more)
    if what == "truncated":
        content = snapshot.read_bytes()
        snapshot.write_bytes(content[: len(content) // 2])
        says = ("not a whole HDF5", "s.hdf5")
    elif what == "missing":
        snapshot.unlink()
        says = ("not there", "s.hdf5")
    elif what == "text":
        halos.write_text("no HDF5")
        says = ("not a whole HDF5", "halos.hdf5")
    config = write_config(tmp_path / "c.yaml", tmp_path / "run", snapshot, halos, **project)
    if what == "cosmology":
        config.write_text(config.read_text() + "cosmology: {h: 0.6}\n")
    return config, says


FAULTS = ("no gas", "nan coordinates", "negative mass", "zero h", "halo outside", "halo twice", "too wide", "empty split")
FAULTS += ("mesh", "nothing there", "cosmology", "truncated", "missing", "text")


@pytest.mark.parametrize("what", FAULTS)
def test_bad_input_is_one_line(tmp_path, capsys, what):
    config, says = broken(tmp_path, what)
    assert main([str(config)]) == 2
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("hpcdiff project: error: ")]
    assert len(lines) == 1 and "Traceback" not in said
    for word in says:
        assert word in lines[0], lines[0]
    assert not (tmp_path / "run" / "maps.h5").exists()
    assert json.loads((tmp_path / "run" / "project.status.json").read_text())["exit"] == 2


@pytest.mark.parametrize("what", ["nan coordinates", "truncated"])
def test_bad_input_leaves_no_rank_waiting(tmp_path, what):
    config, says = broken(tmp_path, what)
    refused(run("project", config, ranks=3), *says)
    assert not (tmp_path / "run" / "maps.h5").exists()


@pytest.mark.parametrize(("what", "says"), [("masses", "1e10"), ("positions", "not where the particles are")])
def test_a_catalogue_that_does_not_fit_the_particles_is_refused(tmp_path, what, says):
    """Masses in 1e10 Msun, and halos of another box: on every rank, before a map is written."""
    write_snapshot(tmp_path / "s.hdf5", particles(centres=CENTRES))
    masses = {"mass_200m": np.full(9, 2e4)} if what == "masses" else {}
    write_halos(tmp_path / "halos.hdf5", CENTRES if what == "masses" else np.random.default_rng(77).uniform(0, BOX, (9, 3)), **masses)
    split = {"train": 1.0, "val": 0.0, "test": 0.0}
    config = write_config(tmp_path / "c.yaml", tmp_path / "run", tmp_path / "s.hdf5", tmp_path / "halos.hdf5", split=split)
    refused(run("project", config, ranks=2), says, "halos.hdf5")
    with h5py.File(tmp_path / "run" / "maps.h5.partial") as f:
        assert not f["catalog/checksum"][:].any()


def test_a_mended_snapshot_needs_no_overwrite(tmp_path):
    config, _ = broken(tmp_path, "nan coordinates")
    assert main([str(config)]) == 2
    write_snapshot(tmp_path / "s.hdf5", particles(n=60, centres=CENTRES))
    assert main([str(config)]) == 0


def test_dry_run_touches_nothing(box, tmp_path, capsys):
    assert main([config_of(box), f"run.dir={tmp_path}/new", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "views: 54" in out and "4500 gas" in out and "0.5 MiB" in out
    assert main([config_of(box), f"run.dir={tmp_path}/new", f"project.snapshot={tmp_path}/none", "--dry-run"]) == 0
    assert "not there yet" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()
