"""Truth against samples as figures: the mass of every view, structure, and substructure."""

from __future__ import annotations

import matplotlib
import numpy as np

from hpcdiff.evaluate.export import Drawn, Sheet
from hpcdiff.evaluate.look import BLACK, BLUE, FIELD_COLOUR, GREY, MARKERS, bin_title, bins, field_name, floats, new, part, plain_ticks

QUANTITY = {
    "m500c": r"$M_{500c}$ ($M_\odot$)",
    "m200c": r"$M_{200c}$ ($M_\odot$)",
    "concentration": r"concentration $c_{200c}$",
    "ellipticity": r"ellipticity $1 - b/a$",
    "offset_mpc": "offset of the peak (Mpc)",
}
FILLED = {"signal_high": "full", "signal_middle": "bottom", "signal_low": "none"}


def totals(views: dict[str, list], fields: list[str], samples: int, msun: dict[str, float]) -> Drawn:
    """Total of each view's map: the truth against the samples' mean and spread, and the error in units of that spread.

    Drawn over the samples' mean: over the truth, a right posterior has a slope (regression to the mean).

    Args:
        views: columns of `views.csv`. fields: outputs. samples: a view.
        msun: {field: what a sum is multiplied by to give Msun}, of the fields that are masses.
    """
    rows = 2 if samples > 1 else 1
    figure, axes = new(rows, len(fields), (4.6 * len(fields), 3.9 if rows == 1 else 5.6), sharex="col", height_ratios=[2.2, 1][:rows])
    sheet = Sheet("view", "halo_id", "field", "truth", "mean", "std", "unit")
    for c, field in enumerate(fields):
        truth, mean, std = (floats(views[f"{field}_total_{what}"]) * msun.get(field, 1e14) / 1e14 for what in ("truth", "mean", "std"))
        colour, top = FIELD_COLOUR.get(field, BLUE), axes[0, c]
        good = (truth > 0) & (mean > 0)
        top.errorbar(
            mean[good], truth[good], xerr=np.minimum(std, mean * 0.95)[good] if samples > 1 else None,
            fmt="o", ms=3.2, color=colour, ecolor=colour, elinewidth=0.8, alpha=0.75, mew=0,
        )  # fmt: skip
        if good.any():
            ends = np.array([min(truth[good].min(), mean[good].min()) / 1.2, max(truth[good].max(), mean[good].max()) * 1.2])
            top.plot(ends, ends, color=BLACK, lw=0.8)
            top.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
            for part_of in (top.xaxis, top.yaxis):
                plain_ticks(part_of)
        top.set_title(field_name(field))
        if rows == 2:
            pull = np.divide(mean - truth, std, out=np.full(len(truth), np.nan), where=std > 0)
            axes[1, c].axhspan(-1, 1, color=GREY, alpha=0.18, lw=0)
            axes[1, c].axhline(0, color=BLACK, lw=0.8)
            axes[1, c].plot(mean[good], np.clip(pull, -5, 5)[good], "o", ms=3.2, color=colour, alpha=0.75, mew=0)
            axes[1, c].set_ylim(-5.3, 5.3)
        unit = r"mass in the map ($10^{14}\,M_\odot$)" if field in msun else "sum of the map"
        axes[-1, c].set_xlabel(f"{unit}, mean of the samples")
        top.set_ylabel(f"true {unit}")
        sheet.curve(
            (),
            views["view"],
            views["halo_id"],
            [field] * len(truth),
            truth,
            mean,
            std,
            ["1e14 Msun" if field in msun else "sum"] * len(truth),
        )
    if rows == 2:
        axes[1, 0].set_ylabel("error / spread")
    return Drawn(figure, sheet)


def _quantile(summary: dict | None) -> tuple[float, float, float] | None:
    return None if not summary or summary["median"] is None else (summary["median"], summary["p16"], summary["p84"])


