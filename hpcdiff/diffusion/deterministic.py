"""Heun's method on the probability-flow ODE (Karras et al. 2022, Algorithm 1)."""

from torch import Tensor

from hpcdiff.diffusion.sde import VESDE


def heun(x: Tensor, denoise, noise, sde: VESDE, steps: int, on_step, rho: float = 7.0) -> Tensor:
    """dx / d sigma = (x - D) / sigma on levels uniform in sigma^(1 / rho), then to 0; 2 steps - 1 evaluations.

    The step from sigma_min to 0 is Euler's, which is one denoising. `noise` is not used.
    """
    levels = sde.levels(steps, rho)
    for i, (sigma, lower) in enumerate(zip(levels, levels[1:], strict=False)):
        slope = (x - denoise(x, sigma)) / sigma
        ahead = x + (lower - sigma) * slope
        slope_ahead = (ahead - denoise(ahead, lower)) / lower
        x = x + 0.5 * (lower - sigma) * (slope + slope_ahead)
        on_step(i)
    return denoise(x, levels[-1])
