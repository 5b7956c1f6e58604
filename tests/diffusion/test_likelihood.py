"""Log-likelihood against closed forms: Gaussians, mixtures in one and two dimensions, and the scatter of the probes."""

import math

import pytest
import torch
from targets import Gaussian, Mixture

from hpcdiff.diffusion import VESDE, EDMDenoiser, VEDenoiser, derive_key, log_likelihood, normal
from hpcdiff.diffusion.likelihood import _gregory
from hpcdiff.network import NCSNpp

torch.set_num_threads(1)

SDE = VESDE(0.001, 1.0)
WIDE = VESDE(0.001, 100.0)
"""Here a target of unit size, at sigma_max, is as good as the Gaussian of its mean and variances."""


def correlated(d: int, seed: int = 0) -> Gaussian:
    """Eigenvalues from 0.01 to 1 in random directions."""
    basis = torch.linalg.qr(normal(torch.tensor([seed]), 0, (d, d))[0].double())[0]
    return Gaussian(torch.linspace(-1, 1, d), basis * torch.logspace(-2, 0, d).double() @ basis.T)


def images(b: int, *shape: int, seed: int = 5) -> torch.Tensor:
    return normal(derive_key(seed, torch.arange(b)), 0, shape).double()


@pytest.mark.parametrize("s", [0.02, 0.3, 2.0])
def test_isotropic_gaussian(s):
    target = Gaussian(torch.full((8,), 0.4), s**2 * torch.eye(8))
    x = 0.4 + s * images(6, 2, 2, 2)
    got = log_likelihood(target.denoise, x, SDE, probes=None, mean=0.4, variance=s**2)
    torch.testing.assert_close(got.nats, target.log_density(x, SDE.sigma_min), rtol=0, atol=2e-4)
    assert got.nats.dtype == torch.float64 and got.standard_error.eq(0).all() and got.step_error is None


def test_pixels_of_unequal_spread_need_no_probes_to_agree():
    """The Jacobian is diagonal, so every vector of signs gives its trace exactly."""
    variance, mean = torch.logspace(-3, 0.5, 18).reshape(2, 3, 3), torch.linspace(-1, 1, 18).reshape(2, 3, 3)
    target = Gaussian(mean.flatten(), torch.diag(variance.flatten()))
    x = mean + variance.sqrt() * images(5, 2, 3, 3)
    got = log_likelihood(target.denoise, x, SDE, probes=2, mean=mean, variance=variance)
    torch.testing.assert_close(got.nats, target.log_density(x, SDE.sigma_min), rtol=0, atol=1e-3)
    assert got.standard_error.max() < 1e-9


def test_correlated_gaussian_with_the_exact_trace():
    target = correlated(6)
    mean, variance = target.mu.reshape(1, 2, 3), target.covariance.diag().reshape(1, 2, 3)
    x = mean + (images(7, 1, 2, 3).flatten(1) * target.values.sqrt() @ target.vectors.T).reshape(7, 1, 2, 3)
    got = log_likelihood(target.denoise, x, WIDE, 129, probes=None, mean=mean, variance=variance)
    torch.testing.assert_close(got.nats, target.log_density(x, WIDE.sigma_min), rtol=0, atol=5e-4)


def test_probes_scatter_as_hutchinson_says_and_noise_levels_are_independent():
    """The variance of v^T J v is 2 sum of J_ij^2 over i != j; it adds up over the nodes with the squared weights."""
    target, steps, probes = correlated(12), 33, 6
    x = images(400, 3, 2, 2)
    exact = log_likelihood(target.denoise, x[:1], WIDE, steps, probes=None).nats
    got = log_likelihood(target.denoise, x[:1].expand_as(x), WIDE, steps, probes=probes)
    h, variance = WIDE.log_range / (steps - 1), 0.0
    for weight, sigma in zip(_gregory(steps), WIDE.levels(steps)[::-1], strict=True):
        j = target.covariance @ (target.covariance + sigma**2 * torch.eye(12)).inverse()
        variance += 2 * (weight * h) ** 2 * (j.square().sum() - j.diag().square().sum()).item()
    expected = math.sqrt(variance / probes)
    # 400 rows of 6 probes: the rms of the standard errors is known to 1 / sqrt(2 * 2000), that of the deviations to 1 / sqrt(800).
    assert got.standard_error.square().mean().sqrt().item() == pytest.approx(expected, rel=0.08)
    deviation = got.nats - exact
    assert deviation.square().mean().sqrt().item() == pytest.approx(expected, rel=0.14)
    assert abs(deviation.mean().item()) < 4 * expected / 20


