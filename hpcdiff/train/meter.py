"""What a training interval was like: the loss at each noise level, speed and waiting. Sums stay on the device until they are read."""

from __future__ import annotations

import contextlib
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator

import torch

from hpcdiff.train.engines.base import average_step
from hpcdiff.train.flops import synchronise
from hpcdiff.world import World

BINS = 8
"""Equal parts of the noise quantile u in (0, 1)."""


class Meter:
    """Sums over the steps since the last log line, on this rank; `numbers` joins the ranks.

    The first step of a process is left out of the rates: it compiles, allocates and fills the queues.

    Args:
        world: the ranks.
        device: where losses and quantiles are.
        step_flops: model FLOP of one image's training step; 0 if not known.
        by_noise: whether losses are told apart by their noise quantile.
        peak: FLOP/s that this rank's device can do (`flops.peak_flops`); 0 if not known.
        measure: gives the peak anew: asked where training beats it, since others were using the device when it was measured.
    """

    def __init__(
        self,
        world: World,
        device: torch.device,
        step_flops: float = 0.0,
        peak: float = 0.0,
        by_noise: bool = True,
        measure: Callable[[], float] | None = None,
    ) -> None:
        self.by_noise, self.measure = by_noise, measure
        self.world, self.device, self.step_flops, self.peak = world, device, float(step_flops), float(peak)
        self.sums = torch.zeros(2, BINS, dtype=torch.float64, device=device)  # of finite losses, and their number
        self.number = torch.arange(BINS, device=device)
        self.started, self.checkpoint_s = False, None
        self._restart_clock()

    def _restart_clock(self) -> None:
        self.maps, self.waited_s, self.paused_s = 0, 0.0, 0.0
        self.since = time.perf_counter()

    @torch.no_grad()
    def step(self, losses: torch.Tensor, u: torch.Tensor) -> None:
        """Add one step's losses (B,) at noise quantiles u (B,); the host does not wait for the device.

        A loss that is not finite counts as an image, and in no mean.
        """
        losses = losses.detach().double()
        good = losses.isfinite()
        # one row a bin: a sum of products, since adding by index takes another order each time on a GPU
        chosen = ((u * BINS).long().clamp_(0, BINS - 1) == self.number[:, None]) & good  # (BINS, B)
        self.sums[0] += torch.where(chosen, losses, 0.0).sum(1)
        self.sums[1] += chosen.sum(1)
        self.maps += len(losses)
        if not self.started:
            self.started = True
            synchronise(self.device)
            self._restart_clock()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The host waits for data. A GPU may still have work queued meanwhile, so this bounds its own waiting from above."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.waited_s += time.perf_counter() - began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Validation, pictures or saving: time that does not count into the rates."""
        synchronise(self.device)  # steps still queued are training's
        began = time.perf_counter()
        try:
            yield
        finally:
            synchronise(self.device)
            self.paused_s += time.perf_counter() - began

    def saved(self, seconds: float) -> None:
        """A checkpoint held training up for so long."""
        self.checkpoint_s = max(seconds, self.checkpoint_s or 0.0)

    def numbers(self, lr: float, ema: float, counters: dict[str, float]) -> dict[str, float]:
        """The interval's numbers, the same on every rank, and a new interval begins. Collective; one small gathering.

        Args:
            lr: learning rate. ema: decay after its warm-up.
            counters: of the engine: `updates`, `skipped`, `skipped_in_a_row`, `gradient_norm`.
        Returns:
            loss, loss_0 ... loss_7 (bins of the noise quantile), lr, gradient_norm, ema, updates, skipped, skipped_in_a_row;
            maps_per_s, maps_per_s_per_gpu, tflops (of all ranks), mfu_percent, data_percent; memory_gb (largest of the ranks;
            on a CPU the process's own) and on a GPU memory_reserved_gb; checkpoint_s. What was not measured is left out.
        """
        sums, counts = self.sums.tolist()  # waits for the device, so the clock is read after it
        elapsed = time.perf_counter() - self.since - self.paused_s
        if self.measure and self.maps * self.step_flops > self.peak * elapsed:
            self.peak = max(self.peak, self.measure())
        own = {
            "seconds": elapsed,
            "waited_s": self.waited_s,
            "maps": self.maps,
            "peak": self.peak,
            "memory": memory_gb(self.device),
            "checkpoint_s": self.checkpoint_s,
        }
        ranks = self.world.allgather({"sums": sums, "counts": counts, **own})
        sums, counts = ([math.fsum(column) for column in zip(*(r[name] for r in ranks), strict=True)] for name in ("sums", "counts"))
        out = {"loss": sum(sums) / sum(counts)} if any(counts) else {}
        out |= {f"loss_{k}": sums[k] / counts[k] for k in range(BINS) if counts[k] and self.by_noise}
        out |= {"lr": lr, "ema": 1 - float(average_step(torch.tensor(counters["updates"]).double(), ema)), **counters}

        maps, peak = (math.fsum(r[name] for r in ranks) for name in ("maps", "peak"))
        seconds = max(max(r["seconds"] for r in ranks), 1e-9)
        if maps:
            rate = maps / seconds
            out |= {"maps_per_s": rate, "maps_per_s_per_gpu": rate / self.world.size}
            if self.step_flops:
                out["tflops"] = rate * self.step_flops / 1e12
                if peak:
                    out["mfu_percent"] = 100 * rate * self.step_flops / peak
            out["data_percent"] = 100 * max(r["waited_s"] for r in ranks) / seconds  # a rank that waits holds up all
        out |= {name: max(r["memory"][name] for r in ranks) for name in own["memory"]}
        if any(r["checkpoint_s"] is not None for r in ranks):
            out["checkpoint_s"] = max(r["checkpoint_s"] or 0.0 for r in ranks)
        self.sums.zero_()
        self.checkpoint_s = None
        self._restart_clock()
        return out


def memory_gb(device: torch.device) -> dict[str, float]:
    """Peak memory since the process began, 1e9 bytes: on a GPU of tensors, and reserved for them; on a CPU resident in the process."""
    if device.type == "cuda":
        reserved = torch.cuda.max_memory_reserved(device) / 1e9
        return {"memory_gb": torch.cuda.max_memory_allocated(device) / 1e9, "memory_reserved_gb": reserved}
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes
    return {"memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}


def noise_edges(denoiser: torch.nn.Module) -> list[float]:
    """Noise levels at the edges of the bins of u, from lowest to highest (BINS + 1,); 0 and infinity where they are unbounded."""
    u = torch.linspace(0, 1, BINS + 1)
    levels = denoiser.noise_levels(u.to(next(denoiser.parameters()).device)).tolist()
    return [0.0 if level < 1e-30 else level for level in levels]
