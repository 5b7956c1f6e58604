"""What the denoiser needs to know of the training split: mean images, spreads, and how large the noise should be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from hpcdiff.train.data.sums import summed
from hpcdiff.world import World

MODE_VIEWS = 256
"""Training views, evenly spread, from which the largest coherent mode is found."""


def statistics(
    take: Callable[[np.ndarray], torch.Tensor], weights: np.ndarray, inputs: int, shape: tuple[int, int, int], augmented: bool, world: World
) -> dict[str, torch.Tensor]:
    """Means and deviations over the training views, in network units: see `Model.statistics`. Collective.

    With augmentation, over all 8 symmetries of the square, as the network sees them. The same bits for any number of ranks.

    Args:
        take: view numbers -> (B, K + C, npix, npix), conditions first, as the network sees them.
        weights: (n,), with mean 1: how often each training view is shown.
        inputs: K. shape: (K + C, npix, npix).
    """

    def moments(block: np.ndarray) -> np.ndarray:
        x = take(block).double()
        weight = torch.from_numpy(weights[block]).to(x.device)[:, None, None, None]
        return torch.stack([(weight * x).sum(0), (weight * x**2).sum(0)]).cpu().numpy()

    n = len(weights)
    mean, square = torch.from_numpy(summed(n, moments, (2, *shape), world) / n)
    if augmented:
        mean, square = (
            torch.stack([torch.rot90(m.flip(2) if flip else m, turns, (1, 2)) for turns in range(4) for flip in (False, True)]).mean(0)
            for m in (mean, square)
        )
    std = (square - mean**2).clamp_min(0).sqrt()
    whole = (std**2).mean((1, 2)).sqrt()  # one deviation a channel
    return {
        "mean": mean[inputs:].float(),
        "std": std[inputs:].float(),
        "sigma_data": whole[inputs:].float(),
        "condition_mean": mean[:inputs].float(),
        "condition_std": whole[:inputs].float(),
    }


def noise_range(targets: torch.Tensor, measured: dict[str, torch.Tensor], matched: bool) -> tuple[float, float]:
    """Suggested sigma_min and sigma_max, in network units.

    sigma_max: 2.5 times the largest standard deviation s of any coherent mode of the maps, i.e. of their component along one unit vector:
    a reverse SDE that starts from N(m, sigma_max^2) instead of N(m, s^2 + sigma_max^2) then keeps 99 % of that mode's spread. (It is the
    analogue of the largest pairwise distance, technique 1 of Song & Ermon 2020, for one mode of a Gaussian.) About the mean image where
    sampling starts there (`matched`), else about zero. sigma_min: a tenth of the median pixel's standard deviation, in the channel where
    that is smallest: the noise that is left is then 1 % of the variance of a typical pixel.

    Args:
        targets: (m, C, npix, npix), some training views.
        measured: their `statistics`.
    """
    x = targets.double().cpu()
    if matched:
        x = x - measured["mean"].double()
    x = x.flatten(1)
    mode = float(torch.linalg.eigvalsh(x @ x.T)[-1].clamp_min(0) / len(x)) ** 0.5
    spread = float(measured["std"].flatten(1).double().median(1).values.min())
    return 0.1 * spread, 2.5 * mode
