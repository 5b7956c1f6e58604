"""Particles to ranks: what comes, how often, how much at once; and a run that is killed at any moment ends with the same bytes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import LAUNCHERS, ROOT, descendants, environment, kill, ranks_among, refused, run, start
from test_project import CENTRES, contents
from tiny_box import BOX, particles, write_config, write_halos, write_snapshot

from hpcdiff.cosmology import Background
from hpcdiff.project import passes, stage
from hpcdiff.project.__main__ import main
from hpcdiff.project.exchange import Destinations
from hpcdiff.project.passes import Arrived


def test_a_row_goes_once_to_each_rank():
    """Halos 0 and 1 overlap and both are on rank 2; halo 0 is on rank 0 too; nobody wants halo 2."""
    to = Destinations.of(np.array([0, 0, 1, 3]), np.array([2, 0, 2, 1]), 4, 3)
    assert to.wanted.tolist() == [True, True, False, True]
    halo, row = np.array([0, 1, 2, 1, 3]), np.array([5, 5, 5, 6, 7])
    rank, rows = to.rows(halo, row, 8)
    assert list(zip(rank.tolist(), rows.tolist(), strict=True)) == [(0, 5), (1, 7), (2, 5), (2, 6)]


def test_a_halo_gets_its_rows_in_the_order_of_their_index():
    """Two rounds of two sources each: indices interleave between rounds."""

    class Even:
        """Halo 0 sees all rows, halo 1 those with an even index."""

        extra = 0

        def pairs(self, kind, table, threads):
            even = np.flatnonzero(table[:, 0] % 2 == 0)
            return np.repeat(np.arange(2, dtype=np.int32), [len(table), len(even)]), np.concatenate([np.arange(len(table)), even])

    index = [np.array([0, 2, 5, 10, 11, 16]), np.array([6, 7, 8, 12, 14]), np.array([9, 20])]
    tables = [np.column_stack([i, np.zeros((len(i), 5))]) for i in index]
    arrived = Arrived(tables, "gas", Even(), 2, 1)
    everything = np.sort(np.concatenate(index))
    for most in (1, 4, 100):
        pieces = [list(arrived.pieces(halo, most)) for halo in (0, 1)]
        assert np.array_equal(np.concatenate(pieces[0])[:, 0], everything) and max(map(len, pieces[0])) <= most
        assert np.array_equal(np.concatenate(pieces[1])[:, 0], everything[everything % 2 == 0])


@pytest.mark.parametrize(
    ("ranks", "memory", "says"), [(1, 1.0, "kept windows 1"), (2, 0.0001, "dropped"), (3, 1.0, "kept windows 1"), (3, 0.0001, "dropped")]
)
def test_each_rank_gets_what_its_halos_see(tmp_path, ranks, memory, says):
    """With little memory blocks are dropped and read again, and rows come in several windows; all is checked in the ranks."""
    write_snapshot(tmp_path / "s.hdf5", particles(seed=3), chunks=4)
    script = Path(__file__).with_name("exchange_ranks.py")
    command = [*LAUNCHERS["alone" if ranks == 1 else "mpirun"](ranks), str(script), f"{tmp_path}/s.*.hdf5", str(memory)]
    paths = f"{ROOT}:{ROOT}/tests"
    done = subprocess.run(command, env=environment(PYTHONPATH=paths), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert says in done.stdout
    if says == "dropped":
        assert "again True" in done.stdout and int(re.search(r"windows (\d+)", done.stdout)[1]) > 1


@pytest.fixture(scope="module")
def box(tmp_path_factory) -> Path:
    """Nine halos, two of them overlapping across the edge, six views each; and their maps, made by one rank in one pass."""
    folder = tmp_path_factory.mktemp("box")
    (folder / "snapshot").mkdir()
    centres = CENTRES.copy()
    centres[1] = (centres[0] + [-1.5, 1.0, 0.5]) % BOX
    write_snapshot(folder / "snapshot" / "s.hdf5", particles(centres=centres), chunks=3)
    write_halos(folder / "halos.hdf5", centres)
    keys = {"views": {"sightlines": 2}, "split": {"train": 1.0, "val": 0.0, "test": 0.0}}
    write_config(folder / "config.yaml", folder / "alone", folder / "snapshot", folder / "halos.hdf5", **keys)
    assert main([str(folder / "config.yaml")]) == 0
    return folder


def facts(text: str) -> tuple[int, int, float]:
    """Passes, streamed ones, and most bytes of particles and maps, as a run prints them."""
    passes = re.search(r"(\d+) pass(?:es)?(?: \((\d+) streamed\))?,", text)
    size = re.search(r"([\d.e+-]+) (kB|MB|GB) of it particles and maps", text)
    return int(passes[1]), int(passes[2] or 0), float(size[1]) * {"kB": 1e3, "MB": 1e6, "GB": 1e9}[size[2]]


@pytest.mark.parametrize(("ranks", "memory", "streamed"), [(1, 0.0011, False), (1, 0.0006, True), (2, 0.0006, True), (3, 0.0011, False)])
def test_maps_do_not_depend_on_memory(box, ranks, memory, streamed):
    """So little memory that several passes are needed, or that halos have to be streamed."""
    work = box / f"memory{ranks}-{memory}"
    done = run("project", box / "config.yaml", f"run.dir={work}", f"project.memory_gb={memory}", ranks=ranks)
    assert done.returncode == 0, done.stderr
    assert contents(work / "maps.h5") == contents(box / "alone" / "maps.h5")
    passes, windows, held = facts(done.stdout)
    assert passes > 1 and bool(windows) == streamed, done.stdout
    assert held <= memory * 1e9 * 1.01  # it is printed with three digits


def test_maps_do_not_depend_on_threads(box):
    work = box / "threads"
    done = run("project", box / "config.yaml", f"run.dir={work}", OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    assert contents(work / "maps.h5") == contents(box / "alone" / "maps.h5")


def test_another_memory_is_no_other_run(box, capsys):
    assert main([str(box / "config.yaml"), "project.memory_gb=1.5"]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_too_little_memory_says_how_much_would_do(box, tmp_path):
    done = run("project", box / "config.yaml", f"run.dir={tmp_path}", "project.memory_gb=1e-5", ranks=2)
    refused(done, "project.memory_gb", "at least")


def test_more_ranks_than_halos_and_ranks_without_particles(tmp_path):
    """Two halos and three particles of a kind for three ranks."""
    data = {kind: {name: column[:3] for name, column in columns.items()} for kind, columns in particles(centres=CENTRES[:2]).items()}
    write_snapshot(tmp_path / "s.hdf5", data)
    near = data[0]["Coordinates"][:2] * 0.999
    write_halos(tmp_path / "halos.csv", near, mass_200m=np.full(2, 1e11))
    keys = {"split": {"train": 1.0, "val": 0.0, "test": 0.0}, "fields": ["gas", "xray"], "width": 6.0, "views": {"axes": ["y"]}}
    config = write_config(tmp_path / "c.yaml", tmp_path / "one", tmp_path / "s.hdf5", tmp_path / "halos.csv", **keys)
    assert main([str(config)]) == 0
    done = run("project", config, f"run.dir={tmp_path}/three", ranks=3)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "one" / "maps.h5") == contents(tmp_path / "three" / "maps.h5")


@pytest.fixture(scope="module")
def long_run(box) -> tuple[Path, list[str]]:
    """Overrides of a run of many passes, and its maps made without a break."""
    keys = ["project.npix=96", "project.views.sightlines=6", "project.memory_gb=0.007"]
    done = run("project", box / "config.yaml", f"run.dir={box}/whole", *keys)
    assert done.returncode == 0, done.stderr
    assert facts(done.stdout)[0] > 3
    return box, keys


def at_work(process: subprocess.Popen, work: Path) -> bool:
    """Wait until the map file has been begun; False if the run has ended before."""
    for _ in range(2400):
        if (work / "maps.h5.partial").exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    return process.poll() is None


@pytest.mark.parametrize(("seed", "one_rank"), [(0, False), (1, True)])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(long_run, seed, one_rank):
    """SIGKILL to all processes, or to one rank, several times in one run, on other numbers of ranks each time."""
    box, keys = long_run
    rng, work, killed = np.random.default_rng(seed), box / f"killed{seed}", 0
    for attempt in range(4):
        process = start("project", box / "config.yaml", f"run.dir={work}", *keys, ranks=2 + attempt % 2)
        killed += at_work(process, work)
        time.sleep(rng.uniform(0, 3))
        below = ranks_among(descendants(process.pid), "project")
        if one_rank and process.poll() is None and below:
            os.kill(below[attempt % len(below)], signal.SIGKILL)
            try:
                process.wait(60)  # the launcher ends the others
            finally:
                kill(process)
        kill(process)
    assert killed > 0
    done = run("project", box / "config.yaml", f"run.dir={work}", *keys, ranks=1)
    assert done.returncode == 0, done.stderr
    assert contents(work / "maps.h5") == contents(box / "whole" / "maps.h5")


def test_stopped_by_a_signal_on_two_ranks_it_goes_on(long_run):
    """SIGTERM to one rank ends all with 75 and keeps what is written."""
    box, keys = long_run
    work = box / "stopped"
    process = start("project", box / "config.yaml", f"run.dir={work}", *keys, ranks=2)
    assert at_work(process, work)
    os.kill(ranks_among(descendants(process.pid), "project")[-1], signal.SIGTERM)
    process.wait(120)
    assert json.loads((work / "project.status.json").read_text())["exit"] == 75 and not (work / "maps.h5").exists()
    done = run("project", box / "config.yaml", f"run.dir={work}", *keys, ranks=3)
    assert done.returncode == 0, done.stderr
    assert contents(work / "maps.h5") == contents(box / "whole" / "maps.h5")


def members_box(tmp_path: Path) -> tuple[Path, dict, np.ndarray]:
    """Point-like particles of which halo number 0, 1, 2 each have a run of rows, most about the halo, some about another."""
    data, rng = particles(seed=1, n=900, centres=CENTRES[:3]), np.random.default_rng(0)
    number = np.full(len(data[0]["Masses"]), -1)
    number[:900] = np.sort(rng.integers(0, 3, 900))
    at = CENTRES[(number[:900] + (rng.random(900) < 0.3)) % 3]
    for columns in data.values():
        columns["SmoothingLength"][:] = 1e-6
        columns["Coordinates"][:900] = (at + rng.normal(0, 1, (900, 3))) % BOX
    write_halos(tmp_path / "halos.hdf5", CENTRES[:3], halo_id=np.array([3, 5, 9]), group_number=np.array([0, 1, 2]))
    return tmp_path / "halos.hdf5", data, number


def weighed(path: Path, data: dict, number: np.ndarray) -> None:
    """The mass of each gas and dark-matter map is that of the halo's members inside it."""
    import h5py

    with h5py.File(path) as f:
        assert f["catalog/halo_id"][:].tolist() == [3, 5, 9]
        for field, kind in (("gas", 0), ("dm", 1)):
            mass = f[f"fields/{field}"].attrs["to_msun_per_mpc2"] * (8 / 24) ** 2 * f[f"fields/{field}"][:].sum(axis=(1, 2), dtype=float)
            for m in range(3):
                d = data[kind]["Coordinates"] - CENTRES[m]
                inside = np.abs(d - BOX * np.rint(d / BOX)).max(axis=1) < 4
                mine = (number == m) & inside
                assert 0 < mine.sum() < 0.9 * inside.sum()
                assert mass[m] == pytest.approx(data[kind]["Masses"][mine].sum(), rel=1e-4)


