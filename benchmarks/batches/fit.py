"""What the measurements say: critical batch, noise scale of the gradient, and how many GPUs help."""

from __future__ import annotations

import numpy as np
from scipy.stats import t as student

from batches.network import Cluster, step_seconds

FORWARD_FLOP, PARAMETERS = 400.9e9, 45_835_912
"""Of the paper's network for a map of 128 x 128 pixels, 2 + 2 channels."""
GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def fit(points: list[tuple[int, float]]) -> dict[str, float]:
    """Least squares of ln steps = ln S + ln(1 + B_crit / B) to points (B, steps).

    Returns:
        `steps` S, `critical` B_crit, and where the profile of its squares leaves the 95 % interval: `low`, `high`; `scatter` of ln steps.
    """
    batch, steps = np.array(points, float).T
    grid = np.geomspace(0.1, 1e5, 6000)
    left = np.log(steps) - np.log1p(grid[:, None] / batch)  # (grid, points): ln S of each point
    squares = ((left - left.mean(1, keepdims=True)) ** 2).sum(1)
    free, best = len(batch) - 2, int(squares.argmin())
    inside = grid[squares <= squares[best] * (1 + student.ppf(0.975, free) ** 2 / free)]
    return {
        "steps": float(np.exp(left[best].mean())),
        "critical": float(grid[best]),
        "low": float(inside[0]),
        "high": float(inside[-1]),
        "scatter": float(np.sqrt(squares[best] / free)),
    }


def noise_scale(squares: np.ndarray, groups: np.ndarray, small: int, many: int) -> dict[str, float]:
    """tr(Sigma) / |G|^2, without the bias that noise gives to squared norms (McCandlish et al. 2018, appendix A.1).

    Args:
        squares: (n,) squared norms of gradients of `small` images each, in the order of the groups.
        groups: (groups, parameters) mean gradients of equal shares of all `many` images.
    Returns:
        `value`, and `error` by leaving out one group at a time.
    """

    def value(keep: np.ndarray) -> float:
        images = many * keep.sum() / len(keep)
        one = squares.reshape(len(groups), -1)[keep].mean()
        whole = (np.asarray(groups)[keep].mean(0) ** 2).sum()
        signal = (images * whole - small * one) / (images - small)
        noise = (one - whole) / (1 / small - 1 / images)
        return float(noise / signal)

    count = len(groups)
    left_out = np.array([value(np.arange(count) != k) for k in range(count)])
    return {
        "value": value(np.ones(count, bool)),
        "error": float(np.sqrt((count - 1) / count * ((left_out - left_out.mean()) ** 2).sum())),
    }


def gpus(critical: float, cluster: Cluster) -> list[dict[str, float]]:
    """The shortest time to the target on N GPUs, in units of one GPU's, for the paper's network.

    For each N the global batch is the best one: steps(B) = S (1 + B_crit / B) times the seconds of a step. A GPU has at least one map.
    """
    out, alone = [], None
    for n in GPUS:
        each = np.unique(np.geomspace(1, 4096, 200).round())
        seconds = np.array([(1 + critical / (m * n)) * step_seconds(m, n, FORWARD_FLOP, PARAMETERS, cluster) for m in each])
        k = int(seconds.argmin())
        alone = alone or seconds[k]
        batch, gain = each[k] * n, alone / seconds[k]
        steps = float(1 + critical / batch)
        out.append({"gpus": n, "batch": float(batch), "steps": steps, "speed_up": float(gain), "efficiency": float(gain / n)})
    return out


def helping(table: list[dict[str, float]], least: float = 0.5) -> int:
    """The most GPUs of which each still brings `least` of what the first did."""
    return max(int(row["gpus"]) for row in table if row["efficiency"] >= least)
