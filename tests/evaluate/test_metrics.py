"""The metrics of a whole run against plain loops."""

import json

import h5py
import numpy as np
import pytest
from fake_run import evaluated_run
from scipy.stats import linregress

from hpcdiff.evaluate import calibration
from hpcdiff.evaluate.bins import one_view_per_halo
from hpcdiff.structure import Structure


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return evaluated_run(tmp_path_factory)


@pytest.fixture(scope="module")
def metrics(run):
    return json.loads((run / "metrics.json").read_text())


def data(folder, field):
    with h5py.File(folder / "samples.h5") as s, h5py.File(folder / "maps.h5") as m:
        rows = s["catalog/view"][:]
        truth = m["fields"][field][:][rows].astype(float)
        return rows, truth, s["samples"][field][:].astype(float), m["catalog/mass_200m"][:][rows], m["catalog/halo_id"][:][rows]


def in_bin(name, mass):
    return {"low": (mass >= 2e14) & (mass < 6e14), "high": (mass >= 6e14) & (mass <= 1e15), "all": mass > 0}[name]


@pytest.mark.parametrize("name", ["low", "high", "all"])
@pytest.mark.parametrize("field", ["gas", "dm"])
def test_scalars_against_plain_numpy(run, metrics, name, field):
    _, y, x, mass, halo = data(run, field)
    here = in_bin(name, mass)
    assert here.any()
    mean = x.mean(1)
    expected = {
        "total_mass_error": mean.sum((1, 2)) / y.sum((1, 2)) - 1,
        "squared_error": ((mean - y) ** 2).mean((1, 2)),
    }
    for quantity, values in expected.items():
        s = metrics[quantity][name][field]
        assert s["mean"] == pytest.approx(values[here].mean(), rel=1e-6)
        assert s["median"] == pytest.approx(np.median(values[here]), rel=1e-6)
        assert [s["p16"], s["p84"]] == pytest.approx(np.percentile(values[here], [16, 84]), rel=1e-6)
        assert s["n_views"] == here.sum() and s["n_halos"] == len(np.unique(halo[here]))


