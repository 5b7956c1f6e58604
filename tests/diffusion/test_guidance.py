"""Guidance by linear data on Gaussian priors, where the posterior is known: masks, blurs, sums of channels, and what is sampled."""

import math

import pytest
import torch
from targets import Gaussian

from hpcdiff.diffusion import VESDE, EDMDenoiser, channel_sum, derive_key, guide, normal, sample
from hpcdiff.diffusion.guidance import conjugate_residuals
from hpcdiff.network import NCSNpp

torch.set_num_threads(1)

SHAPE = (2, 3, 4)  # (C, H, W)
D = math.prod(SHAPE)
SIGMAS = torch.tensor([0.003, 0.1, 0.7, 5.0, 100.0], dtype=torch.float64)


def draws(b: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return normal(derive_key(seed, torch.arange(b)), 0, shape).double()


def correlated(low: float = -2.0) -> Gaussian:
    """Eigenvalues from 10^low to 1, mixed over all pixels and channels."""
    basis = torch.linalg.qr(draws(1, D, D)[0])[0]
    return Gaussian(torch.linspace(-1, 1, D), basis * torch.logspace(low, 0, D).double() @ basis.T)


def independent() -> Gaussian:
    return Gaussian(torch.linspace(-1, 1, D), torch.diag(torch.logspace(-2, 0.5, D)))


def smoothing(n: int) -> torch.Tensor:
    """A Gaussian blur of 1.5 pixels FWHM along one side, cut at the edges: not its own transpose once the rows are normalised."""
    i = torch.arange(n, dtype=torch.float64)
    g = torch.exp(-4 * math.log(2) * ((i[:, None] - i) / 1.5) ** 2)
    return g / g.sum(1, keepdim=True)


def identity():
    return (lambda x: x), (lambda y: y)


def blurred_sum():
    """A sum of the channels with unequal weights, then a blur."""
    (add, spread), rows, columns = channel_sum([0.3, 1.7]), smoothing(SHAPE[1]), smoothing(SHAPE[2])
    return (lambda x: rows @ add(x) @ columns.T), (lambda y: spread(rows.T @ y @ columns))


OPERATORS = {"mask": identity, "channel_sum": lambda: channel_sum([0.3, 1.7]), "blurred_sum": blurred_sum}


def measured(name: str, prior: Gaussian, noise: float, b: int = 1):
    """Operator, its matrix, data (b, ...) of draws of the prior, and variances that differ from datum to datum; masked: half of it unseen."""
    forward, adjoint = OPERATORS[name]()
    matrix = forward(torch.eye(D, dtype=torch.float64).reshape(D, *SHAPE)).flatten(1).T  # (m, d)
    x0 = prior.mu + draws(b, D, seed=1) * prior.values.sqrt() @ prior.vectors.T
    truth = forward(x0.reshape(b, *SHAPE))
    variance = noise**2 * torch.linspace(0.5, 2, truth[0].numel(), dtype=torch.float64).reshape(truth[0].shape)
    y = truth + variance.sqrt() * draws(b, *truth.shape[1:], seed=2)
    if name == "mask":
        unseen = torch.arange(variance.numel()).reshape(variance.shape) % 2 == 0
        variance = variance.masked_fill(unseen, math.inf)
        y = y.masked_fill(unseen, math.nan)
    return forward, adjoint, matrix, y, variance


def closed_form(prior: Gaussian, matrix: torch.Tensor, y: torch.Tensor, variance: torch.Tensor) -> Gaussian:
    return prior.posterior(y.flatten().nan_to_num(), matrix, 1 / variance.flatten())


@pytest.mark.parametrize("noise", [0.01, 0.3, 3.0])
@pytest.mark.parametrize("name", OPERATORS)
def test_covariance_form_is_exact_on_a_correlated_gaussian(name, noise):
    """At every noise level the guided denoiser is that of the posterior, from sigma << spread to sigma >> spread."""
    prior = correlated()
    forward, adjoint, matrix, y, variance = measured(name, prior, noise)
    guided = guide(prior.denoise, y, forward, adjoint, variance, iterations=200, tolerance=1e-12)
    x = prior.mu.reshape(1, *SHAPE) + (1 + SIGMAS[:, None, None, None]) * draws(len(SIGMAS), *SHAPE, seed=3)
    expected = closed_form(prior, matrix, y, variance).denoise(x, SIGMAS)
    torch.testing.assert_close(guided(x, SIGMAS), expected, rtol=0, atol=1e-7)
    assert (guided(x, SIGMAS) - prior.denoise(x, SIGMAS)).abs().amax((1, 2, 3))[1:].min() > 1e-4  # the data matter


@pytest.mark.parametrize("noise", [0.01, 0.3])
@pytest.mark.parametrize("name", OPERATORS)
def test_given_variances_are_exact_on_independent_pixels(name, noise):
    prior = independent()
    forward, adjoint, matrix, y, variance = measured(name, prior, noise)
    spread = prior.covariance.diag().reshape(SHAPE)
    guided = guide(prior.denoise, y, forward, adjoint, variance, prior_variance=spread, iterations=200, tolerance=1e-12)
    x = (1 + SIGMAS[:, None, None, None]) * draws(len(SIGMAS), *SHAPE, seed=3)
    expected = closed_form(prior, matrix, y, variance).denoise(x, SIGMAS)
    torch.testing.assert_close(guided(x, SIGMAS), expected, rtol=0, atol=1e-7)


def test_at_high_noise_the_data_weigh_against_the_prior_alone():
    """E[x0 | y] is the Wiener filter; weighing by the noise of the data alone would overshoot by prior variance / noise^2."""
    prior = correlated()
    forward, adjoint, matrix, y, variance = measured("channel_sum", prior, 0.01)
    x = 1e5 * draws(1, *SHAPE)
    guided = guide(prior.denoise, y, forward, adjoint, variance, iterations=200, tolerance=1e-12)(x, torch.tensor([1e5]).double())
    c, n = prior.covariance, torch.diag(variance.flatten())
    wiener = prior.mu + c @ matrix.T @ torch.linalg.solve(matrix @ c @ matrix.T + n, y.flatten() - matrix @ prior.mu)
    torch.testing.assert_close(guided.flatten(), wiener, rtol=0, atol=1e-3)


def test_default_iterations_are_enough_for_a_percent():
    prior = correlated()
    for name in OPERATORS:
        forward, adjoint, matrix, y, variance = measured(name, prior, 0.1)
        posterior = closed_form(prior, matrix, y, variance)
        x = prior.mu.reshape(1, *SHAPE) + (1 + SIGMAS[:, None, None, None]) * draws(len(SIGMAS), *SHAPE, seed=3)
        error = guide(prior.denoise, y, forward, adjoint, variance)(x, SIGMAS) - posterior.denoise(x, SIGMAS)
        assert error.square().mean().sqrt() < 0.01 * posterior.covariance.diag().mean().sqrt()


@pytest.mark.parametrize(("sampler", "steps"), [("dpmpp_2m", 24), ("heun", 25)])
@pytest.mark.parametrize("name", OPERATORS)
def test_ode_samplers_give_the_mean_and_covariance_of_the_posterior(name, sampler, steps):
    """They are affine in the start, so that starts along each pixel give the whole distribution, without statistics."""
    prior, sde = correlated(), VESDE(0.001, 10.0)
    forward, adjoint, matrix, y, variance = measured(name, prior, 0.3)
    posterior = closed_form(prior, matrix, y, variance)
    guided = guide(prior.denoise, y, forward, adjoint, variance, iterations=100, tolerance=1e-9)
    starts = posterior.mu + torch.cat([torch.zeros(1, D), torch.eye(D)]).double()
    out = sample(guided, (D + 1, *SHAPE), sde, sampler, steps, init=starts.reshape(-1, *SHAPE)).flatten(1)
    torch.testing.assert_close(out[0], posterior.mu, rtol=0, atol=2e-3)
    slopes = (out[1:] - out[0]).T
    covariance = slopes @ (posterior.covariance + sde.sigma_max**2 * torch.eye(D)) @ slopes.T
    # In the posterior's own directions: every spread right, and no correlation between them.
    modes = posterior.vectors / posterior.values.sqrt()
    torch.testing.assert_close(modes.T @ covariance @ modes, torch.eye(D).double(), rtol=0, atol=0.05)


def test_sde_samplers_give_the_mean_and_covariance_of_the_posterior():
    prior, sde, n = correlated(-1.0), VESDE(0.005, 5.0), 3000
    forward, adjoint, matrix, y, variance = measured("blurred_sum", prior, 0.2)
    posterior = closed_form(prior, matrix, y, variance)
    guided = guide(prior.denoise, y, forward, adjoint, variance, iterations=30, tolerance=1e-4)
    start = posterior.mu.reshape(1, *SHAPE) + math.hypot(5.0, 0.5) * draws(n, *SHAPE, seed=8)
    x = sample(guided, (n, *SHAPE), sde, "dpmpp_2m_sde", 36, seed=4, init=start).flatten(1)
    z = (x - posterior.mu) @ posterior.vectors / posterior.values.sqrt()
    assert z.mean(0).abs().max() < 4 / n**0.5
    assert (torch.cov(z.T) - torch.eye(D)).abs().max() < 0.01 + 4.5 * (2 / n) ** 0.5
    prior_modes = (posterior.vectors.T @ prior.covariance @ posterior.vectors).diag() / posterior.values
    assert prior_modes.max() > 5  # the data do narrow it


def test_total_mass_in_the_units_of_the_maps():
    """Scaled maps, a weighted sum and its offset, as `channel_sum` says: the posterior of the maps themselves."""
    low, high, weights = torch.tensor([0.5, -2.0]).double(), torch.tensor([40.0, 90.0]).double(), torch.tensor([0.15, 0.85]).double()
    scale = (high - low)[:, None, None].expand(SHAPE).flatten()
    prior = correlated(-1.0)  # of x = (m - low) / (high - low)
    maps = Gaussian(scale * prior.mu + low.repeat_interleave(D // 2), scale[:, None] * prior.covariance * scale)
    matrix = torch.cat([w * torch.eye(D // 2).double() for w in weights], 1)
    total, variance = 30 + 9 * draws(1, 1, *SHAPE[1:]), 4.0
    expected = maps.posterior(total.flatten(), matrix, torch.full((D // 2,), 1 / variance).double())
    operator = channel_sum(weights * (high - low))
    guided = guide(prior.denoise, total - (weights * low).sum(), *operator, variance, iterations=200, tolerance=1e-12)
    mean = guided(torch.zeros(1, *SHAPE).double(), torch.tensor([1e6]).double()).flatten()
    torch.testing.assert_close(low.repeat_interleave(D // 2) + scale * mean, expected.mu, rtol=1e-6, atol=1e-6)


def network() -> EDMDenoiser:
    """A small NCSN++ with weights of a fixed seed, none of them zero; its Jacobian is not symmetric."""
    torch.manual_seed(0)
    net = NCSNpp(channels_in=2, channels_out=2, channels_condition=0, channels=4, multipliers=(1, 1), blocks=1)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return EDMDenoiser(net, [0.3, 0.5]).eval()


@pytest.mark.parametrize("prior_variance", [None, 0.1])
def test_rows_are_the_same_alone_and_in_a_batch_with_their_own_data(prior_variance):
    denoiser, y = network(), draws(3, 1, 8, 8).float()
    sigma, x = torch.tensor([0.02, 0.5, 4.0]), draws(3, 2, 8, 8, seed=6).float()

    def run(rows):
        return guide(denoiser, y[rows], *channel_sum([0.3, 0.7]), 0.01, prior_variance, iterations=4)(x[rows], sigma[rows])

    together = run(slice(None))
    assert together.dtype == torch.float32 and not together.isnan().any()
    torch.testing.assert_close(together, torch.cat([run(slice(i, i + 1)) for i in range(3)]), rtol=1e-4, atol=1e-5)
    shared = guide(denoiser, y[:1], *channel_sum([0.3, 0.7]), 0.01, prior_variance, iterations=4)(x, sigma)
    torch.testing.assert_close(shared[0], together[0], rtol=1e-4, atol=1e-5)
    assert (shared[1] - together[1]).abs().max() > 0.01


@pytest.mark.parametrize("sampler", ["dpmpp_2m_sde", "dpmpp_2m"])
def test_samples_of_a_network_fit_the_data_better_with_them(sampler):
    """Also in inference mode, as the sampling stage runs, and without leaving gradients at the weights."""
    denoiser, variance = network(), 0.02**2
    operator = channel_sum([0.3, 0.7])
    y = operator[0](0.5 * draws(2, 2, 8, 8, seed=9)).float()
    guided = guide(denoiser, y, *operator, variance)

    def misfit(function):
        x = sample(function, (2, 2, 8, 8), VESDE(0.002, 2.0), sampler, 18, seed=1)
        return ((operator[0](x) - y) ** 2).mean().item() / variance

    with torch.inference_mode():
        inside = misfit(guided)
    assert inside == pytest.approx(misfit(guided), rel=1e-5)
    assert inside < 3 and misfit(denoiser) > 30
    assert all(p.grad is None for p in denoiser.parameters())


def test_a_faulty_jacobian_does_no_harm_at_high_noise():
    """sigma^2 dD / dx of a network is right to some tenth of the prior's variance at best, many times the noise of the data.

    Its faults, symmetric or not, must leave the guided mean nearer to the truth than the unguided one; solved to the end, the system is
    then so nearly singular that the result would be many times the prior's spread off.
    """
    prior = correlated()
    forward, adjoint, matrix, y, variance = measured("blurred_sum", prior, 0.03, b=1)
    posterior, sigma = closed_form(prior, matrix, y, variance), torch.tensor([4.0, 4.0, 4.0, 4.0]).double()
    fault = 0.1 * draws(1, D, D, seed=7)[0] / D**0.5 / sigma[0] ** 2

    def denoise(x, sigma):
        flat = x.flatten(1)
        return prior.denoise(x, sigma) + ((flat - flat.detach()) @ fault).reshape(x.shape)  # the Jacobian alone is wrong

    x = prior.mu.reshape(1, *SHAPE) + 4 * draws(4, *SHAPE, seed=3)
    expected = posterior.denoise(x, sigma)
    unguided = (denoise(x, sigma) - expected).square().mean().sqrt()
    for iterations in (3, 10, 300):
        guided = guide(denoise, y, forward, adjoint, variance, iterations=iterations, tolerance=1e-9)(x, sigma)
        assert (guided - expected).square().mean().sqrt() < 0.7 * unguided


def test_conjugate_residuals_end_where_a_row_is_not_that_of_a_covariance():
    """The second and third row stop at once and stay, while the first takes some 50 iterations more."""
    good = torch.logspace(0, 4, 40).double()
    diagonals = torch.stack([good, -good, torch.full_like(good, 0.02), good])
    b = torch.ones(4, 40).double()
    b[3] = 0

    v = conjugate_residuals(lambda v: diagonals * v, b, 1000, 1e-9)
    torch.testing.assert_close(v[0], 1 / good, rtol=1e-6, atol=1e-8)
    assert v[1:].eq(0).all()


def test_bad_data_are_named():
    y, (forward, adjoint) = torch.ones(1, 1, 4, 4), channel_sum([1.0, 2.0])

    def denoise(x, sigma):
        return x / 2

    for variance in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="variance must be positive"):
            guide(denoise, y, forward, adjoint, variance)
    with pytest.raises(ValueError, match="y is not finite"):
        guide(denoise, y * math.nan, forward, adjoint, 1.0)
    with pytest.raises(ValueError, match="iterations"):
        guide(denoise, y, forward, adjoint, 1.0, iterations=0)
    with pytest.raises(ValueError, match="prior_variance"):
        guide(denoise, y, forward, adjoint, 1.0, prior_variance=0.0)
    with pytest.raises(ValueError, match="shape"):
        guide(denoise, y, lambda x: forward(x)[..., :3], adjoint, 1.0)
    rows = smoothing(4).float()
    for wrong in (lambda v: 2 * adjoint(v), lambda v: -adjoint(v), channel_sum([2.0, 1.0])[1]):
        with pytest.raises(ValueError, match="transpose"):
            guide(denoise, y, forward, wrong, 1.0)
    with pytest.raises(ValueError, match="transpose"):
        guide(denoise, y, lambda x: rows @ x, lambda v: rows @ v, 1.0)
    with pytest.raises(ValueError, match="transpose"):
        guide(denoise, y, lambda x: forward(x) + 1, adjoint, 1.0)
    with pytest.raises(ValueError, match="2 rows"):
        guide(denoise, y.expand(2, -1, -1, -1), forward, adjoint, 1.0)(torch.ones(1, 2, 4, 4), torch.ones(1))
    with pytest.raises(ValueError, match="autograd"):
        guide(torch.no_grad()(denoise), y, forward, adjoint, 1.0)(torch.ones(1, 2, 4, 4), torch.ones(1))


def test_maps_on_a_straight_line_are_a_scale_and_an_offset():
    """Data on m = 3 x - 2 are data on x, less A(-2), with 3 A."""
    prior = correlated()
    forward, adjoint, _, y, variance = measured("channel_sum", prior, 0.3)
    offset = forward(torch.full((1, *SHAPE), -2.0, dtype=torch.float64))
    shared = {"iterations": 50, "tolerance": 1e-10}
    by_hand = guide(prior.denoise, y - offset, lambda x: 3 * forward(x), lambda v: 3 * adjoint(v), variance, **shared)
    line = guide(prior.denoise, y, forward, adjoint, variance, decode=lambda x: (3 * x - 2, torch.full_like(x, 3.0)), **shared)
    x = draws(len(SIGMAS), *SHAPE, seed=3)
    assert torch.allclose(line(x, SIGMAS), by_hand(x, SIGMAS), rtol=0, atol=1e-8)
    assert not torch.allclose(line(x, SIGMAS), prior.denoise(x, SIGMAS), atol=1e-2)
