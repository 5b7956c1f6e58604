"""Heun's method on the probability-flow ODE, and with churn (Karras et al. 2022, Algorithms 1 and 2)."""

import math

from torch import Tensor

from hpcdiff.diffusion.sde import VESDE


def heun(x: Tensor, denoise, noise, sde: VESDE, steps: int, on_step, rho: float = 7.0, churn: float = 0.0) -> Tensor:
    """dx / d sigma = (x - D) / sigma on levels uniform in sigma^(1 / rho), then to 0; 2 steps - 1 evaluations.

    The step from sigma_min to 0 is Euler's, which is one denoising. With `churn` (S_churn of the paper) each step first adds
    noise up to the level (1 + min(churn / steps, sqrt(2) - 1)) sigma, but never beyond sigma_max, which the network has
    not seen; without it `noise` is not used.
    """
    levels = sde.levels(steps, rho)
    growth = 1 + min(churn / steps, math.sqrt(2) - 1)
    for i, (sigma, lower) in enumerate(zip(levels, levels[1:], strict=False)):
        raised = min(growth * sigma, sde.sigma_max)
        if raised > sigma:
            x = x + math.sqrt(raised**2 - sigma**2) * noise(i + 1)
        slope = (x - denoise(x, raised)) / raised
        ahead = x + (lower - raised) * slope
        slope_ahead = (ahead - denoise(ahead, lower)) / lower
        x = x + 0.5 * (lower - raised) * (slope + slope_ahead)
        on_step(i)
    return denoise(x, levels[-1])
