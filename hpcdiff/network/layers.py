"""Small layers of the score networks: initialised convolutions, normalisation with activation, time features."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def initialise(layer: nn.Module, scale: float = 1.0) -> nn.Module:
    """Draw the weight from the variance-scaling law of DDPM (Ho et al. 2020) and zero the bias; returns the layer.

    Uniform with variance `scale` / ((fan_in + fan_out) / 2); `scale` near 0 makes the layer start as almost zero.
    """
    weight = layer.weight
    receptive_field = weight[0, 0].numel()
    fan_average = (weight.shape[0] + weight.shape[1]) / 2 * receptive_field
    bound = math.sqrt(3 * scale / fan_average)
    nn.init.uniform_(weight, -bound, bound)
    nn.init.zeros_(layer.bias)
    return layer


def conv3x3(channels_in: int, channels_out: int, scale: float = 1.0) -> nn.Conv2d:
    """3x3 convolution that keeps the map size, zeros beyond the edge."""
    return initialise(nn.Conv2d(channels_in, channels_out, 3, padding=1), scale)


def conv1x1(channels_in: int, channels_out: int, scale: float = 1.0) -> nn.Conv2d:
    """1x1 convolution."""
    return initialise(nn.Conv2d(channels_in, channels_out, 1), scale)


def linear(features_in: int, features_out: int) -> nn.Linear:
    """Dense layer."""
    return initialise(nn.Linear(features_in, features_out))


class NormSiLU(nn.GroupNorm):
    """SiLU(GroupNorm(x)) with min(channels / 4, 32) groups; (B, C, H, W) -> (B, C, H, W).

    Raises ValueError where the channels do not divide into the groups.
    """

    def __init__(self, channels: int) -> None:
        groups = max(min(channels // 4, 32), 1)
        if channels % groups:
            raise ValueError(
                f"a layer of {channels} channels does not divide into {groups} groups of GroupNorm: choose channels and "
                "multipliers such that every level, and the sum of any two neighbouring levels, is a multiple of 4 up "
                "to 128 channels and of 32 above"
            )
        super().__init__(groups, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


class TimeEmbedding(nn.Module):
    """Gaussian Fourier features of the time and two dense layers; t (B,) -> SiLU(embedding) (B, 4 * channels).

    The features sin, cos(2 pi w t) have fixed frequencies w ~ N(0, scale^2) (Tancik et al. 2020; Song et al. 2021).
    The last SiLU is the one that each residual block would apply to the embedding before its own projection.
    """

    def __init__(self, channels: int, scale: float = 16.0) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(f"channels must be even for the sine and cosine features of the time, not {channels}")
        # Rounded to bfloat16, so that a cast of the module there and back leaves them as they are.
        self.register_buffer("frequencies", (torch.randn(channels // 2) * scale).bfloat16().float())
        self.dense0 = linear(channels, 4 * channels)
        self.dense1 = linear(4 * channels, 4 * channels)

    def forward(self, t: Tensor) -> Tensor:
        # The phase reaches a hundred radians, where 16-bit floats have no digits left after the point.
        phase = 2 * math.pi * t.float()[:, None] * self.frequencies.float()
        features = torch.cat([phase.sin(), phase.cos()], dim=1).to(self.dense0.weight.dtype)
        return F.silu(self.dense1(F.silu(self.dense0(features))))
