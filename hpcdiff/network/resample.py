"""Change of the map size by a factor of 2 with the FIR filter 1-3-3-1 (Karras et al. 2020; Zhang 2019).

Both are depthwise convolutions with a fixed weight, strided and transposed, so they keep channels_last.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def downsample(x: Tensor) -> Tensor:
    """Blur and take every second pixel, zeros beyond the edge; (B, C, H, W) -> (B, C, H/2, W/2)."""
    return _filter(F.conv2d, x, gain=1.0)


def upsample(x: Tensor) -> Tensor:
    """Put zeros between the pixels and blur, zeros beyond the edge; (B, C, H, W) -> (B, C, 2H, 2W)."""
    return _filter(F.conv_transpose2d, x, gain=4.0)


def _filter(convolve, x: Tensor, gain: float) -> Tensor:
    """Convolve every channel with the outer product of 1-3-3-1 with itself, scaled to the sum `gain`."""
    if x.device.type == "cpu" and (torch.is_autocast_enabled("cpu") or x.dtype == torch.bfloat16):
        # Depthwise convolutions in bfloat16 take 15 to 30 times as long as in float32 on a CPU (oneDNN has none).
        with torch.autocast("cpu", enabled=False):
            return _convolve(convolve, x.float(), gain).to(x.dtype)
    return _convolve(convolve, x, gain)


def _convolve(convolve, x: Tensor, gain: float) -> Tensor:
    channels = x.shape[1]
    # 1, 3, 3, 1, computed where x is: a list would be copied there, and the device waited for, at every call
    row = 3.25 - (torch.arange(4, device=x.device, dtype=x.dtype) - 1.5) ** 2
    weight = (row[:, None] * row * (gain / 64)).expand(channels, 1, 4, 4)
    return convolve(x, weight, stride=2, padding=1, groups=channels)
