"""From a field's units to the network's [0, 1] and back, with bounds taken from the training split.

    linear: u = (x - low) / (high - low)
    asinh:  u = (asinh(x / scale) - low) / (high - low), scale = 99th percentile of the positive training pixels
    log10:  u = (log10(max(x, floor)) - low) / (high - low), floor = smallest positive training pixel

The scale of asinh sits where the core of a cluster begins: fainter pixels stay linear and the bright core, where most of the
squared error lives, is compressed only mildly. (At the median, asinh is a logarithm, and a short training then loses the core.)

Global bounds, not one pair a map, since the relative brightness of clusters carries their mass (Hsu et al. 2025, section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from hpcdiff.errors import UserError


@dataclass(frozen=True)
class Transform:
    """One field's transform.

    Attributes:
        name: `linear`, `asinh` or `log10`.
        low, high: bounds after the non-linear step; they become 0 and 1.
        scale: softening of `asinh` or floor of `log10`, in the field's units; 1 for `linear`.
    """

    name: str
    low: float
    high: float
    scale: float = 1.0

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Field units -> [0, 1] within the training bounds, float32, any shape."""
        x = np.asarray(x, np.float64)
        if self.name == "asinh":
            x = np.arcsinh(x / self.scale)
        elif self.name == "log10":
            x = np.log10(np.maximum(x, self.scale))
        return ((x - self.low) / (self.high - self.low)).astype(np.float32)

    def inverse(self, u: np.ndarray) -> np.ndarray:
        """[0, 1] -> field units, float32, any shape."""
        x = np.asarray(u, np.float64) * (self.high - self.low) + self.low
        if self.name == "asinh":
            x = np.sinh(x) * self.scale
        elif self.name == "log10":
            x = 10.0**x
        return x.astype(np.float32)

    def to_dict(self) -> dict:
        """Plain numbers, for JSON."""
        return asdict(self)


def fit(name: str, field: str, blocks: Iterable[np.ndarray]) -> Transform:
    """The transform of one field from its training maps, given in blocks of any shape.

    Raises:
        UserError: the field is constant, or `log10` meets no positive pixel.
    """
    low, high, floor, positive = np.inf, -np.inf, np.inf, []
    for block in blocks:
        low, high = min(low, float(block.min())), max(high, float(block.max()))
        if name != "linear":
            floor = min(floor, float(np.min(block, where=block > 0, initial=np.inf)))
            positive.append(block[block > 0][:: max(1, block.size // 100_000)])
    if not high > low:
        raise UserError(f"the field {field!r} is constant ({low}) over the training split", "map file", "leave it out of the task")
    if name == "linear":
        return Transform(name, low, high)
    positive = np.concatenate(positive) if positive else np.empty(0)
    if not len(positive):
        raise UserError(f"the field {field!r} has no positive value, which {name} needs", "task.transform", "take linear")
    if name == "asinh":
        scale = float(np.percentile(positive, 99))
        return Transform(name, float(np.arcsinh(low / scale)), float(np.arcsinh(high / scale)), scale)
    if not high > floor:
        raise UserError(f"all positive values of the field {field!r} are equal, which log10 cannot scale", "task.transform", "take linear")
    return Transform(name, float(np.log10(floor)), float(np.log10(high)), floor)
