"""Posterior guidance: a denoiser that also knows linear data y = A x_0 + n with Gaussian noise n.

If x_0 given x at noise level sigma is taken to be Gaussian with mean D(x, sigma) and covariance V, then

    E[x_0 | x, y] = D + V A^T (N + A V A^T)^-1 (y - A D),    N the covariance of n.

V = sigma^2 dD / dx is the covariance of x_0 given x by Tweedie's formula (moment matching: Finzi et al. 2023, Boys et al. 2023;
the linear system solved iteratively as in Rozet et al. 2024), so a Gaussian prior gives the exact posterior. Data count by
N + A V A^T, not by N: at high noise, where x says little of x_0, V is the width of the prior, and what they say is weighed against that.
There sigma^2 also multiplies the faults of a network's Jacobian, which is then not that of any covariance: the solver is one that
stops before they do harm.

Data on maps m(x_0) that are a curve of each pixel, y = A m(x_0) + n, are linearised about D at each evaluation, as an extended Kalman
filter does: y - A m(D) = A m'(D) (x_0 - D) + n. That is right where m' changes little over the width of x_0 given x, so always
at low noise; at high noise over the width of the prior.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hpcdiff.diffusion.jacobian import linearise
from hpcdiff.diffusion.noise import derive_key, normal


def guide(
    denoise: Callable[[Tensor, Tensor], Tensor],
    y: Tensor,
    forward: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    variance: Tensor | float,
    prior_variance: Tensor | float | None = None,
    iterations: int = 10,
    tolerance: float = 1e-3,
    decode: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
) -> Callable[[Tensor, Tensor], Tensor]:
    """The denoiser (x, sigma) -> E[x_0 | x, y], (B, C, H, W), for every sampler: `sample(guide(...), ...)`.

    denoise(x, sigma) -> E[x_0 | x at noise level sigma], x (B, C, H, W), sigma (B,).
    y: the data (B, ...), or (1, ...) for data that all rows share; in the units of A x.
    forward, adjoint: A and its transpose, (B, C, H, W) -> (B, ...) and back, each row by itself. Without `decode` they act on what
        the network sees: where maps are scaled as x = (m - low) / (high - low), a sum of maps has an offset, to be taken off y,
        and the scales are part of A (see `channel_sum`).
    variance: of the noise of each datum, broadcasting to y; inf where there is no datum, and y may then be anything.
    prior_variance: None takes V from the denoiser's Jacobian, at one backward pass for each iteration and one more. A number or map
        s^2, broadcasting to (C, H, W), takes V = s^2 sigma^2 / (s^2 + sigma^2), that of independent pixels of variance s^2: no
        gradients, but data tell nothing of pixels that they do not see.
    iterations, tolerance: of the linear solver, which ends where the residual, in units of the noise of the data, has fallen by
        `tolerance`. Few iterations solve for what the data know best, and leave the rest to the denoiser.
    decode: x (B, C, H, W) -> (m, dm / dx), pixel by pixel: the maps that A acts on; None = x itself. Exact for a straight line.
    Raises ValueError for data or a variance that cannot be, for another number of rows than x has, and for an `adjoint` that is
    not that of `forward`.
    """
    variance = torch.as_tensor(variance, dtype=y.dtype, device=y.device)
    if not bool((variance > 0).all()):
        raise ValueError("variance must be positive, and inf where there is no datum")
    weight = variance.rsqrt().expand_as(y)  # the data are whitened: unit noise, 0 where there is no datum
    y = torch.where(weight > 0, y, 0.0)
    if not bool(y.isfinite().all()):
        raise ValueError("y is not finite; where there is no datum, give it the variance inf")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, not {iterations}")
    _check_adjoint(forward, adjoint, y)
    if prior_variance is not None:
        prior_variance = torch.as_tensor(prior_variance, device=y.device)
        if not bool((prior_variance > 0).all() & prior_variance.isfinite().all()):
            raise ValueError("prior_variance must be positive and finite")

    def guided(x: Tensor, sigma: Tensor) -> Tensor:
        if len(y) not in (1, len(x)):
            raise ValueError(f"data of {len(y)} rows do not go with x of {len(x)}")
        level = sigma[:, None, None, None] ** 2
        if prior_variance is None:
            denoised, pull = linearise(denoise, x, sigma)
        else:
            spread = prior_variance.to(x)
            gain = spread / (spread + level)
            denoised, pull = denoise(x, sigma).to(x.dtype), lambda v: gain * v
        w = weight.to(x)
        maps, slope = (denoised, None) if decode is None else decode(denoised)

        def seen(v: Tensor) -> Tensor:
            return forward(v if slope is None else slope * v)

        def back(v: Tensor) -> Tensor:
            return adjoint(v) if slope is None else slope * adjoint(v)

        def covariance(v: Tensor) -> Tensor:
            return level * pull(v)

        def system(v: Tensor) -> Tensor:
            return v + w * seen(covariance(back(w * v)))

        solution = conjugate_residuals(system, w * (y.to(x) - forward(maps)), iterations, tolerance)
        return denoised + covariance(back(w * solution))

    return guided


def channel_sum(weights: Sequence[float] | Tensor) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """A = the sum of the channels with `weights` (C,), (B, C, H, W) -> (B, 1, H, W), and its adjoint.

    A lensing map of all matter, say: in units of the mean density `total` = (Omega_b gas + (Omega_m - Omega_b) dm) / Omega_m.
    With maps scaled as x = (m - low) / (high - low), the weights are those of the maps times (high - low), and y is the measured
    map less the sum over channels of weight of the map times low.
    """
    column = torch.as_tensor(weights)[:, None, None]

    def forward(x: Tensor) -> Tensor:
        return (column.to(x) * x).sum(1, keepdim=True)

    def adjoint(y: Tensor) -> Tensor:
        return column.to(y) * y

    return forward, adjoint


def conjugate_residuals(system: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float) -> Tensor:
    """The solution of v + K v = b, (B, ...), for system(v) = v + K v with a symmetric K >= 0 in each row (Stiefel 1955).

    Each step makes the residual as small as it can along its direction, so that it never grows, even if K is not quite symmetric.
    A row ends by itself where the residual has fallen by `tolerance`, or where K turns out negative along it, as that of a network
    may, and keeps what it has: no row depends on what else is in the batch.
    """
    v, residual = torch.zeros_like(b), b
    direction = image = torch.zeros_like(b)
    size, norm = _dot(b, b), 1.0
    goal, active = tolerance**2 * size, size > 0
    for _ in range(iterations):
        if not bool(active.any()):
            break
        change = system(residual)
        active = active & (_dot(residual, change) > (1 - 1e-3) * size)
        beta = -_dot(change, image) / norm
        direction = residual + beta * direction
        image = torch.where(active, change + beta * image, 0.0)
        norm = torch.where(active, _dot(image, image), 1.0)
        step = _dot(residual, image) / norm
        v = v + step * direction
        residual = residual - step * image
        size = _dot(residual, residual)
        active = active & (size > goal)
    return v


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each row, of the shape (B, 1, ...)."""
    return (a * b).sum(tuple(range(1, a.ndim)), keepdim=True)


def _check_adjoint(forward, adjoint, y: Tensor) -> None:
    """<A u, w> = <u, A^T w> for random u, and w with a part along A u, so that a wrong factor shows as well."""
    with torch.no_grad():
        z = normal(derive_key(0, torch.arange(len(y))).to(y.device), 0, y.shape[1:]).to(y.dtype)
        like = adjoint(z)
        u = normal(derive_key(1, torch.arange(len(like))).to(y.device), 0, like.shape[1:]).to(y.dtype)
        there = forward(u)
        if there.shape != y.shape:
            raise ValueError(f"forward gives the shape {tuple(there.shape)}, but y has {tuple(y.shape)}")
        w = there / there.norm() + z / z.norm()
        mismatch = (there * w).sum() - (u * adjoint(w)).sum()
        if not bool(mismatch.abs() <= 1e-3 * there.norm()):
            raise ValueError("adjoint is not the transpose of forward: <A u, w> and <u, A^T w> differ")
