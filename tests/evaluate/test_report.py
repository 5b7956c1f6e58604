"""The report: what stands in the page, in the sheets and in the table, for new, old and poor metrics."""

import base64
import io
import json
import re

import h5py
import numpy as np
import pytest
from fake_run import copied, evaluated_run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from page import Page, sheet
from PIL import Image

from hpcdiff.config import read_config
from hpcdiff.evaluate import about, gallery, shapes, tables
from hpcdiff.evaluate.inputs import engine_of, open_inputs
from hpcdiff.evaluate.look import plt
from hpcdiff.evaluate.report import write_figures_and_report
from hpcdiff.evaluate.run import measure
from hpcdiff.maps import MapFile
from hpcdiff.world import World

NEW = ("structure", "substructure", "consistency", "signal_bins")


def draw(folder, change=None):
    """The report of a fake run, of metrics that `change` has worked on: (page, metrics)."""
    config = read_config(folder / "config.yaml")
    maps, samples = open_inputs(config)
    metrics = json.loads((folder / "metrics.json").read_text())
    if change:
        change(metrics)
    write_figures_and_report(config, maps, samples, metrics)
    return Page((folder / "report.html").read_text()), metrics


def number(text):
    return float(text) if text else None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return evaluated_run(tmp_path_factory)


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
    for row, r in zip(
        (r for r in sheet(figures / "profiles.csv") if (r["bin"], r["field"]) == ("signal_high", "dm")), range(99), strict=False
    ):
        assert float(row["fractional_error_p84"]) == metrics["profile"]["signal_high"]["dm"]["fractional_error"]["p84"][r]
        assert float(row["radius_mpc"]) == metrics["profile"]["signal_high"]["dm"]["radius_mpc"][r]
    spectra = [
        r for r in sheet(figures / "correlation.csv") if (r["bin"], r["field"], r["curve"]) == ("signal_low", "gas", "r_stacked_profile")
    ]
    assert [number(r["median"]) for r in spectra] == metrics["spectra"]["signal_low"]["gas"]["r_baseline"]["stacked_profile"]["median"]
    b = [r for r in sheet(figures / "bias.csv") if (r["bin"], r["field"], r["curve"]) == ("signal_low", "dm", "b_per_sample")]
    assert [number(r["p16"]) for r in b] == metrics["spectra"]["signal_low"]["dm"]["b_per_sample"]["p16"]
    c = metrics["calibration"]["all"]["dm"]["total"]
    ranks = [r for r in sheet(figures / "calibration.csv") if (r["panel"], r["of"], r["field"]) == ("ranks", "total", "dm")]
    assert [float(r["y"]) for r in ranks] == c["ranks"]
    v = [r for r in sheet(figures / "convergence.csv") if r["field"] == "gas"]
    assert [float(r["variance"]) for r in v] == metrics["convergence"]["all"]["gas"]["variance"]
    t = sheet(figures / "training.csv")
    assert [float(r["images"]) for r in t] == [100, 200, 300] and [number(r["validation_loss"]) for r in t] == [None, 0.25, None]
    e = [r for r in sheet(figures / "pixels.csv") if (r["bin"], r["field"], r["where"]) == ("signal_low", "gas", "inside")]
    assert [int(r["pixels"]) for r in e] == metrics["pixel_error"]["signal_low"]["gas"]["inside"]["histogram"]
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


def test_true_masses_are_in_table_1_alone(metrics):
    """In bins of true mass a right posterior has biased masses and profiles, so no other table or figure is cut by it."""
    words = [f"{name} ({edges[0]:.3g}".replace("e+", "e") for name, edges in metrics["config"]["evaluate"]["mass_bins"].items()]
    for make in (tables.masses, tables.skill, tables.calibration, tables.structure):
        text = make(metrics)
        assert "strong SZ signal" in text and not any(w in text for w in words), make
    assert all(w in tables.table1(metrics) for w in words)


