"""Small trainings on small maps: the same network, data, noise and averaged weights for every batch size."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from batches.fit import noise_scale
from hpcdiff.config import Config
from hpcdiff.denoiser import build_denoiser
from hpcdiff.diffusion import denoising_loss
from hpcdiff.maps import MapFile
from hpcdiff.sections import Diffusion, Network

NPIX, INPUTS, OUTPUTS = 16, ("sz", "xray"), ("gas", "dm")
BASE, WARM_UP = 3.0e-3, 20
"""Learning rate at a batch of 16, and steps over which it rises."""
MICRO, MANY, GROUPS = 8, 2048, 16
CONFIG = Config(network=Network(channels=8, multipliers=[1, 2, 2], blocks=1), diffusion=Diffusion(precondition="edm", noise_shift=0.0))


class Maps:
    """Training and validation maps (n, 2, 16, 16) as the network sees them: asinh over the 99th percentile, to [0, 1]."""

    def __init__(self, path: Path) -> None:
        maps = MapFile(path)
        if maps.npix % NPIX:
            raise SystemExit(f"{path} has {maps.npix} pixels a side: give one of {NPIX} or a multiple")
        self.fingerprint, parts = maps.fingerprint, [maps.rows("train"), maps.rows("val")]
        k = maps.npix // NPIX
        stacks: list[list[torch.Tensor]] = [[], []]
        for field in (*INPUTS, *OUTPUTS):
            small = [maps.read(field, rows).reshape(len(rows), NPIX, k, NPIX, k).mean((2, 4), dtype=np.float64) for rows in parts]
            scale = np.percentile(small[0][small[0] > 0], 99)
            top = np.arcsinh(small[0].max() / scale)
            for stack, x in zip(stacks, small, strict=True):
                stack.append(torch.from_numpy((np.arcsinh(x / scale) / top).astype(np.float32)))
        (self.condition, self.target), (self.val_condition, self.val_target) = (
            (torch.stack(s[:2], 1), torch.stack(s[2:], 1)) for s in stacks
        )

    def statistics(self) -> dict[str, torch.Tensor]:
        """What `EDMDenoiser` wants, over all symmetries of the square."""
        out = {}
        for x, mean, std in ((self.target, "mean", "sigma_data"), (self.condition, "condition_mean", "condition_std")):
            m = x.mean(0)
            out[mean] = torch.stack([torch.rot90(y, turns, (1, 2)) for turns in range(4) for y in (m, m.flip(2))]).mean(0)
            out[std] = ((x - out[mean]) ** 2).mean((0, 2, 3)).sqrt()
        return out


class Training:
    """One training: weights, Adam, averaged weights; images are drawn by `seed`, the noise levels from a golden-ratio sequence."""

    def __init__(self, maps: Maps, batch: int, factor: float, seed: int) -> None:
        self.maps, self.batch, self.lr = maps, batch, BASE * math.sqrt(batch / 16) * factor
        torch.manual_seed(seed)
        self.denoiser = build_denoiser(CONFIG.resolved(), maps.statistics()).to(memory_format=torch.channels_last)
        self.weights = list(self.denoiser.parameters())
        self.average = [p.detach().clone() for p in self.weights]
        self.adam = torch.optim.Adam(self.weights, lr=self.lr, fused=True)
        self.random = torch.Generator().manual_seed(1000 + seed)
        self.steps, self.seen, self.start = 0, 0, float(torch.rand((), generator=self.random))

    def loss(self, count: int) -> torch.Tensor:
        """Mean loss of the next `count` images."""
        index = torch.randint(len(self.maps.target), (count,), generator=self.random)
        x, condition = self.maps.target[index], self.maps.condition[index]
        flip, mirror, swap = torch.rand(3, count, 1, 1, 1, generator=self.random) < 0.5
        x, condition = (torch.where(flip, y.flip(2), y) for y in (x, condition))
        x, condition = (torch.where(mirror, y.flip(3), y) for y in (x, condition))
        x, condition = (torch.where(swap, y.transpose(2, 3), y) for y in (x, condition))
        u = (self.start + (self.seen + torch.arange(count, dtype=torch.float64)) * 0.6180339887498949) % 1
        self.seen += count
        z = torch.randn(x.shape, generator=self.random)
        return self._losses(x, condition, u.clamp(1e-6, 1 - 1e-6).float(), z).mean()

    def _losses(self, x: torch.Tensor, condition: torch.Tensor, u: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        x, condition, z = (y.contiguous(memory_format=torch.channels_last) for y in (x, condition, z))
        return denoising_loss(self.denoiser, x, condition, self.denoiser.noise_levels(u), z)

    def step(self) -> None:
        """One optimiser step."""
        self.adam.zero_grad(set_to_none=True)
        self.loss(self.batch).backward()
        self.adam.param_groups[0]["lr"] = self.lr * min(1.0, (self.steps + 1) / WARM_UP)
        self.adam.step()
        torch._foreach_lerp_(self.average, [p.detach() for p in self.weights], 1 - min(0.9999, (1 + self.steps) / (10 + self.steps)))
        self.steps += 1

    @torch.no_grad()
    def validate(self) -> float:
        """Mean loss of the averaged weights: every validation map at one noise level, always the same."""
        raw = [p.clone() for p in self.weights]
        torch._foreach_copy_(self.weights, self.average)
        x, condition = self.maps.val_target, self.maps.val_condition
        u = (0.5 + torch.arange(len(x), dtype=torch.float64) * 0.6180339887498949) % 1
        z = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
        found = torch.cat([self._losses(*part) for part in zip(*(y.split(64) for y in (x, condition, u.float(), z)), strict=True)])
        torch._foreach_copy_(self.weights, raw)
        return float(found.mean())

    def noise(self) -> dict[str, dict[str, float]]:
        """Noise scale at the present weights, plain and in Adam's metric; the weights stay."""
        squares, groups, each = [], [], MANY // MICRO // GROUPS
        scale = torch.cat([1 / (self.adam.state[p]["exp_avg_sq"].sqrt() + 1e-8).flatten() for p in self.weights])
        for n in range(MANY // MICRO):
            self.adam.zero_grad(set_to_none=True)
            self.loss(MICRO).backward()
            g = torch.cat([p.grad.flatten() for p in self.weights]).double()
            squares.append([float((g**2).sum()), float((g**2 * scale).sum())])
            if n % each == 0:
                groups.append(torch.zeros_like(g))
            groups[-1] += g / each
        return {
            name: noise_scale(np.array(squares)[:, k], [g * root for g in groups], MICRO, MANY)
            for k, (name, root) in enumerate((("plain", 1.0), ("adam", scale.double().sqrt())))
        }
