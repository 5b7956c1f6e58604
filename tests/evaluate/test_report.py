"""The report and the comparison: what stands in the page, in the sheets and in the table, for new, old and poor metrics."""

import base64
import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser

import h5py
import numpy as np
import pytest
from fake_run import write_run
from PIL import Image

from hpcdiff.config import read_config
from hpcdiff.evaluate import gallery
from hpcdiff.evaluate.__main__ import main
from hpcdiff.evaluate.inputs import open_inputs
from hpcdiff.evaluate.report import write_figures_and_report
from hpcdiff.evaluate.run import measure
from hpcdiff.world import World

MASS = [m for light in np.geomspace(1.2e14, 9e14, 8) for m in (light * 1.2, light, light * 1.4)]
VOID = {"img", "meta", "br", "input", "link", "hr"}
NEW = ("structure", "substructure", "consistency", "signal_bins")


class Page(HTMLParser):
    """Elements by name, texts of those that are looked at, and whether all that is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.found, self.stack, self.texts, self.by_id = [], [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.found.append((tag, attributes))
        if tag not in VOID:
            self.stack.append((tag, attributes))

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1][0] == tag, f"</{tag}> closes {self.stack[-1:]}"
        self.stack.pop()

    def handle_data(self, data):
        self.texts.append(data)
        if self.stack and "id" in self.stack[-1][1]:
            self.by_id[self.stack[-1][1]["id"]] = self.by_id.get(self.stack[-1][1]["id"], "") + data

    def all(self, tag):
        return [a for t, a in self.found if t == tag]


def draw(folder, change=None):
    """The report of a fake run, of metrics that `change` has worked on: (page, metrics)."""
    config = read_config(folder / "config.yaml")
    maps, samples = open_inputs(config)
    metrics = json.loads((folder / "metrics.json").read_text())
    if change:
        change(metrics)
    write_figures_and_report(config, maps, samples, metrics)
    return Page((folder / "report.html").read_text()), metrics


def sheet(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def number(text):
    return float(text) if text else None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An evaluated run, with the training's statistics: its folder."""
    folder = tmp_path_factory.mktemp("report") / "run"
    config = write_run(folder, mass=MASS, views=2)
    lines = [{"images": n, "loss": 1 / n, "lr": 1e-3, "gradient_norm": None} for n in (100, 200, 300)]
    lines[1]["validation_loss"] = 0.25
    (folder / "stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"images": 400, "lo')
    assert main([str(config)]) == 0
    return folder


@pytest.fixture(scope="module")
def page(run):
    return Page((run / "report.html").read_text())


@pytest.fixture(scope="module")
def metrics(run):
    return json.loads((run / "metrics.json").read_text())


def test_page_is_whole_and_holds_all_it_shows(run, page):
    assert not page.stack, "elements stay open"
    ids = [a["id"] for _, a in page.found if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, a in page.found:
        for key in ("src", "href"):
            if key in a:
                assert a[key].startswith("data:") or a[key][:1] == "#" and a[key][1:] in ids, (tag, a[key][:60])
        if tag == "img":
            assert len(a["alt"]) > 20
    prose = "".join(page.texts) + (run / "report.html").read_text().split("</style>")[0]
    assert not re.search(r"https?://", re.sub(r"base64,[A-Za-z0-9+/=]+", "", prose))
    drawn = {p.stem for p in (run / "figures").glob("*.png")}
    assert {"gallery", "posterior", "totals", "baselines", "profiles", "bias", "calibration", "training", "masses", "maps"} <= drawn
    assert {a["alt"].split(":")[0] for a in page.all("img")} == drawn
    for name in drawn:
        assert (run / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert sheet(run / "figures" / f"{name}.csv"), name


def test_figures_come_before_tables_and_sections_are_linked(page):
    kinds = [tag for tag, a in page.found if tag in ("canvas", "img", "table") or a.get("id") == "viewer"]
    assert kinds[0] == "section" and kinds.index("img") < kinds.index("table")
    assert [a["href"][1:] for a in page.all("a")] == [a["id"] for a in page.all("h2")]


def test_every_view_has_a_picture_that_shows_its_maps(run, page):
    views = json.loads(page.by_id["views"])
    with h5py.File(run / "samples.h5") as s, h5py.File(run / "maps.h5") as m:
        rows, drawn = s["catalog/view"][:], s["samples/dm"][:].astype(float)
        truth, sz = m["fields/dm"][:][rows].astype(float), m["fields/sz"][:][rows].astype(float)
        mass = m["catalog/mass_200m"][:][rows]
    assert [v["view"] for v in views["views"]] == sorted(rows.tolist())
    n = len(rows) // 2
    place = int(np.flatnonzero(np.sort(rows) == rows[n])[0])
    view, uri = views["views"][place], page.by_id[f"p{place}"]
    assert view["mass_200m"] == pytest.approx(mass[n], rel=1e-3)
    assert view["dm_total_error"] == pytest.approx(drawn[n].mean(0).sum() / truth[n].sum() - 1, rel=1e-3)
    grey = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("L")).astype(float)
    tiles = dict(zip(map(tuple, views["panels"]), np.split(grey, len(views["panels"]), 1), strict=True))
    # what the page makes of a code, against the map: steps of the logarithm, and what the compression costs
    for kind, field, image in (
        ("truth", "dm", truth[n]),
        ("mean", "dm", drawn[n].mean(0)),
        ("input", "sz", sz[n]),
        ("sample 1", "dm", drawn[n, 0]),
    ):
        low, high = view["ranges"][field][:2]
        value = low * (high / low) ** (tiles[field, kind] / 255)
        bright = image.T[::-1] > view["ranges"][field][3] * 1e-2
        assert np.median(np.abs(np.log(value / image.T[::-1]))[bright]) < 0.06, kind
    pull = (drawn[n].mean(0) - truth[n]) / drawn[n].std(0, ddof=1)
    shown = (tiles["dm", "pull"] - 127.5) / 127.5 * views["pull"]
    assert np.corrcoef(shown.ravel(), np.clip(pull, -5, 5).T[::-1].ravel())[0, 1] > 0.95
    rings = [truth[n][gallery.pixel_rings(32).index == i].mean() for i in range(16)]
    assert view["profiles"]["dm"][0] == pytest.approx(rings, rel=1e-3)


def test_views_sheet_gives_back_the_metrics(run, metrics):
    rows = sheet(run / "figures" / "views.csv")
    for field in ("gas", "dm"):
        squares = [float(r[f"{field}_squared_error"]) for r in rows]
        assert np.mean(squares) == pytest.approx(metrics["squared_error"]["all"][field]["mean"], rel=1e-9)
        assert np.median([float(r[f"{field}_total_error"]) for r in rows]) == pytest.approx(
            metrics["total_mass_error"]["all"][field]["median"]
        )
    assert len(rows) == metrics["squared_error"]["all"]["gas"]["n_views"]


def test_sheets_hold_the_numbers_of_the_metrics(run, metrics):
    figures = run / "figures"
    for row, r in zip((r for r in sheet(figures / "profiles.csv") if (r["bin"], r["field"]) == ("high", "dm")), range(99), strict=False):
        assert float(row["fractional_error_p84"]) == metrics["profile"]["high"]["dm"]["fractional_error"]["p84"][r]
        assert float(row["radius_mpc"]) == metrics["profile"]["high"]["dm"]["radius_mpc"][r]
    spectra = [r for r in sheet(figures / "correlation.csv") if (r["bin"], r["field"], r["curve"]) == ("low", "gas", "r_stacked_profile")]
    assert [number(r["median"]) for r in spectra] == metrics["spectra"]["low"]["gas"]["r_baseline"]["stacked_profile"]["median"]
    b = [r for r in sheet(figures / "bias.csv") if (r["bin"], r["field"], r["curve"]) == ("low", "dm", "b_per_sample")]
    assert [number(r["p16"]) for r in b] == metrics["spectra"]["low"]["dm"]["b_per_sample"]["p16"]
    c = metrics["calibration"]["all"]["dm"]["total"]
    ranks = [r for r in sheet(figures / "calibration.csv") if (r["panel"], r["of"], r["field"]) == ("ranks", "total", "dm")]
    assert [float(r["y"]) for r in ranks] == c["ranks"]
    v = [r for r in sheet(figures / "convergence.csv") if r["field"] == "gas"]
    assert [float(r["variance"]) for r in v] == metrics["convergence"]["all"]["gas"]["variance"]
    t = sheet(figures / "training.csv")
    assert [float(r["images"]) for r in t] == [100, 200, 300] and [number(r["validation_loss"]) for r in t] == [None, 0.25, None]
    e = [r for r in sheet(figures / "pixels.csv") if (r["bin"], r["field"], r["where"]) == ("low", "gas", "inside")]
    assert [int(r["pixels"]) for r in e] == metrics["pixel_error"]["low"]["gas"]["inside"]["histogram"]
    gain = next(r for r in sheet(figures / "baselines.csv") if (r["field"], r["baseline"]) == ("dm", "stacked_profile"))
    assert float(gain["gain_median"]) == metrics["baseline"][gain["bin"]]["dm"]["stacked_profile"]["gain"]["median"]


def test_new_parts_are_drawn_with_their_numbers(run, metrics):
    figures = run / "figures"
    for row in sheet(figures / "structure.csv"):
        of = metrics["structure"][row["bin"]][row["field"]][row["quantity"]]
        assert (float(row["truth_median"]), float(row["samples_p84"])) == (of["truth"]["median"], of["samples"]["p84"])
    for row in sheet(figures / "conditional.csv"):
        of = metrics["calibration"]["all"][row["field"]]["conditional"][row["observable"]]
        assert (float(row["slope"]), float(row["p"])) == (of["slope"], of["p"])
    t = [r for r in sheet(figures / "tarp.csv") if (r["summary"], r["field"]) == ("mass", "dm")]
    of = metrics["calibration"]["all"]["dm"]["tarp"]["mass"]
    assert [float(r["coverage"]) for r in t] == of["coverage"] and [float(r["low"]) for r in t] == of["low"]


def test_latex_table_has_the_numbers_and_balances(run, metrics):
    text = (run / "figures" / "table1.tex").read_text()
    assert text.count("{") == text.count("}") and text.count("$") % 2 == 0
    body = text[text.index("\\begin{tabular}") : text.index("\\end{tabular}")]
    rows = [line for line in body.splitlines() if line.endswith("\\\\") and "multicolumn" not in line]
    assert all(line.count("&") == 5 for line in rows)
    for name, field in (("high", "gas"), ("low", "dm"), ("all", "dm")):
        for q in ("b_small", "b_large", "r_small", "r_large"):
            s = metrics["table1"][name][field][q]
            cell = f"${s['median']:.3f}_{{-{s['median'] - s['p16']:.3f}}}^{{+{s['p84'] - s['median']:.3f}}}$"
            assert cell in text, (name, field, q)
    assert "$0.828$ & $0.987$ & $0.791$ & $0.982$" in text  # the paper's, in its own bins alone
    assert text.count("Hsu et al.") == 4
    table = {(r["bin"], r["field"], r["prediction"], r["quantity"]): r["median"] for r in sheet(run / "figures" / "table1.csv")}
    assert float(table["low", "gas", "each_sample", "r_small"]) == metrics["table1_per_sample"]["low"]["gas"]["r_small"]["median"]


@pytest.fixture
def copy(run, tmp_path):
    for name in ("maps.h5", "samples.h5", "metrics.json"):
        shutil.copy(run / name, tmp_path / name)
    (tmp_path / "config.yaml").write_text(f"run: {{dir: {tmp_path}}}\n")
    return tmp_path


def test_old_metrics_without_the_new_parts_still_make_a_report(copy):
    def older(m):
        for name in NEW:
            m.pop(name, None)
        for bins in (b for b in m.values() if isinstance(b, dict)):
            for name in [n for n in bins if str(n).startswith("signal_")]:
                del bins[name]
        for of in m["calibration"].values():
            for c in (of or {}).values():
                for key in ("tarp", "conditional", "one_view_per_halo"):
                    c.pop(key, None)
                for what in ("total", "pixel"):
                    c[what].pop("rank_band", None)
        for of in m["baseline"].values():
            for base in (of or {}).values():
                base["linear_map"] = base.pop("wiener")

    page, _ = draw(copy, older)
    drawn = {p.stem for p in (copy / "figures").glob("*.png")}
    assert "calibration" in drawn and not drawn & {"structure", "substructure", "tarp", "conditional", "training"}
    text = " ".join(page.texts)
    assert "linear map" in text and "no training curve" in text and "None" not in text
    assert not page.stack


def test_one_sample_a_view_without_mass_bins(copy):
    with h5py.File(copy / "samples.h5", "r+") as f:
        for field in ("gas", "dm"):
            first = f["samples"][field][:, :1]
            del f["samples"][field]
            f["samples"][field] = first
    (copy / "config.yaml").write_text(f"run: {{dir: {copy}}}\nevaluate: {{mass_bins: {{}}}}\n")
    config = read_config(copy / "config.yaml")
    metrics = measure(config, World(), *open_inputs(config), {"maps": "0", "samples": "0"})
    write_figures_and_report(config, *open_inputs(config), metrics)
    page = Page((copy / "report.html").read_text())
    assert not page.stack
    views = json.loads(page.by_id["views"])
    assert [kind for f, kind in views["panels"] if f == "dm"] == ["truth", "sample 1", "fraction"]
    assert not (copy / "figures" / "posterior.png").exists() and (copy / "figures" / "totals.png").exists()
    rows = sheet(copy / "figures" / "views.csv")
    assert rows[0]["gas_total_std"] == "" and rows[0]["gas_crps"] == ""
    assert {r["bin"] for r in sheet(copy / "figures" / "profiles.csv")} <= {"all", "signal_low", "signal_middle", "signal_high"}


def test_pictures_stay_within_the_budget(copy, monkeypatch):
    def kept(budget):
        monkeypatch.setattr(gallery, "BUDGET", budget)
        monkeypatch.setattr(gallery, "SMALLEST", 16)
        config = read_config(copy / "config.yaml")
        _, page, views = gallery.collect(*open_inputs(config), ["sz", "xray"])
        return page, views

    page, whole = kept(10**9)
    size = sum(map(len, whole))
    assert page["factor"] == 1 and all(whole)
    page, coarse = kept(int(size * 0.6))
    assert page["factor"] == 2 and page["npix"] == 16 and all(coarse) and sum(map(len, coarse)) < size * 0.6
    page, few = kept(int(size * 0.15))
    assert 0 < sum(map(bool, few)) < len(few) and sum(map(len, few)) < size * 0.2
    assert len(few) == len(page["views"])


def one_line(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line or "Traceback" in line]
    assert len(lines) == 1, lines
    return lines[0]


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
