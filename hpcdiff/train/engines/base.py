"""What all engines share: a step without a host sync, skipped steps, the average of the weights (EMA), and the pieces that are kept.

On a GPU the host runs ahead of the device. Whatever a step has to decide (is the gradient finite? how much does the average move?)
is therefore decided on the device, by tensors without dimensions; the host learns of it later, by `poll` and `counters`.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hpcdiff.denoiser import memory_layout
from hpcdiff.diffusion import denoising_loss
from hpcdiff.errors import UserError
from hpcdiff.network import cannot_compile, compiled
from hpcdiff.sections import Train
from hpcdiff.train.data import Batch
from hpcdiff.train.pieces import Piece, cut, room

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's running means of the gradient and of its square (Kingma & Ba 2015)."""


def average_step(updates: Tensor, ema: float) -> Tensor:
    """By what part of its distance from the weights the average moves after n `updates`: 1 - min(ema, (1 + n) / (10 + n)).

    Short-sighted at first, when weights still move far.
    """
    return (9 / (10 + updates)).clamp_min(1 - ema)


@dataclass
class Slot:
    """Where this rank's part of a parameter lies: elements `offset` to `offset + n` of tensor `index` of `Engine.masters`."""

    name: str
    shape: tuple[int, ...]  # of the whole parameter
    index: int
    offset: int
    n: int
    start: int  # number, in C order of the whole parameter, of the first of them


class Autocast(torch.nn.Module):
    """A denoiser whose arithmetic runs in bf16 where that is safe (`torch.autocast`); its weights stay in fp32.

    It stands inside the parallel wrapper, since DeepSpeed switches off what is set around it.
    """

    def __init__(self, denoiser: torch.nn.Module, device: str, enabled: bool) -> None:
        super().__init__()
        self.denoiser, self.device, self.enabled = denoiser, device, enabled

    def forward(self, x: Tensor, sigma: Tensor, condition: Tensor | None = None) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.enabled):
            return self.denoiser(x, sigma, condition)