MIXTURE = Mixture([0.3, 0.7], [-0.8, 0.5], [0.1, 0.4])


def test_mixture_in_two_pixels():
    x = torch.cartesian_prod(*[torch.linspace(-2, 2, 9, dtype=torch.float64)] * 2).reshape(-1, 1, 1, 2)
    mean = (MIXTURE.weights * MIXTURE.means).sum()
    variance = (MIXTURE.weights * (MIXTURE.spreads**2 + MIXTURE.means**2)).sum() - mean**2
    got = log_likelihood(MIXTURE.denoise, x, WIDE, 257, probes=None, mean=mean, variance=variance)
    truth = MIXTURE.density(x, WIDE.sigma_min).log().flatten(1).sum(1)
    torch.testing.assert_close(got.nats, truth, rtol=0, atol=0.005)


def test_a_mixture_whose_pixels_go_together():
    """Two clouds in four pixels: which one an image belongs to is read from all of them, so the Jacobian is full."""
    centres, s = torch.tensor([[0.6, -0.2, 0.4, 0.1], [-0.3, 0.5, 0.0, -0.6]], dtype=torch.float64), 0.25
    weights = torch.tensor([0.8, 0.2], dtype=torch.float64)

    def logits(flat, variance):
        return weights.log() - 0.5 * (flat[:, None] - centres).square().sum(2) / variance

    def denoise(x, sigma):
        flat, variance = x.flatten(1), s**2 + sigma[:, None] ** 2
        centre = logits(flat, variance).softmax(1) @ centres
        return (centre + s**2 / variance * (flat - centre)).reshape(x.shape)

    x = 0.5 * images(40, 1, 2, 2)
    variance = s**2 + WIDE.sigma_min**2
    truth = torch.logsumexp(logits(x.flatten(1), variance), 1) - 2 * math.log(2 * math.pi * variance)
    mean = (weights @ centres).reshape(1, 2, 2)
    spread = s**2 + (weights @ centres**2).reshape(1, 2, 2) - mean**2
    exact = log_likelihood(denoise, x, WIDE, 97, probes=None, mean=mean, variance=spread)
    torch.testing.assert_close(exact.nats, truth, rtol=0, atol=0.005)
    probed = log_likelihood(denoise, x, WIDE, 97, probes=8, mean=mean, variance=spread)
    deviation, claimed = ((v**2).mean().sqrt().item() for v in (probed.nats - truth, probed.standard_error))
    assert claimed > 0.01
    assert deviation == pytest.approx(claimed, rel=0.5)


@pytest.mark.parametrize("start", [0.0, 0.3])
def test_density_is_that_of_the_ode_and_integrates_to_one(start):
    """Even from a start that is not that of the target; the target's own density is then 10 % off and more."""
    x = torch.linspace(-4, 4, 1601, dtype=torch.float64)
    p = log_likelihood(MIXTURE.denoise, x.reshape(-1, 1, 1, 1), SDE, probes=None, mean=start).nats.exp()
    assert torch.trapezoid(p, x).item() == pytest.approx(1, abs=1e-3)
    assert (p - MIXTURE.density(x, SDE.sigma_min)).abs().max() > 0.1 * p.max()


def test_error_is_of_fourth_order_and_bounded_by_step_doubling():
    variance = torch.logspace(-3, 0.5, 18).double()
    target = Gaussian(torch.zeros(18), torch.diag(variance))
    x = variance.sqrt().reshape(2, 3, 3) * images(5, 2, 3, 3)
    truth, errors = target.log_density(x, SDE.sigma_min), []
    for steps in (33, 65):
        got = log_likelihood(target.denoise, x, SDE, steps, probes=2, variance=variance.reshape(2, 3, 3), step_error=True)
        error = (got.nats - truth).abs()
        assert (got.step_error > error).all()
        errors.append(error.mean())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(4, abs=0.5)


