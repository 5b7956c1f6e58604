"""Two runs' curves over each other; each function draws one figure, or None where neither run has the numbers."""

from __future__ import annotations

import numpy as np

from hpcdiff.evaluate.export import Drawn, Sheet
from hpcdiff.evaluate.look import (
    BLACK,
    BLUE,
    FIELD_COLOUR,
    GREY,
    MARKERS,
    RED,
    band,
    bin_title,
    field_name,
    floats,
    new,
    part,
    plain_ticks,
)
from hpcdiff.evaluate.pair import SCORES, Run
from hpcdiff.evaluate.reliability import SUMMARY

QUANTILES = ("median", "p16", "p84")
LOOK = ((BLUE, "-", "o"), (RED, "--", "D"))
"""Colour, line and marker of A and of B."""


def curves(
    runs: list[tuple[str, Run]], bins: list[str], path: tuple[str, str], x: str, xlabel: str, ylabel: str, level: float
) -> Drawn | None:
    """A curve of the metrics, median and 16-84 % over views, a panel for each bin and field.

    Args:
        runs: (label, run). path: quantity and curve, `x` the key of its abscissa beside it. level: of the line that is aimed at.
    """
    quantity, key = path
    fields = runs[0][1].outputs
    bins = [n for n in bins if all(part(r.metrics, quantity, n) for _, r in runs)]
    if not bins:
        return None
    figure, axes = new(len(bins), len(fields), (4.6 * len(fields), 3.2 * len(bins) + 0.3), sharex=True, sharey="row")
    sheet = Sheet("run", "bin", "field", x, *QUANTILES)
    for row, name in zip(axes, bins, strict=True):
        for axis, field in zip(row, fields, strict=True):
            for (label, run), (colour, style, _) in zip(runs, LOOK, strict=True):
                entry = run.metrics[quantity][name][field]
                band(axis, np.array(entry[x]), entry[key], colour, label, style, 0.16)
                sheet.curve((label, name, field), entry[x], *(entry[key][q] for q in QUANTILES))
            axis.axhline(level, color=BLACK, lw=0.8)
            axis.set_xscale("log")
            plain_ticks(axis.xaxis)
            axis.set_title(f"{field_name(field)}, {bin_title(runs[0][1].metrics, name)}")
        low, high = row[0].get_ylim()
        row[0].set_ylim(max(low, level - 1.2), min(high, level + 1.2))
        row[0].set_ylabel(ylabel)
    for axis in axes[-1]:
        axis.set_xlabel(xlabel)
    axes[0, 0].legend()
    return Drawn(figure, sheet)


def coverage(runs: list[tuple[str, Run]]) -> Drawn | None:
    """Coverage of totals and pixels of both runs."""
    fields = [f for f in runs[0][1].outputs if any(part(r.metrics, "calibration", "all", f) for _, r in runs)]
    if not fields:
        return None
    figure, axes = new(2, len(fields), (4.2 * len(fields), 7.4), sharex=True, sharey=True)
    sheet = Sheet("run", "field", "of", "nominal", "observed", "error", "low", "high")
    for row, (what, title) in zip(axes, (("total", "total of the map"), ("pixel", "pixels")), strict=True):
        for axis, field in zip(row, fields, strict=True):
            for (label, run), (colour, style, marker) in zip(runs, LOOK, strict=True):
                points = part(run.metrics, "calibration", "all", field, what, "coverage") or []
                x, y, e, low, high = ([p.get(k) for p in points] for k in ("nominal", "mean", "error_of_mean", "low", "high"))
                axis.errorbar(x, y, [v or 0.0 for v in e], color=colour, ls=style, marker=marker, ms=5, capsize=2, label=label)
                if what == "total" and points and None not in low + high and label == runs[0][0]:
                    axis.fill_between([0, *x[::-1], 1], [0, *low[::-1], 1], [0, *high[::-1], 1], color=GREY, alpha=0.2, lw=0)
                sheet.curve((label, field, what), x, y, e, low, high)
            axis.plot([0, 1], [0, 1], color=BLACK, lw=0.8)
            axis.set(xlim=(0, 1), ylim=(0, 1), title=f"{field_name(field)}: {title}")
        row[0].set_ylabel("observed coverage")
    for axis in axes[-1]:
        axis.set_xlabel("nominal coverage")
    axes[0, 0].legend(loc="upper left")
    return Drawn(figure, sheet)


