"""The metrics of runs that are not as they should be: shuffled, without spread, without a training split, cut otherwise."""

import json

import h5py
import numpy as np
import pytest
from fake_run import MASS, copied, evaluated_run, measured, write_run

from hpcdiff.evaluate.look import bin_title
from hpcdiff.evaluate.tables import calibration, skill, structure
from hpcdiff.structure import Structure


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return evaluated_run(tmp_path_factory)


@pytest.fixture(scope="module")
def metrics(run):
    return json.loads((run / "metrics.json").read_text())


@pytest.fixture
def copy(run, tmp_path):
    return copied(run, tmp_path)


def test_references_of_tarp_see_a_posterior_of_the_wrong_cluster(tmp_path):
    """Samples of another halo are as wide and as many, and fail; those of the right one pass."""
    mass = np.random.default_rng(0).permutation(np.geomspace(1.2e14, 1.5e15, 120))
    p = {}
    for name, shuffle in (("right", None), ("wrong", 1)):
        write_run(tmp_path / name, mass=mass, views=1, shuffle=shuffle)
        m = measured(tmp_path / name)
        of = m["calibration"]["all"]["gas"]["tarp"]
        assert set(of) == {"mass", "profile", "band_powers"}
        assert all(len(c[k]) == 12 for c in of.values() for k in ("alpha", "coverage", "low", "high"))
        p[name] = [c["p"] for c in of.values()]
    assert min(p["right"]) > 0.01 and max(p["wrong"]) < 0.01


def test_axes_that_show_different_masses_are_found_out(run, metrics, copy):
    """The fake run's views of a halo are not the same matter, so their narrow posteriors disagree; a flat cut cannot be compared."""
    got = metrics["consistency"]["gas"]
    assert got["expected"] == 1.0 and got["n_halos"] == 10 and got["chi2"]["mean"] > 1 and got["p"] < 0.01
    with h5py.File(copy / "maps.h5", "r+") as f:
        f["catalog/depth_mpc"][...] = 25.6
        del f.attrs["crc32"]
    m = measured(copy)
    assert m["consistency"]["gas"] is None and "deep" in m["reasons"]["consistency.gas"]


def test_shuffled_control_loses_the_skill(tmp_path):
    write_run(tmp_path, mass=MASS, views=1, shuffle=3, samples=3, control="shuffled inputs")
    m = measured(tmp_path)
    assert m["control"] == "shuffled inputs"
    for field in ("gas", "dm"):
        assert m["baseline"]["all"][field]["wiener"]["gain"]["median"] < 0
        assert m["baseline"]["all"][field]["stacked_profile"]["gain"]["median"] < 0


def test_metrics_are_strict_json_with_reasons_for_nulls(tmp_path):
    write_run(tmp_path, mass=[1.2e14] * 12, views=1, samples=3)
    m = measured(tmp_path)
    json.dumps(m, allow_nan=False)
    assert m["table1"]["low"] is None and "M200m" in m["reasons"]["table1.low"]
    assert m["table1"]["all"]["gas"]["b_small"] is not None


def test_one_sample_a_view_has_no_calibration(copy):
    with h5py.File(copy / "samples.h5", "r+") as f:
        for field in ("gas", "dm"):
            first = f["samples"][field][:, :1] - 5  # below zero, as samples may be
            del f["samples"][field]
            f["samples"][field] = first
    m = measured(copy)
    assert m["calibration"]["all"]["gas"] is None and "one sample" in m["reasons"]["calibration"]
    json.dumps(m, allow_nan=False)


def test_samples_without_spread(copy):
    with h5py.File(copy / "samples.h5", "r+") as f:
        for field in ("gas", "dm"):
            f["samples"][field][...] = f["samples"][field][:, :1]
    m = measured(copy)
    json.dumps(m, allow_nan=False)
    c = m["calibration"]["all"]["gas"]["pixel"]
    assert c["within_1"] is None and "differ" in m["reasons"]["calibration.all.gas.pixel.within_1"]
    assert c["spread_skill"]["value"] == 0


def test_an_empty_training_split(copy):
    with h5py.File(copy / "maps.h5", "r+") as f:
        split = f["catalog/split"][:]
        f["catalog/split"][...] = np.where(split == 0, 1, split)
        del f.attrs["crc32"]
    m = measured(copy)
    json.dumps(m, allow_nan=False)
    assert m["baseline"]["all"]["gas"]["wiener"] is None and "0 halos" in m["reasons"]["baseline.all.gas.wiener"]
    assert m["calibration"]["all"]["gas"]["tarp"] is None and "0 halos" in m["reasons"]["calibration.all.gas.tarp"]
    assert m["baseline"]["all"]["gas"]["sz"]["r_small"] is not None


def test_a_field_with_a_depth_of_its_own_is_measured_in_it(copy, metrics):
    """A deeper map of the same contrast over the mean is more matter, and cuts another volume along each axis."""
    with h5py.File(copy / "maps.h5", "r+") as f:
        rows = f["catalog/split"][:] == 2
        f["catalog/depth_dm_mpc"] = np.full(len(rows), 25.6)
        del f.attrs["crc32"]
        truth = f["fields/dm"][:][rows].astype(float)
    m = measured(copy)
    deep = Structure(32, 0.7, 0.3, 0.045).measure("dm", truth, 12.8, 25.6, 0.0)["m500c"]
    assert m["structure"]["all"]["dm"]["m500c"]["truth"]["mean"] == pytest.approx(np.nanmean(deep), rel=1e-6)
    assert m["structure"]["all"]["gas"] == metrics["structure"]["all"]["gas"]
    assert m["consistency"]["dm"] is None and "deep" in m["reasons"]["consistency.dm"] and m["consistency"]["gas"]


def test_halos_that_share_a_group_are_drawn_together(copy, metrics):
    """Ten tested halos in two groups are two pieces of evidence; the means stay, the errors don't."""
    with h5py.File(copy / "maps.h5", "r+") as f:
        f["catalog/group"][...] = f["catalog/mass_200m"][:] > 5.5e14
        del f.attrs["crc32"]
    m = measured(copy)
    assert (m["bootstrap_over"], metrics["bootstrap_over"]) == ("group", "halo")
    one, two = (x["total_mass_error"]["all"]["gas"] for x in (m, metrics))
    assert one["mean"] == two["mean"] and one["n_halos"] == two["n_halos"] and one["error_of_mean"] != two["error_of_mean"]
    of = m["squared_error"]["all"]["dm"]  # errors grow with mass: two groups are further apart than ten halos scatter
    assert of["error_of_mean"] > metrics["squared_error"]["all"]["dm"]["error_of_mean"]
    assert m["squared_error"]["high"]["dm"]["error_of_mean"] is None  # one group alone


def test_inputs_without_sz_name_their_own_signal(copy):
    m = measured(copy, "task.inputs=[xray]")
    assert m["signal_bins"]["field"] == "xray" and bin_title(m, "signal_high") == "strong X-ray signal"
    assert "SZ" not in skill(m) + calibration(m) + structure(m)
