"""One step's images: their symmetry, noise level and noise, each a function of (seed, image number)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from hpcdiff import diffusion
from hpcdiff.maps import splitmix64

NOISE_STREAM = 1
"""Separates training noise from every other use of the seed."""
VALIDATION_STREAM = 7
"""The same for validation, whose images are numbered from 0 again."""
NOISE, SYMMETRY = 0, 2
"""Counters of a key's draws; `observe.COUNTERS` are others."""
GOLDEN = np.uint64(11400714819323198485)
"""2^64 over the golden ratio: multiples of it, modulo 2^64, fill the range evenly from the first few on."""


@dataclass
class Batch:
    """Images, their noise level quantile u (B,) and noise z, on one device."""

    target: torch.Tensor  # (B, C, npix, npix)
    condition: torch.Tensor  # (B, K, npix, npix)
    u: torch.Tensor  # (B,)
    z: torch.Tensor  # (B, C, npix, npix)


def keys_of(numbers: np.ndarray, seed: int, stream: int = NOISE_STREAM) -> torch.Tensor:
    """The key of each image, from which all its draws come: int64 (B,), on the CPU."""
    return diffusion.derive_key(seed, stream, torch.from_numpy(np.asarray(numbers, np.int64)))


def symmetries(keys: torch.Tensor) -> torch.Tensor:
    """Which of the 8 symmetries of the square each image is shown in, int64 (B,), on the device of the keys."""
    return (diffusion.uniform(keys, SYMMETRY, (1,))[:, 0] * 8).long()


def level_quantiles(numbers: np.ndarray, seed: int) -> torch.Tensor:
    """Quantiles of the noise level in (0, 1), float32 (B,): a golden-ratio sequence, so that every batch covers all levels."""
    start = splitmix64(np.array([seed], np.uint64))
    with np.errstate(over="ignore"):
        bits = start + numbers.astype(np.uint64) * GOLDEN
    # 23 bits and a half: float32 holds them exactly, so that no quantile is rounded to 1
    return torch.from_numpy(((bits >> np.uint64(41)).astype(np.float32) + np.float32(0.5)) / np.float32(2.0**23))


def turn(x: torch.Tensor, symmetry: torch.Tensor) -> torch.Tensor:
    """Apply to each image (B, C, n, n) one of the 8 symmetries of the square, int64 (B,): quarter turns, then a flip from 4 on.

    `symmetry` lies on x's device; the host waits for nothing.
    """
    n = x.shape[-1]
    places = _places(n, x.device)[symmetry]  # (B, n * n)
    return x.flatten(2).gather(2, places[:, None].expand(-1, x.shape[1], -1)).unflatten(2, (n, n))


@lru_cache(maxsize=4)
def _places(n: int, device: torch.device) -> torch.Tensor:
    """From which pixel each pixel of the turned image comes, int64 (8, n * n)."""
    grid = torch.arange(n * n).reshape(n, n)
    turned = [torch.rot90(grid, s % 4, (0, 1)) for s in range(8)]
    return torch.stack([(t.flip(1) if s >= 4 else t).flatten() for s, t in enumerate(turned)]).to(device)


def to_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy to the device without making the host wait: over pinned memory where that is a GPU."""
    if x.device == device:
        return x
    return (x.pin_memory() if device.type == "cuda" and x.device.type == "cpu" else x).to(device, non_blocking=True)
