"""Building blocks of NCSN++: the residual block with resampling inside, and attention over the pixels."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from hpcdiff.network.layers import NormSiLU, conv1x1, conv3x3, linear
from hpcdiff.network.resample import downsample, upsample

RESAMPLE = {"down": downsample, "up": upsample}


class ResidualBlock(nn.Module):
    """BigGAN residual block: norm, SiLU, (resample), conv, + time, norm, SiLU, dropout, conv; skip; divided by sqrt 2.

    forward: x (B, channels_in, H, W), embedding (B, features) -> (B, channels_out, H', W'), where H' is H, H/2 or 2H
    as `resample` is None, "down" or "up". Brock et al. 2019; Song et al. 2021, appendix H.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        features: int,
        resample: str | None = None,
        dropout: float = 0.0,
        scale: float = 0.01,
    ) -> None:
        super().__init__()
        self.resample = RESAMPLE[resample] if resample else None
        self.dropout = dropout
        self.norm0 = NormSiLU(channels_in)
        self.conv0 = conv3x3(channels_in, channels_out)
        self.time = linear(features, channels_out)
        self.norm1 = NormSiLU(channels_out)
        self.conv1 = conv3x3(channels_out, channels_out, scale)
        self.skip = conv1x1(channels_in, channels_out) if resample or channels_in != channels_out else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.norm0(x)
        if self.resample:
            h, x = self.resample(h), self.resample(x)
        h = self.conv0(h).add_(self.time(embedding)[:, :, None, None])
        h = self.norm1(h)
        if self.dropout:
            h = F.dropout(h, self.dropout, self.training)
        h = self.conv1(h)
        if self.skip is not None:
            x = self.skip(x)
        return h.add_(x).mul_(math.sqrt(0.5))


class Attention(nn.Module):
    """Single-head self-attention over the pixels with a skip connection; (B, C, H, W) -> the same."""

    def __init__(self, channels: int, scale: float = 0.01) -> None:
        super().__init__()
        self.query_key_value = conv1x1(channels, 3 * channels)
        self.out = conv1x1(channels, channels)
        for layer, bound in ((self.query_key_value, channels**-0.5), (self.out, scale * channels**-0.5)):
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        pixels = self.query_key_value(x).flatten(2).transpose(1, 2)  # (B, H W, 3 C)
        query, key, value = pixels[:, None].chunk(3, dim=-1)  # (B, 1, H W, C)
        h = F.scaled_dot_product_attention(query, key, value)[:, 0]
        return x + self.out(h.transpose(1, 2).reshape(B, C, H, W))
