"""Mean-square regression by the network of the diffusion model: what the mean of posterior samples must beat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hpcdiff.diffusion.precondition import keep_moments


class RegressionDenoiser(nn.Module):
    """D(x, sigma, condition) = m + s F(0, 0, c): the mean of the posterior, whatever x and sigma are.

    Of all functions of the condition the posterior mean E[x_0 | condition] has the least squared error, so a network trained on that
    learns it. It is the network of the score model, with the same number of weights: its image is empty and its time 0, and it sees the
    condition standardised (c). m and s are mean and standard deviation of the data, as for `EDMDenoiser`; a network that gives 0
    answers with the mean of the training maps, and its loss is 1. All of this is in the network's units: where these are a concave
    function of the field's, such as a logarithm, the mean turned back lies below the field's own mean.

    sigma_data: (C,) standard deviations of the channels about the mean, in the units of x.
    mean: (C, H, W), or anything that broadcasts to it; 0 if not given.
    condition_mean, condition_std: (K, H, W) and (K,) of the conditions. Left as they are if not given.
    Raises ValueError where sigma_data is not positive.
    """

    def __init__(
        self,
        network: nn.Module,
        sigma_data: Tensor | Sequence[float],
        mean: Tensor | None = None,
        condition_mean: Tensor | None = None,
        condition_std: Tensor | None = None,
    ) -> None:
        super().__init__()
        sigma_data = torch.as_tensor(sigma_data).flatten().float()
        if not bool((sigma_data > 0).all() & sigma_data.isfinite().all()):
            raise ValueError(f"sigma_data must be positive and finite, not {sigma_data.tolist()}")
        self.network = network
        self.register_buffer("sigma_data", sigma_data[:, None, None].clone())  # not a view of the statistics, which are saved too
        keep_moments(self, mean, condition_mean, condition_std)

    def forward(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """x (B, C, H, W), of which the shape alone counts, sigma (B,), condition (B, K, H, W) -> E[x_0 | condition] (B, C, H, W)."""
        condition = (condition - self.condition_mean) / self.condition_std
        f = self.network(torch.zeros_like(x), torch.zeros_like(sigma), condition)
        return self.mean + self.sigma_data * f

    def weight(self, sigma: Tensor) -> Tensor:
        """Weight of the squared error, 1 / sigma_data^2; (1, C, 1, 1)."""
        return self.sigma_data[None] ** -2

    def noise_levels(self, u: Tensor) -> Tensor:
        """No noise, for u of any shape: what the loss adds to the maps."""
        return torch.zeros_like(u)