def test_gregory_is_exact_for_cubics_and_becomes_simpsons():
    assert _gregory(3) == pytest.approx([1 / 3, 4 / 3, 1 / 3])
    for nodes in (3, 4, 5, 9):
        for power in range(4):
            total = sum(w * i**power for i, w in enumerate(_gregory(nodes)))
            assert total == pytest.approx((nodes - 1) ** (power + 1) / (power + 1))


def network() -> EDMDenoiser:
    """A small NCSN++ with weights of a fixed seed, none of them zero."""
    torch.manual_seed(0)
    net = NCSNpp(channels_in=2, channels_out=2, channels_condition=0, channels=4, multipliers=(1, 1), blocks=1)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return EDMDenoiser(net, [0.3, 0.5]).eval()


def test_rows_depend_on_their_key_alone():
    denoiser, keys, x = network(), derive_key(3, torch.arange(3)), images(3, 2, 8, 8).float()
    together = log_likelihood(denoiser, x, SDE, 9, keys, 2)
    alone = [log_likelihood(denoiser, x[i : i + 1], SDE, 9, keys[i : i + 1], 2) for i in range(3)]
    torch.testing.assert_close(together.nats, torch.cat([one.nats for one in alone]), rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(together.standard_error, torch.cat([one.standard_error for one in alone]), rtol=1e-3, atol=1e-3)
    assert torch.equal(log_likelihood(denoiser, x, SDE, 9, 3, 2).nats, together.nats)
    assert ((log_likelihood(denoiser, x, SDE, 9, 4, 2).nats - together.nats).abs() > 1e-2).all()


def test_network_in_float32_has_the_likelihood_of_float64():
    denoiser, x = network(), 0.4 * images(2, 2, 8, 8)
    single = log_likelihood(denoiser, x.float(), SDE, 17, probes=2)
    double = log_likelihood(denoiser.double(), x.float().double(), SDE, 17, probes=2)
    assert single.nats.dtype == torch.float64
    torch.testing.assert_close(single.nats, double.nats, rtol=1e-4, atol=0.02)


def test_works_in_inference_mode_and_leaves_no_gradients():
    denoiser, x = VEDenoiser(network().network, 0.001, 1.0), images(2, 2, 8, 8).float()
    outside = log_likelihood(denoiser, x, SDE, 5, probes=2)
    with torch.inference_mode():
        inside = log_likelihood(denoiser, x.clone(), SDE, 5, probes=2)
    assert torch.equal(inside.nats, outside.nats)
    assert not outside.nats.requires_grad and all(p.grad is None for p in denoiser.parameters())


def test_noise_levels_rise_from_sigma_min_to_sigma_max_and_steps_are_reported():
    levels, steps = [], []

    def denoise(x, sigma):
        assert sigma.shape == (2,) and sigma.dtype == x.dtype
        levels.append(sigma[0].item())
        return 0.5 * x

    log_likelihood(denoise, torch.ones(2, 1, 2, 2), SDE, 6, probes=2, on_step=steps.append)
    assert len(levels) == 4 * 5 + 1 and levels == sorted(levels)
    assert (levels[0], levels[-1]) == pytest.approx((0.001, 1.0)) and steps == list(range(6))


def test_bad_arguments_are_named():
    def half(x, sigma):
        return x / 2

    x = torch.ones(2, 1, 2, 2)
    for message, changed in (
        ("steps", {"steps": 2}),
        ("odd", {"steps": 8, "step_error": True}),
        ("probes", {"probes": 1}),
        ("seed must be", {"seed": torch.arange(3)}),
        ("variance", {"variance": -0.5}),
        ("variance", {"variance": math.nan}),
    ):
        with pytest.raises(ValueError, match=message):
            log_likelihood(half, x, SDE, **changed)
    with pytest.raises(ValueError, match="x must be"):
        log_likelihood(half, x[0], SDE)
    with pytest.raises(ValueError, match="autograd"):
        log_likelihood(torch.no_grad()(half), x, SDE)
