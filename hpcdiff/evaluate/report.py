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
from hpcdiff.evaluate.inputs import Samples, engine_of
from hpcdiff.evaluate.look import STYLE, plt
from hpcdiff.maps import MapFile

CAPTIONS = {
    "gallery": "Test clusters from heavy to light; each pair of rows is one cluster, linear above logarithmic. Inputs, then truth, mean of the "
    "posterior samples and one sample of each output. The colour scale of a field is that of the truth; numbers in a panel are its ends. "
    "Densities over the mean density of the Universe, SZ in µK, X-ray in erg/s/cm². If all is well the mean is a smooth truth, and one "
    "sample could be taken for a truth. (As figure 5 of the paper.)",
    "posterior": "One cluster: truth, mean, two samples, the spread of the samples, and the error of the mean in units of that spread. If all is "
    "well two samples differ where the spread is large, and the error is within ±2 nearly everywhere, without a shape of its own.",
    "totals": "Truth of each view's total against mean and spread of its samples; below, (mean − truth) / spread, clipped at ±5. If all is well "
    "points lie about the line at all masses, two thirds of the errors in the grey band. Views of one halo are near one another: they are no "
    "independent errors.",
    "baselines": "Gain of the mean map over each baseline, 1 − squared error / the baseline's, paired by halo: median and 16–84 % of the halos. "
    "Right of zero the mean map is better: so it must be for all, and least for the mean-square network, where there is one.",
    "profiles": "Radial profiles of truth and mean map, median and 16–84 % over the views of each third by signal; below, their fractional error, "
    "about zero if all is well. Bins are of what is observed: in bins of true mass a right posterior is biased. Grey: range of R200m. "
    "(As figure 6.)",
    "pixels": "Fractional error of the mean map's pixels inside (solid) and outside (dashed) R200m, about zero if all is well; the outermost bins "
    "hold all beyond. (As figure 7.)",
    "bias": "b(k) = sqrt(P_gen/P_sim), median and 16–84 % over views. The mean of the samples must fall below 1 where the inputs don't tell; each "
    "sample must stay at 1. Dotted: split between large and small scales. (As figure 8.)",
    "correlation": "r(k) with the truth of the mean map, of each input by itself, and of the baselines: the mean map must lie above all. Large "
    "scales mean little, a stacked profile does well there. Dotted: split between large and small scales. (As figure 9.)",
    "structure": "Structure measured alike in truth and samples: median and 16–84 % over the views of each bin. On the line, if all is well. "
    "What is drawn of a view is the mean over its samples, which scatters less than the truth: upright bars may be the shorter ones.",
    "substructure": "Completeness: share of the true clumps that are found; purity: share of the clumps found that are true. Mean over views with "
    "its error; in brackets: true clumps. Samples show clumps that the inputs don't fix in other places than the truth, so low values are no "
    "fault by themselves; the mean map shows few, and those should be true.",
    "convergence": "Variance of the mean of N samples, mean over pixels and views: it falls as 1/N (dashed) if samples are independent. Dotted: one "
    "e-fold below that of two samples, reached at 5 to 6. (As figure 4.)",
    "calibration": "Left: rank of the truth among the samples, flat if calibrated; high ends say that the posterior is too narrow, a slope that it "
    "is biased. Right: coverage of the intervals between order statistics, on the diagonal if calibrated, below it if too narrow. Above: total "
    "of the map; below: pixels. Bands: 95 % of calibrated posteriors, of ranks all entries together, of coverage each by itself. One view of "
    "each halo.",
    "tarp": "Expected coverage by TARP, with references that depend on the data: within the grey band (95 % of calibrated posteriors, the whole "
    "curve) if calibrated. Of many curves one in twenty leaves it by chance.",
    "conditional": "Slope of the truth's rank along what is observed, with its standard error: none if the posterior is right for clusters of "
    "every kind. Of many slopes one in twenty has p below 0.05 by chance.",
    "training": "Loss of training and of validation (with averaged weights, which is why it may be the lower one) against images seen: both fall "
    "and level off; a validation loss that rises again says overfitting. Right: gradient norm and learning rate.",
    "masses": "Halos and views against mass, and views of each part of the split: every part should span all masses. (As figure 1.)",
    "maps": "All maps of the most massive evaluated cluster, logarithmic. (As figure 2.)",
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
    claim = about.claim(metrics.get("simulation_engine") or engine_of(maps))
    return write_page(title, about.facts(maps, samples, metrics), sections, banner, claim)


def figure(name: str, uri: str, lines: bool, caption: str, folder: str = "figures") -> str:
    """A figure of the page, and where its files lie."""
    says = html.escape(caption, quote=True)
    kind = "lines" if lines else "maps"
    return (
        f'<figure><img class={kind} loading=lazy alt="{name}: {says}" src="{uri}"><figcaption>{says} '
        f"<code>{folder}/{name}.pdf</code></figcaption></figure>\n"
    )


def write_page(title: str, facts: str, sections: list[tuple[str, str]], banner: str = "", claim: str = "") -> str:
    """A page of sections (heading, HTML), those that hold something, with links to each; claim: what the results may be taken for."""
    kept = [(f"s{n}", heading, body) for n, (heading, body) in enumerate(sections) if body]
    links = "".join(f"<a href=#{key}>{html.escape(heading)}</a>" for key, heading, _ in kept)
    template = Template(resources.files("hpcdiff.evaluate").joinpath("report.html").read_text())
    return template.substitute(
        title=title,
        style=resources.files("hpcdiff.evaluate").joinpath("style.html").read_text(),
        nav=f"<nav aria-label=Sections>{links}</nav>",
        facts=html.escape(facts),
        claim=f"<p class=claim>{html.escape(claim)}</p>" if claim else "",
        banner=banner,
        body="\n".join(f"<section><h2 id={key}>{html.escape(heading)}</h2>\n{body}</section>" for key, heading, body in kept),
    )
