"""Samplers against closed forms for Gaussian targets N(mu, s^2), where the exact denoiser is known.

There each step is linear in the state and the noise, so the spread of the samples follows without statistics: run a
batch in which row k starts from, or is given, one unit of the k-th source of noise and no other, and add the squares.
"""

import math

import pytest
import torch
from targets import Mixture

from hpcdiff.diffusion import SAMPLERS, VESDE, derive_key, nfe, normal, sample, uniform

torch.set_num_threads(1)

SDE = VESDE(0.001, 1.0)
SPREADS = torch.logspace(math.log10(0.02), math.log10(2), 21).tolist()


def gaussian(s, mu=0.0):
    """E[x0 | x] at noise level sigma."""

    def denoise(x, sigma):
        sigma = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
        return mu + s**2 / (s**2 + sigma**2) * (x - mu)

    return denoise


def spread(sampler, steps, s, start, **options):
    """Standard deviation of the samples of N(0, s^2) when the start has standard deviation `start`."""
    unit = torch.eye(steps, dtype=torch.float64)[:, :, None, None, None]  # source of noise, row
    x = SAMPLERS[sampler](start * unit[0], gaussian(s), lambda k: unit[k], SDE, steps, lambda i: None, **options)
    return x.square().sum().sqrt().item()


def matched(s):
    """Spread of the target at noise level sigma_max."""
    return math.hypot(s, SDE.sigma_max)


@pytest.mark.parametrize("s", [0.02, 0.6, 2.0])
def test_euler_maruyama_follows_its_recursion(s):
    """x' = x + g^2 score dt + g sqrt(dt) z with score = -(x - mu) / (s^2 + sigma^2), t from 1 to 0."""
    steps, mu, start_mean = 200, 0.3, 1.1
    mean, variance, dt = start_mean, 1.0, 1 / (steps - 1)
    for i in range(steps - 1):
        t = torch.tensor(1 - i * dt, dtype=torch.float64)
        g2, sigma = SDE.g2(t).item(), SDE.sigma(t).item()
        factor = 1 - g2 * dt / (s**2 + sigma**2)
        mean, variance = mu + factor * (mean - mu), factor**2 * variance + g2 * dt
    gain = s**2 / (s**2 + SDE.sigma_min**2)
    assert spread("euler_maruyama", steps, s, 1.0) == pytest.approx(gain * variance**0.5, rel=1e-9)
    init = start_mean + normal(derive_key(0, torch.arange(8)), 10**6, (1, 64, 64)).double()
    x = sample(gaussian(s, mu), init.shape, SDE, steps=steps, init=init)
    n = x.numel()
    assert x.mean().item() == pytest.approx(mu + gain * (mean - mu), abs=4 * variance**0.5 / n**0.5)
    assert x.std().item() == pytest.approx(gain * variance**0.5, rel=4 / (2 * n) ** 0.5)


def test_euler_maruyama_of_the_paper_loses_the_spread_of_coherent_modes():
    """From N(0, 1) with 1000 steps; exact for the continuous reverse SDE: v0 = S0 + (vT - ST) (S0 / ST)^2."""
    for s, expected in ((0.6, 0.965), (2.0, 0.60)):
        S0, ST = s**2 + SDE.sigma_min**2, s**2 + 1
        exact = math.sqrt(S0 + (1 - ST) * (S0 / ST) ** 2) / s
        assert spread("euler_maruyama", 1000, s, 1.0) / s == pytest.approx(exact, rel=0.005)
        assert exact == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(
    ("sampler", "evaluations", "worst"),
    [("dpmpp_2m_sde", 36, 0.01), ("dpmpp_2m", 18, 0.01), ("heun", 49, 0.015), ("euler_maruyama", 250, 0.005)],
)
def test_spread_is_right_from_a_matched_start(sampler, evaluations, worst):
    steps = next(n for n in range(2, 1000) if nfe(sampler, n) == evaluations)
    deviation = [abs(spread(sampler, steps, s, matched(s)) / s - 1) for s in SPREADS]
    assert max(deviation) < worst


