"""The figure of `batch_scaling.py`."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np


def draw(content: dict, path: Path) -> None:
    """Steps and images against the batch, noise scales on the way, speed-up against GPUs."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for f, colour in zip(content["fits"], ("C0", "C1", "C3"), strict=True):
        batch, steps = np.array(f["points"]).T
        fine = np.geomspace(batch.min() / 1.3, batch.max() * 1.3, 200)
        left.plot(batch, steps, "o", color=colour, ms=4)
        left.plot(fine, f["steps"] * (1 + f["critical"] / fine), color=colour, lw=1, label=f"loss {f['target']:.3f}: {f['critical']:.0f}")
        left.plot(f["critical"], 2 * f["steps"], "|", color=colour, ms=14)
    left.set(xscale="log", yscale="log", xlabel="global batch", ylabel="steps to the loss", title="fitted: steps = S (1 + B_crit / B)")
    left.legend(title="critical batch (|)", fontsize=8)
    images = [n["images"] for n in content["noise"]]
    for name, words, colour in (("plain", "of the gradient", "C0"), ("adam", "in Adam's metric", "C2")):
        found = [n[name] for n in content["noise"]]
        middle.errorbar(
            images, [x["value"] for x in found], [x["error"] for x in found], fmt="o-", color=colour, ms=4, capsize=3, label=words
        )
    for f, colour in zip(content["fits"], ("C0", "C1", "C3"), strict=True):
        middle.errorbar(
            f["images"], f["critical"], [[f["critical"] - f["low"]], [f["high"] - f["critical"]]], fmt="s", color=colour, mfc="none"
        )
    middle.plot([], [], "s", color="0.4", mfc="none", label="critical batch, 95 %")
    middle.set(xscale="log", yscale="log", xlabel="images seen", ylabel="noise scale (images)")
    middle.legend(fontsize=8)
    for k, entry in enumerate(content["gpus"]):
        n, colour = [row["gpus"] for row in entry["table"]], "C3" if k == 0 else f"{0.75 - 0.15 * k}"
        label = f"critical batch {entry['critical']:.0f}" + ", measured" * (k == 0)
        right.plot(n, [row["speed_up"] for row in entry["table"]], "o-", color=colour, ms=4, label=label)
    right.plot(n, n, ":", color="0.5", label="each as good as the first")
    right.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="speed-up of the time to the loss", title="the paper's network, by formula")
    right.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_network(found: dict, path: Path) -> None:
    """Seconds of the all-reduce, and its share of a step of 8 maps a GPU, against the ranks."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for n, (name, rows) in enumerate(found.items()):
        ranks = [r["ranks"] for r in rows]
        left.plot(ranks, [1e3 * r["seconds"] for r in rows], "o-", color=f"C{n}", ms=4, label=name)
        right.plot(ranks, [100 * r["after_8"] for r in rows], "o:", color=f"C{n}", ms=4, mfc="none")
        right.plot(ranks, [100 * r["beside_8"] for r in rows], "o-", color=f"C{n}", ms=4)
    left.set(xscale="log", yscale="log", xlabel="ranks", ylabel="all-reduce of the gradient (ms)", title="by formula, no measurement")
    right.set(xscale="log", xlabel="ranks", ylabel="share of a step, 8 maps a GPU (%)", title="after the backward pass (dotted), beside it")
    left.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)
