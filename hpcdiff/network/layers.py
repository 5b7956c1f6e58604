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


class Conv1x1(nn.Conv2d):
    """1x1 convolution, (B, C, H, W) -> (B, channels_out, H, W); where channels lie last it is one matrix product."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_contiguous(memory_format=torch.channels_last):
            return super().forward(x)
        # PyTorch's own takes a detour on a CPU: it writes the bias and zeros first and adds to them (half the speed).
        return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def conv1x1(channels_in: int, channels_out: int, scale: float = 1.0) -> nn.Conv2d:
    """1x1 convolution."""
    return initialise(Conv1x1(channels_in, channels_out), scale)


def linear(features_in: int, features_out: int) -> nn.Linear:
    """Dense layer."""
    return initialise(nn.Linear(features_in, features_out))


class NormSiLU(nn.GroupNorm):
    """SiLU(GroupNorm(x)) with min(channels / 4, 32) groups; (B, C, H, W) -> (B, C, H, W) of the same layout and type.

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
        # PyTorch's backward pass with channels last crashes where the weights want a gradient and x wants none (as of 2.13).
        crashes = torch.is_grad_enabled() and self.weight.requires_grad and not x.requires_grad
        if x.device.type == "cpu" and not torch.compiler.is_compiling() and not crashes:
            return F.silu(super().forward(x))
        return norm_silu(x, self.num_groups, self.weight, self.bias, self.eps)


def norm_silu(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """SiLU(GroupNorm(x)) from elementary operations, in float32 inside; (B, C, H, W) -> the same layout and type.

    PyTorch's GroupNorm has channels first alone on GPUs, and what the compiler makes of it once had wrong gradients with
    channels last and 4 channels a group (github.com/pytorch/pytorch/issues/140913). Here the moments are taken channel by
    channel, which reads neighbouring memory with channels last, and put together after that.
    """
    B, C = x.shape[:2]
    wide = x.float()
    var, mean = torch.var_mean(wide, (2, 3), correction=0)  # (B, C)
    var, mean = var.view(B, groups, -1), mean.view(B, groups, -1)
    rstd = (var.mean(2, keepdim=True) + mean.var(2, correction=0, keepdim=True) + eps).rsqrt()  # (B, groups, 1)
    scale = rstd * weight.float().view(groups, -1)  # (B, groups, C / groups)
    shift = bias.float().view(groups, -1) - scale * mean.mean(2, keepdim=True)
    scale, shift = (v.reshape(B, C)[:, :, None, None] for v in (scale, shift))
    return F.silu(wide * scale + shift).to(x.dtype)


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
