"""The arithmetic of a training step, and the rate at which a device can do it: the two halves of the model FLOP utilisation.

One multiplication with its addition counts as 2 FLOP. Matrix multiplications and convolutions count; norms, activations and
the optimiser don't. What is counted is the model's work, whatever a kernel does on top of it (Chowdhery et al. 2022, appendix B).
"""

from __future__ import annotations

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16}
STEP = 3
"""A training step over the forward pass: the backward pass multiplies twice, once for the inputs and once for the weights."""


def forward_flops(denoiser: torch.nn.Module, channels: int, npix: int, n_condition: int) -> int:
    """FLOP of one forward pass for one image, counted from its operations without doing them; a training step has `STEP` times as many.

    The paper's network has 400.9e9 at 2 + 2 channels of 128 x 128, of which 0.5e9 are of a costlier resampling than ours.

    Args:
        denoiser: D(x, sigma, condition), whole: before an engine deals its weights out over the ranks.
        channels, n_condition: of the outputs and of the condition. npix: pixels a side.
    """
    tensors = (*denoiser.named_parameters(), *denoiser.named_buffers())
    shapes = {name: torch.empty_like(t, device="meta") for name, t in tensors}
    x, condition = (torch.empty(1, c, npix, npix, device="meta") for c in (channels, n_condition))
    arguments = (x, torch.empty(1, device="meta"), condition if n_condition else None)
    training = denoiser.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        torch.func.functional_call(denoiser.eval(), shapes, arguments)
    denoiser.train(training)
    return counter.get_total_flops()


def peak_flops(device: torch.device, precision: str) -> float:
    """FLOP/s of large matrix multiplications on this device, well under a second.

    The best of a few: what the device can do, which no network reaches. On a GPU in fp32 it uses TF32 where convolutions may.

    Args:
        device: that of this rank; on a CPU with the threads of this process. precision: `fp32` or `bf16`.
    """
    matmul = torch.backends.cuda.matmul
    switch = device.type == "cuda" and precision == "fp32" and hasattr(matmul, "fp32_precision")
    before = matmul.fp32_precision if switch else None
    try:
        if switch:
            matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision
        return _measure(device, DTYPE[precision])
    finally:
        if switch:
            matmul.fp32_precision = before


def _measure(device: torch.device, dtype: torch.dtype) -> float:
    largest, budget_s = (8192, 0.3) if device.type == "cuda" else (1024, 0.2)
    n, rate = 256, 0.0
    while True:  # twice as large each time, as long as the next size fits into the budget: devices differ by a factor of 1e5
        a, b = (torch.randn(n, n, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
        out = torch.mm(a, b)  # the first call chooses a kernel and is not timed
        rate = max(rate, _rate(a, b, out, 1))
        seconds = 2 * n**3 / rate
        if n == largest or 8 * seconds > budget_s / 4:
            break
        n *= 2
    for _ in range(4):
        rate = max(rate, _rate(a, b, out, max(1, int(budget_s / 4 / seconds))))
    return rate


def _rate(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, repeats: int) -> float:
    synchronise(a.device)
    began = time.perf_counter()
    for _ in range(repeats):
        torch.mm(a, b, out=out)
    synchronise(a.device)
    return repeats * 2 * len(a) ** 3 / max(time.perf_counter() - began, 1e-9)


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done all that was asked of it; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
