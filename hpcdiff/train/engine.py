"""What a training step does to the weights: DistributedDataParallel, Adam and the average of the weights (EMA)."""

from __future__ import annotations

import inspect

import torch
from torch.nn.parallel import DistributedDataParallel

from hpcdiff.diffusion import denoising_loss
from hpcdiff.errors import UserError
from hpcdiff.model import memory_layout
from hpcdiff.train.data import Batch


class DDPEngine:
    """One copy of everything on each rank; gradients are averaged over the ranks.

    Args:
        denoiser: the preconditioned network, with the same weights on every rank.
        world: the ranks (`world.TorchWorld`).
        lr: learning rate.
        precision: `fp32` or `bf16` (autocast; weights, gradients and optimiser stay in fp32).
    Attributes:
        denoiser: the raw weights; ema: their average, same names; updates: optimiser steps taken.
    """

    def __init__(self, denoiser: torch.nn.Module, world, lr: float, precision: str) -> None:
        self.device, self.precision, self.updates = world.device, precision, 0
        self.layout = memory_layout(self.device, precision)
        self.denoiser = denoiser.to(self.device, memory_format=self.layout)
        self.parallel = denoiser
        if world.size > 1:
            ids = [self.device] if self.device.type == "cuda" else None
            # buffers are constants here; the option that says so has another name since PyTorch 2.13
            names = inspect.signature(DistributedDataParallel).parameters
            option = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
            self.parallel = DistributedDataParallel(denoiser, device_ids=ids, gradient_as_bucket_view=True, **{option: False})
        self.named = dict(self.denoiser.named_parameters())
        self.optimiser = torch.optim.Adam(self.named.values(), lr=lr, fused=True)
        self.ema = {name: p.detach().clone() for name, p in self.named.items()}

    def step(self, batch: Batch, lr: float, ema_decay: float) -> tuple[torch.Tensor, float]:
        """One optimiser step.

        Returns:
            the loss of each of this rank's images (B,), and the norm of the averaged gradient; where that is not
            finite, nothing has been changed, on any rank.
        """
        self.parallel.train()
        self.optimiser.zero_grad(set_to_none=True)
        losses = self.losses(self.parallel, batch)
        losses.mean().backward()
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in self.named.values() if p.grad is not None]))
        if not norm < float("inf"):
            return losses.detach(), norm
        self.optimiser.param_groups[0]["lr"] = lr
        self.optimiser.step()
        decay = min(ema_decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.ema.values()), [p.detach() for p in self.named.values()], 1 - decay)
        self.updates += 1
        return losses.detach(), norm

    def losses(self, denoise, batch: Batch) -> torch.Tensor:
        """Denoising loss of each image (B,), in this engine's precision."""
        sigma = self.denoiser.noise_levels(batch.u)
        target, condition, z = (x.contiguous(memory_format=self.layout) for x in (batch.target, batch.condition, batch.z))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return denoising_loss(denoise, target, condition, sigma, z, self.denoiser.weight(sigma))

    def averaged(self) -> torch.nn.Module:
        """The denoiser with the averaged weights in place; `restore` brings the raw ones back."""
        self.raw = {name: p.detach().clone() for name, p in self.named.items()}
        self._put(self.ema)
        self.denoiser.eval()
        return self.denoiser

    def restore(self) -> None:
        """Undo `averaged`."""
        self._put(self.raw)
        del self.raw

    def _put(self, weights: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, p in self.named.items():
                p.copy_(weights[name])

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything a checkpoint must keep: weights, their average, both moments of Adam."""
        kept = {f"weights/{n}": p.detach() for n, p in self.named.items()} | {f"ema/{n}": t for n, t in self.ema.items()}
        for name, p in self.named.items():
            for moment in ("exp_avg", "exp_avg_sq"):
                if p in self.optimiser.state:
                    kept[f"{moment}/{name}"] = self.optimiser.state[p][moment]
        return kept

    @torch.no_grad()
    def load(self, tensors: dict[str, torch.Tensor], updates: int) -> None:
        """Take up what `tensors` gave.

        Raises:
            UserError: the tensors are those of another network.
        """
        try:
            self._put({n: tensors[f"weights/{n}"] for n in self.named})
            self.ema = {n: torch.empty_like(p).copy_(tensors[f"ema/{n}"]) for n, p in self.named.items()}
            self.updates = updates
            if updates:
                for name, p in self.named.items():
                    # in the layout of the parameter: the fused optimiser walks their memory side by side
                    state = {m: torch.empty_like(p).copy_(tensors[f"{m}/{name}"]) for m in ("exp_avg", "exp_avg_sq")}
                    self.optimiser.state[p] = {"step": torch.tensor(float(updates), device=self.device), **state}
        except (KeyError, RuntimeError) as error:
            text = " ".join(str(error).split())[:120]
            raise UserError(f"the checkpoint is of another network ({text})", "checkpoints", "train --overwrite") from None
