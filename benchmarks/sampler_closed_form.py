"""Every sampler on Gaussians of spread s = 0.02..2, where the samples' mean and spread follow without statistics.

    python benchmarks/sampler_closed_form.py        # writes benchmarks/results/sampler_closed_form.json, in a minute

The exact denoiser of N(mu, s^2) is linear, so that each sampler is linear in its start and in each of its noises. Images in which
the k-th of them is sqrt(pixels) in pixel k and 0 elsewhere have, exactly, the mean square that white noise has on ever larger
images; the norms that the predictor-corrector takes over an image are exact as well. sigma runs from 1 to 0.001.

matched: started from N(mu, s^2 + 1). prior: from N(0, 1), as in Hsu et al. 2025, with the mean mu = 0.5.

Euler-Maruyama is also held against its own recursion of the variance, v' = (1 - r sigma^2 / (s^2 + sigma^2))^2 v + r sigma^2 with
r = g^2 dt / sigma^2, written here anew. At the end stands what each sampler shall do from a matched start, and whether it does.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor

from hpcdiff.diffusion import SAMPLERS, VESDE, nfe

RESULTS = Path(__file__).resolve().parent / "results"
SDE = VESDE(0.001, 1.0)
SPREADS = torch.tensor(sorted([0.1, 0.6, *(0.02 * 100 ** (i / 20) for i in range(21))]), dtype=torch.float64)
MEAN = 0.5
RUNS = [
    *(("euler_maruyama", steps, 0.0) for steps in (50, 100, 250, 500, 1000)),
    *(("predictor_corrector", steps, 0.0) for steps in (25, 50, 250, 1000)),
    *(("heun", steps, 0.0) for steps in (10, 18, 25, 50)),
    *(("heun", steps, churn) for steps, churn in ((25, 5.0), (50, 10.0), (100, 30.0))),
    *(("dpmpp_2m", steps, 0.0) for steps in (12, 18, 24, 36, 50)),
    *(("dpmpp_2m_sde", steps, 0.0) for steps in (18, 24, 36, 50, 100)),
]
REQUIRED = (
    ("euler_maruyama", 1000, "recursion_worst", 0.005),
    ("dpmpp_2m", 18, "matched_worst", 0.01),
    ("dpmpp_2m_sde", 36, "matched_worst", 0.01),
    ("heun", 49, "matched_worst", 0.015),
    ("predictor_corrector", 1999, "matched_worst", 0.02),
)
"""Sampler without churn, network evaluations, quantity, and how large it may be: what is asked of the samplers."""


def denoise(x: Tensor, sigma: float) -> Tensor:
    """E[x0 | x] about the mean 0, each row with the spread of its own; x (spreads, 1, side, side)."""
    s2 = SPREADS[:, None, None, None] ** 2
    return s2 / (s2 + sigma**2) * x


def moments(sampler: str, steps: int, churn: float, start: Tensor, offset: float) -> tuple[Tensor, Tensor]:
    """Ratio of sampled to true spread, and what is wrong with the mean, for each s; (spreads,) both.

    start: spreads (spreads,) of the start; offset: what is wrong with its mean, which has a pixel of its own.
    """
    side = math.isqrt(2 * steps) + 1

    def noise(k: int) -> Tensor:
        one = torch.zeros(side * side, dtype=torch.float64)
        one[k] = side
        return one.reshape(1, 1, side, side).expand(len(SPREADS), -1, -1, -1)

    options = {"churn": churn} if churn else {}
    x = start[:, None, None, None] * noise(0) + offset * noise(-1)
    x = SAMPLERS[sampler](x, denoise, noise, SDE, steps, lambda i: None, **options).flatten(1) / side
    return x[:, :-1].norm(dim=1) / SPREADS, x[:, -1]


def recursion(steps: int) -> Tensor:
    """Ratio of sampled to true spread of Euler-Maruyama from a matched start, by its own recursion of the variance; (spreads,)."""
    s2 = SPREADS**2
    rate, v = 2 * math.log(SDE.sigma_max / SDE.sigma_min) / (steps - 1), s2 + SDE.sigma_max**2
    for i in range(steps - 1):
        sigma2 = SDE.sigma_max**2 * (SDE.sigma_min / SDE.sigma_max) ** (2 * i / (steps - 1))
        v = (1 - rate * sigma2 / (s2 + sigma2)) ** 2 * v + rate * sigma2
    return v.sqrt() * s2 / (s2 + SDE.sigma_min**2) / SPREADS


def main() -> None:
    """Compute, print, write."""
    rows = []
    matched, prior = (SPREADS**2 + SDE.sigma_max**2).sqrt(), torch.full_like(SPREADS, SDE.sigma_max)
    for sampler, steps, churn in RUNS:
        deviation = moments(sampler, steps, churn, matched, 0.0)[0] - 1
        worst = int(deviation.abs().argmax())
        row = {"sampler": sampler, "churn": churn, "steps": steps, "nfe": nfe(sampler, steps)}
        row |= {"matched_worst": deviation[worst].item(), "matched_worst_at_s": SPREADS[worst].item()}
        if sampler == "euler_maruyama":
            row["recursion_worst"] = ((deviation + 1) / recursion(steps) - 1).abs().max().item()
        ratio, error = moments(sampler, steps, churn, prior, -MEAN)
        for at in (0.1, 0.6, 2.0):
            i = (SPREADS - at).abs().argmin()
            row |= {f"prior_ratio_s_{at}": ratio[i].item(), f"prior_mean_error_s_{at}": error[i].item()}
        rows.append(row)
        print("  ".join(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()), flush=True)
    by_name = {(row["sampler"], row["nfe"]): row for row in rows if not row["churn"]}
    required = [
        {"sampler": sampler, "nfe": n, "quantity": quantity, "limit": limit, "found": abs(by_name[sampler, n][quantity])}
        for sampler, n, quantity, limit in REQUIRED
    ]
    for one in required:
        verdict = "met" if one["found"] <= one["limit"] else "missed"
        print(f"{one['sampler']}, {one['nfe']} NFE, {one['quantity']} {one['found']:.2g}, at most {one['limit']}: {verdict}")
    RESULTS.mkdir(exist_ok=True)
    content = {"spreads": SPREADS.tolist(), "rows": rows, "required": required}
    (RESULTS / "sampler_closed_form.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
