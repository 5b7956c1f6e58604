"""The same trained model sampled from narrower and wider noise: what a sigma_max below the width of coherent modes costs."""

from __future__ import annotations

import math
import time

import numpy as np

from samplers import contest
from samplers.draw import Views
from samplers.scores import score_views

SAMPLERS = ("dpmpp_2m", "dpmpp_2m_sde")
STEP = 0.33
"""Largest step in ln sigma; all have about the same."""
COLUMNS = ("pixel_crps", "total_crps", "pixel_square", "total_square", "total_coverage", "total_spread_skill")


def steps(sigma_max: float, sigma_min: float) -> int:
    """Noise levels from sigma_max to sigma_min that are at most `STEP` apart."""
    return 1 + math.ceil(math.log(sigma_max / sigma_min) / STEP)


def compare(views: Views, widths: list[float], samplers: tuple[str, ...] = SAMPLERS, batch_size: int = 40) -> list[dict]:
    """Scores of the samples of all views from a matched start at each sigma_max, by each sampler.

    Only an `edm` model can be sampled so: its network was trained on log-normal noise, whatever sigma_max is.

    Returns:
        {"sigma_max", "sampler", "nfe", "seconds", name: {"value", "error"}} for each; lists over fields, the error a bootstrap over halos.
    """
    noise = views.model.config["diffusion"]
    if noise["precondition"] != "edm":
        raise SystemExit("a model with diffusion.precondition=ve was trained up to its own sigma_max alone; take one with edm")
    own, rows, draws = noise["sigma_max"], [], contest.resamples(len(views.rows))
    try:
        for sampler in samplers:
            for sigma_max in widths:
                noise["sigma_max"], n, began = sigma_max, steps(sigma_max, noise["sigma_min"]), time.perf_counter()
                options = {"samples": views.samples, "sampler": sampler, "steps": n, "seed": views.seed, "view": views.rows}
                found = views.model.sample(views.inputs, **options, init="matched", batch_size=batch_size)
                drawn = np.stack([found[field] for field in views.fields], 1)
                summary = contest.summarise(score_views(drawn, views.truth, views.width_mpc, views.h), draws, views.samples)
                row = {"sigma_max": sigma_max, "sampler": sampler, "nfe": n, "seconds": round(time.perf_counter() - began, 1)}
                row |= {q: {"value": summary[q][0].tolist(), "error": summary[q][1:].std(0).tolist()} for q in COLUMNS}
                rows.append(row)
                print(as_lines(rows[-1:])[0], flush=True)
    finally:
        noise["sigma_max"] = own
    return rows


def as_lines(rows: list[dict]) -> list[str]:
    """Rows of a Markdown table; a cell has a number for each field."""

    def cell(found: dict, form: str, root: bool = False) -> str:
        return ", ".join(form.format(math.sqrt(v) if root else v) for v in found["value"])

    return [
        f"| `{r['sampler']}` | {r['sigma_max']:g} | {r['nfe']} | {cell(r['total_square'], '{:.1%}', root=True)} | {cell(r['total_spread_skill'], '{:.2f}')} "
        f"| {cell(r['total_coverage'], '{:.2f}')} | {cell(r['total_crps'], '{:.2%}')} | {cell(r['pixel_square'], '{:.3f}')} |"
        for r in rows
    ]


def markdown(rows: list[dict]) -> str:
    """The table for docs/samplers.md."""
    header = (
        "sampler",
        "sigma_max",
        "NFE",
        "error of the mean total mass",
        "spread over it",
        "covered",
        "CRPS of total masses",
        "squared error of the mean map",
    )
    return "\n".join(["| " + " | ".join(header) + " |", "|---" * len(header) + "|", *as_lines(rows)])