def structure(metrics: dict) -> Drawn | None:
    """Medians and 16-84 % over the views of each bin: samples against truth."""
    names, fields = bins(metrics, "structure", signal=True), metrics["config"]["task"]["outputs"]
    points = [
        (q, name, field, entry)
        for q in QUANTITY
        for name in names
        for field in fields
        if (entry := part(metrics, "structure", name, field, q)) and _quantile(entry.get("truth")) and _quantile(entry.get("samples"))
    ]
    shown = [q for q in QUANTITY if any(p[0] == q for p in points)]
    if not shown:
        return None
    columns = min(len(shown), 2)
    figure, axes = new(-(-len(shown) // columns), columns, (4.5 * columns, 4.0 * -(-len(shown) // columns)))
    sheet = Sheet("quantity", "bin", "field", *(f"{what}_{q}" for what in ("truth", "samples", "error") for q in ("median", "p16", "p84")))
    for axis, q in zip(axes.ravel(), shown, strict=False):
        ends = []
        for _, name, field, entry in (p for p in points if p[0] == q):
            (x, x16, x84), (y, y16, y84) = _quantile(entry["truth"]), _quantile(entry["samples"])
            n, colour = fields.index(field), FIELD_COLOUR.get(field, BLUE)
            fill = FILLED.get(name, ("full", "none", "bottom")[names.index(name) % 3])
            style = {"marker": MARKERS[n % len(MARKERS)], "ms": 7, "fillstyle": fill, "color": colour, "elinewidth": 0.9, "capsize": 0}
            axis.errorbar(x, y, [[y - y16], [y84 - y]], [[x - x16], [x84 - x]], ls="none", **style)
            ends += [x16, x84, y16, y84]
            sheet.add(q, name, field, x, x16, x84, y, y16, y84, *(_quantile(entry.get("error")) or (None,) * 3))
        log = q.startswith("m") and min(ends) > 0
        low, high = (min(ends) / 1.15, max(ends) * 1.15) if log else (min(ends) - 0.06 * np.ptp(ends), max(ends) + 0.06 * np.ptp(ends))
        axis.plot([low, high], [low, high], color=BLACK, lw=0.8)
        axis.set(xlim=(low, high), ylim=(low, high), aspect="equal", title=QUANTITY[q], xlabel="truth", ylabel="samples")
        if log:
            axis.set(xscale="log", yscale="log")
        else:
            axis.locator_params(nbins=5)
    for axis in axes.ravel()[len(shown) :]:
        axis.set_axis_off()
    keys = [
        matplotlib.lines.Line2D(
            [], [], marker=MARKERS[n % len(MARKERS)], ls="none", ms=6, color=FIELD_COLOUR.get(f, BLUE), label=field_name(f)
        )
        for n, f in enumerate(fields)
    ]
    for name in names:
        fill = FILLED.get(name, ("full", "none", "bottom")[names.index(name) % 3])
        keys.append(
            matplotlib.lines.Line2D([], [], marker="o", ls="none", ms=6, fillstyle=fill, color=GREY, label=bin_title(metrics, name))
        )
    figure.legend(handles=keys, loc="outside lower center", ncols=min(len(keys), 5))
    return Drawn(figure, sheet)


def substructure(metrics: dict) -> Drawn | None:
    """Share of the true clumps that are found, and of the found that are true: in the mean map and in single samples."""
    names, fields = bins(metrics, "substructure", signal=True), metrics["config"]["task"]["outputs"]
    found = [(name, field, e) for name in names for field in fields if (e := part(metrics, "substructure", name, field))]
    found = [p for p in found if part(p[2], "completeness") or part(p[2], "purity")]
    if not found:
        return None
    figure, axes = new(1, 2, (9, 0.42 * len(found) + 1.5), sharey=True)
    sheet = Sheet("bin", "field", "measure", "of", "mean", "error_of_mean", "n_truth")
    for axis, measure in zip(axes[0], ("completeness", "purity"), strict=True):
        for y, (name, field, entry) in enumerate(found):
            colour = FIELD_COLOUR.get(field, BLUE)
            for of, summary, marker, shift in (
                ("mean map", entry.get(measure), "o", -0.13),
                ("each sample", part(entry, "per_sample", measure), "D", 0.13),
            ):
                summary = {"mean": summary, "error_of_mean": None} if isinstance(summary, float) else summary
                if summary and summary["mean"] is not None:
                    axis.errorbar(
                        summary["mean"], y + shift, xerr=summary.get("error_of_mean") or 0.0, marker=marker, ms=5, color=colour,
                        mfc="none" if of == "each sample" else colour, ls="none", capsize=2, label=of if y == 0 else None,
                    )  # fmt: skip
                    sheet.add(name, field, measure, of, summary["mean"], summary.get("error_of_mean"), entry.get("n_truth"))
        axis.set(xlim=(-0.03, 1.03), xlabel=measure, ylim=(len(found) - 0.4, -0.6))
        axis.grid(axis="x", color=GREY, alpha=0.25, lw=0.6)
    words = [f"{field_name(f)}, {bin_title(metrics, n)}" + (f" ({e['n_truth']})" if e.get("n_truth") else "") for n, f, e in found]
    axes[0, 0].set_yticks(range(len(found)), words)
    axes[0, 0].tick_params(axis="y", left=False, right=False)
    axes[0, 1].tick_params(axis="y", left=False, right=False)
    axes[0, 0].legend(loc="best", fontsize=8)
    return Drawn(figure, sheet)
