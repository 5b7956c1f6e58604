"""The mean map against the baselines, which see the same inputs, as a figure; and the run's training curve."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from hpcdiff.evaluate.export import Drawn, Sheet
from hpcdiff.evaluate.figures import PREDICTION
from hpcdiff.evaluate.look import BLACK, BLUE, GREEN, GREY, MARKERS, RED, bin_title, bins, field_name, floats, new, part


def baselines(metrics: dict) -> Drawn | None:
    """Gain over each baseline: 1 - squared error of the mean map / the baseline's, paired by halo."""
    names, fields = bins(metrics, "baseline", signal=True), metrics["config"]["task"]["outputs"]
    everything = (part(metrics, "baseline", n, f) or {} for n in names for f in fields)
    rivals = list(dict.fromkeys(r for base in everything for r in base if part(base, r, "gain")))
    rivals = [r for r in PREDICTION if r in rivals] + sorted(set(rivals) - set(PREDICTION))
    if not rivals:
        return None
    figure, axes = new(1, len(fields), (4.6 * len(fields) + 1.2, 0.62 * len(rivals) + 1.6), sharex=True, sharey=True)
    sheet, shown = Sheet("bin", "field", "baseline", "gain_median", "gain_p16", "gain_p84", "halos_won", "n_halos"), []
    for axis, field in zip(axes[0], fields, strict=True):
        for n, name in enumerate(names):
            shift = 0.5 * ((n + 0.5) / len(names) - 0.5)
            for y, rival in enumerate(rivals):
                gain = part(metrics, "baseline", name, field, rival, "gain")
                if not gain:
                    continue
                middle, low, high = (gain[q] for q in ("median", "p16", "p84"))
                colour = PREDICTION.get(rival, (BLUE,))[0]
                axis.errorbar(
                    middle, y + shift, xerr=[[middle - low], [high - middle]], marker=MARKERS[n % len(MARKERS)], ms=5, color=colour, capsize=2,
                    ls="none", elinewidth=1.1,
                )  # fmt: skip
                shown += [low, high]
                sheet.add(name, field, rival, middle, low, high, gain.get("wins"), gain["n_halos"])
        for n, name in enumerate(names):
            axis.plot([], [], marker=MARKERS[n % len(MARKERS)], ls="none", color=GREY, label=bin_title(metrics, name))
        axis.axvline(0, color=BLACK, lw=0.8)
        axis.set(title=field_name(field), xlabel="gain of the mean map, by halo", ylim=(len(rivals) - 0.5, -0.5))
        axis.grid(axis="x", color=GREY, alpha=0.25, lw=0.6)
        axis.tick_params(axis="y", left=False, right=False)
    axes[0, 0].set_yticks(range(len(rivals)), [PREDICTION[r][2] if r in PREDICTION else r.replace("_", " ") for r in rivals])
    axes[0, 0].set_xlim(max(min([*shown, 0.0]) - 0.06, -2.0), 1.02)  # a baseline that wins by more than three times leaves the frame
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(names), 3))
    return Drawn(figure, sheet)


def read_statistics(*folders: Path) -> list[dict]:
    """Lines of the first `stats.jsonl` found in `folders`, in the order of the images seen; [] where there is none."""
    for folder in folders:
        try:
            text = (folder / "stats.jsonl").read_text(errors="replace")
        except OSError:
            continue
        lines = {}
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                lines[float(entry["images"])] = entry
            except (ValueError, KeyError, TypeError):
                continue  # a line that a kill cut short
        if lines:
            return [lines[n] for n in sorted(lines)]
    return []


def training(statistics: list[dict]) -> Drawn | None:
    """Loss of training and validation, and the learning rate, against images seen."""
    if not statistics:
        return None
    names = ["loss", "validation_loss", "lr", "gradient_norm", "maps_per_s"]
    columns = {n: floats([s.get(n) if isinstance(s.get(n), int | float) else None for s in statistics]) for n in names}
    images = floats([s["images"] for s in statistics])
    figure, axes = new(1, 2, (9.4, 3.7), width_ratios=[1.6, 1])
    left, right = axes[0]
    for name, label, colour, style in (("loss", "training", BLUE, "-"), ("validation_loss", "validation (averaged weights)", RED, "--")):
        known = np.isfinite(columns[name])
        if known.any():
            left.plot(
                images[known], columns[name][known], color=colour, ls=style, marker="o" if name != "loss" else None, ms=4, label=label
            )
    left.set(yscale="log", xlabel="images seen", ylabel="loss")
    left.legend()
    known = np.isfinite(columns["gradient_norm"])
    right.plot(images[known], columns["gradient_norm"][known], color=GREEN, label="gradient norm")
    rate = np.isfinite(columns["lr"]) & (columns["lr"] > 0)
    right.plot(images[rate], columns["lr"][rate], color=BLACK, ls=":", label="learning rate")
    right.set(yscale="log", xlabel="images seen")
    right.legend()
    for axis in (left, right):
        axis.set_xlim(0, images[-1] * 1.02)
        axis.locator_params(axis="x", nbins=5)
    sheet = Sheet("images", *names)
    for s in statistics:
        sheet.add(s["images"], *(s.get(n) for n in names))
    return Drawn(figure, sheet)
