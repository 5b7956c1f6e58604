"""A field whose datasets the snapshot lacks is refused before anything is read."""

from __future__ import annotations

import re

import h5py
import numpy as np
import pytest
from conftest import refused, run
from test_emission import LAMBDA, Z, text_table
from tiny_box import BOX, particles, write_config, write_halos, write_snapshot

from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError
from hpcdiff.project.__main__ import main
from hpcdiff.project.balance import Budget
from hpcdiff.project.cutout import Reach
from hpcdiff.project.fields import check_snapshot, kinds_for, scale
from hpcdiff.project.lengths import radius_of_nfw
from hpcdiff.project.source import Ledger, Source
from hpcdiff.sections import Project
from hpcdiff.snapshot import open_snapshot
from hpcdiff.world import World


@pytest.mark.parametrize(
    ("dataset", "fields", "says"),
    [
        ("PartType0/Density", ["gas", "xray"], "PartType0 has no Density, which the field 'xray' needs"),
        ("PartType0/InternalEnergy", ["dm", "sz"], "PartType0 has no Temperature or InternalEnergy, which the field 'sz' needs"),
        ("PartType1/Masses", ["gas", "total"], "PartType1 has no Masses or Mass, which the field 'total' needs"),
    ],
)
def test_the_dataset_and_the_field_are_named(tmp_path, dataset, fields, says):
    (path,) = write_snapshot(tmp_path / "s.hdf5", particles(n=50))
    assert kinds_for(fields, open_snapshot(path, Background())) in (["gas"], ["gas", "dm"])
    with h5py.File(path, "r+") as f:
        del f[dataset]
    with pytest.raises(UserError, match=says):
        kinds_for(fields, open_snapshot(path, Background()))
    assert kinds_for(["gas"], open_snapshot(path, Background())) == ["gas"]


