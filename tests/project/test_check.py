"""`--check`: what it says is true, it writes nothing, and what does not fit together is refused."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import DATA, refused, run
from tiny_box import BOX, H, write_config, write_halos, write_snapshot

from hpcdiff.cosmology import Background
from hpcdiff.project.__main__ import main
from hpcdiff.snapshot import Snapshot, read_halos
from hpcdiff.snapshot.cells import Cells

CENTRES = np.array([[0.3, 39.8, 20.0], [12.0, 9.0, 31.0], [28.0, 25.0, 8.0], [20.0, 33.0, 33.0], [33.0, 5.0, 20.0], [8.0, 22.0, 12.0]])
MASS = 2e14
Z = 0.5


def clumps() -> dict[int, dict[str, np.ndarray]]:
    """Six NFW halos of M200m = 2e14 out to 3 R200m on a thin background, three parts gas in twenty; each particle has an id."""
    rng, out = np.random.default_rng(1), {}
    c, n, radius = 5.0, 300, Background().radius(MASS)
    x = np.geomspace(0.01, 3 * c, 2000)
    inside = np.log1p(x) - x / (1 + x)
    total = round(n * inside[-1] / (np.log1p(c) - c / (1 + c)))
    for kind, part in ((0, 0.15), (1, 0.85)):
        r = np.interp(rng.random((6, total)), inside / inside[-1], x) / c * radius
        direction = rng.normal(size=(6, total, 3))
        near = CENTRES[:, None] + direction / np.linalg.norm(direction, axis=2, keepdims=True) * r[..., None]
        position = np.concatenate([near.reshape(-1, 3), rng.uniform(0, BOX, (200, 3))]) % BOX
        m = len(position)
        out[kind] = {
            "Coordinates": position,
            "Masses": np.full(m, MASS * part / n),
            "SmoothingLength": 10 ** rng.uniform(-1.0, 0.3, m),
            "ParticleIDs": 10_000 * kind + np.arange(m),
        }
    gas = {"Density": 10 ** rng.uniform(-30, -27, m), "InternalEnergy": 10 ** rng.uniform(3, 6, m), "ElectronAbundance": np.full(m, 1.1)}
    out[0] |= gas
    return out


def prepare(
    folder: Path, data: dict | None = None, mass: np.ndarray | None = None, centres: np.ndarray = CENTRES, **project: object
) -> str:
    """Snapshot at z = 0.5, halos and config in `folder`; the catalogue has masses alone, so radii follow from them."""
    write_snapshot(folder / "s.hdf5", clumps() if data is None else data, z=Z)
    mass = np.linspace(1, 1.02, len(centres)) * MASS if mass is None else mass
    write_halos(folder / "halos.csv", centres, mass_200m=mass)
    project = {"split": {"train": 1.0, "val": 0.0, "test": 0.0}, "npix": 16, **project}
    return str(write_config(folder / "c.yaml", folder / "run", folder / "s.hdf5", folder / "halos.csv", **project))


def numbers(pattern: str, text: str) -> list[float]:
    match = re.search(pattern, text)
    assert match, f"{pattern} is not in\n{text}"
    return [float(g) for g in match.groups()]


def test_what_is_said_is_true(tmp_path, capsys):
    config = prepare(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    assert main([config, "--check"]) == 0
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before  # nothing is written, not even run.dir
    said, data, centre = capsys.readouterr().out, clumps(), CENTRES[5]  # the heaviest
    radius = Background().radius(1.02 * MASS)  # comoving
    inside_mass = 0.0
    for kind, name in ((0, "gas"), (1, "dm")):
        d = data[kind]["Coordinates"] - centre
        d = abs(d - BOX * np.rint(d / BOX))
        near = np.linalg.norm(d, axis=1) < radius
        found = numbers(rf"{name}: (\d+) in the box, (\d+) in the halo's first view, (\d+) inside R200m, (\S+) Msun", said)
        # the first view lies along x
        in_map = (d[:, 0] * 2 / 3 < 4) & (d[:, 1:].max(axis=1) * 2 / 3 < 4 + data[kind]["SmoothingLength"] * 2 / 3)
        assert found[:3] == [len(d), in_map.sum(), near.sum()]
        assert found[3] == pytest.approx(data[kind]["Masses"][near].sum(), rel=1e-3)
        inside_mass += data[kind]["Masses"][near].sum()
    assert numbers(r"inside its R200m weigh (\S+) Msun", said) == pytest.approx([inside_mass], rel=1e-3)
    assert numbers(r"R200m (\S+) comoving Mpc = (\S+) physical", said) == pytest.approx([radius, radius / 1.5], rel=1e-3)
    total = sum(d["Masses"].sum() for d in data.values()) / (Background().rho_mean() * BOX**3)
    assert numbers(r"weigh (\S+) of the cosmic mean", said) == pytest.approx([total], rel=1e-3)
    factors = numbers(r"units of gas: Coordinates x (\S+) = comoving Mpc \*, Masses x (\S+) = Msun", said)
    assert factors == pytest.approx([1 / (1e3 * H), 1e10 / H], rel=1e-5)
    with h5py.File(tmp_path / "s.hdf5") as f:
        density = f["PartType0/Density"][:] * numbers(r"Density x (\S+) = g/cm\^3", said)[0]
    assert density == pytest.approx(data[0]["Density"], rel=1e-4)
    assert "h 0.7 (snapshot)" in said and "sigma8 0.8 (default)" in said and "no id is there twice" in said
    assert "halo catalogue: csv" in said and "verdict: the halo catalogue fits the particles" in said.splitlines()[-1]


def test_the_maps_are_those_of_a_run(tmp_path, capsys):
    config = prepare(tmp_path, fields=["gas", "total", "sz"])
    assert main([config, "--check"]) == 0
    said = capsys.readouterr().out
    assert main([config]) == 0
    with h5py.File(tmp_path / "run" / "maps.h5") as f:
        row = int(np.flatnonzero(f["catalog/halo_id"][:] == 5)[0])
        for field in ("gas", "total", "sz"):
            mean, largest = numbers(rf"map {field}: mean (\S+?)(?: uK)?, largest (\S+?)(?: uK)?\n", said)
            assert (mean, largest) == pytest.approx((f["fields"][field][row].mean(), f["fields"][field][row].max()), rel=1e-3)


def test_a_part_is_read_where_the_snapshot_has_an_index(tmp_path, capsys, monkeypatch):
    """Rows sorted by cells, whose bounds the snapshot tells: the same counts and maps from fewer rows."""
    data, side = clumps(), 8.0
    for columns in data.values():
        order = np.argsort((columns["Coordinates"] // side) @ [25, 5, 1], kind="stable")
        columns |= {name: values[order] for name, values in columns.items()}
        columns["SmoothingLength"] = np.full(len(order), 0.2)
    config = prepare(tmp_path, data, centres=CENTRES[1:2], width=4.0, depth=4.0)
    read, plain = [], Snapshot.read

    def counted(self, kind, start, stop, *a, **k):
        read.append(stop - start)
        return plain(self, kind, start, stop, *a, **k)

    def cells(self, kind):
        cell = (data[{"gas": 0, "dm": 1}[kind]]["Coordinates"] // side) @ [25, 5, 1]
        rows = np.searchsorted(cell, np.arange(126))
        low = np.array(list(np.ndindex(5, 5, 5))) * side
        return Cells(rows[:-1], rows[1:], low, low + side, np.full(3, side))

    monkeypatch.setattr(Snapshot, "read", counted)
    said = {}
    for name in ("whole", "part"):
        if name == "part":
            monkeypatch.setattr(Snapshot, "cells", cells)
        read.clear()
        assert main([config, "--check"]) == 0
        said[name] = (sum(read), re.findall(r"in the box, .*|map .*|their own M200m.*", capsys.readouterr().out))
    assert said["part"][1] == said["whole"][1] and len(said["part"][1]) == 7
    assert said["part"][0] < 0.7 * said["whole"][0]


@pytest.mark.parametrize("particles", ["all", "members"])
def test_of_a_large_snapshot_members_are_read(tmp_path, capsys, monkeypatch, particles):
    """Halos' particles stand one halo after the other, as halo finders write them; nothing else is looked at."""
    data = clumps()
    rows = (len(data[0]["Masses"]) - 200) // 6
    config = prepare(tmp_path, data, particles=particles)
    read, plain = [], Snapshot.read

    def counted(self, kind, start, stop, *a, **k):
        read.append(stop - start)
        return plain(self, kind, start, stop, *a, **k)

    def with_members(*arguments, **more):
        halos = read_halos(*arguments, **more)
        halos.members = dict.fromkeys(("gas", "dm"), (rows * halos.halo_id, np.full(len(halos), rows)))
        return halos

    monkeypatch.setattr(Snapshot, "read", counted)
    monkeypatch.setattr("hpcdiff.project.stage.read_halos", with_members)
    monkeypatch.setattr("hpcdiff.project.look.MANY", 100)
    assert main([config, "--check", "project.mass_range=[2.035e14, 2.05e14]"]) == 0
    said = capsys.readouterr().out
    assert sum(read) == 2 * rows and "only members of the halos were read" in said
    d = data[0]["Coordinates"] - CENTRES[5]
    near = np.linalg.norm(d - BOX * np.rint(d / BOX), axis=1) < Background().radius(1.02 * MASS)
    own = np.arange(len(near)) // rows == 5
    assert numbers(r"gas: .* (\d+) inside R200m", said) == [(near & own).sum()]