def test_errors_of_masses_are_drawn_over_what_is_known(run):
    """Over the truth a right posterior's errors have a slope; over the samples' mean they have none."""
    rng = np.random.default_rng(5)
    known = rng.normal(10, 1, 400)
    drawn = known + rng.normal(0, 1, (31, 400))
    views = {"view": range(400), "halo_id": range(400), "gas_total_truth": drawn[0]}
    views |= {"gas_total_mean": drawn[1:].mean(0), "gas_total_std": drawn[1:].std(0, ddof=1)}
    figure = shapes.totals(views, ["gas"], 30, {}).figure
    x, pull = figure.axes[1].lines[-1].get_data()
    plt.close(figure)
    assert abs(np.polyfit(x, pull, 1)[0]) < 0.15


def test_every_figure_says_what_it_should_show(page):
    words = "if all is well|if calibrated|must|should|fault|if the posterior is right|independent|fall|most massive"
    for a in page.all("img"):
        assert re.search(words, a["alt"], re.IGNORECASE), a["alt"]


def test_the_page_says_what_may_be_claimed(run, page, metrics, copy):
    assert metrics["simulation_engine"] == "fake clusters"
    assert "Made on the simulation fake clusters: holds for clusters as that simulation makes them." in page.texts
    assert "not how well real clusters are inferred" in about.claim("halo_model") and "does not say" in about.claim(None)
    assert about.claim("halo_model (experimental: gates not run)") == f"{about.claim('halo_model')} Experimental: gates not run."
    assert about.claim("mine (of 2020)").startswith("Made on the simulation mine (of 2020): ")
    assert "Experimental: gates not run." in about.claim("nbody (experimental: gates not run)")
    assert "the gas a polytrope" in about.claim("nbody") and about.claim("nbody (gates not met: c(M), L_X-M)").endswith(
        "Gates not met: c(M), L_X-M."
    )
    for provenance, engine in (
        ('{"simulation_engine": "halo_model", "engine": "x"}', "halo_model"),
        ("{}", None),
        ('{"simulation_engine": "unknown"}', None),
        ("[", None),
        ("[1]", None),
    ):
        with h5py.File(copy / "maps.h5", "r+") as f:
            f.attrs["provenance"] = provenance
        assert engine_of(MapFile(copy / "maps.h5")) == engine


@pytest.fixture
def copy(run, tmp_path):
    return copied(run, tmp_path, ("maps.h5", "samples.h5", "metrics.json"))


@pytest.fixture
def sketched(monkeypatch):
    """Figures are drawn once and coarsely, not three times for print: most of a report's time goes there."""

    def save(folder, name, drawn):
        drawn.figure.set_dpi(30)
        FigureCanvasAgg(drawn.figure).print_png(folder / f"{name}.png")
        (folder / f"{name}.csv").write_text(drawn.sheet.text())
        plt.close(drawn.figure)
        return "data:image/png;base64,"

    monkeypatch.setattr("hpcdiff.evaluate.report.save", save)


def test_old_metrics_without_the_new_parts_still_make_a_report(copy, sketched):
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
                base.pop("wiener")

    page, _ = draw(copy, older)
    drawn = {p.stem for p in (copy / "figures").glob("*.png")}
    assert "calibration" in drawn and not drawn & {"structure", "substructure", "tarp", "conditional", "training"}
    text = " ".join(page.texts)
    assert (
        "stacked profile" in text and "Wiener" not in text.split("Squared error")[0] and "no training curve" in text and "None" not in text
    )
    assert not page.stack


def test_a_control_of_one_sample_a_view_without_mass_bins(copy, sketched):
    with h5py.File(copy / "samples.h5", "r+") as f:
        f.attrs["control"] = "shuffled inputs"
        for field in ("gas", "dm"):
            first = f["samples"][field][:, :1] - 5  # below zero, as samples may be
            del f["samples"][field]
            f["samples"][field] = first
    (copy / "config.yaml").write_text(f"run: {{dir: {copy}}}\nevaluate: {{mass_bins: {{}}}}\n")
    config = read_config(copy / "config.yaml")
    metrics = measure(config, World(), *open_inputs(config), {"maps": "0", "samples": "0"})
    write_figures_and_report(config, *open_inputs(config), metrics)
    page = Page((copy / "report.html").read_text())
    assert not page.stack and metrics["control"] == "shuffled inputs" and "CONTROL: shuffled inputs" in "".join(page.texts)
    assert not (copy / "figures" / "convergence.png").exists()
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
