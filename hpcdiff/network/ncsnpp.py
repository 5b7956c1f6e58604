"""NCSN++: the score network of Song et al. 2021 (arXiv:2011.13456), conditioned on maps."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hpcdiff.network.blocks import Attention, ResidualBlock
from hpcdiff.network.layers import NormSiLU, TimeEmbedding, conv1x1, conv3x3
from hpcdiff.network.resample import downsample, upsample


class NCSNpp(nn.Module):
    """U-Net of residual blocks with an input pyramid on the way down and an output pyramid on the way up.

    forward: x (B, channels_in, H, W), t (B,) about [0, 1], condition (B, channels_condition, H, W)
    -> (B, channels_out, H, W). H and W are multiples of 2^(levels - 1). The condition is concatenated to x before the
    first convolution and is part of the input pyramid. The defaults are the network of Hsu et al. 2025 with
    45,835,912 trainable parameters for 2 + 2 channels.

    channels: channels of the first convolution; level l has channels * multipliers[l].
    blocks: residual blocks a level on the way down; one more on the way up.
    dropout: probability of dropping a channel's pixel inside each residual block.
    attention: "coarsest", one single-head attention between the way down and the way up (the paper's), or factors by
        which the maps are reduced, such as (4, 8): after every residual block of those levels, down and up, and between
        the two where the coarsest level is among them; () = none.
    Raises ValueError for numbers that do not make a network and for maps of the wrong shape.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        channels_condition: int,
        channels: int = 128,
        multipliers: Sequence[int] = (2, 2, 2, 2),
        blocks: int = 2,
        dropout: float = 0.0,
        attention: str | Sequence[int] = "coarsest",
    ) -> None:
        super().__init__()
        if min(channels_in, channels_out) < 1 or channels_condition < 0:
            raise ValueError("channels_in and channels_out must be at least 1, channels_condition at least 0")
        if not multipliers or min(multipliers) < 1 or blocks < 1:
            raise ValueError(f"multipliers and blocks must be at least 1, not {tuple(multipliers)} and {blocks}")
        if channels < 4 or channels % 4:
            raise ValueError(f"channels must be a multiple of 4, not {channels}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {dropout}")
        self.channels_in, self.channels_condition = channels_in, channels_condition
        self.multiple = 2 ** (len(multipliers) - 1)
        widths = [channels * m for m in multipliers]
        factors = self._factors(attention)

        def block(width_in: int, width_out: int, resample: str | None = None) -> ResidualBlock:
            return ResidualBlock(width_in, width_out, 4 * channels, resample, dropout)

        def attentions(width: int, number: int) -> nn.ModuleList:
            return nn.ModuleList(Attention(width) for _ in range(number))

        self.time = TimeEmbedding(channels)
        self.first = conv3x3(channels_in + channels_condition, channels)
        skips, width = [channels], channels
        self.down, self.shrink, self.pyramid_in = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.attention_down, self.attention_up = nn.ModuleList(), nn.ModuleList()
        for level, width_level in enumerate(widths):
            stage = nn.ModuleList()
            for _ in range(blocks):
                stage.append(block(width, width_level))
                width = width_level
                skips.append(width)
            self.down.append(stage)
            self.attention_down.append(attentions(width, blocks if 2**level in factors else 0))
            if level < len(widths) - 1:
                self.shrink.append(block(width, width, "down"))
                self.pyramid_in.append(conv1x1(channels_in + channels_condition, width))
                skips.append(width)

        self.middle0 = block(width, width)
        self.attention = Attention(width) if attention == "coarsest" or self.multiple in factors else None
        self.middle1 = block(width, width)

        # The lists of the way up are stored, as they are run, from the coarsest level to the finest.
        self.up, self.grow, self.pyramid_out = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level, width_level in reversed(list(enumerate(widths))):
            stage = nn.ModuleList()
            for _ in range(blocks + 1):
                stage.append(block(width + skips.pop(), width_level))
                width = width_level
            self.up.append(stage)
            self.attention_up.append(attentions(width, blocks + 1 if 2**level in factors else 0))
            self.pyramid_out.append(nn.Sequential(NormSiLU(width), conv3x3(width, channels_out, scale=0.01)))
            if level > 0:
                self.grow.append(block(width, width, "up"))
        assert not skips

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        self._check(x, condition)
        embedding = self.time(t)
        if condition is not None:
            x = torch.cat([x, condition], dim=1)
        pyramid = x.to(self.first.weight.dtype)
        h = self.first(pyramid)
        skips = [h]
        for level, stage in enumerate(self.down):
            for n, block in enumerate(stage):
                h = block(h, embedding)
                if len(self.attention_down[level]):
                    h = self.attention_down[level][n](h)
                skips.append(h)
            if level < len(self.shrink):
                pyramid = downsample(pyramid)
                h = self.shrink[level](h, embedding) + self.pyramid_in[level](pyramid)
                skips.append(h)

        h = self.middle0(h, embedding)
        if self.attention is not None:
            h = self.attention(h)
        h = self.middle1(h, embedding)

        out = None
        for level, stage in enumerate(self.up):
            for n, block in enumerate(stage):
                h = block(torch.cat([h, skips.pop()], dim=1), embedding)
                if len(self.attention_up[level]):
                    h = self.attention_up[level][n](h)
            image = self.pyramid_out[level](h)
            out = image if out is None else upsample(out) + image
            if level < len(self.grow):
                h = self.grow[level](h, embedding)
        return out

    def _factors(self, attention: str | Sequence[int]) -> set[int]:
        """The reduction factors that have attention after every block, checked."""
        if attention == "coarsest":
            return set()
        possible = [2**level for level in range(self.multiple.bit_length())]
        if isinstance(attention, str) or not set(attention) <= set(possible):
            given = repr(attention) if isinstance(attention, str) else list(attention)
            raise ValueError(
                f"attention is 'coarsest' or a list of {', '.join(map(str, possible))}, the factors of this network, not {given}"
            )
        return set(attention)

    def _check(self, x: Tensor, condition: Tensor | None) -> None:
        """Raise ValueError for shapes that the network cannot take."""
        height, width = x.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise ValueError(
                f"a map of {height} x {width} pixels does not divide by {self.multiple}, as {len(self.down)} levels "
                "need: choose another npix or fewer multipliers"
            )
        given = 0 if condition is None else condition.shape[1]
        if x.shape[1] != self.channels_in or given != self.channels_condition:
            raise ValueError(
                f"the network takes {self.channels_in} channels and {self.channels_condition} of condition, not {x.shape[1]} and {given}"
            )
