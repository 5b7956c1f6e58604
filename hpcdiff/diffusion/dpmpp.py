"""DPM-Solver++(2M) and its SDE form (Lu et al. 2022, arXiv:2211.01095) for the VE process, on a log-sigma grid.

h is the step in lambda = -ln sigma.
"""

import math

from torch import Tensor

from hpcdiff.diffusion.sde import VESDE


def dpmpp_2m(x: Tensor, denoise, noise, sde: VESDE, steps: int, on_step) -> Tensor:
    """Second-order multistep solver of the probability-flow ODE; `steps` evaluations. `noise` is not used."""
    return _multistep(x, denoise, None, sde, steps, on_step)


def dpmpp_2m_sde(x: Tensor, denoise, noise, sde: VESDE, steps: int, on_step) -> Tensor:
    """Second-order multistep solver of the reverse SDE (midpoint form); `steps` evaluations."""
    return _multistep(x, denoise, noise, sde, steps, on_step)


def _multistep(x: Tensor, denoise, noise, sde: VESDE, steps: int, on_step) -> Tensor:
    """ODE: x' = a x + (1 - a) D', a = e^-h; SDE: the same with a = e^-2h, + sigma' sqrt(1 - a) z; then one denoising.

    D' = D + (D - D_last) / 2 is the denoiser extrapolated to the middle of the step, as all steps are equal in lambda.
    """
    levels = sde.levels(steps)
    h = sde.log_range / (steps - 1)
    keep = math.exp(-h) if noise is None else math.exp(-2 * h)
    last = None
    for i, (sigma, lower) in enumerate(zip(levels, levels[1:], strict=False)):
        denoised = denoise(x, sigma)
        middle = denoised if last is None else denoised.lerp(last, -0.5)
        x = middle.lerp(x, keep)
        if noise is not None:
            x = x + lower * math.sqrt(1 - keep) * noise(i + 1)
        last = denoised
        on_step(i)
    return denoise(x, levels[-1])
