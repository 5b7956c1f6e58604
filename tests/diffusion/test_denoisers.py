"""VE and EDM denoisers: exact posterior means, weights, and noise levels."""

import math

import pytest
import torch
from torch import nn

from hpcdiff.diffusion import VESDE, EDMDenoiser, VEDenoiser, denoising_loss, derive_key, normal, uniform

torch.set_num_threads(1)

S = torch.tensor([0.3125, 2.0])  # spread of the two channels
MU = torch.tensor([0.1, -0.4])
SIGMA = torch.tensor([0.001, 0.05, 0.7, 5.0])


class Function(nn.Module):
    """A network given by a function of (x, t, condition)."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x, t, condition):
        return self.function(x, t, condition)


def image(values):
    return values[None, :, None, None]


def column(values):
    return values[:, None, None, None]


def posterior_mean(x, sigma, s=S, mu=MU):
    """E[x0 | x] for x0 ~ N(mu, s^2) in each channel."""
    gain = image(s) ** 2 / (image(s) ** 2 + column(sigma) ** 2)
    return image(mu) + gain * (x - image(mu))


def draws(sigma=SIGMA, npix=64, counter=0):
    keys = derive_key(1, torch.arange(len(sigma)))
    return [normal(keys, 2 * counter + i, (2, npix, npix)) for i in range(2)]


def noisy(sigma=SIGMA, npix=64):
    data, z = draws(sigma, npix)
    x0 = image(MU) + image(S) * data
    return x0, z, x0 + column(sigma) * z


def test_ve_with_the_exact_score_is_the_posterior_mean():
    sde = VESDE(0.001, 5.0)

    def network(x, t, condition):
        sigma = sde.sigma(t)
        return -column(sigma) * (x - image(MU)) / (image(S) ** 2 + column(sigma) ** 2)  # sigma times the score

    x = noisy()[2]
    torch.testing.assert_close(VEDenoiser(Function(network), 0.001, 5.0)(x, SIGMA), posterior_mean(x, SIGMA), rtol=1e-4, atol=1e-4)


def test_ve_network_sees_raw_x_and_times_from_0_to_1():
    seen = {}
    denoiser = VEDenoiser(Function(lambda x, t, c: seen.update(x=x, t=t, c=c) or torch.zeros_like(x)), 0.001, 1.0)
    x, sigma = torch.ones(3, 2, 4, 4), torch.tensor([0.001, 0.001**0.5, 1.0])
    out = denoiser(x, sigma, condition=5)
    assert seen["x"] is x and seen["c"] == 5
    torch.testing.assert_close(seen["t"], torch.tensor([0.0, 0.5, 1.0]))
    assert torch.equal(out, x)


def test_edm_with_a_zero_network_is_exact_for_centred_gaussians_of_its_sigma_data():
    denoiser = EDMDenoiser(Function(lambda x, t, c: torch.zeros_like(x)), S)
    x = noisy()[2]
    torch.testing.assert_close(denoiser(x, SIGMA), posterior_mean(x, SIGMA, mu=torch.zeros(2)), rtol=1e-5, atol=1e-6)


def test_edm_with_the_exact_linear_network_is_the_posterior_mean():
    sd = torch.tensor([0.5, 1.0])  # not the true spread

    def network(scaled, t, condition):
        sigma = column(torch.exp(64 * t))
        x = scaled * (sigma**2 + image(sd) ** 2).sqrt()
        skip = image(sd) ** 2 / (image(sd) ** 2 + sigma**2)
        return (posterior_mean(x, sigma.flatten()) - skip * x) * (sigma**2 + image(sd) ** 2).sqrt() / (sigma * image(sd))

    x = noisy()[2]
    out = EDMDenoiser(Function(network), sd)(x, SIGMA)
    torch.testing.assert_close(out, posterior_mean(x, SIGMA), rtol=1e-3, atol=1e-3)


def test_edm_input_and_target_have_unit_variance_at_every_level():
    seen = {}
    denoiser = EDMDenoiser(Function(lambda x, t, c: seen.update(x=x) or torch.zeros_like(x)), S)
    data, z = draws()
    x0 = image(S) * data
    out = denoiser(x0 + column(SIGMA) * z, SIGMA)
    assert seen["x"].std(dim=(2, 3)) == pytest.approx(torch.ones(4, 2), abs=0.05)
    target = denoiser.weight(SIGMA).sqrt() * (x0 - out)
    assert target.std(dim=(2, 3)) == pytest.approx(torch.ones(4, 2), abs=0.05)


@pytest.mark.parametrize("denoiser", [lambda f: VEDenoiser(f, 1e-6, 1.0), lambda f: EDMDenoiser(f, S)])
def test_denoiser_without_noise_is_the_identity(denoiser):
    x = noisy()[0]
    out = denoiser(Function(lambda x, t, c: torch.ones_like(x)))(x, torch.full((4,), 1e-6))
    torch.testing.assert_close(out, x, rtol=1e-5, atol=1e-5)


def test_ve_loss_is_that_of_the_paper():
    x0, z, x = noisy()
    f = 0.3 * x - 0.2
    loss = denoising_loss(VEDenoiser(Function(lambda x, t, c: 0.3 * x - 0.2), 0.001, 5.0), x0, None, SIGMA, z)
    torch.testing.assert_close(loss, ((z + f) ** 2).mean(dim=(1, 2, 3)), rtol=2e-3, atol=0)


def test_edm_loss_is_that_of_the_paper():
    x0, z, x = noisy()
    denoiser = EDMDenoiser(Function(lambda x, t, c: 0.3 * x), S)
    sigma, s = column(SIGMA).double(), image(S).double()
    weight = (sigma**2 + s**2) / (sigma * s) ** 2
    expected = (weight * (denoiser(x, SIGMA).double() - x0) ** 2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(denoising_loss(denoiser, x0, None, SIGMA, z).double(), expected, rtol=1e-3, atol=0)
    given = denoising_loss(denoiser, x0, None, SIGMA, z, weight=torch.ones(1))
    torch.testing.assert_close(given, ((denoiser(x, SIGMA) - x0) ** 2).mean(dim=(1, 2, 3)))


def test_the_exact_denoiser_minimises_the_loss():
    """Scaling or shifting the exact posterior mean by 5 % raises the loss, by the amount a quadratic says."""
    sigma = torch.full((16,), 0.7)
    data, z = draws(sigma)
    x0 = image(MU) + image(S) * data

    class Scaled(nn.Module):
        def __init__(self, factor, offset):
            super().__init__()
            self.factor, self.offset = factor, offset

        def forward(self, x, sigma, condition):
            return self.factor * posterior_mean(x, sigma) + self.offset

    def loss(factor, offset):
        weight = EDMDenoiser(nn.Identity(), S).weight(sigma)
        return denoising_loss(Scaled(factor, offset), x0, None, sigma, z, weight).mean().item()

    best = loss(1, 0)
    # E[w (D - x0)^2] of the exact denoiser is 1 in each channel, as s is sigma_data and the mean is known.
    assert best == pytest.approx(1, abs=0.02)
    assert min(loss(1.05, 0), loss(0.95, 0), loss(1, 0.03), loss(1, -0.03)) > best


def test_ve_noise_levels_are_log_uniform():
    denoiser = VEDenoiser(nn.Identity(), 0.01, 1.0)
    torch.testing.assert_close(denoiser.noise_levels(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([0.01, 0.1, 1.0]))


def test_edm_noise_levels_are_log_normal_about_sigma_data():
    denoiser = EDMDenoiser(nn.Identity(), [0.5], shift=-0.5, width=1.2)
    level = denoiser.noise_levels(uniform(torch.tensor([4]), 0, (100_000,))[0]).log()
    assert level.mean().item() == pytest.approx(math.log(0.5) - 0.5, abs=0.015)
    assert level.std().item() == pytest.approx(1.2, abs=0.012)
    two = EDMDenoiser(nn.Identity(), [0.125, 0.5], shift=0.0)
    assert two.noise_levels(torch.tensor([0.5])).item() == pytest.approx(0.25)  # geometric mean of the channels


def test_sde_identities():
    sde = VESDE(0.01, 20.0)
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(sde.time(sde.sigma(t)), t)
    step = 1e-5
    slope = (sde.sigma(t + step) ** 2 - sde.sigma(t - step) ** 2) / (2 * step)
    torch.testing.assert_close(sde.g2(t), slope, rtol=1e-6, atol=0)
    assert sde.levels(3) == pytest.approx([20.0, 0.2**0.5, 0.01])
    assert sde.levels(3, rho=7)[1] == pytest.approx(((20 ** (1 / 7) + 0.01 ** (1 / 7)) / 2) ** 7)


def test_a_cast_to_bfloat16_and_back_changes_no_denoiser():
    denoiser = EDMDenoiser(Function(lambda x, t, c: 0.3 * x), [0.3, 1.7])
    x = noisy()[2]
    before = denoiser(x, SIGMA), denoiser.weight(SIGMA)
    for dtype in (torch.bfloat16, torch.float32):
        denoiser.to(dtype)
        torch.testing.assert_close((denoiser(x, SIGMA), denoiser.weight(SIGMA)), before, rtol=0, atol=0)


def test_bad_numbers_are_named():
    for low, high in ((0, 1), (1, 1), (2, 1), (0.1, math.inf)):
        with pytest.raises(ValueError, match="sigma_min < sigma_max"):
            VESDE(low, high)
    with pytest.raises(ValueError, match="sigma_data"):
        EDMDenoiser(nn.Identity(), [0.5, 0.0])
    with pytest.raises(ValueError, match="at least 2"):
        VESDE().levels(1)