def test_of_a_large_snapshot_without_members_a_sample_is_read(tmp_path, capsys, monkeypatch):
    """The mass of the box follows from the sample; nothing is said about halos, whose rows may lie between the blocks."""
    data, read, plain = clumps(), [], Snapshot.read
    mixed = np.random.default_rng(7).permutation(len(data[0]["Masses"]))
    for columns in data.values():
        columns |= {name: values[mixed] for name, values in columns.items()}
        columns["Masses"] = np.where(np.arange(len(mixed)) < len(mixed) // 2, 1.0, 3.0) * columns["Masses"] / 2

    def counted(self, kind, start, stop, *a, **k):
        read.append((kind, stop - start))
        return plain(self, kind, start, stop, *a, **k)

    monkeypatch.setattr(Snapshot, "read", counted)
    monkeypatch.setattr("hpcdiff.project.look.MANY", 1000)
    monkeypatch.setattr("hpcdiff.project.look.SAMPLED", 20)
    assert main([prepare(tmp_path, data, fields=["gas", "total"]), "--check"]) == 0
    said = capsys.readouterr().out
    assert {kind for kind, _ in read} == {"gas", "dm"} and sum(n for _, n in read) == 2000
    total = sum(d["Masses"].sum() for d in data.values()) / (Background().rho_mean() * BOX**3)
    assert numbers(r"weigh (\S+) of the cosmic mean", said) == pytest.approx([total], rel=0.03)
    assert f"gas: many rows and no index of them: {1000 / len(mixed):.3g} of them" in said and "map gas" not in said
    assert "masses cannot be compared" in said.splitlines()[-1]


def test_kinds_that_no_field_wants_are_left_out_where_they_are_many(tmp_path, capsys, monkeypatch):
    read, plain = [], Snapshot.read

    def counted(self, kind, start, stop, *a, **k):
        read.append(kind)
        return plain(self, kind, start, stop, *a, **k)

    monkeypatch.setattr(Snapshot, "read", counted)
    monkeypatch.setattr("hpcdiff.project.look.CHEAP", 1000)
    assert main([prepare(tmp_path, fields=["gas"]), "--check"]) == 0
    assert set(read) == {"gas"} and "dm would be many rows to read" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(("factor", "says"), [(0.7, "Msun/h"), (1 / 0.7, "divided by h")])
def test_a_factor_of_h_is_said(tmp_path, capsys, factor, says):
    config = prepare(tmp_path, mass=np.full(6, MASS * factor))
    assert main([config, "--check"]) == 0
    verdict = capsys.readouterr().out.splitlines()[-1]
    assert verdict.startswith("verdict: ") and says in verdict


@pytest.mark.parametrize("fault", ["1e10", "elsewhere", "twice"])
def test_what_does_not_fit_is_one_line(tmp_path, capsys, fault):
    data, more = clumps(), {}
    if fault == "1e10":
        more["mass"], says = np.full(6, MASS / 1e10), "factor of 1e10"
    elif fault == "elsewhere":
        more["centres"], says = (CENTRES + [7.0, 3.0, 5.0]) % BOX, "not where the particles are"
    else:
        data[1]["ParticleIDs"][7] = data[1]["ParticleIDs"][3]
        says = "ParticleIDs"
    assert main([prepare(tmp_path, data, **more), "--check"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1 and says in lines[0]
    assert not (tmp_path / "run").exists()


def test_dark_matter_without_smoothing_lengths_and_alone(tmp_path, capsys):
    data = clumps()
    del data[1]["SmoothingLength"], data[1]["ParticleIDs"], data[0]
    assert main([prepare(tmp_path, data, fields=["dm"]), "--check"]) == 0
    said = capsys.readouterr().out
    assert "estimated among these alone" in said and "dm: the snapshot has no ids" in said
    assert "verdict: the snapshot has dm alone" in said


def test_under_a_launcher_it_is_said_once(tmp_path):
    config = prepare(tmp_path)
    alone = run("project", config, "--check")
    assert "no MPI launcher started this process" in alone.stdout
    done = run("project", config, "--check", ranks=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("verdict: ") == 1 and re.search(r"MPI: .*\d.*mpi4py \S+, 2 rank\(s\)", done.stdout)


def test_other_stages_have_no_such_option(tmp_path):
    refused(run("simulate", prepare(tmp_path), "--check"), "unknown option '--check'")


@pytest.mark.skipif(not DATA.is_dir(), reason=f"real snapshots are not at hand ({DATA})")
def test_a_gadget4_run_and_its_halos(tmp_path, capsys):
    """The masses of the catalogue, found by spherical overdensity in these very particles, come out again; in Msun/h they don't."""
    halos = DATA / "gadget4_lcdm_gas_halos.csv"
    config = write_config(tmp_path / "c.yaml", tmp_path / "run", DATA / "gadget4_lcdm_gas.hdf5", halos, width=12.8, depth=12.8)
    assert main([str(config), "--check"]) == 0
    said = capsys.readouterr().out
    assert numbers(r"inside its R200m weigh \S+ Msun, (\S+) of its M200m", said) == pytest.approx([1], abs=0.01)
    assert numbers(r"over the catalogue's: (\S+) there, \S+ to \S+ \(median (\S+)\)", said) == pytest.approx([1, 1], abs=0.05)
    assert numbers(r"weigh (\S+) of the cosmic mean", said) == pytest.approx([1], abs=1e-3)
    assert "GADGET-4" in said and "verdict: the halo catalogue fits the particles; coarse: " in said
    lines = halos.read_text().splitlines()
    rows = [line.split(",")[:4] + [repr(float(line.split(",")[4]) * 0.7)] for line in lines[1:]]
    (tmp_path / "h.csv").write_text("\n".join(",".join(r) for r in [lines[0].split(",")[:5], *rows]) + "\n")
    assert main([str(config), "--check", f"project.halos={tmp_path}/h.csv"]) == 0
    assert "Msun/h" in capsys.readouterr().out.splitlines()[-1]