@pytest.mark.parametrize("option", ["--dry-run", "--check", None])
@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"gas_cut": {"star_forming": False}}, "PartType0 has no StarFormationRate or DelayTime, which the field 'sz' needs"),
        ({"cooling": "table"}, "PartType0 has no Metallicity"),
        ({"fields": ["dm", "sz"]}, "does not say OmegaBaryon.*'dm' is divided by.*set cosmology.Ob0"),
        ({"fields": ["total"], "views": {"sightlines": 5_000_000}}, "2 halos have 30000000 views, 0.0691 TB.*project.mass_range"),
    ],
)
def test_what_a_run_refuses_is_refused_before_it(tmp_path, capsys, option, keys, says):
    """The plan, `--check` and the run say the same, and name the file."""
    (path,) = write_snapshot(tmp_path / "s.hdf5", particles(n=50))
    if "OmegaBaryon" in says:
        with h5py.File(path, "r+") as f:
            del f["Header"].attrs["OmegaBaryon"]
    keys = {"fields": ["sz", "xray"], **keys}
    if keys.get("cooling"):
        keys["cooling"] = text_table(tmp_path / "l.txt")
    write_halos(tmp_path / "h.csv", particles(n=9)[0]["Coordinates"][:2])
    config = write_config(tmp_path / "c.yaml", tmp_path / "run", path, tmp_path / "h.csv", **keys)
    assert main([str(config), *[option] * bool(option)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert re.search(says, line) and ("s.hdf5" in line or "h.csv" in line)


def test_a_table_of_one_metallicity_needs_none(tmp_path):
    (path,) = write_snapshot(tmp_path / "s.hdf5", particles(n=50))
    table = text_table(tmp_path / "one.txt", z=Z[:1], values=LAMBDA[:, :1])
    check_snapshot(Project(fields=["xray"], cooling=table), open_snapshot(path, Background()))


def test_densities_over_the_mean_of_a_run_without_baryons(tmp_path):
    """Of dark matter alone its mean is all matter's; gas over a mean of nothing is refused."""
    (path,) = write_snapshot(tmp_path / "s.hdf5", {1: particles(n=50)[1]}, OmegaBaryon=0.0)
    snapshot = open_snapshot(path, Background(Ob0=0.045))
    check_snapshot(Project(fields=["dm", "total"]), snapshot)
    assert scale("dm", snapshot.background, 0.0, 2.0) == pytest.approx(2 * Background().rho_mean(0.0), rel=1e-12)
    (path,) = write_snapshot(tmp_path / "g.hdf5", particles(n=50), OmegaBaryon=0.0)
    with pytest.raises(UserError, match="does not say OmegaBaryon"):
        check_snapshot(Project(fields=["gas"]), open_snapshot(path, Background()))
    with pytest.raises(UserError, match="cosmology.Ob0 is 0, and 'gas'"):
        check_snapshot(Project(fields=["gas"]), open_snapshot(path, Background(Ob0=0.0), {"cosmology.Ob0"}))
    check_snapshot(Project(fields=["gas"]), open_snapshot(path, Background(), {"cosmology.Ob0"}))


def test_radii_of_a_run_without_baryons_are_numbers():
    """The concentration's transfer function has no limit of its own at Ob0 = 0; R200c/R200m moves by less than a percent."""
    masses = np.array([1e14, 1e15])
    without, some = (radius_of_nfw(masses, "R200c", 0.0, Background(Ob0=b)) for b in (0.0, 1e-3))
    assert without == pytest.approx(some, rel=1e-2)


def test_the_plan_says_that_cold_gas_decides_the_temperature(tmp_path, capsys):
    (path,) = write_snapshot(tmp_path / "s.hdf5", particles(n=50))
    write_halos(tmp_path / "h.csv", particles(n=9)[0]["Coordinates"][:3])
    config = str(write_config(tmp_path / "c.yaml", tmp_path / "run", path, tmp_path / "h.csv", fields=["temperature"]))
    assert main([config, "--dry-run"]) == 0 and "project.gas_cut.temperature" in capsys.readouterr().out
    assert main([config, "--dry-run", "project.gas_cut.temperature=3e5"]) == 0
    assert "project.gas_cut.temperature" not in capsys.readouterr().out


def test_a_neighbour_beyond_half_the_box_counts_as_there(tmp_path):
    """Few scattered particles have their 64th neighbour nowhere near; kernels are cut at half the box, where images end."""
    (path,) = write_snapshot(tmp_path / "s.hdf5", particles(n=50))
    snapshot, eye = open_snapshot(path, Background()), np.eye(3)[None]
    reach = Reach.of_views(np.full((1, 3), 20.0), eye, np.full(1, 20.0), np.full(1, 40.0), np.zeros(1, np.int64), BOX)

    class Far:
        def read(self, start, stop):
            return np.where(np.arange(start, stop) % 2, 0.9 * BOX, 1.0)

    about = np.full(1, 0.1), 64, reach.position, np.zeros((1, 0)), Budget.of(1.0), Ledger()
    table, _, _ = Source(snapshot, reach, Project(), World(), 1, {"dm": Far()}, *about).read("dm", 0, 75, reach)
    assert np.array_equal(table[:, 4], np.where(table[:, 0] % 2, BOX / 2, 1.0)) and len(table) == 75


def test_a_copied_chunk_ends_the_run_in_one_line(tmp_path):
    (tmp_path / "snapshot").mkdir()
    paths = write_snapshot(tmp_path / "snapshot" / "s.hdf5", particles(n=200), chunks=3)
    (tmp_path / "snapshot" / "s.7.hdf5").write_bytes(paths[1].read_bytes())
    write_halos(tmp_path / "h.csv", particles(n=9)[0]["Coordinates"][:2])
    config = write_config(tmp_path / "c.yaml", tmp_path / "run", tmp_path / "snapshot", tmp_path / "h.csv")
    refused(run("project", config, ranks=2), "s.1.hdf5 and s.7.hdf5 start with the same", "move one of them away")
