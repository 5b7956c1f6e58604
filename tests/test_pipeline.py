"""All five stages in a row, as users run them: the embedded simulation on several ranks, and a real GADGET-4 snapshot."""

import json

import h5py
import numpy as np
import pytest
from conftest import DATA, ROOT, run
from tiny_pipeline import STAGES, TINY, assert_same_maps

import hpcdiff


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The whole pipeline, each stage one process."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "c.yaml").write_text(TINY.format(dir=folder))
    for stage in STAGES:
        done = run(stage, folder / "c.yaml")
        assert done.returncode == 0, f"{stage}\n{done.stderr[-4000:]}"
    return folder


def test_every_stage_leaves_its_files_and_says_so(alone):
    for name in ("halos.hdf5", "maps.h5", "model/config.json", "samples.h5", "metrics.json", "report.html", "stats.jsonl"):
        assert (alone / name).is_file(), name
    assert len(list((alone / "figures").glob("*.png"))) >= 8
    for stage in STAGES:
        assert json.loads((alone / f"{stage}.status.json").read_text())["exit"] == 0
    left = [p.name for p in alone.iterdir() if "partial" in p.name or p.name.endswith(".tmp")]
    assert not left, left


def test_files_carry_their_origin(alone):
    for name, kind in (("halos.hdf5", "halos"), ("maps.h5", "maps"), ("samples.h5", "samples")):
        with h5py.File(alone / name) as f:
            assert f.attrs["format"] == f"hpcdiff-{kind}" and {"version", "config", "inputs"} <= set(f.attrs)
            assert "versions" in json.loads(f.attrs["provenance"])
    with h5py.File(alone / "samples.h5") as f:
        made_from = json.loads(f.attrs["inputs"])
        assert made_from["maps"] == hpcdiff.load(str(alone / "model")).info["inputs"]["maps"]
    assert json.loads((alone / "metrics.json").read_text())["format"] == "hpcdiff-metrics"


def test_no_pickle_anywhere(alone):
    suspicious = [p for p in alone.rglob("*") if p.suffix in (".pt", ".pth", ".pkl", ".pickle", ".bin", ".distcp")]
    assert not suspicious


def test_the_report_is_one_file_that_needs_no_network(alone):
    text = (alone / "report.html").read_text()
    assert "data:image/png;base64," in text and "http://" not in text.replace("http://www.w3.org", "") and 'src="figures' not in text


def test_on_several_ranks_maps_are_the_same_bytes_and_metrics_follow(alone, tmp_path):
    (tmp_path / "c.yaml").write_text(TINY.format(dir=tmp_path))
    for stage, ranks in (("simulate", 3), ("project", 3)):
        done = run(stage, tmp_path / "c.yaml", ranks=ranks)
        assert done.returncode == 0, f"{stage}\n{done.stderr[-4000:]}"
    assert_same_maps(alone / "maps.h5", tmp_path / "maps.h5")
    for stage in ("train", "sample", "evaluate"):
        done = run(stage, tmp_path / "c.yaml", ranks=2)
        assert done.returncode == 0, f"{stage}\n{done.stderr[-4000:]}"
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "samples.h5").symlink_to(tmp_path / "samples.h5")
    one = run("evaluate", tmp_path / "c.yaml", f"run.dir={tmp_path / 'again'}", f"run.maps={tmp_path / 'maps.h5'}")
    assert one.returncode == 0, one.stderr
    assert (tmp_path / "again" / "metrics.json").read_bytes() == (tmp_path / "metrics.json").read_bytes()


def test_a_second_round_does_nothing(alone):
    before = {p: p.stat().st_mtime_ns for p in alone.rglob("*") if p.is_file() and not p.name.endswith((".status.json", ".lock"))}
    for stage in STAGES:
        assert run(stage, alone / "c.yaml").returncode == 0
    after = {p: p.stat().st_mtime_ns for p in alone.rglob("*") if p.is_file() and not p.name.endswith((".status.json", ".lock"))}
    assert after == before


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real snapshots in {DATA}")
def test_the_gadget4_example_runs_and_its_maps_hold_the_particles_mass(tmp_path):
    config = ROOT / "configs" / "gadget4.yaml"
    for stage in STAGES[1:]:
        small = [f"run.dir={tmp_path}", "train.images=160", "train.validate_every=80"]
        done = run(stage, config, *small, GADGET4_DATA=str(DATA))
        assert done.returncode == 0, f"{stage}\n{done.stderr[-4000:]}"
    assert (tmp_path / "report.html").exists()
    with h5py.File(DATA / "gadget4_lcdm_gas.hdf5") as f, h5py.File(tmp_path / "maps.h5") as m:
        h, box = f["Parameters"].attrs["HubbleParam"], f["Header"].attrs["BoxSize"]
        table = f["Header"].attrs["MassTable"]
        unit = 1 / h if box < 1000 else 1e-3 / h  # the box is 50 Mpc/h, in Mpc/h or kpc/h
        catalog = {k: m["catalog"][k][:] for k in ("position", "axis", "halo_id")}
        assert len(np.unique(catalog["halo_id"])) == 24
        for kind, field in ((0, "gas"), (1, "dm")):
            x = f[f"PartType{kind}/Coordinates"][:].astype(float) * unit
            to_mass = float(m["fields"][field].attrs["to_msun_per_mpc2"]) * (12.8 / 32) ** 2
            ratios = []
            for n in range(0, len(catalog["axis"]), 5):
                d = x - catalog["position"][n]
                d -= box * unit * np.rint(d / (box * unit))
                along = int(catalog["axis"][n])
                inside = (np.abs(d) < 6.4).all(axis=1)
                assert inside.sum() > 50 and (np.abs(d[:, along]) < 6.4).sum() > inside.sum()
                ratios.append(m["fields"][field][n].sum() * to_mass / (inside.sum() * table[kind] * 1e10 / h))
            # smoothing carries mass over the edge both ways: single maps agree to some per cent, their mean better
            assert abs(np.mean(ratios) - 1) < 0.03 and np.abs(np.array(ratios) - 1).max() < 0.15, (field, ratios)