@pytest.mark.parametrize(("sampler", "order"), [("heun", 1.7), ("dpmpp_2m", 1.7), ("dpmpp_2m_sde", 1.5)])
def test_error_falls_with_the_order_of_the_method(sampler, order):
    coarse, fine = (abs(spread(sampler, steps, 0.1, matched(0.1)) / 0.1 - 1) for steps in (40, 160))
    assert math.log(coarse / fine, 4) > order


def test_ode_samplers_follow_the_exact_map():
    """x0 = mu + (xT - mu) sqrt(S0 / ST), pixel by pixel."""
    init = torch.linspace(-2, 2, 64, dtype=torch.float64).reshape(1, 1, 8, 8)
    for sampler in ("heun", "dpmpp_2m"):
        x = sample(gaussian(0.5, 0.2), (1, 1, 8, 8), SDE, sampler, 100, init=init)
        torch.testing.assert_close(x, 0.2 + (init - 0.2) * math.sqrt(0.25 / 1.25), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("s", [0.1, 0.6])
def test_predictor_corrector_follows_its_recursion(s):
    """Its Langevin step is set by norms over the image, which for many pixels are sqrt(pixels) times the spread."""
    steps, snr, variance = 12, 0.16, matched(s) ** 2
    levels = SDE.levels(steps)
    for sigma, lower in zip(levels[:-1], levels[1:], strict=True):
        gained = sigma**2 - lower**2
        variance = (1 - gained / (s**2 + sigma**2)) ** 2 * variance + gained
        target = s**2 + lower**2
        eps = 2 * snr**2 * target**2 / variance
        variance = (1 - eps / target) ** 2 * variance + 2 * eps
    init = matched(s) * normal(derive_key(1, torch.arange(64)), 10**6, (1, 128, 128)).double()
    x = sample(gaussian(s), init.shape, SDE, "predictor_corrector", steps, init=init)
    assert x.std().item() == pytest.approx(variance**0.5, rel=0.008)


def test_predictor_corrector_has_the_right_spread_from_a_matched_start():
    """Images of so many pixels that the k-th noise can be sqrt(pixels) in pixel k and 0 elsewhere: norms and products are exact.

    The mean square of a row is then the variance that white noise on ever larger images would have. 7 % off at 50 steps.
    """
    steps = 1000
    side = math.isqrt(2 * steps) + 1
    s = torch.tensor(SPREADS, dtype=torch.float64)[:, None, None, None]

    def noise(k):
        one = torch.zeros(side * side, dtype=torch.float64)
        one[k] = side
        return one.reshape(1, 1, side, side).expand(len(s), -1, -1, -1)

    start = (s**2 + SDE.sigma_max**2).sqrt() * noise(0)
    x = SAMPLERS["predictor_corrector"](start, gaussian(s), noise, SDE, steps, lambda i: None)
    deviation = x.square().mean((1, 2, 3)).sqrt() / s.flatten() - 1
    assert deviation.abs().max() < 0.02


@pytest.mark.parametrize(("s", "churn"), [(0.1, 4.0), (0.6, 40.0)])
def test_heun_with_churn_follows_its_recursion(s, churn):
    """Noise up to the raised level, then Heun's step between the slopes sigma / (s^2 + sigma^2) of both ends."""
    steps, variance = 25, 1.0
    levels = SDE.levels(steps, 7)
    for sigma, lower in zip(levels[:-1], levels[1:], strict=True):
        raised = min(sigma * (1 + min(churn / steps, 2**0.5 - 1)), SDE.sigma_max)
        step, here, there = lower - raised, raised / (s**2 + raised**2), lower / (s**2 + lower**2)
        factor = 1 + 0.5 * step * (here + there * (1 + step * here))
        variance = factor**2 * (variance + raised**2 - sigma**2)
    gain = s**2 / (s**2 + SDE.sigma_min**2)
    assert spread("heun", steps, s, 1.0, churn=churn) == pytest.approx(gain * variance**0.5, rel=1e-9)
    init = normal(derive_key(0, torch.arange(8)), 10**6, (1, 64, 64)).double()
    x = sample(gaussian(s), init.shape, SDE, "heun", steps, init=init, churn=churn)
    assert x.std().item() == pytest.approx(gain * variance**0.5, rel=4 / (2 * x.numel()) ** 0.5)


def test_churn_keeps_the_spread_and_forgets_a_wrong_start():
    """From N(0, 1) the ODE gives .857 of a spread of 0.6, the SDE .965; churn leads from one to the other."""
    for s in SPREADS:
        assert spread("heun", 100, s, matched(s), churn=20.0) / s == pytest.approx(1, abs=0.01)
    assert spread("heun", 200, 0.6, 1.0) / 0.6 == pytest.approx(0.857, abs=0.003)
    assert spread("heun", 200, 0.6, 1.0, churn=60.0) / 0.6 > 0.95


MIXTURES = [
    Mixture([0.3, 0.7], [-0.8, 0.5], [0.1, 0.4]),
    Mixture([0.2, 0.5, 0.3], [-1.0, 0.2, 1.0], [0.02, 0.1, 0.3]),
    Mixture([0.9, 0.1], [0.05, 0.6], [0.02, 0.2]),  # faint pixels with a bright tail
]


@pytest.mark.parametrize(("sampler", "steps", "worst"), [("dpmpp_2m", 18, 0.008), ("dpmpp_2m", 50, 0.0015), ("heun", 25, 0.004)])
def test_ode_samplers_give_every_quantile_of_a_mixture(sampler, steps, worst):
    """The ODE keeps the order of one-dimensional x, so quantiles of the noisy mixture end at those of the mixture."""
    p = (torch.arange(1024, dtype=torch.float64) + 0.5) / 1024
    for mixture in MIXTURES:
        init = mixture.quantile(p, SDE.sigma_max).reshape(1, 1, 32, 32)
        x = sample(mixture.denoise, init.shape, SDE, sampler, steps, init=init).flatten()
        assert (mixture.cdf(x) - p).abs().max() < worst


@pytest.mark.parametrize(("sampler", "steps"), [("dpmpp_2m_sde", 36), ("euler_maruyama", 250), ("predictor_corrector", 250)])
@pytest.mark.parametrize("mixture", MIXTURES)
def test_sde_samplers_give_the_distribution_of_a_mixture(sampler, steps, mixture):
    """Kolmogorov's distance of 16384 pixels; pure chance passes 0.015 once in a thousand."""
    n = 128
    p = (torch.arange(n * n, dtype=torch.float64) + 0.5) / n**2
    init = mixture.quantile(p, SDE.sigma_max).reshape(1, 1, n, n)
    x = sample(mixture.denoise, init.shape, SDE, sampler, steps, seed=2, init=init).flatten().sort().values
    assert (mixture.cdf(x) - p).abs().max() < 0.015


@pytest.mark.parametrize(
    ("sampler", "steps", "worst"),
    [
        ("dpmpp_2m", 24, 0.01),
        ("heun", 25, 0.015),
        ("dpmpp_2m_sde", 36, 0.015),
        ("euler_maruyama", 120, 0.015),
        ("predictor_corrector", 120, 0.06),
    ],
)
def test_whole_images_fall_to_either_of_two_clouds_as_often_as_they_should(sampler, steps, worst):
    """All pixels decide together: 80 % of images about one pattern, 20 % about another, each with the spread of its cloud.

    The predictor-corrector is 4 % too wide here, as its steps are set by norms over 64 pixels alone (1.3 % for many pixels).
    """
    patterns = 0.25 * normal(torch.tensor([1, 2]), 0, (64,)).double()
    weights, s, n = torch.tensor([0.8, 0.2], dtype=torch.float64), 0.15, 1500

    def logits(flat, variance):
        return weights.log() - 0.5 * (flat[:, None] - patterns).square().sum(2) / variance

    def denoise(x, sigma):
        flat, variance = x.flatten(1), s**2 + sigma[:, None] ** 2
        centre = logits(flat, variance).softmax(1) @ patterns
        return (centre + s**2 / variance * (flat - centre)).reshape(x.shape)

    keys = derive_key(4, torch.arange(n))
    cloud = (uniform(keys, 0, (1,)).flatten() > 0.8).long()
    init = patterns[cloud] + math.hypot(s, SDE.sigma_max) * normal(keys, 1, (64,))
    x = sample(denoise, (n, 1, 8, 8), SDE, sampler, steps, seed=6, init=init.reshape(n, 1, 8, 8)).flatten(1)
    landed = logits(x, s**2).argmax(1)
    assert landed.double().mean().item() == pytest.approx(0.2, abs=4 * (0.16 / n) ** 0.5)
    assert (x - patterns[landed]).std().item() == pytest.approx(s, rel=worst)
    assert (x[landed == 1].mean(0) - patterns[1]).abs().max() < 4.5 * s / (0.2 * n) ** 0.5


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_come_out_at_the_mean_of_a_narrow_target(sampler):
    target = torch.linspace(0, 1, 16).reshape(1, 1, 4, 4)
    x = sample(gaussian(1e-6, target), (3, 1, 4, 4), SDE, sampler, 30, seed=1)
    torch.testing.assert_close(x, target.expand(3, 1, 4, 4), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_rows_are_the_same_alone_and_in_a_batch(sampler):
    keys = derive_key(7, torch.arange(4))
    together = sample(gaussian(0.5), (4, 2, 6, 6), SDE, sampler, 12, seed=keys)
    alone = torch.cat([sample(gaussian(0.5), (1, 2, 6, 6), SDE, sampler, 12, seed=keys[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    for seed in (7, keys.numpy()):
        assert torch.equal(sample(gaussian(0.5), (4, 2, 6, 6), SDE, sampler, 12, seed=seed), together)
    assert (together[0] - together[1]).abs().max() > 0.1
    assert (together - sample(gaussian(0.5), (4, 2, 6, 6), SDE, sampler, 12, seed=8)).abs().max() > 0.1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_number_of_evaluations_and_noise_levels(sampler):
    levels, stopped = [], []

    def denoise(x, sigma):
        assert sigma.shape == (2,) and sigma.dtype == x.dtype and not torch.is_grad_enabled()
        levels.append(sigma[0].item())
        return 0.5 * x

    sample(denoise, (2, 1, 4, 4), SDE, sampler, 9, on_step=stopped.append)
    assert len(levels) == nfe(sampler, 9)
    assert levels[0] == pytest.approx(1.0) and levels[-1] == pytest.approx(0.001)
    assert len({round(level, 9) for level in levels}) == 9  # `steps` is the number of noise levels
    assert stopped == list(range(8))


def test_default_start_has_the_spread_of_sigma_max():
    starts = []
    sde = VESDE(0.01, 30.0)
    sample(lambda x, sigma: starts.append(x.clone()) or x, (4, 1, 64, 64), sde, "heun", 2)
    assert starts[0].std().item() == pytest.approx(30.0, rel=0.025)


def test_the_start_is_not_changed_in_place():
    init = torch.ones(1, 1, 4, 4)
    for sampler in SAMPLERS:
        sample(gaussian(0.5), init.shape, SDE, sampler, 3, init=init)
    assert torch.equal(init, torch.ones(1, 1, 4, 4))


def test_bad_arguments_are_named():
    denoise = gaussian(1.0)
    with pytest.raises(ValueError, match="euler_maruyama, predictor_corrector, heun, dpmpp_2m, dpmpp_2m_sde"):
        sample(denoise, (1, 1, 4, 4), SDE, "ddim")
    with pytest.raises(ValueError, match="unknown sampler"):
        nfe("ddim", 3)
    with pytest.raises(ValueError, match="shape"):
        sample(denoise, (1, 4, 4), SDE)
    with pytest.raises(ValueError, match="init has shape"):
        sample(denoise, (1, 1, 4, 4), SDE, init=torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match="seed must be"):
        sample(denoise, (1, 1, 4, 4), SDE, seed=torch.arange(3))
    with pytest.raises(ValueError, match="steps"):
        sample(denoise, (1, 1, 4, 4), SDE, steps=1)
    for sampler, churn in (("dpmpp_2m", 1.0), ("heun", -1.0)):
        with pytest.raises(ValueError, match="churn"):
            sample(denoise, (1, 1, 4, 4), SDE, sampler, churn=churn)
