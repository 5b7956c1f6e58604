"""The stage on files: numbers against plain loops, any number of ranks, reruns, bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from fake_run import write_run
from scipy.stats import linregress

from hpcdiff.config import read_config
from hpcdiff.errors import Stopped
from hpcdiff.evaluate import calibration
from hpcdiff.evaluate.__main__ import main
from hpcdiff.evaluate.bins import one_view_per_halo
from hpcdiff.evaluate.inputs import open_inputs
from hpcdiff.evaluate.run import measure
from hpcdiff.samples import SHARD_FORMAT, checksum
from hpcdiff.structure import Structure
from hpcdiff.world import World

# every third halo is tested, some on the edges of the bins: 6e14 belongs to `high`, 1e15 closes it
TESTED = [1.5e14, 2e14, 3e14, 8e14, 6e14, 7e14, 1e15, 1.2e15, 4e14, 5e14]
MASS = [m for n, light in enumerate(np.geomspace(1.2e14, 9e14, 10)) for m in (TESTED[n], light, light * 1.4)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One whole run by one process: its folder."""
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    config = write_run(folder, mass=MASS, views=2)
    assert main([str(config)]) == 0
    return folder


@pytest.fixture(scope="module")
def metrics(run):
    return json.loads((run / "metrics.json").read_text())


@pytest.fixture
def copy(run, tmp_path):
    """The inputs of that run in a folder of their own."""
    for name in ("maps.h5", "samples.h5"):
        shutil.copy(run / name, tmp_path / name)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"run": {"dir": str(tmp_path)}}))
    return tmp_path


def measured(folder, *overrides):
    """The metrics alone, without pictures."""
    config = read_config(folder / "config.yaml", list(overrides))
    maps, samples = open_inputs(config)
    return measure(config, World(), maps, samples, {})


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
    m = measured(copy)
    assert m["consistency"]["gas"] is None and "deep" in m["reasons"]["consistency.gas"]


def test_gain_is_paired_by_halo(metrics):
    for field in ("gas", "dm"):
        for name in ("stacked_profile", "wiener"):
            base = metrics["baseline"]["all"][field][name]
            assert base["squared_error"]["mean"] > metrics["squared_error"]["all"][field]["mean"]
            assert 0 < base["gain"]["median"] < 1 and base["gain"]["n_halos"] == metrics["squared_error"]["all"][field]["n_halos"]
    assert metrics["baseline"]["all"]["gas"]["stacked_profile"]["r_large"]["median"] > 0.9  # large scales mean little
    assert 0 < metrics["baseline"]["all"]["dm"]["sz"]["r_small"]["median"] <= 1
    assert "squared_error" not in metrics["baseline"]["all"]["dm"]["xray"]


def test_shuffled_control_loses_the_skill(tmp_path):
    write_run(tmp_path, mass=MASS, views=1, shuffle=3, samples=3, control="shuffled inputs")
    m = measured(tmp_path)
    assert m["control"] == "shuffled inputs"
    for field in ("gas", "dm"):
        assert m["baseline"]["all"][field]["wiener"]["gain"]["median"] < 0
        assert m["baseline"]["all"][field]["stacked_profile"]["gain"]["median"] < 0


