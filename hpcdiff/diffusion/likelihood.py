"""Log-likelihood of images by the probability-flow ODE of the VE process (Song et al. 2021, section 4.3 and appendix D.2).

The ODE dx / d ln sigma = x - D(x, sigma) carries the density p at sigma_min to a Gaussian at sigma_max, and the change of
variables along it (Chen et al. 2018) gives, with d the number of pixels of all channels and J = dD / dx,

    ln p(x) = ln N(x_T; mean, variance + sigma_max^2) + integral over ln sigma from sigma_min to sigma_max of (d - tr J).

x moves by the classical fourth-order Runge-Kutta method on a grid uniform in ln sigma. The integral is taken on the same grid
by Gregory's rule, which is of fourth order too and needs the trace at the nodes alone. The trace is Hutchinson's (1990),
E[v^T J v] over vectors v of random signs. Since the path does not depend on v, each node draws its own: errors of different
nodes average out, where one v for the whole path would add them up.

What the numbers mean:
- p is the model's density of x at noise level sigma_min, in the units that the network sees: of what the ODE makes from the
  start N(mean, variance + sigma_max^2). Give it x_0 + sigma_min z where the data have structure finer than sigma_min.
- Bits per dimension: -nats / (d ln 2).
- For maps m with x = T(m), pixel by pixel, ln p(m) = ln p(x) + sum over pixels of ln |dT / dm|. A linear transform
  x = (m - low) / (high - low) adds -H W ln(high - low) for each channel. With asinh, of scale a, a pixel adds
  -ln(high - low) - ln(m^2 + a^2) / 2; with log10, -ln(high - low) - ln(m ln 10), and its floor has no density.
"""

import math
from collections.abc import Callable
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

from hpcdiff.diffusion.jacobian import linearise
from hpcdiff.diffusion.noise import derive_key, rademacher
from hpcdiff.diffusion.sde import VESDE


class LogLikelihood(NamedTuple):
    """Logarithms of densities, one a row, float64 (B,).

    nats: ln p(x).
    standard_error: of `nats`, from the scatter over the probes; 0 where the trace is exact.
    step_error: how far `nats` moves when the steps are twice as long, or None. Of a fourth-order method's error it is an
        upper bound, some 15 times too large. The probes of both grids differ in weight, so that it cannot be resolved
        below about the standard error.
    """

    nats: Tensor
    standard_error: Tensor
    step_error: Tensor | None


