"""The stage as it is run: any number of ranks, reruns, a stop signal."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from fake_run import copied, evaluated_run, measured, one_line, torchrun

from hpcdiff.config import read_config
from hpcdiff.errors import Stopped
from hpcdiff.evaluate.__main__ import main
from hpcdiff.evaluate.inputs import open_inputs
from hpcdiff.evaluate.run import measure
from hpcdiff.world import World


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return evaluated_run(tmp_path_factory)


@pytest.fixture
def copy(run, tmp_path):
    return copied(run, tmp_path)


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


def test_outputs_that_were_damaged_or_removed_are_made_again(run, tmp_path, capsys, monkeypatch):
    """Each in turn; sha256sum finds the same."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    words = [str(run / "config.yaml"), f"run.dir={copy}"]
    check = ["sha256sum", "--check", "--quiet", "evaluate.sha256"]
    assert subprocess.run(check, cwd=copy, capture_output=True).returncode == 0

    def draw(config, *rest):
        shutil.copytree(run / "figures", config.dir / "figures", dirs_exist_ok=True)
        shutil.copy(run / "report.html", config.dir)

    monkeypatch.setattr("hpcdiff.evaluate.report.write_figures_and_report", draw)
    table = next((copy / "figures").glob("*.csv"))
    for name, spoil in ((table.relative_to(copy), flip), ("metrics.json", flip), ("report.html", Path.unlink), ("metrics.json", halve)):
        spoil(copy / name)
        assert subprocess.run(check, cwd=copy, capture_output=True).returncode == 1
        assert main(words) == 0
        assert f"{name} of the last run is damaged or gone: all is made again" in capsys.readouterr().out
        assert (copy / name).read_bytes() == (run / name).read_bytes()
        assert main(words) == 0 and "done already" in capsys.readouterr().out


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_changed_regression_is_not_done_already(run, copy, capsys, monkeypatch):
    """It is part of what the metrics were made from; and it must have seen its inputs as the samples did."""
    monkeypatch.setattr("hpcdiff.evaluate.report.write_figures_and_report", lambda *a: None)
    with h5py.File(copy / "samples.h5") as f, h5py.File(copy / "rival.h5", "w") as g:
        g.attrs.update(f.attrs)
        g["catalog/view"] = f["catalog/view"][:]
        for field in ("gas", "dm"):
            g[f"samples/{field}"] = f["samples"][field][:].mean(1, keepdims=True)
    words = [str(copy / "config.yaml"), f"evaluate.regression={copy / 'rival.h5'}"]
    assert main(words) == 0
    m = json.loads((copy / "metrics.json").read_text())
    assert m["baseline"]["all"]["gas"]["regression"]["gain"]["median"] == pytest.approx(0, abs=1e-3)  # it is the samples' mean
    assert main(words) == 0 and "done already" in capsys.readouterr().out
    with h5py.File(copy / "rival.h5", "r+") as g:
        g["samples/gas"][0, 0, 0, 0] += 1
    assert main(words) == 2
    assert "inputs.regression was" in one_line(capsys)
    with h5py.File(copy / "rival.h5", "r+") as g:
        g.attrs["config"] = "observe: {sz: {beam: 1.0}}"
    assert main([*words, "--overwrite"]) == 2
    assert "otherwise observed" in one_line(capsys)


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
