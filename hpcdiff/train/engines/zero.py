"""The engine `deepspeed`: ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054) shares optimiser, gradients and weights out over the ranks.

DeepSpeed joins the process group of `world`, so that torchrun and srun start it as they start `ddp`; its launcher is not used. Nothing
of its checkpoints is used either, which unpickle: `pieces` reads its partitions.

Arithmetic is that of `ddp`: weights in fp32, our own autocast for bf16, Adam, one batch a step. DeepSpeed's bf16 mode, which keeps
a second copy of the weights in bf16, is not used. Memory a rank on W ranks, bytes a parameter (weights, gradient, moments, average
and, at stages 1 and 2, Adam's own copy of the weights):

    stage 0   20 as `ddp`    stage 1   8 + 16 / W    stage 2   4 + 20 / W    stage 3   4 + 24 / W

and besides, at stages 1 and 2 a buffer of 4 bytes for each of at most `BUCKET` parameters, at stage 3 the small parameters, and while
`averaged` lasts 4 bytes for every parameter. At W = 1 stages 1 and 2 need more than `ddp`. (Stage 3's 4 are measured: DeepSpeed keeps what
it has gathered for the backward pass.)

Host syncs: stages 0 to 2 have none of DeepSpeed's (it neither checks nor clips gradients here). Stage 3 has its own: at the end of
the backward pass, and for the gradient's norm. It has hooks in every module, and so is not compiled.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from hpcdiff.errors import UserError
from hpcdiff.sections import Train
from hpcdiff.train.engines.base import Engine, Slot
from hpcdiff.train.pieces import Piece

BUCKET = 50_000_000
"""Most gradient elements that are sent at once."""
PERSISTENT = 100_000
"""Stage 3: parameters with fewer elements stay whole between uses."""


def load_deepspeed(device: torch.device):
    """Import DeepSpeed so that it compiles nothing and prints errors alone.

    Raises:
        UserError: it is not installed.
    """
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("DS_BUILD_OPS", "0")
    try:
        import deepspeed
    except ImportError as error:
        how = "pip install 'hpcdiff[deepspeed]', or take train.engine=ddp"
        raise UserError(f"DeepSpeed cannot be imported ({error})", "train.engine deepspeed", how) from None
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)  # calls of its own
    # it would compile shared-memory collectives for 2 minutes, and wait for ever on the lock that a killed run has left
    if "deepspeed_shm_comm" in deepspeed.ops.__compatible_ops__:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def join_process_group(device: torch.device) -> None:
    """DeepSpeed wants a process group even of one process (`world` makes one only for several) and this device's number in LOCAL_RANK."""
    if device.type == "cuda":
        os.environ["LOCAL_RANK"] = str(device.index)  # Slurm's is another where each task sees one GPU alone
    os.environ.setdefault("LOCAL_RANK", "0")
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group())


