"""Distributions of images whose exact denoiser is known."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Gaussian:
    """N(mu, C) over images (C, H, W) of d pixels, in float64 unless x says otherwise: the denoiser, ln p and draws.

    mu (d,) and covariance (d, d) are those of the flattened image.
    """

    def __init__(self, mu: Tensor, covariance: Tensor) -> None:
        self.mu, self.covariance = mu.double(), covariance.double()
        self.values, self.vectors = torch.linalg.eigh(self.covariance)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """mu + C (C + sigma^2)^-1 (x - mu)."""
        vectors, values, mu = self.vectors.to(x), self.values.to(x), self.mu.to(x)
        modes = (x.flatten(1) - mu) @ vectors
        return (mu + modes * values / (values + sigma[:, None] ** 2) @ vectors.T).reshape(x.shape)

    def log_density(self, x: Tensor, sigma: float) -> Tensor:
        """ln N(x; mu, C + sigma^2), (B,)."""
        variance = self.values + sigma**2
        modes = (x.double().flatten(1) - self.mu) @ self.vectors
        return -0.5 * (modes**2 / variance + torch.log(2 * math.pi * variance)).sum(1)

    def posterior(self, y: Tensor, matrix: Tensor, precision: Tensor) -> Gaussian:
        """The distribution given y = A x + n, with A (m, d) and the precisions of n (m,), 0 where there is no datum."""
        inverse = self.covariance.inverse()
        covariance = (inverse + matrix.T @ (precision[:, None] * matrix)).inverse()
        return Gaussian(covariance @ (inverse @ self.mu + matrix.T @ (precision * y)), covariance)


class Mixture:
    """Sum of w_k N(m_k, s_k^2), the same in each pixel by itself: the denoiser and the distribution function."""

    def __init__(self, weights: list[float], means: list[float], spreads: list[float]) -> None:
        self.weights, self.means, self.spreads = (torch.tensor(v, dtype=torch.float64) for v in (weights, means, spreads))

    def terms(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """w_k N(x; m_k, s_k^2 + sigma^2), one more axis at the end."""
        variance = self.spreads**2 + torch.as_tensor(sigma, dtype=torch.float64)[..., None] ** 2
        return self.weights * torch.exp(-0.5 * (x[..., None] - self.means) ** 2 / variance) / (2 * math.pi * variance).sqrt()

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x]: each component's mean, weighted by how likely it is."""
        level = sigma.double().reshape(-1, *[1] * (x.ndim - 1))
        variance = self.spreads**2 + level[..., None] ** 2
        logits = self.weights.log() - 0.5 * (x[..., None] - self.means) ** 2 / variance - 0.5 * variance.log()
        means = self.means + self.spreads**2 / variance * (x[..., None] - self.means)
        return (logits.softmax(-1) * means).sum(-1).to(x.dtype)

    def density(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        """p at noise level sigma."""
        return self.terms(x, sigma).sum(-1)

    def cdf(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        """P(X < x) at noise level sigma."""
        return (self.weights * torch.special.ndtr((x[..., None] - self.means) / (self.spreads**2 + sigma**2).sqrt())).sum(-1)

    def quantile(self, p: Tensor, sigma: float = 0.0) -> Tensor:
        """Where the distribution function is p, by bisection."""
        low, high = torch.full_like(p, -1e3), torch.full_like(p, 1e3)
        for _ in range(80):
            middle = (low + high) / 2
            below = self.cdf(middle, sigma) < p
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2
