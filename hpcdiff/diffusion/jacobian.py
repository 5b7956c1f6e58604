"""The Jacobian of a denoiser, seen through products with vectors: nothing of its size is ever stored."""

from collections.abc import Callable

import torch
from torch import Tensor


def linearise(denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """D(x, sigma) and the function v -> (dD / dx)^T v, by reverse differentiation; it may be called any number of times.

    x, v (B, C, H, W), sigma (B,) -> (B, C, H, W) each, without a graph. For the exact posterior mean the Jacobian is
    symmetric, and sigma^2 times it is the covariance of x_0 given x (Tweedie's formula of second order).
    Works inside `torch.no_grad` and `torch.inference_mode`. The rows of a batch must not depend on one another.
    Raises ValueError if D keeps no graph, because `denoise` switches gradients off.
    """
    # Tensors made in inference mode cannot enter a graph, their copies made outside of it can.
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        denoised = denoise(x, sigma.detach().clone()).to(x.dtype)
    if not denoised.requires_grad:
        raise ValueError("the denoiser's output does not depend on x through autograd: call it with gradients enabled, without detach()")

    def pull(v: Tensor) -> Tensor:
        return torch.autograd.grad(denoised, x, v, retain_graph=True)[0]

    return denoised.detach(), pull