def log_likelihood(
    denoise: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    sde: VESDE | None = None,
    steps: int = 65,
    seed: int | Tensor = 0,
    probes: int | None = 8,
    mean: Tensor | float = 0.0,
    variance: Tensor | float = 0.0,
    *,
    step_error: bool = False,
    on_step: Callable[[int], None] | None = None,
) -> LogLikelihood:
    """ln p(x) in nats for each image of x (B, C, H, W).

    denoise(x, sigma) -> E[x_0 | x at noise level sigma], x (B, C, H, W), sigma (B,); differentiable in x by autograd.
    sde: range of the noise; VESDE() if not given.
    steps: number of noise levels; each costs four evaluations (the last one) and `probes` backward passes.
    seed: an int, or int64 keys (B,): the probes of row b depend on its key alone, not on the batch or the device.
    probes: random vectors at each noise level, at least 2; None = the exact trace, by d backward passes.
    mean, variance: of the Gaussian at sigma_max, N(mean, variance + sigma_max^2), each broadcasting to (C, H, W). 0 and 0
        are N(0, sigma_max^2); `matched` are the mean and variance of the training images.
    step_error: integrate once more with half the steps; `steps` must then be odd.
    on_step: called with 0, 1, ... after each step; may raise to stop.
    Raises ValueError for shapes and numbers that do not agree, and where `denoise` cannot be differentiated.
    """
    if x.ndim != 4:
        raise ValueError(f"x must be (B, C, H, W), not {tuple(x.shape)}")
    if steps < 3 or (step_error and (steps < 5 or steps % 2 == 0)):
        raise ValueError(f"steps must be at least 3, and with step_error odd and at least 5, not {steps}")
    if probes is not None and probes < 2:
        raise ValueError(f"probes must be at least 2, or None for the exact trace, not {probes}")
    keys = derive_key(seed, torch.arange(len(x))) if isinstance(seed, Integral) else torch.as_tensor(seed)
    if tuple(keys.shape) != (len(x),):
        raise ValueError(f"seed must be an int or keys of shape ({len(x)},), not {tuple(keys.shape)}")
    sde = sde or VESDE()
    end_variance = torch.as_tensor(variance, device=x.device).double() + sde.sigma_max**2
    if not bool((end_variance >= sde.sigma_max**2).all()):
        raise ValueError("variance must not be negative")

    def integrate(stride: int) -> Tensor:
        grid = sde.levels((steps - 1) // stride + 1)[::-1]
        end, gained = _follow(denoise, x, grid, keys.to(x.device), probes, stride, on_step or (lambda step: None))
        return _gaussian(end, torch.as_tensor(mean, device=x.device), end_variance) + gained  # (probes, B)

    values = integrate(1)
    nats = values.mean(0)
    error = torch.zeros_like(nats) if probes is None else values.std(0) / math.sqrt(probes)
    return LogLikelihood(nats, error, (nats - integrate(2).mean(0)).abs() if step_error else None)


def _follow(denoise, x: Tensor, grid: list[float], keys: Tensor, probes: int | None, stride: int, on_step) -> tuple[Tensor, Tensor]:
    """The end of the path (B, C, H, W) and the integral of d - tr J along it, (probes, B) float64.

    Node i has the probes of counter `stride` i, so that a coarse grid uses those of the fine one at the same noise level.
    """
    h = math.log(grid[-1] / grid[0]) / (len(grid) - 1)
    weights = _gregory(len(grid))
    gained = torch.zeros(probes or 1, len(x), dtype=torch.float64, device=x.device)

    def slope(x: Tensor, sigma: float) -> Tensor:
        with torch.no_grad():
            return x - denoise(x, torch.full_like(x[:, 0, 0, 0], sigma)).to(x.dtype)

    for i, sigma in enumerate(grid):
        denoised, pull = linearise(denoise, x, torch.full_like(x[:, 0, 0, 0], sigma))
        gained += weights[i] * h * (x[0].numel() - _traces(pull, denoised, keys, probes, stride * i))
        del pull
        if i < len(grid) - 1:
            middle, upper = math.sqrt(sigma * grid[i + 1]), grid[i + 1]
            k1 = x - denoised
            k2 = slope(x + h / 2 * k1, middle)
            k3 = slope(x + h / 2 * k2, middle)
            k4 = slope(x + h * k3, upper)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        on_step(i)
    return x, gained


def _traces(pull, like: Tensor, keys: Tensor, probes: int | None, counter: int) -> Tensor:
    """Estimates of tr J by each probe, (probes, B) float64; with no probes the trace itself, (1, B)."""
    if probes is None:
        trace = torch.zeros(len(like), dtype=torch.float64, device=like.device)
        for i in range(like[0].numel()):
            unit = torch.zeros_like(like)
            unit.flatten(1)[:, i] = 1
            trace += pull(unit).flatten(1)[:, i].double()
        return trace[None]
    estimates = []
    for p in range(probes):
        v = rademacher(keys, (p << 32) | counter, like.shape[1:]).to(like.dtype)
        estimates.append((v * pull(v)).flatten(1).sum(1, dtype=torch.float64))
    return torch.stack(estimates)


def _gregory(nodes: int) -> list[float]:
    """Weights of Gregory's rule with second differences, for steps of length 1: exact for cubics; Simpson's for 3 nodes."""
    weights = [1.0] * nodes
    for i, correction in enumerate((-5 / 8, 1 / 6, -1 / 24)):
        weights[i] += correction
        weights[-1 - i] += correction
    return weights


def _gaussian(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """ln N(x; mean, variance) of each image, (B,) float64; the variance broadcasts to (C, H, W)."""
    terms = (x.double() - mean) ** 2 / variance + torch.log(2 * math.pi * variance)
    return -0.5 * terms.flatten(1).sum(1)
