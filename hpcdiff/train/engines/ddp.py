"""The engine `ddp`: a copy of everything on each rank; gradients are averaged while they are computed."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from hpcdiff.sections import Train
from hpcdiff.train.data import Batch
from hpcdiff.train.engines.base import Engine


class DDPEngine(Engine):
    """DistributedDataParallel (Li et al. 2020) and Adam; one rank alone needs no process group.

    Memory a rank, bytes a parameter: weights 4, gradient 4, moments 8, average 4. In a compiled network the graph is cut where
    gradients are sent, so that sending overlaps with the rest of the backward pass.
    """

    name = "ddp"

    def __init__(self, train: Train, denoiser: torch.nn.Module, world) -> None:
        super().__init__(train, denoiser, world)
        if self.size > 1:
            ids = [self.device] if self.device.type == "cuda" else None
            # buffers are constants here; the option that says so has another name since PyTorch 2.13
            names = inspect.signature(DistributedDataParallel).parameters
            option = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
            self.parallel = DistributedDataParallel(self.inner, device_ids=ids, gradient_as_bucket_view=True, **{option: False})
        self.hold_whole()
        self.laid_out = self.size <= 2 or self.device.type != "cpu"

    def step(self, batch: Batch, lr: float, ema: float) -> Tensor:
        if not self.laid_out:
            # After its first backward pass DistributedDataParallel lays its buffers out anew, and three ranks or more then sum in another
            # order: a restarted training would differ in the last bit. So that pass is one whose gradients nobody uses.
            self.denoiser.train()
            with torch.random.fork_rng(devices=[]):
                self.backward(self._losses(self.parallel, batch).mean())
            self.laid_out = True
        return super().step(batch, lr, ema)

    def backward(self, loss: Tensor) -> None:
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
