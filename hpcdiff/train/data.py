"""Training data in memory: which image comes when, turned how, with which noise; all of it a function of (seed, image number)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hpcdiff import diffusion, transform
from hpcdiff.errors import UserError
from hpcdiff.maps import MapFile, splitmix64
from hpcdiff.sections import Task

BLOCK = 1024
"""Views read from the file at once."""
GOLDEN = np.uint64(11400714819323198485)
"""2^64 over the golden ratio: multiples of it, modulo 2^64, fill the range evenly from the first few on."""


@dataclass
class Part:
    """One part of the split: conditions (n, K, npix, npix) and targets (n, C, npix, npix), float32 in [0, 1] units."""

    condition: torch.Tensor
    target: torch.Tensor

    def __len__(self) -> int:
        return len(self.target)


def transform_name(task: Task, field: str) -> str:
    """The transform of one field: `task.transform` itself, or its entry there (default linear)."""
    return task.transform if isinstance(task.transform, str) else task.transform.get(field, "linear")


def fit_transforms(maps: MapFile, task: Task) -> dict[str, transform.Transform]:
    """Each field's transform, with bounds of the training split."""
    rows = maps.rows("train")
    maps.require(task.inputs, "task.inputs")
    maps.require(task.outputs, "task.outputs")
    starts = range(0, len(rows), BLOCK)
    return {
        field: transform.fit(transform_name(task, field), field, (maps.read(field, rows[i : i + BLOCK]) for i in starts))
        for field in (*task.inputs, *task.outputs)
    }


def load_part(maps: MapFile, rows: np.ndarray, task: Task, transforms: dict[str, transform.Transform]) -> Part:
    """The views in `rows`, transformed.

    Raises:
        UserError: a map file that is damaged (its checksums are compared) or holds values that are not finite.
    """
    damaged = maps.verify(rows)
    if len(damaged):
        raise UserError(
            f"{len(damaged)} views differ from their checksum (first {damaged[0]})",
            maps.path,
            f"python -m hpcdiff.maps clear {maps.path}, and project again",
        )
    stacks = []
    for fields in (task.inputs, task.outputs):
        stack = torch.empty(len(rows), len(fields), maps.npix, maps.npix)
        for k, field in enumerate(fields):
            for i in range(0, len(rows), BLOCK):
                stack[i : i + BLOCK, k] = torch.from_numpy(transforms[field].forward(maps.read(field, rows[i : i + BLOCK])))
        stacks.append(stack)
    return Part(*stacks)


def images_of(numbers: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Which of n training views the images `numbers` (0, 1, ... from the start of training) are: every epoch shuffles anew."""
    out = np.empty(len(numbers), np.int64)
    for epoch in np.unique(numbers // n):
        chosen = numbers // n == epoch
        order = np.random.Generator(np.random.Philox(key=[seed, int(epoch)])).permutation(n)
        out[chosen] = order[numbers[chosen] % n]
    return out


@dataclass
class Batch:
    """Images, their noise level quantile u (B,) and noise z; and where they stand in training."""

    target: torch.Tensor  # (B, C, npix, npix)
    condition: torch.Tensor  # (B, K, npix, npix)
    u: torch.Tensor  # (B,)
    z: torch.Tensor  # (B, C, npix, npix)


def make_batch(part: Part, numbers: np.ndarray, seed: int, augment: bool, device: torch.device) -> Batch:
    """The images `numbers`, augmented, with their noise: the same whatever the batch or the rank."""
    index = torch.from_numpy(images_of(numbers, len(part), seed))
    target, condition = part.target[index].to(device), part.condition[index].to(device)
    keys = diffusion.derive_key(seed, NOISE_STREAM, torch.from_numpy(numbers)).to(device)
    if augment:
        symmetry = (diffusion.uniform(keys, 2, (1,))[:, 0] * 8).long().cpu()
        target, condition = turn(target, symmetry), turn(condition, symmetry)
    return Batch(target, condition, level_quantiles(numbers, seed).to(device), diffusion.normal(keys, 0, target.shape[1:]))


NOISE_STREAM = 1
"""Separates training noise from every other use of the seed."""


def level_quantiles(numbers: np.ndarray, seed: int) -> torch.Tensor:
    """Quantiles of the noise level in (0, 1), float32 (B,): a golden-ratio sequence, so that every batch covers all levels."""
    start = splitmix64(np.array([seed], np.uint64))
    with np.errstate(over="ignore"):
        bits = start + numbers.astype(np.uint64) * GOLDEN
    # 23 bits and a half: float32 holds them exactly, so that no quantile is rounded to 1
    return torch.from_numpy(((bits >> np.uint64(41)).astype(np.float32) + np.float32(0.5)) / np.float32(2.0**23))


def turn(x: torch.Tensor, symmetry: torch.Tensor) -> torch.Tensor:
    """Apply to each image (B, C, n, n) one of the 8 symmetries of the square, int64 (B,): quarter turns, then a flip from 4 on."""
    out = torch.empty_like(x)
    for s in symmetry.unique().tolist():
        chosen = symmetry == s
        y = torch.rot90(x[chosen], s % 4, (2, 3))
        out[chosen] = y.flip(3) if s >= 4 else y
    return out
