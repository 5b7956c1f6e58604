"""`hpcdiff evaluate --compare A B [--out DIR]`: two runs side by side in one page, paired by view where the views are the same."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator
from pathlib import Path

from hpcdiff import files
from hpcdiff.errors import UserError, nearest
from hpcdiff.evaluate import compare_figures as drawing
from hpcdiff.evaluate.about import claim
from hpcdiff.evaluate.export import Drawn, Sheet, save
from hpcdiff.evaluate.look import STYLE, field_name, part, plt
from hpcdiff.evaluate.pair import DRAWS, Run, common_bins, differing, label, paired, refuse_unlike, same_maps
from hpcdiff.evaluate.report import figure, write_page
from hpcdiff.evaluate.tables import COLUMNS, bin_words, mean, median, number, of, table

USAGE = """usage: hpcdiff evaluate --compare A B [--out DIR]
A, B: folders of evaluated runs, or their metrics.json; DIR (default: compare): where compare.html and compare_figures/ go"""
CAPTIONS = {
    "views": "Scores of each view that both runs have; below the line B is better.",
    "profiles": "Fractional error of the mean map's radial profile, median and 16–84 % over views.",
    "bias": "b(k) of the mean map, median and 16–84 % over views.",
    "bias_per_sample": "b(k) of single samples: 1 for a faithful posterior.",
    "correlation": "r(k) of the mean map with the truth.",
    "coverage": "Coverage of the intervals between order statistics, on the diagonal if calibrated.",
    "tarp": "Expected coverage by TARP; grey: band of a calibrated posterior of A's size.",
    "training": "Loss against images seen; losses of other transforms or weightings are not alike.",
}


def compare(arguments: list[str]) -> Iterator[str]:
    """Do what the command line says; lines about what was done.

    Raises:
        UserError: the command line is wrong, a run cannot be read, or the two cannot be compared.
    """
    first, second, out = parse(arguments)
    a, b = Run(first), Run(second)
    refuse_unlike(a, b)
    names = ("A", "B") if a.name == b.name else (f"A: {a.name}", f"B: {b.name}")
    pairs, reason = paired(a, b)
    files.make_folder(out)
    partial, target = out / "compare_figures.partial", out / "compare_figures"
    files.remove(partial)
    partial.mkdir()
    pictures = {}
    with plt.rc_context(STYLE):
        for name, drawn in _figures(list(zip(names, (a, b), strict=True)), common_bins(a, b), pairs):
            if drawn is not None:
                pictures[name] = figure(name, save(partial, name, drawn), drawn.lines, CAPTIONS[name], "compare_figures")
    sheet = Sheet("field", "score", "a", "b", "difference", "error", "halos_where_b_is_better", "n_views", "n_halos")
    for p in pairs:
        sheet.add(*(p[k] for k in ("field", "score", "a", "b", "difference", "error", "better", "n_views", "n_halos")))
    (partial / "differences.csv").write_text(sheet.text())
    files.remove(target)
    os.replace(partial, target)
    files.write_atomic(out / "compare.html", page(a, b, names, pairs, reason, pictures))
    for p in pairs:
        if p["score"] in ("squared_error", "crps"):
            error = "" if p["error"] is None else f" ± {p['error']:.2g}"
            yield f"{label(p['score'], p['field'])}: {p['a']:.4g} and {p['b']:.4g}, B − A {p['difference']:+.3g}{error} ({p['n_halos']} halos)"
    if reason:
        yield f"no paired differences: {reason}"
    yield f"{len(differing(a, b))} settings differ; open {out / 'compare.html'}"


def parse(arguments: list[str]) -> tuple[str, str, Path]:
    """A, B and the folder to write to."""
    words, out, rest = [], "compare", list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--out":
            if not rest:
                raise UserError("--out names no folder", "command line", USAGE.splitlines()[0])
            out = rest.pop(0)
        elif word.startswith("--out="):
            out = word.removeprefix("--out=")
        elif word.startswith("-") and word != "--compare":
            raise UserError(f"unknown option {word!r}{nearest(word, ('--compare', '--out'))}", "command line", USAGE.splitlines()[0])
        elif word != "--compare":
            words.append(word)
    if len(words) != 2:
        raise UserError(f"two runs are compared, {len(words)} named", "command line", USAGE.splitlines()[0])
    return words[0], words[1], Path(out)


def _figures(runs: list[tuple[str, Run]], bins: list[str], pairs: list[dict]) -> Iterator[tuple[str, Drawn | None]]:
    k = {"x": "k", "xlabel": r"$k$ ($h$/Mpc)"}
    yield "views", drawing.views((runs[0][0], runs[1][0]), pairs)
    yield (
        "profiles",
        drawing.curves(runs, bins, ("profile", "fractional_error"), "radius_mpc", "projected radius (Mpc)", "fractional error", 0.0),
    )
    yield "bias", drawing.curves(runs, bins, ("spectra", "b"), **k, ylabel=r"$b(k)$, mean", level=1.0)
    yield "bias_per_sample", drawing.curves(runs, bins, ("spectra", "b_per_sample"), **k, ylabel=r"$b(k)$, each sample", level=1.0)
    yield "correlation", drawing.curves(runs, bins, ("spectra", "r"), **k, ylabel=r"$r(k)$", level=1.0)
    yield "coverage", drawing.coverage(runs)
    yield "tarp", drawing.tarp(runs)
    yield "training", drawing.training(runs)


def page(a: Run, b: Run, names: tuple[str, str], pairs: list[dict], reason: str, pictures: dict[str, str]) -> str:
    """The HTML."""
    notes = ""
    if not same_maps(a, b):
        notes += (
            '<div class="note">The runs were evaluated on other maps: what differs below may be the clusters, and nothing is paired.</div>'
        )
    for run, name in zip((a, b), names, strict=True):
        if run.metrics.get("control"):
            notes += f'<div class="banner">{html.escape(name)} is a CONTROL: {html.escape(str(run.metrics["control"]))}.</div>'
    changed = [[k, _short(x), _short(y)] for k, x, y in differing(a, b)]
    settings = table(["key", *names], changed) if changed else "<p>Nothing: the runs have the same settings.</p>"
    dropped = sorted(set(a.metrics["config"]["evaluate"]["mass_bins"]) - set(common_bins(a, b)))
    if dropped:
        notes += f'<div class="note">Mass bins with other edges are left out: {html.escape(", ".join(dropped))}.</div>'
    sections = [
        ("Differences, view by view", _paired(names, pairs, reason) + pictures.get("views", "")),
        ("What differs in the settings", settings),
        ("Scores", _scores(a, b, names)),
        ("Profiles", pictures.get("profiles", "")),
        ("Scales", "".join(pictures.get(n, "") for n in ("bias", "bias_per_sample", "correlation"))),
        ("Calibration", "".join(pictures.get(n, "") for n in ("coverage", "tarp"))),
        ("Training", pictures.get("training", "")),
    ]
    facts = f"A: {a.folder} · B: {b.folder}"
    claims = " ".join(dict.fromkeys(claim(r.metrics["simulation_engine"]) for r in (a, b) if "simulation_engine" in r.metrics))
    return write_page("Two runs side by side", facts, sections, notes, claims)


def _short(value: object) -> str:
    text = "–" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _paired(names: tuple[str, str], pairs: list[dict], reason: str) -> str:
    if not pairs:
        return f"<p>None: {html.escape(reason)}.</p>"
    rows = []
    for p in pairs:
        difference = number(p["difference"], "+.3g") + ("" if p["error"] is None else f" ± {number(p['error'], '.2g')}")
        sigma = "–" if not p["error"] else number(p["difference"] / p["error"], "+.1f")
        rows.append([label(p["score"], p["field"]), number(p["a"], ".4g"), number(p["b"], ".4g"), difference, sigma, f"{p['better']:.0%}"])
    text = (
        f"<p>Means over {pairs[0]['n_views']} views of {pairs[0]['n_halos']} halos that both runs have; differences paired by halo, their errors "
        f"from {DRAWS} bootstrap draws of halos. Smaller is better.</p>"
    )
    return text + table(["score", *names, "B − A", "in errors", "halos where B is better"], rows)


def _scores(a: Run, b: Run, names: tuple[str, str]) -> str:
    """The summaries of both, where the bins are the same, with B - A of the medians or means (not paired)."""
    rows, said = [], set()

    def add(title: str, what: str, x, y, show, key: str) -> None:
        if x or y:
            difference = number(y[key] - x[key], "+.3g") if x and y and None not in (x[key], y[key]) else "–"
            rows.append(["" if rows and title in said else title, what, show(x), show(y), difference])
            said.add(title)

    for name in common_bins(a, b):
        for field in a.outputs:
            title = f"{bin_words(a.metrics, name)}, {field_name(field)}"
            get = lambda *path, n=name, f=field: [part(r.metrics, path[0], n, f, *path[1:]) for r in (a, b)]  # noqa: E731
            for q in COLUMNS:
                add(title, f"{q[0]}, {q[2:]} scales: median", *get("table1", q), median, "median")
            add(title, "squared error: mean", *get("squared_error"), lambda s: mean(s, ".4g"), "mean")
            add(title, "total mass error: median", *get("total_mass_error"), lambda s: median(s, "+.3f"), "median")
            for what, words in (("total", "total mass"), ("pixel", "pixels")):
                widest = [c[0] if c else None for c in get("calibration", what, "coverage")]
                add(
                    title,
                    f"{words}: coverage of the range",
                    *widest,
                    lambda c: "–" if not c else f"{number(c['mean'])} / {number(c['nominal'])}",
                    "mean",
                )
                add(title, f"{words}: spread over skill", *get("calibration", what, "spread_skill"), of, "value")
    return table(["bin, field", "", *names, "B − A"], rows)