def tarp(runs: list[tuple[str, Run]]) -> Drawn | None:
    """TARP of both runs, a panel for each field and summary."""
    found = {(f, n) for _, r in runs for f in r.outputs for n in SUMMARY if part(r.metrics, "calibration", "all", f, "tarp", n)}
    fields, names = [f for f in runs[0][1].outputs if any(f == g for g, _ in found)], [n for n in SUMMARY if any(n == m for _, m in found)]
    if not found:
        return None
    figure, axes = new(len(fields), len(names), (3.3 * len(names) + 0.4, 3.4 * len(fields)), sharex=True, sharey=True)
    sheet = Sheet("run", "field", "summary", "alpha", "coverage", "low", "high")
    for row, field in zip(axes, fields, strict=True):
        for axis, name in zip(row, names, strict=True):
            for n, ((label, run), (colour, style, _)) in enumerate(zip(runs, LOOK, strict=True)):
                t = part(run.metrics, "calibration", "all", field, "tarp", name)
                if not t:
                    continue
                if n == 0:
                    axis.fill_between(t["alpha"], floats(t["low"]), floats(t["high"]), color=GREY, alpha=0.2, lw=0)
                axis.plot(t["alpha"], floats(t["coverage"]), color=colour, ls=style, label=label)
                sheet.curve((label, field, name), t["alpha"], t["coverage"], t["low"], t["high"])
            axis.plot([0, 1], [0, 1], color=BLACK, lw=0.8)
            axis.set(xlim=(0, 1), ylim=(0, 1), title=f"{field_name(field)}: {SUMMARY[name]}")
        row[0].set_ylabel("expected coverage")
    for axis in axes[-1]:
        axis.set_xlabel("credibility level")
    axes[0, 0].legend(loc="upper left")
    return Drawn(figure, sheet)


def views(names: tuple[str, str], pairs: list[dict]) -> Drawn | None:
    """Scores of each view, B's against A's: below the line B is better."""
    shown = [p for p in pairs if p["score"] in ("squared_error", "crps")]
    if not shown:
        return None
    scores = [s for s in SCORES if any(p["score"] == s for p in shown)]
    figure, axes = new(1, len(scores), (4.8 * len(scores), 4.4))
    sheet = Sheet("field", "score", "a", "b")
    for axis, score in zip(axes[0], scores, strict=True):
        for n, p in enumerate(p for p in shown if p["score"] == score):
            a, b = p["values"]
            axis.plot(
                a,
                b,
                MARKERS[n % len(MARKERS)],
                ms=4,
                mew=0,
                alpha=0.7,
                color=FIELD_COLOUR.get(p["field"], BLUE),
                label=field_name(p["field"]),
            )
            sheet.curve((p["field"], score), a, b)
        axis.set(xscale="log", yscale="log")
        plain_ticks(axis.xaxis)
        plain_ticks(axis.yaxis)
        ends = [min(*axis.get_xlim(), *axis.get_ylim()), max(*axis.get_xlim(), *axis.get_ylim())]
        axis.plot(ends, ends, color=BLACK, lw=0.8)
        axis.set(xlim=ends, ylim=ends, aspect="equal", title=SCORES[score], xlabel=names[0], ylabel=names[1])
    axes[0, 0].legend(loc="upper left")
    return Drawn(figure, sheet)


def training(runs: list[tuple[str, Run]]) -> Drawn | None:
    """Loss of both trainings."""
    if not any(r.statistics for _, r in runs):
        return None
    figure, axes = new(1, 1, (6.4, 3.8))
    axis, sheet = axes[0, 0], Sheet("run", "images", "loss", "validation_loss")
    for (label, run), (colour, style, marker) in zip(runs, LOOK, strict=True):
        x, loss, held = ([s.get(k) for s in run.statistics] for k in ("images", "loss", "validation_loss"))
        axis.plot(floats(x), floats(loss), color=colour, ls=style, lw=1, alpha=0.6, label=f"{label}, training")
        known = np.isfinite(floats(held))
        axis.plot(floats(x)[known], floats(held)[known], color=colour, ls=style, marker=marker, ms=4, label=f"{label}, validation")
        sheet.curve((label,), x, loss, held)
    axis.set(yscale="log", xlabel="images seen", ylabel="loss")
    axis.locator_params(axis="x", nbins=6)
    axis.legend()
    return Drawn(figure, sheet)
