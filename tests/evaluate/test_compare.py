"""Two runs side by side: paired differences, and what cannot be compared."""

import json
import shutil

import h5py
import numpy as np
import pytest
from fake_run import copied, evaluated_run, one_line
from page import Page, sheet

from hpcdiff.evaluate.__main__ import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return evaluated_run(tmp_path_factory)


@pytest.fixture
def copy(run, tmp_path):
    return copied(run, tmp_path, ("maps.h5", "samples.h5", "metrics.json"))


def test_a_run_compared_with_itself_does_not_differ(run, tmp_path, capsys):
    assert main(["--compare", str(run), str(run), "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "0 settings differ" in said
    rows = sheet(tmp_path / "compare_figures" / "differences.csv")
    assert {(r["field"], r["score"]) for r in rows} >= {(f, s) for f in ("gas", "dm") for s in ("squared_error", "crps", "total_error")}
    assert all(float(r["difference"]) == 0 and float(r["error"]) == 0 and float(r["halos_where_b_is_better"]) == 0 for r in rows)
    page = Page((tmp_path / "compare.html").read_text())
    assert not page.stack and "the runs have the same settings" in " ".join(page.texts)
    assert not [a for a in page.all("img") if not a["src"].startswith("data:")]


def test_paired_differences_against_a_loop(run, copy, tmp_path, monkeypatch):
    monkeypatch.setattr("hpcdiff.evaluate.report._draw", lambda *a: {})
    monkeypatch.setattr("hpcdiff.evaluate.compare._figures", lambda *a: ())
    with h5py.File(copy / "samples.h5", "r+") as f:
        for field in ("gas", "dm"):
            f["samples"][field][...] = f["samples"][field][:] * 1.05
    (copy / "metrics.json").unlink()
    assert main([str(copy / "config.yaml")]) == 0
    out = tmp_path / "out"
    assert main(["--compare", str(run / "metrics.json"), str(copy), f"--out={out}"]) == 0
    rows = {(r["field"], r["score"]): r for r in sheet(out / "compare_figures" / "differences.csv")}
    with h5py.File(run / "samples.h5") as s, h5py.File(run / "maps.h5") as m:
        at = s["catalog/view"][:]
        truth, mean, halo = m["fields/dm"][:][at].astype(float), s["samples/dm"][:].astype(float).mean(1), m["catalog/halo_id"][:][at]
    a, b = ((((g - truth) ** 2).mean((1, 2))) for g in (mean, mean * 1.05))
    row = rows["dm", "squared_error"]
    assert float(row["difference"]) == pytest.approx((b - a).mean(), rel=1e-4)
    each = [(b - a)[halo == h].mean() for h in np.unique(halo)]
    assert float(row["error"]) == pytest.approx(np.std(each) / np.sqrt(len(each)), rel=0.15)
    assert float(row["halos_where_b_is_better"]) == pytest.approx(np.mean(np.array(each) < 0))


def test_stale_sheets_are_not_paired(run, copy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hpcdiff.evaluate.compare._figures", lambda *a: ())
    shutil.copytree(run / "figures", copy / "figures")
    m = json.loads((copy / "metrics.json").read_text())
    m["squared_error"]["all"]["dm"]["mean"] *= 1.01
    (copy / "metrics.json").write_text(json.dumps(m))
    assert main(["--compare", str(run), str(copy), "--out", str(tmp_path / "out")]) == 0
    assert "of another evaluation" in capsys.readouterr().out


def change(key, value):
    def on(folder):
        m = json.loads((folder / "metrics.json").read_text())
        at = m
        for k in key[:-1]:
            at = at[k]
        at[key[-1]] = value
        (folder / "metrics.json").write_text(json.dumps(m))

    return on


BAD = {
    "other fields": (change(("config", "task", "outputs"), ["gas"]), "other fields"),
    "other scales": (change(("config", "evaluate", "k_split"), 3.0), "k_split"),
    "foreign": (change(("format",), "x"), "not a metrics file"),
    "no JSON": (lambda d: (d / "metrics.json").write_text("{"), "no JSON"),
    "not evaluated": (lambda d: (d / "metrics.json").unlink(), "cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_runs_that_cannot_be_compared(run, copy, tmp_path, capsys, case):
    spoil, words = BAD[case]
    spoil(copy)
    assert main(["--compare", str(run), str(copy), "--out", str(tmp_path / "out")]) == 2
    assert words in one_line(capsys) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"), [(["a"], "1 named"), (["a", "b", "--ou", "c"], "did you mean '--out'"), (["a", "b", "--out"], "no folder")]
)
def test_a_wrong_command_line_of_compare(capsys, words, said):
    assert main(["--compare", *words]) == 2
    assert said in one_line(capsys)