def torchrun(ranks, *words):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.run([*launch, *words], capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("ranks", [2, 3])
def test_any_number_of_ranks_writes_the_same_bytes(run, tmp_path, ranks):
    target = tmp_path / "metrics.json"
    done = torchrun(ranks, str(Path(__file__).with_name("measure_alone.py")), str(run / "config.yaml"), str(target))
    assert done.returncode == 0, done.stderr[-2000:]
    assert target.read_bytes() == (run / "metrics.json").read_bytes()


def test_order_of_the_rows_in_the_samples_does_not_matter(run, copy):
    with h5py.File(copy / "samples.h5", "r+") as f:
        order = np.random.default_rng(0).permutation(len(f["catalog/view"]))
        for name in ("catalog/view", "samples/gas", "samples/dm"):
            f[name][...] = f[name][:][order]
    before = json.loads((run / "metrics.json").read_text())
    after = measured(copy)
    for name in before:
        assert name == "inputs" or after[name] == before[name]


def test_report_is_one_file_beside_its_figures(run):
    text = (run / "report.html").read_text()
    assert not re.search(r"(src|href)=[\"'](?!data:|#)", text) and "CONTROL" not in text
    assert "0.828" in text and "fake clusters" in text
    assert any((run / "figures").glob("*.png")) and not (run / "figures.partial").exists()


def test_metrics_are_strict_json_with_reasons_for_nulls(tmp_path):
    write_run(tmp_path, mass=[1.2e14] * 12, views=1, samples=3)
    m = measured(tmp_path)
    json.dumps(m, allow_nan=False)
    assert m["table1"]["low"] is None and "M200m" in m["reasons"]["table1.low"]
    assert m["table1"]["all"]["gas"]["b_small"] is not None


def test_one_sample_a_view_and_a_control_still_make_a_report(copy):
    with h5py.File(copy / "samples.h5", "r+") as f:
        f.attrs["control"] = "shuffled inputs"
        for field in ("gas", "dm"):
            first = f["samples"][field][:, :1] - 5  # below zero, as samples may be
            del f["samples"][field]
            f["samples"][field] = first
    assert main([str(copy / "config.yaml")]) == 0
    m = json.loads((copy / "metrics.json").read_text())
    assert m["calibration"]["all"]["gas"] is None and "one sample" in m["reasons"]["calibration"]
    assert m["control"] == "shuffled inputs" and "CONTROL: shuffled inputs" in (copy / "report.html").read_text()
    assert not (copy / "figures" / "convergence.png").exists()


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
    m = measured(copy)
    json.dumps(m, allow_nan=False)
    assert m["baseline"]["all"]["gas"]["wiener"] is None and "0 halos" in m["reasons"]["baseline.all.gas.wiener"]
    assert m["calibration"]["all"]["gas"]["tarp"] is None and "0 halos" in m["reasons"]["calibration.all.gas.tarp"]
    assert m["baseline"]["all"]["gas"]["sz"]["r_small"] is not None


def test_rerun_says_done_and_a_changed_key_is_named(run, capsys):
    config, before = str(run / "config.yaml"), (run / "metrics.json").stat().st_mtime_ns
    assert main([config]) == 0 and "done already" in capsys.readouterr().out
    assert main([config, "evaluate.k_split=3"]) == 2
    assert one_line(capsys).startswith("hpcdiff evaluate: error: evaluate.k_split was 2.0 and is now 3.0")
    assert (run / "metrics.json").stat().st_mtime_ns == before


def test_changed_samples_are_not_done_already(run, copy, capsys):
    shutil.copy(run / "metrics.json", copy / "metrics.json")
    with h5py.File(copy / "samples.h5", "r+") as f:
        f["samples/gas"][0, 0, 0, 0] += 1
    assert main([str(copy / "config.yaml")]) == 2
    assert "inputs.samples was" in one_line(capsys)


def test_samples_of_unknown_origin_are_taken_and_said(copy, capsys, monkeypatch):
    with h5py.File(copy / "samples.h5", "r+") as f:
        del f.attrs["inputs"]
    monkeypatch.setattr("hpcdiff.evaluate.report.write_figures_and_report", lambda *a: None)
    assert main([str(copy / "config.yaml")]) == 0
    assert "not checked" in capsys.readouterr().out


def test_dry_run_touches_nothing(copy, capsys):
    before = sorted(copy.iterdir())
    assert main([str(copy / "config.yaml"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "20 views, 10 samples each" in said and "bytes to read" in said
    (copy / "samples.h5").unlink()
    assert main([str(copy / "config.yaml"), "--dry-run"]) == 0
    assert "samples.h5 is not there yet" in capsys.readouterr().out
    assert sorted(copy.iterdir()) == [p for p in before if p.name != "samples.h5"]


def test_a_stop_signal_ends_with_75_and_no_metrics(copy, monkeypatch):
    real = World.stop_agreed

    def stopped(world):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(world)

    monkeypatch.setattr(World, "stop_agreed", stopped)
    assert main([str(copy / "config.yaml")]) == 75
    assert not (copy / "metrics.json").exists()
    assert json.loads((copy / "evaluate.status.json").read_text())["exit"] == 75
    with pytest.raises(Stopped):
        world = World()
        world.stop = True
        config = read_config(copy / "config.yaml")
        measure(config, world, *open_inputs(config), {})


def one_line(capsys):
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "error:" in line or "Traceback" in line]
    assert len(lines) == 1, lines
    return lines[0]


def truncate(path):
    with open(path, "r+b") as f:
        f.truncate(path.stat().st_size // 2)


def edit(change):
    def on(folder):
        with h5py.File(folder / "samples.h5", "r+") as f:
            change(f)

    return on


def put(name, index, value):
    def change(f):
        f[name][index] = value

    return edit(change)


def replace(name, value):
    def change(f):
        del f[name]
        f[name] = value

    return edit(change)


def unfinished(folder):
    (folder / "samples.h5").unlink()
    (folder / "samples.partial").mkdir()


def in_shards(folder, spoil):
    """The samples moved into two shards under a virtual dataset, as sampling leaves them; then one of them is spoilt."""
    shards = folder / "samples.shards"
    shards.mkdir()
    with h5py.File(folder / "samples.h5") as f:
        views, attributes = f["catalog/view"][:], dict(f.attrs)
        maps = {name: f["samples"][name][:] for name in f["samples"]}
    n, s, npix, _ = maps["gas"].shape
    layouts, table = {name: h5py.VirtualLayout(m.shape, "<f4") for name, m in maps.items()}, []
    for part in (slice(0, n // 2), slice(n // 2, n)):
        rows = views[part]
        name, columns = f"part-{rows[0]}.h5", (np.repeat(rows, s), np.tile(np.arange(s), len(rows)))
        flat = {field: m[part].reshape(-1, npix, npix) for field, m in maps.items()}
        with h5py.File(shards / name, "w") as f:
            f.attrs["format"] = SHARD_FORMAT
            f["catalog/view"], f["catalog/sample"] = columns
            for field, m in flat.items():
                f[f"samples/{field}"] = m
                source = h5py.VirtualSource(f"samples.shards/{name}", f"samples/{field}", m.shape, "<f4")
                layouts[field][part] = source
        table.append((name, (shards / name).stat().st_size, checksum(*columns, flat)))
    (folder / "samples.h5").unlink()
    with h5py.File(folder / "samples.h5", "w") as f:
        f.attrs.update(attributes)
        f["catalog/view"] = views
        for field, layout in layouts.items():
            f.create_virtual_dataset(f"samples/{field}", layout, fillvalue=np.nan)
        names, sizes, crcs = zip(*table, strict=True)
        f["shards/name"] = np.array(names, h5py.string_dtype())
        f["shards/bytes"], f["shards/crc32"] = np.array(sizes, np.int64), np.array(crcs, np.uint32)
    spoil(sorted(shards.iterdir())[1])


def damage(path):
    """One bit of one map."""
    with h5py.File(path, "r+") as f:
        f["samples/gas"][7, 3, 3] *= 2


def test_samples_in_shards_are_the_same_samples(run, copy):
    in_shards(copy, lambda path: None)
    assert measured(copy)["calibration"] == json.loads((run / "metrics.json").read_text())["calibration"]
    config = read_config(copy / "config.yaml", [])
    fingerprint = open_inputs(config)[1].fingerprint(World())
    assert fingerprint == json.loads((run / "metrics.json").read_text())["inputs"]["samples"]


BAD = {
    "shard missing": (lambda d: in_shards(d, lambda path: path.unlink()), "a shard of"),
    "shard truncated": (lambda d: in_shards(d, truncate), "bytes, not"),
    "shard damaged": (lambda d: in_shards(d, damage), "checksum"),
    "no samples": (lambda d: (d / "samples.h5").unlink(), "samples file is not there"),
    "sampling unfinished": (unfinished, "sampling is not finished"),
    "empty samples": (lambda d: (d / "samples.h5").write_bytes(b""), "not a whole HDF5"),
    "text for samples": (lambda d: (d / "samples.h5").write_text("samples"), "not a whole HDF5"),
    "truncated samples": (lambda d: truncate(d / "samples.h5"), "samples"),
    "no maps": (lambda d: (d / "maps.h5").unlink(), "map file is not there"),
    "truncated maps": (lambda d: truncate(d / "maps.h5"), "map file"),
    "maps for samples": (lambda d: shutil.copy(d / "maps.h5", d / "samples.h5"), "not a samples file"),
    "samples for maps": (lambda d: shutil.copy(d / "samples.h5", d / "maps.h5"), "not a map file"),
    "other maps": (edit(lambda f: f.attrs.modify("inputs", '{"maps": "deadbeef"}')), "another map file"),
    "inputs not JSON": (edit(lambda f: f.attrs.modify("inputs", "{")), "not JSON"),
    "unknown field": (edit(lambda f: f.move("samples/dm", "samples/star")), "star"),
    "missing field": (edit(lambda f: f.pop("samples/dm")), "task.outputs names gas, dm"),
    "missing views": (edit(lambda f: f.pop("catalog/view")), "samples file"),
    "view out of range": (put("catalog/view", -1, 10**6), "outside the map file"),
    "negative view": (put("catalog/view", 0, -1), "outside the map file"),
    "view twice": (put("catalog/view", 1, 0), "twice"),
    "not finite": (put("samples/dm", (3, 2, 1, 1), np.nan), "not finite"),
    "too few rows": (replace("samples/gas", np.zeros((3, 10, 32, 32), "f4")), "shape (3, 10, 32, 32)"),
    "not four axes": (replace("samples/gas", np.zeros((20, 32, 32), "f4")), "shape"),
    "no sample a view": (edit(lambda f: empty(f)), "shape (20, 0, 32, 32)"),
    "other pixels": (edit(lambda f: shrink(f)), "16 pixels"),
}


def empty(f):
    for field in ("gas", "dm"):
        del f["samples"][field]
        f["samples"][field] = np.zeros((20, 0, 32, 32), "f4")


def shrink(f):
    for field in ("gas", "dm"):
        small = f["samples"][field][:, :, :16, :16]
        del f["samples"][field]
        f["samples"][field] = small


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_status_2(copy, capsys, case):
    spoil, words = BAD[case]
    spoil(copy)
    assert main([str(copy / "config.yaml")]) == 2
    assert words in one_line(capsys)
    assert json.loads((copy / "evaluate.status.json").read_text())["exit"] == 2
    assert not any((copy / name).exists() for name in ("metrics.json", "report.html", "figures"))


@pytest.mark.parametrize("words", [("task.inputs=[sz,temperature]",), ("task.outputs=[gas]",)])
def test_fields_that_the_files_do_not_hold(copy, capsys, words):
    assert main([str(copy / "config.yaml"), *words]) == 2
    assert words[0].split("=")[0] in one_line(capsys)


def test_bad_input_under_torchrun_ends_every_rank_with_one_line(copy):
    BAD["not finite"][0](copy)
    done = torchrun(2, "-m", "hpcdiff.evaluate", str(copy / "config.yaml"))
    assert done.stderr.count("hpcdiff evaluate: error:") == 1 and "not finite (view" in done.stderr
    assert json.loads((copy / "evaluate.status.json").read_text())["exit"] == 2