def test_table1_against_a_loop_over_modes(run, metrics):
    _, y, x, _, _ = data(run, "dm")
    n = y.shape[-1]
    f = np.fft.fftfreq(n, 1 / n)
    radius = np.sqrt(f[:, None] ** 2 + f[None, :] ** 2)
    bins = [(radius.astype(int) == i) for i in range(1, n // 2)]
    k = np.array([radius[b].mean() for b in bins]) * 2 * np.pi / (12.8 * 0.7)
    table, single = [], []
    for truth, samples in zip(y, x, strict=True):
        a = np.fft.fft2(truth)

        def bands(guess, a=a):
            g = np.fft.fft2(guess)
            ps, pg, px = (np.array([v[b].mean() for b in bins]) for v in (abs(a) ** 2, abs(g) ** 2, (a * g.conj()).real))
            b, r = np.sqrt(pg / ps), px / np.sqrt(ps * pg)
            return [b[k >= 2].mean(), b[k < 2].mean(), r[k >= 2].mean(), r[k < 2].mean()]

        table.append(bands(samples.mean(0)))
        single.append(np.mean([bands(s) for s in samples], axis=0))
    for name, values in (("table1", table), ("table1_per_sample", single)):
        entry = metrics[name]["all"]["dm"]
        assert [entry[q]["median"] for q in ("b_small", "b_large", "r_small", "r_large")] == pytest.approx(np.median(values, 0), rel=1e-6)


def test_profile_convergence_and_pixel_errors(run, metrics):
    _, y, x, _, _ = data(run, "gas")
    c = np.arange(32) - 15.5
    r = np.hypot(c[:, None], c[None, :])
    p = metrics["profile"]["all"]["gas"]
    assert len(p["radius_mpc"]) == 16 and p["radius_mpc"][0] == pytest.approx(0.4 * 0.5**0.5)
    ring = (r >= 3) & (r < 4)
    truth, made = y[:, ring].mean(1), x.mean(1)[:, ring].mean(1)
    assert p["truth"]["median"][3] == pytest.approx(np.median(truth), rel=1e-6)
    assert p["generated"]["p84"][3] == pytest.approx(np.percentile(made, 84), rel=1e-6)
    assert p["fractional_error"]["median"][3] == pytest.approx(np.median(made / truth - 1), rel=1e-4, abs=1e-9)
    v = metrics["convergence"]["all"]["gas"]
    assert v["samples"] == list(range(2, 11))
    assert v["variance"] == pytest.approx([(x[:, :k].var(1, ddof=1) / k).mean() for k in range(2, 11)], rel=1e-6)
    e = metrics["pixel_error"]["all"]["gas"]
    total = sum(sum(e[w]["histogram"]) for w in ("inside", "outside"))
    assert total == y.size
    assert e["inside"]["spread"]["median"] == pytest.approx(0.03 * np.sqrt(1.1), rel=0.15)


def one_per_halo(halo, rows, folder):
    """Positions of each halo's chosen view."""
    with h5py.File(folder / "maps.h5") as f:
        sightline, axis = f["catalog/sightline_index"][:][rows], f["catalog/axis"][:][rows]
    return np.flatnonzero(one_view_per_halo(halo, sightline, axis))


def test_posterior_of_the_fake_run_is_calibrated(run, metrics):
    """Truth and samples scatter alike: pixels pass; every number is that of one view per halo."""
    for field in ("gas", "dm"):
        rows, y, x, _, halo = data(run, field)
        one = one_per_halo(halo, rows, run)
        y, x = y[one], x[one]
        c = metrics["calibration"]["all"][field]
        assert c["one_view_per_halo"] == len(np.unique(halo)) == len(one) == c["total"]["crps"]["n_views"]
        assert c["expected_within_1"] == pytest.approx(0.635, abs=1e-3)
        for p in c["pixel"]["coverage"]:
            assert p["mean"] == pytest.approx(p["nominal"], abs=0.05) and p["low"] < p["nominal"] < p["high"]
        assert c["pixel"]["within_1"]["mean"] == pytest.approx(0.635, abs=0.05)
        spread = c["pixel"]["spread_skill"]
        assert abs(spread["value"] - 1) < 4 * spread["error"] < 0.9
        assert c["pixel"]["crps_skill_over_stacked_profile"]["value"] > 0.3
        assert c["total"]["crps_skill_over_climatology"]["value"] > 0.8
        skill = np.sqrt(1.1 * x.var(1, ddof=1).mean() / ((x.mean(1) - y) ** 2).mean())
        assert spread["value"] == pytest.approx(skill, rel=1e-6)
        pairs = np.abs(x[:, :, None] - x[:, None]).mean((1, 2)) * 10 / 9 / 2
        assert c["pixel"]["crps"]["mean"] == pytest.approx((np.abs(x - y[:, None]).mean(1) - pairs).mean(), rel=1e-6)
        ranks = (x.sum((2, 3)) < y.sum((1, 2))[:, None]).sum(1)
        assert c["total"]["ranks"] == np.bincount(ranks, minlength=11).tolist()
        assert sum(c["pixel"]["ranks"]) == y.size
        for name in ("total", "pixel"):
            assert c[name]["rank_band"]["p"] > 0.01
        assert c["total"]["rank_band"] == calibration.rank_band(np.bincount(ranks, minlength=11))


def test_conditional_calibration_is_a_line_through_one_view_of_each_halo(run, metrics):
    rows, y, x, _, halo = data(run, "gas")
    one = one_per_halo(halo, rows, run)
    with h5py.File(run / "maps.h5") as f:
        xray = f["fields/xray"][:][rows[one]].astype(float)
    c = (np.arange(32) - 15.5) * 0.4
    signal = np.log(xray[:, np.hypot(c[:, None], c[None]) <= 1.0].sum(1))
    u = ((x[one].sum((2, 3)) < y[one].sum((1, 2))[:, None]).sum(1) + 0.5) / 11
    line = linregress((signal - signal.mean()) / signal.std(), u)
    got = metrics["calibration"]["all"]["gas"]["conditional"]
    assert set(got) == {"sz", "xray", "offset_mpc"}
    assert [got["xray"][k] for k in ("slope", "error", "p")] == pytest.approx([line.slope, line.stderr, line.pvalue])


def test_bins_of_the_signal_hold_thirds_of_the_views(run, metrics):
    rows, y, x, _, _ = data(run, "dm")
    with h5py.File(run / "maps.h5") as f:
        sz = f["fields/sz"][:][rows].astype(float)
    c = (np.arange(32) - 15.5) * 0.4
    signal = sz[:, np.hypot(c[:, None], c[None]) <= 1.0].sum(1) * 0.16
    edges = np.percentile(signal, [0, 100 / 3, 200 / 3, 100])
    third = (signal >= edges[1]).astype(int) + (signal >= edges[2])
    error = x.mean(1).sum((1, 2)) / y.sum((1, 2)) - 1
    for n, name in enumerate(("signal_low", "signal_middle", "signal_high")):
        assert metrics["signal_bins"][name] == pytest.approx(edges[n : n + 2], rel=1e-6)
        assert metrics["total_mass_error"][name]["dm"]["mean"] == pytest.approx(error[third == n].mean(), rel=1e-6)
        assert name not in metrics["table1"] and name not in metrics["table1_per_sample"]
    binned = [q for q, v in metrics.items() if isinstance(v, dict) and "signal_low" in v and q != "signal_bins"]
    assert {"profile", "spectra", "calibration", "baseline", "structure", "substructure", "convergence", "pixel_error"} <= set(binned)


def test_structure_and_substructure_against_the_measure_itself(run, metrics):
    rows, y, x, _, _ = data(run, "dm")
    structure = Structure(32, 0.7, 0.3, 0.045)
    truth, made = (np.array([structure.measure("dm", m, 12.8, 12.8, 0.0)["m500c"] for m in maps]) for maps in (y[:, None], x))
    got = metrics["structure"]["all"]["dm"]
    assert set(got) == {"m500c", "concentration", "ellipticity", "offset_mpc"}
    assert got["m500c"]["truth"]["mean"] == pytest.approx(np.nanmean(truth), rel=1e-6)
    error = np.nanmean(made, 1) / truth[:, 0] - 1
    assert got["m500c"]["error"]["median"] == pytest.approx(np.nanmedian(error), rel=1e-6, abs=1e-9)
    known = np.isfinite(made).all(1) & np.isfinite(truth[:, 0])
    inside = (made.min(1) < truth[:, 0]) & (truth[:, 0] < made.max(1))
    coverage = got["m500c"]["coverage"]
    assert coverage["nominal"] == pytest.approx(9 / 11) and coverage["mean"] == pytest.approx(inside[known].mean())
    clumps = metrics["substructure"]["all"]["dm"]
    assert clumps["n_truth"] > 0 and clumps["completeness"]["n_views"] <= len(rows)
    assert set(clumps) == {"completeness", "purity", "per_sample", "n_truth"} and set(clumps["per_sample"]) == {"completeness", "purity"}


def test_gain_is_paired_by_halo(metrics):
    for field in ("gas", "dm"):
        for name in ("stacked_profile", "wiener"):
            base = metrics["baseline"]["all"][field][name]
            assert base["squared_error"]["mean"] > metrics["squared_error"]["all"][field]["mean"]
            assert 0 < base["gain"]["median"] < 1 and base["gain"]["n_halos"] == metrics["squared_error"]["all"][field]["n_halos"]
    assert metrics["baseline"]["all"]["gas"]["stacked_profile"]["r_large"]["median"] > 0.9  # large scales mean little
    assert 0 < metrics["baseline"]["all"]["dm"]["sz"]["r_small"]["median"] <= 1
    assert "squared_error" not in metrics["baseline"]["all"]["dm"]["xray"]
