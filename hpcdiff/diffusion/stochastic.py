"""Samplers that follow the reverse SDE of Song et al. 2021, dx = -g^2 score dt + g dw, on a grid uniform in t."""

import math

from torch import Tensor

from hpcdiff.diffusion.sde import VESDE


def euler_maruyama(x: Tensor, denoise, noise, sde: VESDE, steps: int, on_step) -> Tensor:
    """Euler-Maruyama from sigma_max to sigma_min, then one denoising; `steps` evaluations.

    With score = (D - x) / sigma^2 a step is x + 2 L dt (D - x) + sigma sqrt(2 L dt) z, L = ln(sigma_max / sigma_min).
    """
    levels = sde.levels(steps)
    rate = 2 * sde.log_range / (steps - 1)  # g^2 dt / sigma^2
    for i, sigma in enumerate(levels[:-1]):
        x = x.lerp(denoise(x, sigma), rate) + sigma * math.sqrt(rate) * noise(i + 1)
        on_step(i)
    return denoise(x, levels[-1])


def predictor_corrector(x: Tensor, denoise, noise, sde: VESDE, steps: int, on_step, snr: float = 0.16) -> Tensor:
    """Reverse-diffusion predictor and one Langevin correction a level, then one denoising; 2 steps - 1 evaluations.

    The Langevin step is eps = 2 (snr |z| / |score|)^2, for each image by itself (Song et al. 2021, Algorithm 4).
    """
    levels = sde.levels(steps)
    for i, (sigma, lower) in enumerate(zip(levels, levels[1:], strict=False)):
        gained = sigma**2 - lower**2
        x = x.lerp(denoise(x, sigma), gained / sigma**2) + math.sqrt(gained) * noise(2 * i + 1)
        score = (denoise(x, lower) - x) / lower**2
        z = noise(2 * i + 2)
        ratio = z.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1)
        eps = (2 * (snr * ratio) ** 2)[:, None, None, None]
        x = x + eps * score + (2 * eps).sqrt() * z
        on_step(i)
    return denoise(x, levels[-1])
