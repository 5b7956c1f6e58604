"""`figures/` and `report.html`: one file that holds its pictures and needs no network."""

from __future__ import annotations

import html
import json
import os
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np

from hpcdiff import files
from hpcdiff.evaluate import about, contest, figures, latex, pictures, reliability, shapes, tables
from hpcdiff.evaluate.export import Sheet, save
from hpcdiff.evaluate.gallery import collect
from hpcdiff.evaluate.inputs import Samples
from hpcdiff.evaluate.look import STYLE, plt
from hpcdiff.maps import MapFile

CAPTIONS = {
    "gallery": "Test clusters from heavy to light; each pair of rows is one cluster, linear above logarithmic. Inputs, then truth, mean of the "
    "posterior samples and one sample of each output. The colour scale of a field is that of the truth; numbers in a panel are its ends. "
    "Densities over the mean density of the Universe, SZ in µK, X-ray in erg/s/cm². (As figure 5 of the paper.)",
    "posterior": "One cluster: truth, mean, two samples, the spread of the samples, and the error of the mean in units of that spread.",
    "totals": "Sum of each view's map: mean and spread of the samples against the truth; below, the error in units of the spread.",
    "baselines": "Gain of the mean map over each baseline, 1 − squared error / the baseline's, paired by halo: median and 16–84 % of the halos. "
    "Right of zero the mean map is better.",
    "profiles": "Radial profiles of truth and mean map, median and 16–84 % over views; below, their fractional error. "
    "Grey: range of R200m. (As figure 6.)",
    "pixels": "Fractional error of the mean map's pixels inside (solid) and outside (dashed) R200m; the outermost bins hold all beyond. "
    "(As figure 7.)",
    "bias": "b(k) = sqrt(P_gen/P_sim), median and 16–84 % over views. The mean of the samples must fall below 1 where the inputs don't tell: "
    "each sample must not. Dotted: split between large and small scales. (As figure 8.)",
    "correlation": "r(k) with the truth of the mean map, of each input by itself, and of the baselines. (As figure 9.)",
    "structure": "Structure measured alike in truth and samples: median and 16–84 % over the views of each bin. On the line: alike.",
    "substructure": "Completeness: share of the true clumps that are found; purity: share of the clumps found that are true. In brackets: true clumps.",
    "convergence": "Variance of the mean of N samples, mean over pixels and views; dotted: one e-fold below that of two samples. (As figure 4.)",
    "calibration": "Left: rank of the truth among the samples, flat if calibrated. Right: coverage of the intervals between order statistics, "
    "on the diagonal if calibrated. Above: total of the map; below: pixels. Grey, where drawn: 95 % of calibrated posteriors.",
    "tarp": "Expected coverage by TARP, with references that depend on the data: on the diagonal, within the grey band, if calibrated.",
    "conditional": "Slope of the truth's rank along what is observed: a posterior that is calibrated everywhere shows none.",
    "training": "Loss of training and validation against images seen; right: gradient norm and learning rate.",
    "masses": "Halos and views against mass, and views of each part of the split. (As figure 1.)",
    "maps": "All maps of the most massive evaluated cluster. (As figure 2.)",
}


def write_figures_and_report(config, maps: MapFile, samples: Samples, metrics: dict) -> None:
    """Draw into `figures.partial`, rename it to `figures`, and write `report.html`."""
    target = config.dir / "figures"
    partial = config.dir / "figures.partial"
    files.remove(partial)
    partial.mkdir()
    columns, page, views = collect(maps, samples, metrics["config"]["task"]["inputs"])
    statistics = contest.read_statistics(config.model_path().parent, config.dir)
    drawn = _draw(partial, maps, samples, metrics, columns, statistics)
    sheet = Sheet(*columns)
    sheet.curve((), *columns.values())
    (partial / "views.csv").write_text(sheet.text())
    text, sheet = latex.table1(metrics)
    (partial / "table1.tex").write_text(text)
    (partial / "table1.csv").write_text(sheet.text())
    files.remove(target)
    os.replace(partial, target)
    files.write_atomic(config.dir / "report.html", report(config, maps, samples, metrics, drawn, page, views))


