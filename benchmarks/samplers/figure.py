"""The figure of `sampler_quality.py`."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import ScalarFormatter

COLOURS = {
    "euler_maruyama": ("#000000", "o"),
    "predictor_corrector": ("#CC79A7", "v"),
    "heun": ("#E69F00", "s"),
    "heun, churn": ("#009E73", "P"),
    "dpmpp_2m": ("#56B4E9", "D"),
    "dpmpp_2m_sde": ("#D55E00", "^"),
}
"""Colours that the colour-blind tell apart (Okabe and Ito), and markers."""
PANELS = (
    ("pixel_crps", "loss", 100, "CRPS of pixels: worse by (%)"),
    ("total_crps", "loss", 100, "CRPS of total mass: worse by (%)"),
    ("sample_b_small", "value", 1, "b of each sample, small scales"),
    ("pixel_coverage", "value", 1, "coverage of pixels"),
    ("total_coverage", "value", 1, "coverage of total mass"),
    ("pixel_spread_skill", "value", 1, "spread over skill of pixels"),
)
TINY = 0.02
"""Part of the number of evaluations by which markers stand beside each other."""


def draw(content: dict, path: Path, field: int) -> None:
    """Six scores of one field against network evaluations: each sampler, both starts, the reference as a band.

    What was drawn for fewer halos than the reference is moved by how much the reference differs on these.
    """
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained", sharex=True)
    reference = content["reference"]["against"]
    for ax, (name, key, scale, label) in zip(axes.flat, PANELS, strict=True):
        at, error = scale * reference[name][key][field], scale * reference[name]["error"][field]
        if key == "loss":
            ax.axhline(0, color="0.4", lw=1)
            ax.set_yscale("symlog", linthresh=2, linscale=1)
            ax.set_yticks([-1, 0, 1, 2, 5, 10, 20, 50, 100], [str(t) for t in (-1, 0, 1, 2, 5, 10, 20, 50, 100)])
        else:
            ax.axhspan(at - error, at + error, color="0.9")
            ax.axhline(at, color="0.4", lw=1)
            ideal = content["nominal"] if "coverage" in name else 1.0
            ax.axhline(ideal, color="0.4", lw=1, ls=":")
        for n, (curve, (colour, marker)) in enumerate(COLOURS.items()):
            for init in ("matched", "prior"):
                rows = [row for row in content["rows"] if (row["curve"], row["init"]) == (curve, init)]
                rows.sort(key=lambda row: row["nfe"])
                x = [row["nfe"] * (1 + TINY * (n - 2)) for row in rows]
                found = [row["against"][name] for row in rows]
                y = [scale * one[key][field] + (key == "value") * (at - scale * one["reference"][field]) for one in found]
                bars = [scale * one["loss_error"][field] for one in found]
                style = {"mfc": "none", "ls": ":"} if init == "prior" else {}
                ax.errorbar(x, y, bars, color=colour, marker=marker, ms=5, lw=1, elinewidth=0.8, **style)
        ax.set(xscale="log", ylabel=label)
        ax.xaxis.set_major_formatter(ScalarFormatter())
        ax.set_xticks([5, 10, 20, 50, 100, 250, 1000], ["5", "10", "20", "50", "100", "250", "1000"])
        ax.minorticks_off()
    for ax in axes[1]:
        ax.set_xlabel("network evaluations for one sample")
    handles = [
        plt.Line2D([], [], color=c, marker=m, ms=5, lw=1, label=s)
        for s, (c, m) in COLOURS.items()
        if any(r["curve"] == s for r in content["rows"])
    ]
    if any(row["init"] == "prior" for row in content["rows"]):
        handles += [plt.Line2D([], [], color="0.5", marker="o", mfc="none", ls=":", label="from N(0, sigma_max²)")]
    handles += [plt.Rectangle((0, 0), 1, 1, color="0.9", label=f"{content['reference']['name']}, its error over halos")]
    handles += [plt.Line2D([], [], color="0.4", ls=":", lw=1, label="as it should be")]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    fewest = min(row["halos"] for row in content["rows"])
    how_many = f"{content['halos']} halos" + (f" (or {fewest}, moved by the reference's difference)" if fewest < content["halos"] else "")
    title = f"{content['fields'][field]}: {how_many}, {content['samples']} samples each; bars: error of the paired difference"
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=110)
    plt.close(figure)
