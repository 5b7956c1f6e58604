"""One batch of posterior samples: names of its noise, start, the network's call, plain or compiled and captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hpcdiff import diffusion
from hpcdiff.denoiser import memory_layout
from hpcdiff.network import compiled

if TYPE_CHECKING:
    from hpcdiff.model import Model

START_COUNTER = 2**31 - 1
"""Counter of the starting noise of `init: matched`, beyond every sampler's steps."""
SAMPLING_STREAM = 4
"""Separates sampling noise from every other use of the seed."""
AHEAD = 2
"""Steps that the host may be ahead of a GPU: enough to keep it busy, and a stop is obeyed soon."""


def sample_keys(seed: int, views: np.ndarray, samples: int | np.ndarray) -> Tensor:
    """One key for each (seed, view, sample number).

    Args:
        seed: of the run. views: int64 (n,).
        samples: how many each view has, numbered from 0; or int64 (n,), the number of the one sample that each row is.
    Returns:
        int64 (n, samples), or (n,).
    """
    views = torch.as_tensor(np.asarray(views, np.int64))
    if np.ndim(samples):
        return diffusion.derive_key(seed, SAMPLING_STREAM, views, torch.as_tensor(np.asarray(samples, np.int64)))
    return diffusion.derive_key(seed, SAMPLING_STREAM, views[:, None], torch.arange(samples)[None, :])


def start_of(model: Model, init: str, keys: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """Where the samples of one batch start, (B, C, npix, npix) on the keys' device; None = N(0, sigma_max^2), the samplers' own.

    Raises:
        ValueError: an unknown `init`.
    """
    if init not in ("prior", "matched"):
        raise ValueError(f"unknown init {init!r}: prior or matched")
    if init == "prior":
        return None
    std = torch.sqrt(model.statistics["std"] ** 2 + model.sde.sigma_max**2).to(keys.device)
    return model.statistics["mean"].to(keys.device) + std * diffusion.normal(keys, START_COUNTER, shape[1:])


def plain_call(model: Model, condition: Tensor, bf16: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """D(x, sigma) given these conditions (B, K, npix, npix) on the model's device: bf16 inside if asked, float32 outside."""
    layout = memory_layout(model.device, "bf16" if bf16 else "fp32")
    model.denoiser.to(memory_format=layout)
    condition = condition.contiguous(memory_format=layout)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            return model.denoiser(x.contiguous(memory_format=layout), sigma, condition).float()

    return denoise


class Captured:
    """The denoiser for batches of one shape, compiled as one graph; on a GPU its kernels are launched together, as a CUDA graph.

    What goes in and what comes out lies in buffers that never move, as a CUDA graph wants it; on a CPU they are the same, less the
    graph. The result is a copy, as samplers keep the last one while the next is computed.

    Args:
        model: its denoiser, device, inputs and outputs; weights that change in place are seen.
        batch: B, rows of a call. bf16: arithmetic inside the network. backend: of torch.compile.
    """

    def __init__(self, model: Model, batch: int, bf16: bool, backend: str = "inductor") -> None:
        layout, device, npix = memory_layout(model.device, "bf16" if bf16 else "fp32"), model.device, model.npix
        self.key = (id(model.denoiser), batch, bf16, str(device))

        def buffer(channels: int) -> Tensor:
            return torch.zeros(batch, channels, npix, npix, device=device).contiguous(memory_format=layout)

        with torch.inference_mode(False):  # tensors made in that mode could not be written to outside of it
            self.x, self.condition, self.out = buffer(len(model.outputs)), buffer(len(model.inputs)), buffer(len(model.outputs))
            self.sigma = torch.ones(batch, device=device)
        network = compiled(model.denoiser.to(memory_format=layout), backend)

        def launch() -> None:
            # no cached casts: a graph must make its own, as those of a caller's autocast are freed while it still reads them
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=False):
                self.out.copy_(network(self.x, self.sigma, self.condition))

        self._launch = launch
        if device.type == "cuda":
            self._launch = _graph_of(launch, device)

    def load(self, condition: Tensor) -> Captured:
        """Take the conditions of a batch (B, K, npix, npix); returns self, which is then D(x, sigma)."""
        self.condition.copy_(condition)
        return self

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x (B, C, npix, npix), sigma (B,) -> E[x0] (B, C, npix, npix) float32; the host does not wait for the device."""
        self.x.copy_(x)
        self.sigma.copy_(sigma)
        self._launch()
        return self.out.clone()


def _graph_of(launch: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The kernels of `launch` as a CUDA graph, to be replayed; what it needs is compiled and allocated before, on a side stream."""
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                launch()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # other threads (tqdm's, gloo's) may call CUDA meanwhile without spoiling the capture
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            launch()
    return graph.replay


def paced(on_step: Callable[[int], None] | None, device: torch.device) -> Callable[[int], None]:
    """`on_step`, called when the device is at most `AHEAD` steps behind; a CPU never is."""
    call = on_step or (lambda step: None)
    if device.type != "cuda":
        return call
    marks: list[torch.cuda.Event] = []

    def step(i: int) -> None:
        marks.append(torch.cuda.Event())
        marks[-1].record(torch.cuda.current_stream(device))
        if len(marks) > AHEAD:
            marks.pop(0).synchronize()
        call(i)

    return step
