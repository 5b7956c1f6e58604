"""The benchmark's figure: speed-up, the cost model, and the planner."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from scaling.model import predict


def draw(results: dict, path: Path) -> None:
    """Four panels of what has been measured so far."""
    figure, axes = plt.subplots(1, 4, figsize=(18, 4.2), layout="constrained")
    for ax, part, panel in zip(axes, ("scaling", "model", "model", "planner"), (_ranks, _model, _mass, _planner), strict=True):
        if part in results:
            panel(ax, results[part])
        else:
            ax.set_axis_off()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _ranks(ax: plt.Axes, found: dict) -> None:
    """Where the time goes with one and two ranks."""
    names = {
        "half": "1 rank,\nhalf the box",
        "one": "1 rank",
        "two": "2 ranks",
        "beside": "2 separate\nruns at once",
        "disk": "1 rank,\nfrom disk",
    }
    runs = [found[name] for name in names]
    bottom = np.zeros(len(runs))
    parts = {
        "reading": [r["reading"] for r in runs],
        "exchange": [r["exchange"] for r in runs],
        "depositing": [r["projecting"] - r["exchange"] for r in runs],
        "writing (and waiting)": [r["writing"] for r in runs],
    }
    for (label, seconds), color in zip(parts.items(), ("C0", "C1", "C2", "C7"), strict=True):
        ax.bar(list(names.values()), seconds, bottom=bottom, label=label, color=color)
        bottom += seconds
    ax.set(ylabel="wall seconds", title=f"2 ranks: {found['strong']['run']:.2f} times 1 (separate runs: {found['possible']['run']:.2f})")
    ax.set_ylim(0, 1.45 * bottom.max())
    ax.tick_params(axis="x", labelsize=8)
    ax.legend(fontsize=8)


def _model(ax: plt.Axes, found: dict) -> None:
    """Predicted against measured seconds of reading and projecting."""
    rates = found["fitted_rates"]
    sizes = sorted({r["particles"] for r in found["runs"]})
    for run in found["runs"]:
        last = run["particles"] == sizes[-1]
        for part, marker in (("reading", "s"), ("projecting", "o")):
            ax.plot(
                run[part], predict(rates, run)[part], marker, color=f"C{sizes.index(run['particles'])}", mfc=None if last else "none", ms=7
            )
    low, high = 0.08, 8
    ax.plot([low, high], [low, high], "k-", lw=0.8)
    ax.fill_between([low, high], [0.8 * low, 0.8 * high], [1.25 * low, 1.25 * high], color="0.9", zorder=0)
    for n, size in enumerate(sizes):
        ax.plot(
            [],
            [],
            "o",
            color=f"C{n}",
            mfc=None if n == len(sizes) - 1 else "none",
            label=f"{size:.3g} particles{', not fitted' * (n == len(sizes) - 1)}",
        )
    ax.plot([], [], "ks", mfc="none", label="reading")
    ax.plot([], [], "ko", mfc="none", label="projecting")
    ax.set(xscale="log", yscale="log", xlabel="measured CPU seconds", ylabel="model", title="cost model; band: a quarter either way")
    ax.legend(fontsize=8)


def _mass(ax: plt.Axes, found: dict) -> None:
    """Cost of a cluster by its mass."""
    mass, seconds, predicted = (np.array([r[k] for r in found["by_mass"]]) for k in ("mass", "seconds", "predicted"))
    ax.plot(mass, 1e3 * seconds, "o-", label="measured")
    ax.plot(mass, 1e3 * predicted, "s--", mfc="none", label="planned (exchange and writing included)")
    ax.set(xscale="log", xlabel=r"$M_{200m}/M_\odot$", ylabel="ms a cluster", ylim=(0, None), title="unseen snapshot, 9 views a cluster")
    ax.legend(fontsize=8)


def _planner(ax: plt.Axes, found: dict) -> None:
    """Imbalance, and where reading again would take longer than projecting."""
    rows = found["fixed"]["ranks"]
    ranks = [r["ranks"] for r in rows]
    for key, label, style in (
        ("reading", "reading", "C0-o"),
        ("projecting", "projecting, imbalance included", "C2-o"),
        ("seconds_again", "reading again in later passes", "C3-s"),
        ("seconds_plan", "making the plan, one process", "C7-^"),
    ):
        ax.plot(ranks, [r[key] or np.nan for r in rows], style, label=label)
    for r in rows:
        ax.annotate(
            f"{100 * r['imbalance']:.1f} %",
            (r["ranks"], r["projecting"]),
            xytext=(0, -14),
            textcoords="offset points",
            fontsize=8,
            ha="center",
            color="C2",
        )
    ax.set(xscale="log", yscale="log", xlabel="ranks", ylabel="seconds, forecast", title="planner: 370,000 clusters, 3x10$^{11}$ particles")
    ax.legend(fontsize=8)
