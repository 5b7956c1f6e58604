"""The variance-exploding SDE (Song et al. 2021): x_t = x_0 + sigma(t) z, from t = 0 (data) to t = 1 (noise)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class VESDE:
    """dx = g(t) dw with sigma(t) = sigma_min (sigma_max / sigma_min)^t and g^2 = d sigma^2 / dt.

    sigma_min, sigma_max: standard deviations of the noise, in units of the (normalised) maps.
    """

    sigma_min: float = 0.001
    sigma_max: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(f"need 0 < sigma_min < sigma_max, not {self.sigma_min} and {self.sigma_max}")

    @property
    def log_range(self) -> float:
        """ln(sigma_max / sigma_min)."""
        return math.log(self.sigma_max / self.sigma_min)

    def sigma(self, t: Tensor | float) -> Tensor:
        """Noise level at time t; any shape."""
        return self.sigma_min * torch.exp(torch.as_tensor(t) * self.log_range)

    def time(self, sigma: Tensor | float) -> Tensor:
        """Time of a noise level, the inverse of `sigma`; any shape."""
        return torch.log(torch.as_tensor(sigma) / self.sigma_min) / self.log_range

    def g2(self, t: Tensor | float) -> Tensor:
        """Squared diffusion coefficient, 2 sigma(t)^2 ln(sigma_max / sigma_min); any shape."""
        return 2 * self.log_range * self.sigma(t) ** 2

    def levels(self, steps: int, rho: float | None = None) -> list[float]:
        """`steps` noise levels from sigma_max down to sigma_min.

        Uniform in t, that is in ln sigma; with `rho`, uniform in sigma^(1 / rho) (Karras et al. 2022, Eq. 5).
        """
        if steps < 2:
            raise ValueError(f"steps must be at least 2 (sigma_max and sigma_min), not {steps}")
        if rho is None:
            grid = [self.sigma_max * math.exp(-self.log_range * i / (steps - 1)) for i in range(steps)]
        else:
            first, last = self.sigma_max ** (1 / rho), self.sigma_min ** (1 / rho)
            grid = [(first + (last - first) * i / (steps - 1)) ** rho for i in range(steps)]
        return [self.sigma_max, *grid[1:-1], self.sigma_min]