def _draw(
    folder: Path, maps: MapFile, samples: Samples, metrics: dict, columns: dict, statistics: list[dict]
) -> dict[str, tuple[str, bool]]:
    """All figures, into `folder`; {name: (data URI, drawn with lines)}."""
    rows = np.sort(samples.views)
    chosen = _three(rows, maps.catalog["mass_200m"][rows])
    where = {int(view): n for n, view in enumerate(samples.views)}
    shown = {f: np.concatenate([samples.read(f, np.array([where[row]])) for row in chosen]) for f in samples.fields}
    middle = len(chosen) // 2
    inputs, outputs = metrics["config"]["task"]["inputs"], samples.fields
    heaviest = int(rows[np.argmax(maps.catalog["mass_200m"][rows])])
    made = {}
    makers = {
        "gallery": lambda: pictures.gallery(maps, chosen, inputs, outputs, shown),
        "posterior": lambda: pictures.posterior(maps, chosen[middle], outputs, {f: d[middle : middle + 1] for f, d in shown.items()}),
        "totals": lambda: shapes.totals(columns, outputs, samples.count, _msun(maps, rows, outputs)),
        "baselines": lambda: contest.baselines(metrics),
        "profiles": lambda: figures.profiles(metrics, maps, rows),
        "pixels": lambda: figures.pixels(metrics),
        "bias": lambda: figures.bias(metrics),
        "correlation": lambda: figures.correlation(metrics),
        "structure": lambda: shapes.structure(metrics),
        "substructure": lambda: shapes.substructure(metrics),
        "calibration": lambda: reliability.calibration(metrics),
        "tarp": lambda: reliability.tarp(metrics),
        "conditional": lambda: reliability.conditional(metrics),
        "convergence": lambda: figures.convergence(metrics),
        "training": lambda: contest.training(statistics),
        "masses": lambda: figures.masses(maps),
        "maps": lambda: pictures.cluster(maps, heaviest, [*outputs, *inputs]),
    }
    with plt.rc_context(STYLE):
        for name, make in makers.items():
            if (drawn := make()) is not None:
                made[name] = (save(folder, name, drawn), drawn.lines)
    return made


def _msun(maps: MapFile, rows: np.ndarray, fields: list[str]) -> dict[str, float]:
    """What the sum of a map is multiplied by to give Msun, of the fields whose column densities are known, where all pixels are alike."""
    side = maps.catalog["width_mpc"][rows] / maps.npix
    factors = {f: maps.field_attributes[f].get("to_msun_per_mpc2") for f in fields} if np.ptp(side) < 1e-9 * side[0] else {}
    return {f: float(v) * side[0] ** 2 for f, v in factors.items() if v is not None and np.size(v) == 1}


def _three(rows: np.ndarray, mass: np.ndarray) -> list[int]:
    """Three views, heavy to light, spread over the masses; fewer where there are fewer masses."""
    order = np.argsort(mass, kind="stable")[::-1]
    kinds = rows[order][np.unique(mass[order], return_index=True)[1]][::-1]
    picks = sorted({round(q * (len(kinds) - 1)) for q in (0.1, 0.5, 0.9)})
    return [int(kinds[p]) for p in picks]


