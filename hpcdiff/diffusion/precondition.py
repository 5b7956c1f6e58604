"""Denoisers: a network wrapped so that it returns the posterior mean E[x_0 | x, condition] at any noise level.

Each also knows its own training: the noise levels to train on and the weight of the squared error at each.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hpcdiff.diffusion.sde import VESDE


class VEDenoiser(nn.Module):
    """D(x, sigma) = x + sigma f(x, t), for a network f that learns sigma times the score (Song et al. 2021).

    The network sees x as it is and t in [0, 1]; score = f / sigma. The weight 1 / sigma^2 makes the squared error of
    the denoiser || z + f ||^2.
    """

    def __init__(self, network: nn.Module, sigma_min: float, sigma_max: float) -> None:
        super().__init__()
        self.network = network
        self.sde = VESDE(sigma_min, sigma_max)

    def forward(self, x: Tensor, sigma: Tensor, condition: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), sigma (B,), condition (B, K, H, W) -> E[x_0 | x, condition] (B, C, H, W)."""
        f = self.network(x, self.sde.time(sigma), condition)
        return x + _image(sigma) * f

    def weight(self, sigma: Tensor) -> Tensor:
        """Weight of the squared error, sigma (B,) -> (B, 1, 1, 1)."""
        return _image(sigma) ** -2

    def noise_levels(self, u: Tensor) -> Tensor:
        """Noise levels for uniform numbers u (B,) in (0, 1): uniform in ln sigma; (B,)."""
        return self.sde.sigma(u)


class EDMDenoiser(nn.Module):
    """D(x, sigma) = m + c_skip (x - m) + c_out F(c_in (x - m), c_noise): preconditioning of Karras et al. 2022, Table 1.

    It works on what deviates from the mean m of the data, a whole image where the data have one (clusters are centred),
    so that the network need not learn it, and sigma_data is the deviation about it.

    c_skip = s^2 / (sigma^2 + s^2), c_out = sigma s / sqrt(sigma^2 + s^2), c_in = 1 / sqrt(sigma^2 + s^2), with one
    standard deviation s = sigma_data of the data for each channel.

    c_noise = ln(sigma) / 4 is divided by 16 before the network's Fourier features of scale 16, which makes them those
    of EDM2 (Karras et al. 2024: frequencies of scale 1): the features turn once in about 4 e-folds of sigma. Undivided,
    they turn 16 times as fast, and a short training has to learn each noise level by itself (after 14,400 images of a toy,
    16 channels: mean loss .096 undivided, .072 so).

    sigma_data: (C,) standard deviations of the channels about the mean, in the units of x.
    mean: (C, H, W), or anything that broadcasts to it; 0 if not given.
    condition_mean, condition_std: (K, H, W) and (K,) of the conditions, which the network sees standardised: their
        dynamic range is wide, and what distinguishes two clusters is a small part of it. Left as they are if not given.
    shift, width: training draws ln sigma from N(mean ln(sigma_data) + shift, width^2); the paper's -1.2 and 1.2 at
    sigma_data = 0.5 are the defaults.
    """

    FOURIER_SCALE = 16.0

    def __init__(
        self,
        network: nn.Module,
        sigma_data: Tensor | Sequence[float],
        mean: Tensor | None = None,
        condition_mean: Tensor | None = None,
        condition_std: Tensor | None = None,
        shift: float = -0.5,
        width: float = 1.2,
    ) -> None:
        super().__init__()
        sigma_data = torch.as_tensor(sigma_data).flatten().bfloat16().float()
        if not bool((sigma_data > 0).all() & sigma_data.isfinite().all()):
            raise ValueError(f"sigma_data must be positive and finite, not {sigma_data.tolist()}")
        if width <= 0:
            raise ValueError(f"width must be positive, not {width}")
        self.network = network
        self.register_buffer("sigma_data", sigma_data[None, :, None, None])  # (1, C, 1, 1)
        keep_moments(self, mean, condition_mean, condition_std)
        self.shift, self.width = shift, width

    def forward(self, x: Tensor, sigma: Tensor, condition: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), sigma (B,), condition (B, K, H, W) -> E[x_0 | x, condition] (B, C, H, W)."""
        if condition is not None:
            condition = (condition - self.condition_mean.to(x.dtype)) / self.condition_std.to(x.dtype)
        s, m, level = self.sigma_data.to(x.dtype), self.mean.to(x.dtype), _image(sigma)
        total = (level**2 + s**2).sqrt()
        x = x - m
        f = self.network(x / total, self.time(sigma), condition)
        return m + (s / total) ** 2 * x + (level * s / total) * f

    def time(self, sigma: Tensor) -> Tensor:
        """What the network sees as the time, ln(sigma) / 64; (B,)."""
        return sigma.log() / (4 * self.FOURIER_SCALE)

    def weight(self, sigma: Tensor) -> Tensor:
        """Weight of the squared error, 1 / c_out^2, sigma (B,) -> (B, C, 1, 1): a network that gives 0 has loss 1."""
        return _image(sigma) ** -2 + self.sigma_data.float() ** -2

    def noise_levels(self, u: Tensor) -> Tensor:
        """Noise levels for uniform numbers u (B,) in (0, 1): log-normal by the inverse of its distribution; (B,)."""
        mean = self.sigma_data.float().log().mean() + self.shift
        return torch.exp(mean + self.width * torch.special.ndtri(u))


def keep_moments(module: nn.Module, mean: Tensor | None, condition_mean: Tensor | None, condition_std: Tensor | None) -> None:
    """Register the buffers `mean`, `condition_mean` (1, 1, 1 of 0 if not given) and `condition_std` (K, 1, 1; 1 if not given), fp32."""
    for name, value in (("mean", mean), ("condition_mean", condition_mean)):
        module.register_buffer(name, torch.zeros(1, 1, 1) if value is None else value.detach().clone().float())
    std = torch.ones(1) if condition_std is None else condition_std.detach().clone().float()
    module.register_buffer("condition_std", std[:, None, None])


def _image(sigma: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1)."""
    return sigma[:, None, None, None]
