"""Log-likelihood of output maps in their own units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from hpcdiff import diffusion
from hpcdiff.drawing import plain_call
from hpcdiff.transform import Transform

if TYPE_CHECKING:
    from hpcdiff.posterior import Model

PROBE_STREAM = 8
"""Separates the probes of the trace from every other use of the seed."""


def log_density(
    model: Model,
    condition: torch.Tensor,
    maps: dict[str, np.ndarray],
    steps: int,
    probes: int | None,
    seed: int,
    views: np.ndarray,
    batch_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """ln p(maps | condition) in nats in the maps' own units, and its standard error by the probes; float64 (N,) each.

    Args:
        condition: (N, K, npix, npix) from `Model.condition`. maps: {output: (N, npix, npix)}, all outputs.
        steps, probes: of `diffusion.log_likelihood`. seed, views: int64 (N,), they name the probes.
        batch_size: rows in one call of network and gradient.
    Raises:
        ValueError: a regression; maps missing, unknown, of another shape, not finite, or at the floor of log10.
    """
    if model.method == "regression":
        raise ValueError("this model is a regression, which has no density")
    if set(maps) != set(model.outputs):
        raise ValueError(f"maps are of {', '.join(maps) or 'nothing'}; a density is one of all of {', '.join(model.outputs)}")
    shape = (len(condition), model.npix, model.npix)
    for name, m in maps.items():
        if m.shape != shape or not np.isfinite(m).all():
            raise ValueError(f"the map {name!r} should be finite, of shape {shape}, not {m.shape}")
    x = torch.from_numpy(np.stack([model.transforms[name].forward(maps[name]) for name in model.outputs], 1))
    jacobian = sum(log_slope(model.transforms[name], maps[name]) for name in model.outputs)
    keys = diffusion.derive_key(seed, PROBE_STREAM, torch.from_numpy(views))
    mean, variance = (model.statistics["mean"].to(model.device), model.statistics["std"].to(model.device) ** 2)
    model.denoiser.eval()
    nats, error = [], []
    for i in range(0, len(x), batch_size):
        rows = slice(i, i + batch_size)
        denoise = plain_call(model, condition[rows].to(model.device), bf16=False)
        part = diffusion.log_likelihood(
            denoise, x[rows].to(model.device), model.sde, steps, keys[rows].to(model.device), probes, mean, variance
        )
        nats.append(part.nats.cpu().numpy())
        error.append(part.standard_error.cpu().numpy())
    return np.concatenate(nats) + jacobian, np.concatenate(error)


def log_slope(transform: Transform, maps: np.ndarray) -> np.ndarray:
    """ln |dT / dm| summed over the pixels of each map, float64 (n,), for maps (n, npix, npix) in the field's units.

    Raises:
        ValueError: a pixel at or below the floor of log10, where many maps become one and there is no density.
    """
    m = np.asarray(maps, np.float64)
    pixels = -np.log(transform.high - transform.low) * m[0].size
    if transform.curve == "asinh":
        return pixels - 0.5 * np.log(m**2 + transform.scale**2).sum((1, 2))
    if transform.curve == "log10":
        if (m <= transform.scale).any():
            raise ValueError(f"a pixel lies at the floor of log10 ({transform.scale:.3g}) or below: there is no density")
        return pixels - np.log(m * np.log(10.0)).sum((1, 2))
    return np.full(len(m), pixels)