def viewer(page: dict, views: list[str]) -> str:
    """The gallery of all views: its data and pictures as inert scripts, read when they are looked at."""
    data = json.dumps(page, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    pictures_of = "".join(f'<script type="text/plain" id="p{n}">{uri}</script>\n' for n, uri in enumerate(views))
    kept = sum(map(bool, views))
    said = "" if kept == len(views) else f"{kept} of {len(views)} views, evenly chosen to keep this file small. "
    said += "" if page["factor"] == 1 else f"Shown at {page['npix']} pixels a side, a {page['factor']}th of the maps' own. "
    caption = f"<p>{said}Numbers of every view: <code>figures/views.csv</code>. Arrow keys page while the gallery has the focus.</p>"
    script = resources.files("hpcdiff.evaluate").joinpath("gallery.html").read_text()
    return f'<script type="application/json" id="views">{data}</script>\n{pictures_of}{script}{caption}'


def report(config, maps: MapFile, samples: Samples, metrics: dict, drawn: dict[str, tuple[str, bool]], page: dict, views: list[str]) -> str:
    """The HTML.

    Args:
        drawn: {name: (data URI, drawn with lines)}. page, views: of `gallery.collect`.
    """

    def picture(*names: str) -> str:
        return "".join(figure(name, *drawn[name], CAPTIONS[name]) for name in names if name in drawn)

    banner = ""
    if samples.control:
        banner = (
            f'<div class="banner">CONTROL: {html.escape(str(samples.control))}. These samples must have no skill; they are no result.</div>'
        )
    three = f"<details><summary>Three of them as a figure for print</summary>{picture('gallery')}</details>"
    training = picture("training") or "<p>No <code>stats.jsonl</code> lies beside the model or in the run's folder: no training curve.</p>"
    sections = [
        ("Clusters", viewer(page, views) + three + about.key_numbers(metrics) + about.comparable(maps, samples, metrics)),
        ("One posterior", picture("posterior") if samples.count > 1 else ""),
        ("Against the baselines", picture("baselines") + tables.skill(metrics)),
        ("Table 1", f"<p>Beside {about.PAPER}. As LaTeX: <code>figures/table1.tex</code>.</p>" + tables.table1(metrics)),
        ("Total mass", picture("totals") + tables.masses(metrics) + tables.consistency(metrics)),
        ("Profiles and pixels", picture("profiles", "pixels")),
        ("Scales", picture("bias", "correlation")),
        ("Structure", picture("structure", "substructure") + tables.structure(metrics)),
        ("Calibration", picture("calibration", "tarp", "conditional", "convergence") + tables.calibration(metrics)),
        ("Training", training),
        ("Data", picture("masses", "maps")),
        ("Config", "<p>What was run on what.</p>" + tables.facts(about.run(config, maps, samples, metrics)) + tables.reasons(metrics)),
    ]
    title = "Posterior mass maps of galaxy clusters" + (" (control)" if samples.control else "")
    return write_page(title, about.facts(maps, samples, metrics), sections, banner)


def figure(name: str, uri: str, lines: bool, caption: str, folder: str = "figures") -> str:
    """A figure of the page, and where its files lie."""
    says = html.escape(caption, quote=True)
    kind = "lines" if lines else "maps"
    return (
        f'<figure><img class={kind} loading=lazy alt="{name}: {says}" src="{uri}"><figcaption>{says} '
        f"<code>{folder}/{name}.pdf</code></figcaption></figure>\n"
    )


def write_page(title: str, facts: str, sections: list[tuple[str, str]], banner: str = "") -> str:
    """A page of sections (heading, HTML), those that hold something, with links to each."""
    kept = [(f"s{n}", heading, body) for n, (heading, body) in enumerate(sections) if body]
    links = "".join(f"<a href=#{key}>{html.escape(heading)}</a>" for key, heading, _ in kept)
    template = Template(resources.files("hpcdiff.evaluate").joinpath("report.html").read_text())
    return template.substitute(
        title=title,
        style=resources.files("hpcdiff.evaluate").joinpath("style.html").read_text(),
        nav=f"<nav aria-label=Sections>{links}</nav>",
        facts=html.escape(facts),
        banner=banner,
        body="\n".join(f"<section><h2 id={key}>{html.escape(heading)}</h2>\n{body}</section>" for key, heading, body in kept),
    )