class Engine:
    """Trains a denoiser with Adam. Here: every rank holds everything; what the ranks do together is left to the subclasses.

    Attributes:
        denoiser: the module whose weights are trained; layout: memory order of its images.
        masters: the tensors that Adam updates, fp32; here the parameters themselves.
        ema: their averages, in the same order; here the parameters of `average`, a second denoiser.
        adam: the optimiser; its state holds the moments of each of `masters`.
        uncompiled: why the network is not compiled though it should be; None if nothing is amiss.
    """

    name = ""
    compilable = True
    weights_follow = True
    """Weights lie in memory in the order of the images."""

    def __init__(self, train: Train, denoiser: torch.nn.Module, world) -> None:
        self.device, self.rank, self.size = world.device, world.rank, world.size
        self.bf16 = train.precision == "bf16"
        if self.bf16 and self.device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            name = torch.cuda.get_device_name(self.device)
            raise UserError(f"train.precision bf16 is not in the hardware of {name}", "config", "take fp32")
        self.layout = memory_layout(self.device, train.precision)
        self.denoiser = denoiser.to(self.device, memory_format=self.layout if self.weights_follow else torch.contiguous_format)
        if self.device.type == "cpu":
            for p in denoiser.parameters():  # 1x1 kernels: the strides that their gradients have, which DistributedDataParallel compares
                p.data = p.data.flatten().view(p.shape) if p.ndim == 4 and p.shape[2:].numel() == 1 else p.data
        assert all(p.requires_grad and p.dtype == torch.float32 for p in denoiser.parameters())
        shared = {id(b): b for b in denoiser.buffers()}  # buffers are constants: both denoisers have the same
        self.average = copy.deepcopy(denoiser, shared).requires_grad_(False).eval()
        compiling = self.compilable and (self.device.type == "cuda" if train.compile is None else train.compile)
        self.uncompiled = cannot_compile(self.device) if compiling else None
        # training alone is compiled: validation and pictures have other batch sizes, and each would compile anew
        network = compiled(denoiser) if compiling and not self.uncompiled else denoiser
        self.inner = Autocast(network, self.device.type, self.bf16)
        self.adam = torch.optim.Adam(denoiser.parameters(), lr=train.lr, fused=True)
        self.parallel: Callable = self.inner
        self.named = dict(denoiser.named_parameters())
        self.buffers = {k: b for k, b in denoiser.named_buffers() if k in set(denoiser.state_dict())}
        self.updates, self.skipped, self.in_a_row = (torch.zeros((), dtype=torch.int64, device=self.device) for _ in range(3))
        self.norm, self.found_inf = (torch.zeros((), device=self.device) for _ in range(2))
        self.steps, self.reports, self.staging = 0, [], {}
        if self.device.type == "cuda":
            self.reports = [(torch.zeros((), dtype=torch.int64, pin_memory=True), torch.cuda.Event()) for _ in range(2)]

    def hold_whole(self) -> None:
        """Every rank holds every tensor whole; it keeps an equal share of each in checkpoints."""
        self.masters, self.ema = list(self.named.values()), list(self.average.parameters())
        self.slots = []
        for i, (name, p) in enumerate(self.named.items()):
            begin, end = (p.numel() * k // self.size for k in (self.rank, self.rank + 1))
            self.slots.append(Slot(name, tuple(p.shape), i, begin, end - begin, begin))
        self.whole = True
        self.begin()

    @torch.no_grad()
    def begin(self) -> None:
        """Start the average at the weights and the moments at zero, once `masters` and `ema` are there."""
        for master, average in zip(self.masters, self.ema, strict=True):
            average.copy_(master)
            # in the memory order of the weight: the fused optimiser walks them side by side
            self.adam.state[master] = {"step": torch.zeros((), device=self.device)} | {m: torch.zeros_like(master) for m in MOMENTS}
        # Adam's kernel reads this on the device, and leaves everything as it is where it is 1
        self.adam.found_inf = self.found_inf

    def step(self, batch: Batch, lr: float, ema: float) -> Tensor:
        """One optimiser step, without a host sync. Collective.

        Where the norm of the averaged gradient is not finite, on any rank, nothing changes on every rank.

        Args:
            batch: this rank's images, on the device; equally many on every rank.
            lr: learning rate.
            ema: decay of the weights' average, after its warm-up.
        Returns:
            the loss of each of this rank's images (B,), on the device.
        """
        if not self.denoiser.training:
            self.denoiser.train()
        losses = self._losses(self.parallel, batch)
        self.backward(losses.mean())
        norm = self.gradient_norm()
        finite = norm.isfinite()
        self.found_inf.copy_(~finite)
        for group in self.adam.param_groups:
            group["lr"] = lr
        finite = self.update(finite)
        self._average(finite, ema)
        self._count(finite, norm)
        return losses.detach()

    def backward(self, loss: Tensor) -> None:
        """Gradients of the mean over the ranks of `loss`. Collective."""
        raise NotImplementedError

    def gradient_norm(self) -> Tensor:
        """Norm of the averaged gradient, on the device, the same on every rank. Collective."""
        return torch.nn.utils.get_total_norm([p.grad for p in self.masters if p.grad is not None])

    def update(self, finite: Tensor) -> Tensor:
        """Adam's step, unless `found_inf` is 1; returns whether it was taken."""
        self.adam.step()
        return finite

    @torch.no_grad()
    def _average(self, finite: Tensor, ema: float) -> None:
        """Move the average towards the weights, unless the step was skipped."""
        weight = average_step(self.updates, ema) * finite
        # three passes, since a lerp with a weight on the device would be one small kernel for each tensor
        distance = torch._foreach_sub(self.masters, self.ema)
        torch._foreach_mul_(distance, weight)
        torch._foreach_add_(self.ema, distance)

    def _count(self, finite: Tensor, norm: Tensor) -> None:
        self.updates += finite
        self.skipped += ~finite
        self.in_a_row.add_(1).mul_(~finite)
        self.norm.copy_(norm)
        if self.reports:
            report, event = self.reports[self.steps % 2]
            report.copy_(self.in_a_row, non_blocking=True)
            event.record()
        self.steps += 1

    def poll(self) -> int:
        """Steps skipped in a row, the same on every rank; on a GPU as it was before the latest step, so that the device goes on working."""
        if not self.reports:
            return int(self.in_a_row)
        if self.steps < 2:
            return 0
        report, event = self.reports[self.steps % 2]
        event.synchronize()
        return int(report)

    def counters(self) -> dict[str, int | float]:
        """`updates`, `skipped`, `skipped_in_a_row`, and `gradient_norm` of the latest step; waits for the device."""
        updates, skipped, in_a_row, norm = torch.stack([self.updates, self.skipped, self.in_a_row, self.norm.double()]).tolist()
        return {"updates": int(updates), "skipped": int(skipped), "skipped_in_a_row": int(in_a_row), "gradient_norm": norm}

    def losses(self, denoise: Callable, batch: Batch) -> Tensor:
        """Denoising loss (or that of the regression) of each image (B,), in this engine's precision."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return self._losses(denoise, batch)

    def _losses(self, denoise: Callable, batch: Batch) -> Tensor:
        sigma = self.denoiser.noise_levels(batch.u)
        target, condition, z = (x.contiguous(memory_format=self.layout) for x in (batch.target, batch.condition, batch.z))
        return denoising_loss(denoise, target, condition, sigma, z, self.denoiser.weight(sigma))

    @contextlib.contextmanager
    def averaged(self) -> Iterator[torch.nn.Module]:
        """A denoiser with the averaged weights, not compiled, for as long as the context lasts. Collective."""
        yield self.average.eval()

    def _kept(self) -> dict[str, list[Tensor]]:
        moments = {m: [self.adam.state[master][m] for master in self.masters] for m in MOMENTS}
        return {"weights": self.masters, "ema": self.ema, **moments}

    def pieces(self) -> dict[str, Piece]:
        """Copies of this rank's share of all that a checkpoint keeps: weights, their average, both moments of Adam; buffers.

        On a GPU they lie in memory that the next call overwrites: the checkpoint before must be whole by then.
        """
        out = {}
        for kind, tensors in self._kept().items():
            for s in self.slots:
                data = tensors[s.index].detach().reshape(-1)[s.offset : s.offset + s.n]
                out[f"{kind}/{s.name}"] = Piece(self._copied(f"{kind}/{s.name}", data), s.start, s.shape)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return out | {f"buffers/{name}": cut(b, self.rank, self.size) for name, b in self.buffers.items()}

    def _copied(self, name: str, data: Tensor) -> Tensor:
        """A copy on the CPU; from a GPU into pinned memory that is kept for the next time, without waiting for it."""
        if self.device.type != "cuda":
            return data.to("cpu", copy=True)
        if name not in self.staging:
            self.staging[name] = torch.empty(data.shape, dtype=data.dtype, pin_memory=True)
        return self.staging[name].copy_(data, non_blocking=True)

    def wanted(self) -> dict[str, Piece]:
        """Room for what this rank needs of a checkpoint, to be filled."""
        out = {}
        for kind in self._kept():
            for s in self.slots:
                out[f"{kind}/{s.name}"] = room(s.shape) if self.whole else Piece(torch.empty(s.n), s.start, s.shape)
        return out | {f"buffers/{name}": room(tuple(b.shape), b.dtype) for name, b in self.buffers.items()}

    @torch.no_grad()
    def take(self, pieces: dict[str, Piece], updates: int, skipped: int) -> None:
        """Go on from what `wanted` gave, filled, after so many steps taken and skipped. Collective."""
        for kind, tensors in self._kept().items():
            for s in self.slots:
                data, tensor = pieces[f"{kind}/{s.name}"].data, tensors[s.index]
                if self.whole:
                    tensor.copy_(data.view(s.shape))
                else:
                    tensor[s.offset : s.offset + s.n].copy_(data)
        for name, b in self.buffers.items():
            b.copy_(pieces[f"buffers/{name}"].data.view(b.shape))
        for master in self.masters:
            self.adam.state[master]["step"].fill_(updates)
        self.updates.fill_(updates)
        self.skipped.fill_(skipped)
        self.in_a_row.zero_()
        self.steps = 0