def members_config(tmp_path: Path, halos: Path, **keys: object) -> str:
    keys = {"split": {"train": 1.0, "val": 0.0, "test": 0.0}, "views": {"axes": ["z"]}, "particles": "members", **keys}
    return str(write_config(tmp_path / "c.yaml", tmp_path / "run", tmp_path / "s.hdf5", halos, **keys))


@pytest.mark.parametrize("memory", [1.0, 0.0004])
def test_members_by_the_catalogues_table(tmp_path, monkeypatch, memory):
    halos, data, number = members_box(tmp_path)
    write_snapshot(tmp_path / "s.hdf5", data)
    start, length = np.searchsorted(number[:900], np.arange(3)), np.bincount(number[:900], minlength=3)
    read = stage.read_halos

    def with_members(*arguments, **more):
        out = read(*arguments, **more)
        out.members = {kind: (start, length) for kind in ("gas", "dm")}
        return out

    monkeypatch.setattr(stage, "read_halos", with_members)
    assert main([members_config(tmp_path, halos, memory_gb=memory)]) == 0
    weighed(tmp_path / "run" / "maps.h5", data, number)


@pytest.mark.parametrize("check", [False, True])
def test_members_that_are_elsewhere_are_refused(tmp_path, capsys, check):
    """Group numbers in the order of another catalogue: each halo gets the members of the next."""
    halos, data, number = members_box(tmp_path)
    for columns in data.values():
        columns["HaloID"] = np.where(number >= 0, (number + 1) % 3, -1)
    write_snapshot(tmp_path / "s.hdf5", data)
    assert main([members_config(tmp_path, halos), *["--check"] * check]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(said) == 1 and "the members of 3 of 3 halos lie elsewhere" in said[0] and "another order" in said[0]
    assert not (tmp_path / "run" / "maps.h5").exists()


def test_check_counts_members_where_they_should_be(tmp_path, capsys):
    halos, data, number = members_box(tmp_path)
    for columns in data.values():
        columns["HaloID"] = np.where(number == 2, -1, number)  # the third halo has none
    write_snapshot(tmp_path / "s.hdf5", data)
    assert main([members_config(tmp_path, halos), "--check"]) == 0
    said = capsys.readouterr().out
    radius, near = 3 * Background().radius(2e14), 0
    for columns in data.values():
        for k in (0, 1):
            d = columns["Coordinates"][number == k] - CENTRES[k]
            near += int((np.linalg.norm(d - BOX * np.rint(d / BOX), axis=1) <= radius).sum())
    assert f"members of 3 halos: {2 * (number[number >= 0] < 2).sum()} particles, {near} within 3 R200m" in said
    assert "1 of these halos have none (first: halo 9)" in said


@pytest.mark.parametrize("ranks", [1, 2])
def test_members_by_the_particles_own_group_numbers(tmp_path, ranks):
    halos, data, number = members_box(tmp_path)
    mixed = np.random.default_rng(2).permutation(len(number))
    data = {kind: {name: column[mixed] for name, column in columns.items()} for kind, columns in data.items()}
    for columns in data.values():
        columns["HaloID"] = number[mixed]
    write_snapshot(tmp_path / "s.hdf5", data)
    config = members_config(tmp_path, halos)
    done = run("project", config, ranks=ranks)
    assert done.returncode == 0, done.stderr
    weighed(tmp_path / "run" / "maps.h5", data, number[mixed])


@pytest.mark.parametrize("by", ["table", "numbers"])
def test_maps_of_members_are_those_of_a_snapshot_without_the_others(tmp_path, monkeypatch, by):
    """Each halo's maps, pixel by pixel, against those made of all particles of a snapshot that holds its members alone."""
    import h5py

    centres = np.array([[10.0, 12.0, 39.5], [11.5, 11.0, 0.6], [30.0, 25.0, 8.0]])  # the first two overlap, over the box's edge
    data, number = particles(seed=1, n=900, centres=centres), np.repeat([0, 1, 2, -1], [250, 350, 200, 550])
    for kind, columns in data.items():
        columns["Coordinates"] = (centres[number] + np.random.default_rng(kind).normal(0, 1.0, (1350, 3))) % BOX
        columns["HaloID"] = number
    keys = {"views": {"sightlines": 2}, "fields": ["gas", "dm", "sz", "temperature"]}
    if by == "table":
        read, start, length = stage.read_halos, np.searchsorted(np.append(number[:800], 9), np.arange(3)), np.array([250, 350, 200])

        def with_members(*arguments, **more):
            out = read(*arguments, **more)
            out.members = {kind: (start, length) for kind in ("gas", "dm")}
            return out

        monkeypatch.setattr(stage, "read_halos", with_members)
    write_halos(tmp_path / "halos.hdf5", centres, group_number=np.arange(3))
    write_snapshot(tmp_path / "s.hdf5", data, chunks=1)
    assert main([members_config(tmp_path, tmp_path / "halos.hdf5", **keys)]) == 0
    with h5py.File(tmp_path / "run/maps.h5") as f:
        maps, halo = {name: field[:] for name, field in f["fields"].items()}, f["catalog/halo_id"][:]
    monkeypatch.undo()
    for m in range(3):
        own = {kind: {name: column[number == m] for name, column in columns.items()} for kind, columns in data.items()}
        write_snapshot(tmp_path / "s.hdf5", own)
        write_halos(tmp_path / "halos.hdf5", centres[m : m + 1])
        config = members_config(tmp_path, tmp_path / "halos.hdf5", **{**keys, "particles": "all"})
        with monkeypatch.context() as patch:
            patch.setattr(passes, "verdict", lambda *a: None)  # a halo's members alone are less than its mass
            assert main([config, f"run.dir={tmp_path}/run{m}"]) == 0
        with h5py.File(tmp_path / f"run{m}/maps.h5") as f:
            for name, field in f["fields"].items():
                largest = np.abs(field[:]).max()
                assert largest > 0 and np.abs(maps[name][halo == m] - field[:]).max() <= 1e-5 * largest


@pytest.mark.parametrize("option", [[], ["--dry-run"], ["--check"]])
def test_members_without_a_table_are_refused(tmp_path, capsys, option):
    halos, data, _ = members_box(tmp_path)
    write_snapshot(tmp_path / "s.hdf5", data)
    assert main([members_config(tmp_path, halos), *option]) == 2
    said = capsys.readouterr().err
    assert "project.particles" in said and "subfind" in said and "halos.hdf5" in said
