"""Is the posterior as wide as its errors? Ranks, coverage, TARP and conditional calibration as figures, each with its expected band."""

from __future__ import annotations

import numpy as np

from hpcdiff.evaluate.export import Drawn, Sheet
from hpcdiff.evaluate.look import BLACK, BLUE, FIELD_COLOUR, GREY, LINES, MARKERS, field_name, floats, new, part, signal_name

SUMMARY = {"mass": "total mass", "profile": "radial profile", "band_powers": "band powers"}


def calibration(metrics: dict) -> Drawn | None:
    """Rank histograms, and coverage against its nominal value, of total masses and of pixels.

    Grey: where 95 % of calibrated posteriors lie (pixels: in each field's colour, from the scatter of the halos).
    """
    of = {f: c for f, c in (part(metrics, "calibration", "all") or {}).items() if c}
    if not of:
        return None
    figure, axes = new(2, 2, (9, 6.6))
    sheet = Sheet("panel", "of", "field", "x", "y", "error", "band_low", "band_high")
    for (left, right), (what, title) in zip(axes, (("total", "total of the map"), ("pixel", "pixels")), strict=True):
        for n, (field, c) in enumerate(of.items()):
            colour, label, ranks = FIELD_COLOUR.get(field, BLUE), field_name(field), c[what]["ranks"]
            style, marker, mean = LINES[n % len(LINES)], MARKERS[n % len(MARKERS)], np.mean(c[what]["ranks"])
            edges = np.arange(len(ranks) + 1) - 0.5
            limits = part(c, what, "rank_band")
            low, high = (limits["low"], limits["high"]) if limits else ([None] * len(ranks), [None] * len(ranks))
            if limits and (n == 0 or what == "pixel"):
                tint, words = (GREY, "95 % if calibrated") if what == "total" else (colour, None)
                low_edge = np.maximum(floats(low) / mean, 0.0)
                left.stairs(floats(high) / mean, edges, baseline=low_edge, fill=True, color=tint, alpha=0.2, lw=0, label=words)
            left.stairs(np.array(ranks) / mean, edges, color=colour, lw=1.8, ls=style, label=label)
            sheet.curve(("ranks", what, field), range(len(ranks)), ranks, [None] * len(ranks), low, high)
            x, y = ([p[k] for p in c[what]["coverage"]] for k in ("nominal", "mean"))
            ends = [[p.get(k) for p in c[what]["coverage"]] for k in ("low", "high")]
            if what == "total" and n == 0 and None not in ends[0] + ends[1]:
                right.fill_between([0, *x[::-1], 1], [0, *ends[0][::-1], 1], [0, *ends[1][::-1], 1], color=GREY, alpha=0.22, lw=0)
            error = [p["error_of_mean"] for p in c[what]["coverage"]]
            right.errorbar(
                x, y, [e or 0.0 for e in error], marker=marker, ms=5, mfc="none" if n else colour, ls=style, capsize=2, color=colour, label=label
            )  # fmt: skip
            sheet.curve(("coverage", what, field), x, y, error, *ends)
        left.axhline(1, color=BLACK, lw=0.8)
        left.set(title=f"{title}: rank of the truth", xlabel="samples below the truth", ylabel="frequency over expected")
        left.set_ylim(0, max(2.0, left.get_ylim()[1]))
        right.plot([0, 1], [0, 1], color=BLACK, lw=0.8)
        right.set(title=f"{title}: coverage", xlabel="nominal", ylabel="observed", xlim=(0, 1), ylim=(0, 1))
    axes[0, 1].legend(*axes[0, 0].get_legend_handles_labels(), loc="lower right", frameon=False)
    return Drawn(figure, sheet)


def tarp(metrics: dict) -> Drawn | None:
    """Expected coverage by TARP (Lemos et al. 2023) of each summary, with its band."""
    of = {f: c["tarp"] for f, c in (part(metrics, "calibration", "all") or {}).items() if part(c, "tarp")}
    names = [n for n in SUMMARY if any(t.get(n) for t in of.values())]
    if not names:
        return None
    figure, axes = new(1, len(names), (3.5 * len(names) + 0.4, 3.6), sharey=True)
    sheet = Sheet("summary", "field", "alpha", "coverage", "low", "high", "p")
    for axis, name in zip(axes[0], names, strict=True):
        for n, (field, curves) in enumerate(of.items()):
            if not (t := curves.get(name)):
                continue
            x, colour = floats(t["alpha"]), FIELD_COLOUR.get(field, BLUE)
            if n == 0:
                axis.fill_between(x, floats(t["low"]), floats(t["high"]), color=GREY, alpha=0.22, lw=0, label="band if calibrated")
            said = "" if t.get("p") is None else f", p = {t['p']:.2g}"
            axis.plot(x, floats(t["coverage"]), color=colour, ls=LINES[n % len(LINES)], label=f"{field_name(field)}{said}")
            sheet.curve((name, field), t["alpha"], t["coverage"], t["low"], t["high"], [t.get("p")] * len(x))
        axis.plot([0, 1], [0, 1], color=BLACK, lw=0.8)
        axis.set(title=SUMMARY[name], xlabel="credibility level", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axis.legend(loc="upper left", fontsize=8)
    axes[0, 0].set_ylabel("expected coverage")
    return Drawn(figure, sheet)


def conditional(metrics: dict) -> Drawn | None:
    """Slope of the truth's rank along observables: a calibrated posterior has none."""
    of = {f: c["conditional"] for f, c in (part(metrics, "calibration", "all") or {}).items() if part(c, "conditional")}
    names = list(dict.fromkeys(name for c in of.values() for name in c if c[name]))
    if not names:
        return None
    figure, axes = new(1, 1, (6.6, 0.42 * len(names) * len(of) + 1.3))
    axis, sheet, ticks = axes[0, 0], Sheet("observable", "field", "slope", "error", "p"), []
    for m, name in enumerate(names):
        for n, (field, c) in enumerate(of.items()):
            if not (s := c.get(name)) or s["slope"] is None:
                continue
            y = -(m * (len(of) + 0.5) + n)
            colour, label = FIELD_COLOUR.get(field, BLUE), field_name(field) if m == 0 else None
            axis.errorbar(
                s["slope"], y, xerr=s["error"] or 0.0, marker=MARKERS[n % len(MARKERS)], color=colour, capsize=3, ls="none", label=label
            )
            if s["p"] is not None:
                axis.annotate(
                    f"p = {s['p']:.2g}", (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, annotation_clip=False
                )
            words = f"offset of the peak, {signal_name(metrics)}" if name == "offset_mpc" else f"{field_name(name)} signal"
            ticks.append((y, f"{words}: {field_name(field)}"))
            sheet.add(name, field, s["slope"], s["error"], s["p"])
    axis.axvline(0, color=BLACK, lw=0.8)
    width = max(abs(v) for v in axis.get_xlim())
    axis.set_xlim(-width, width)
    axis.set_yticks([y for y, _ in ticks], [words for _, words in ticks])
    axis.tick_params(axis="y", left=False, right=False)
    axis.set_xlabel("change of the truth's rank (0 to 1)\nfor one standard deviation of the observable")
    axis.margins(y=0.12)
    return Drawn(figure, sheet)
