"""Draw samples by following the diffusion backwards from noise."""

from collections.abc import Callable, Sequence
from numbers import Integral

import torch
from torch import Tensor

from hpcdiff.diffusion.deterministic import heun
from hpcdiff.diffusion.dpmpp import dpmpp_2m, dpmpp_2m_sde
from hpcdiff.diffusion.noise import derive_key, normal
from hpcdiff.diffusion.sde import VESDE
from hpcdiff.diffusion.stochastic import euler_maruyama, predictor_corrector

SAMPLERS = {
    "euler_maruyama": euler_maruyama,
    "predictor_corrector": predictor_corrector,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
}


def nfe(sampler: str, steps: int) -> int:
    """Number of network evaluations for one sample with `steps` noise levels."""
    _check(sampler)
    return 2 * steps - 1 if sampler in ("heun", "predictor_corrector") else steps


@torch.no_grad()
def sample(
    denoise: Callable[[Tensor, Tensor], Tensor],
    shape: Sequence[int],
    sde: VESDE | None = None,
    sampler: str = "euler_maruyama",
    steps: int = 1000,
    seed: int | Tensor = 0,
    init: Tensor | None = None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    on_step: Callable[[int], None] | None = None,
    churn: float = 0.0,
) -> Tensor:
    """Samples (B, C, H, W) of the posterior that `denoise` is the mean of.

    denoise(x, sigma) -> E[x_0 | x at noise level sigma], x (B, C, H, W), sigma (B,).
    sde: range of the noise; VESDE() if not given.
    steps: number of noise levels; the last step lands on sigma_min and denoises once.
    seed: an int, or int64 keys (B,): the noise of row b depends on its key alone, not on the batch or the device.
    init: tensor to start from, at noise level sigma_max; None = N(0, sigma_max^2).
    device, dtype: of the samples, where neither `init` nor the keys say it.
    on_step: called with 0, 1, ... after each step; may raise to stop.
    churn: of `heun`, how much fresh noise its steps add in all (S_churn of Karras et al. 2022); 0 = none, the plain ODE.
    Raises ValueError for an unknown sampler, churn that it does not have, and for shapes that do not agree.
    """
    _check(sampler)
    if churn < 0 or (churn and sampler != "heun"):
        raise ValueError(f"churn is for heun and not negative, not {churn} for {sampler}")
    sde = sde or VESDE()
    shape = tuple(shape)
    if len(shape) != 4:
        raise ValueError(f"shape must be (B, C, H, W), not {shape}")
    if init is not None:
        if tuple(init.shape) != shape:
            raise ValueError(f"init has shape {tuple(init.shape)}, not {shape}")
        device, dtype = init.device, init.dtype
    elif device is None:
        device = seed.device if isinstance(seed, Tensor) else "cpu"
    keys = derive_key(seed, torch.arange(shape[0])) if isinstance(seed, Integral) else torch.as_tensor(seed)
    if tuple(keys.shape) != shape[:1]:
        raise ValueError(f"seed must be an int or keys of shape ({shape[0]},), not {tuple(keys.shape)}")
    keys = keys.to(device)

    def noise(counter: int) -> Tensor:
        return normal(keys, counter, shape[1:]).to(dtype)

    def denoised(x: Tensor, sigma: float) -> Tensor:
        return denoise(x, torch.full(shape[:1], sigma, device=device, dtype=dtype)).to(dtype)

    x = sde.sigma_max * noise(0) if init is None else init
    options = {"churn": churn} if churn else {}
    return SAMPLERS[sampler](x, denoised, noise, sde, steps, on_step or (lambda step: None), **options)


def _check(sampler: str) -> None:
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
