"""From a field's units to the network's numbers and back, by what the training split holds.

A curve g, one for each field, then one scale and offset: u = (g(x) - low) / (high - low).

    curve    linear: g(x) = x
             asinh:  g(x) = asinh(x / scale), scale = 99th percentile of the positive training pixels
             log10:  g(x) = log10(max(x, scale)), scale = smallest positive training pixel
    bounds   of g over the training split become 0 and 1: `linear` (or `minmax`), `asinh`, `log10`
    standard mean of g over the training pixels becomes 0, mean + standard deviation becomes 1
    4sigma   mean - 4 and mean + 4 standard deviations become 0 and 1 (Chadayammuri et al. 2023; nothing is clipped, so that it inverts)

The scale of asinh sits where the core of a cluster begins: fainter pixels stay linear and the bright core, where most of the
squared error lives, is compressed only mildly. (At the median, asinh is a logarithm, and a short training then loses the core.)

One pair of numbers for all maps, not one a map, since the relative brightness of clusters carries their mass (Hsu et al. 2025, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from hpcdiff.errors import UserError

if TYPE_CHECKING:
    import torch

CURVES = ("asinh", "log10")
PERCENTILE = 99
"""Of the positive pixels, where the curve of asinh bends."""
BITS = 12
"""Lowest bits of a float32 that its histogram leaves out: bins are 1/2048 of their value wide, or less."""


@dataclass(frozen=True)
class Transform:
    """One field's transform.

    Attributes:
        name: as in `task.transform`, one word or two.
        low, high: what becomes 0 and 1, after the curve.
        scale: softening of `asinh` or floor of `log10`, in the field's units; 1 where there is no curve.
    """

    name: str
    low: float
    high: float
    scale: float = 1.0

    @property
    def curve(self) -> str:
        """`asinh`, `log10` or `linear`."""
        word = self.name.split()[0]
        return word if word in CURVES else "linear"

    def bend(self, x: np.ndarray) -> np.ndarray:
        """g(x), float64, any shape."""
        x = np.asarray(x, np.float64)
        if self.curve == "asinh":
            return np.arcsinh(x / self.scale)
        return np.log10(np.maximum(x, self.scale)) if self.curve == "log10" else x

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Field units -> network units, float32, any shape."""
        return ((self.bend(x) - self.low) / (self.high - self.low)).astype(np.float32)

    def forward_tensor(self, x: torch.Tensor) -> torch.Tensor:
        """`forward` on the tensor's own device, float32, any shape; the same as `forward` to the last bit or two."""
        x = x.double()
        if self.curve == "asinh":
            x = (x / self.scale).asinh()
        elif self.curve == "log10":
            x = x.clamp_min(self.scale).log10()
        return ((x - self.low) / (self.high - self.low)).float()

    def inverse(self, u: np.ndarray) -> np.ndarray:
        """Network units -> field units, float32, any shape."""
        x = np.asarray(u, np.float64) * (self.high - self.low) + self.low
        if self.curve == "asinh":
            x = np.sinh(x) * self.scale
        elif self.curve == "log10":
            x = 10.0**x
        return x.astype(np.float32)

    def to_dict(self) -> dict:
        """Plain numbers, for JSON."""
        return asdict(self)


@dataclass
class Pixels:
    """What a transform needs to know of a field's training pixels; parts of them are joined by adding `counts` and taking the extremes.

    Attributes:
        low, high: smallest and largest value; floor: smallest positive one (inf if there is none).
        counts: int64, positive values in bins of their leading bits (`BITS`), which are in the order of the values.
    """

    low: float = np.inf
    high: float = -np.inf
    floor: float = np.inf
    counts: np.ndarray = field(default_factory=lambda: np.zeros(1 << (31 - BITS), np.int64))

    def add(self, block: np.ndarray, name: str) -> None:
        """Take in some maps, of any shape; what the transform `name` does not need is not looked at."""
        block = np.asarray(block, np.float32)
        self.low, self.high = min(self.low, float(block.min())), max(self.high, float(block.max()))
        if name.split()[0] in CURVES:
            positive = block[block > 0]
            self.floor = min(self.floor, float(positive.min(initial=np.inf)))
            if name.startswith("asinh"):
                self.counts += np.bincount(positive.view(np.uint32) >> BITS, minlength=len(self.counts))

    def percentile(self, q: float) -> float:
        """The value below or at which q % of the positive ones lie, within 1/2048 of itself and no larger than the largest."""
        cumulative = np.cumsum(self.counts)
        bin_number = int(np.searchsorted(cumulative, q / 100 * cumulative[-1]))
        edges = np.array([bin_number, bin_number + 1], np.uint32) << np.uint32(BITS)
        return min(float(edges.view(np.float32).mean(dtype=np.float64)), self.high)


def by_bounds(name: str, of: str, pixels: Pixels) -> Transform:
    """The transform that takes the bounds of the field `of` to 0 and 1, whatever the last word of `name`; see `by_spread`.

    Raises:
        UserError: the field is constant, or a curve meets no positive pixel.
    """
    if not pixels.high > pixels.low:
        raise UserError(f"the field {of!r} is constant ({pixels.low}) over the training split", "map file", "leave it out of the task")
    curve = name.split()[0]
    if curve not in CURVES:
        return Transform(name, pixels.low, pixels.high)
    if not pixels.high > 0:
        raise UserError(f"the field {of!r} has no positive value, which {name} needs", "task.transform", "take linear")
    if curve == "log10" and not pixels.high > pixels.floor:
        raise UserError(f"all positive values of the field {of!r} are equal, which log10 cannot scale", "task.transform", "take linear")
    plain = Transform(name, 0.0, 1.0, pixels.percentile(PERCENTILE) if curve == "asinh" else pixels.floor)
    low, high = plain.bend(np.array([pixels.low, pixels.high])).tolist()
    return replace(plain, low=low, high=high)


def needs_spread(name: str) -> bool:
    """Does this transform scale by mean and standard deviation?"""
    return name.split()[-1] in ("standard", "4sigma")


def by_spread(transform: Transform, mean: float, std: float) -> Transform:
    """The transform scaled by mean and standard deviation of g(x) over the training pixels."""
    if transform.name.endswith("4sigma"):
        return replace(transform, low=mean - 4 * std, high=mean + 4 * std)
    return replace(transform, low=mean, high=mean + std)


def fit(name: str, of: str, blocks: Sequence[np.ndarray]) -> Transform:
    """The transform `name` of the field `of` from its training maps, given in blocks of any shape.

    Raises:
        UserError: see `by_bounds`.
    """
    pixels = Pixels()
    for block in blocks:
        pixels.add(block, name)
    transform = by_bounds(name, of, pixels)
    if not needs_spread(name):
        return transform
    values = np.concatenate([transform.bend(b).ravel() for b in blocks])
    return by_spread(transform, float(values.mean()), float(values.std()))