class ZeroEngine(Engine):
    """DeepSpeed's ZeRO at `train.zero_stage` 0 to 3."""

    name = "deepspeed"
    weights_follow = False  # DeepSpeed sends and cuts weights as they lie in memory

    def __init__(self, train: Train, denoiser: torch.nn.Module, world) -> None:
        self.stage = train.zero_stage
        if self.stage == 3 and train.compile:
            raise UserError("ZeRO stage 3 cannot be compiled", "train.compile", "leave it null, or take train.zero_stage=2")
        self.compilable = self.stage < 3
        deepspeed = load_deepspeed(world.device)
        super().__init__(train, denoiser, world)
        join_process_group(self.device)
        shapes = {name: tuple(p.shape) for name, p in self.named.items()}
        zero = {"stage": self.stage, "memory_efficient_linear": False, "param_persistence_threshold": PERSISTENT}
        zero |= dict.fromkeys(("reduce_bucket_size", "allgather_bucket_size"), self._bucket())
        if self.stage in (1, 2):
            zero["compute_grad_norm"] = False  # ours is computed without a host sync
        config = {
            "train_micro_batch_size_per_gpu": 1,  # of no consequence: losses are means
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 0.0,  # its default is 1
            "zero_optimization": zero,
            "timers": {"throughput": {"enabled": False}},
            "steps_per_print": None,
        }
        self.parallel, self.zero, _, _ = deepspeed.initialize(
            model=self.inner, optimizer=self.adam, config=config, dist_init_required=False
        )
        if self.stage == 0:
            self.hold_whole()
        else:
            self._hold_parts(shapes)

    def _bucket(self) -> int:
        counts = [p.numel() for p in self.named.values()]
        bucket = max(max(counts), min(sum(counts), BUCKET))
        return bucket + bucket % 2

    def _hold_parts(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Find what of each parameter lies in this rank's flat partitions; the average is shared out in the same way."""
        self.whole, self.shapes, self.slots = False, shapes, []
        if self.stage == 3:
            self.masters = list(self.zero.fp32_partitioned_groups_flat)
            index = {id(p): (i, offset) for i, group in enumerate(self.zero.fp16_groups) for p, offset in _offsets(group)}
        else:
            self.masters = list(self.zero.single_partition_of_fp32_groups)
        assert self.stage == 3 or len(self.masters) == 1
        position = 0  # in the flat sequence of all parameters, of stages 1 and 2
        for name, p in self.named.items():
            shape = shapes[name]
            total = torch.Size(shape).numel()
            if self.stage == 3:
                i, offset = index[id(p)]
                start = min(total, p.partition_numel() * self.rank)
                end = min(total, start + p.partition_numel())
            else:
                i, size = 0, self.masters[0].numel()
                start, end = (min(max(b - position, 0), total) for b in (size * self.rank, size * (self.rank + 1)))
                offset = position + start - size * self.rank if end > start else 0
                position += total
            self.slots.append(Slot(name, shape, i, offset, end - start, start))
        self.ema = [torch.zeros_like(m, requires_grad=False) for m in self.masters]
        self._empty_average()
        self.begin()

    def backward(self, loss: Tensor) -> None:
        self.parallel.backward(loss)

    @torch.no_grad()
    def gradient_norm(self) -> Tensor:
        if self.whole:
            return super().gradient_norm()
        norm = torch.nn.utils.get_total_norm([g for group in self.zero.averaged_gradients.values() for g in group])
        square = norm.double() ** 2
        dist.all_reduce(square)
        return square.sqrt().float()

    def update(self, finite: Tensor) -> Tensor:
        self.parallel.step()
        # stage 3 looks for itself, with a host sync; by its own norm it may find a gradient too large that is just not so by ours
        return finite & (not self.zero.overflow) if self.stage == 3 else finite

    @contextlib.contextmanager
    def averaged(self) -> Iterator[torch.nn.Module]:
        """A denoiser with the averaged weights, gathered from all ranks, for as long as the context lasts. Collective."""
        if self.whole:
            with super().averaged() as average:
                yield average
            return
        gathered = [torch.empty(self.size, e.numel(), device=self.device) for e in self.ema]
        for parts, e in zip(gathered, self.ema, strict=True):
            dist.all_gather(list(parts), e)
        position = 0
        for s, p in zip(self.slots, self.average.parameters(), strict=True):
            total = torch.Size(s.shape).numel()
            if self.stage == 3:
                width = self.named[s.name].partition_numel()
                flat = gathered[s.index][:, s.offset : s.offset + width].reshape(-1)[:total]
            else:
                flat = gathered[0].view(-1)[position : position + total]
                position += total
            p.data = flat.view(s.shape)
        try:
            yield self.average.eval()
        finally:
            self._empty_average()

    def _empty_average(self) -> None:
        for p in self.average.parameters():
            p.data = torch.empty(0, device=self.device)

    @torch.no_grad()
    def take(self, pieces: dict[str, Piece], updates: int, skipped: int) -> None:
        super().take(pieces, updates, skipped)
        if self.stage in (1, 2):
            self.zero.update_lp_params()  # the model's weights from the partitions
        elif self.stage == 3:
            self.zero.parameter_offload.partition_all_parameters()
            for i in range(len(self.masters)):
                self.zero._reassign_or_swap_out_partitioned_parameters(i)
            if persistent := self.zero.persistent_parameters:
                persistent[0].all_gather(persistent)


def _offsets(group: list[torch.nn.Parameter]) -> Iterator[tuple[torch.nn.Parameter, int]]:
    """Where each parameter's part begins in the flat partition of its group, at stage 3."""
    offset = 0
    for p in group:
        yield p, offset
        offset += p.partition_numel()
