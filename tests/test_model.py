"""A model on Gaussian maps, where posterior and density are known: guidance, likelihood, regression, the compiled call, what is refused."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from hpcdiff import drawing
from hpcdiff.density import log_slope
from hpcdiff.guided import Measured, Telescope, decode, guide_of, mock
from hpcdiff.model import Model, sample_keys
from hpcdiff.posterior import AUTO_INIT, AUTO_STEPS
from hpcdiff.transform import Transform

torch.set_num_threads(1)
NPIX, OUTPUTS = 4, ["gas", "dm"]
D = len(OUTPUTS) * NPIX**2
LINEAR = {"gas": Transform("linear", -10.0, 30.0), "dm": Transform("standard", 20.0, 70.0)}
ASINH = {"gas": Transform("asinh", -0.5, 4.0, 3.0), "dm": Transform("asinh", 0.0, 3.5, 10.0)}
LOG = {"gas": Transform("log10", -1.0, 2.0, 1e-4), "dm": Transform("log10", 0.0, 2.5, 1e-4)}
OM0, OB0 = 0.3, 0.045


class GaussianDenoiser(nn.Module):
    """E[x0 | x] for x0 ~ N(mean, C), C = vectors diag(values) vectors^T; sz shifts the mean, so that the condition is looked at."""

    def __init__(self, mean: torch.Tensor, vectors: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        for name, value in (("mean", mean), ("vectors", vectors), ("values", values)):
            self.register_buffer(name, value.float())

    def forward(self, x, sigma, condition):
        mean = self.mean + condition.mean((1, 2, 3))[:, None]
        modes = (x.flatten(1) - mean) @ self.vectors
        return (mean + modes * self.values / (self.values + sigma[:, None] ** 2) @ self.vectors.T).reshape(x.shape)


def gaussian(transforms=LINEAR, spread=(0.02, 0.1), method="diffusion", correlated=True, **info) -> Model:
    """A model of correlated maps about 0.4..0.6 in the network's units; `spread`: smallest and largest deviation of its modes."""
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(np.linalg.qr(rng.normal(size=(D, D)))[0]) if correlated else torch.eye(D, dtype=torch.float64)
    values = torch.linspace(*spread, D, dtype=torch.float64) ** 2
    mean = torch.linspace(0.4, 0.6, D, dtype=torch.float64)
    std = ((vectors**2) @ values).sqrt().reshape(2, NPIX, NPIX).float()
    config = {"task": {"inputs": ["sz"], "outputs": OUTPUTS, "method": method}, "diffusion": {"sigma_min": 0.002, "sigma_max": 2.0}}
    model = Model(
        config,
        {"npix": NPIX, "pixel_mpc": 0.5, "units": {}, **info},
        {"sz": Transform("linear", 0.0, 1.0), **transforms},
        GaussianDenoiser(mean, vectors, values),
        {"mean": mean.reshape(2, NPIX, NPIX).float(), "std": std},
    )
    return model


def truth_of(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and covariance (D, D) in the maps' units, of linear transforms."""
    d = model.denoiser
    scale = np.repeat([model.transforms[f].high - model.transforms[f].low for f in OUTPUTS], NPIX**2)
    low = np.repeat([model.transforms[f].low for f in OUTPUTS], NPIX**2)
    covariance = (d.vectors * d.values) @ d.vectors.T
    return d.mean.double().numpy() * scale + low, covariance.double().numpy() * np.outer(scale, scale)


SZ = {"sz": np.zeros((1, NPIX, NPIX), np.float32)}


@pytest.mark.parametrize(("field", "beam"), [("total", None), ("total", 1.2), ("dm", 0.8)])
def test_a_measured_map_gives_the_gaussians_posterior(field, beam):
    model = gaussian()
    mean, covariance = truth_of(model)
    telescope = Telescope(field, beam, OUTPUTS, 0.5, OM0, OB0)
    a = telescope.forward(torch.eye(D, dtype=torch.float64).reshape(D, 2, NPIX, NPIX)).flatten(1).numpy().T  # (NPIX^2, D)
    weight = {"total": (0.15, 0.85), "dm": (0.0, 1.0)}[field]
    assert np.allclose(a.sum(1), sum(weight)) and np.isclose(a[:, : NPIX**2].sum(), weight[0] * NPIX**2)  # the beam conserves the sum
    rng = np.random.default_rng(1)
    y = a @ rng.multivariate_normal(mean, covariance, tol=1e-4)
    noise = np.sqrt(np.diag(a @ covariance @ a.T)).mean()
    y += noise * rng.normal(size=len(y))
    gain = covariance @ a.T @ np.linalg.inv(a @ covariance @ a.T + noise**2 * np.eye(len(y)))
    expected, left = mean + gain @ (y - a @ mean), covariance - gain @ a @ covariance
    n = 1500
    measured = Measured(field, y.reshape(NPIX, NPIX), noise, beam, OM0, OB0)
    out = model.sample(SZ, n, "dpmpp_2m_sde", 30, init="matched", batch_size=n, guide=measured)
    drawn = np.concatenate([out[f][0].reshape(n, -1) for f in OUTPUTS], axis=1)
    spread = np.sqrt(np.diag(left))
    assert np.abs(drawn.mean(0) - expected).max() < 5 * spread.max() / math.sqrt(n)
    assert np.abs(expected - mean).max() > 20 * spread.max() / math.sqrt(n)  # so the data have moved it
    ratio = drawn.std(0) / spread
    assert abs(ratio.mean() - 1) < 0.02 and np.abs(ratio - 1).max() < 0.1


@pytest.mark.parametrize(("transforms", "spread"), [(ASINH, 0.08), (LOG, 0.06)])
def test_curved_transforms_are_linearised(transforms, spread):
    """Independent pixels measured one by one: the posterior by quadrature. The data have half the width of the prior."""
    model = gaussian(transforms, (spread, spread), correlated=False)
    t, mu = model.transforms["dm"], model.denoiser.mean.double().numpy()[NPIX**2 :]
    grid = mu[:, None] + spread * np.linspace(-6, 6, 4001)
    maps = t.inverse(grid).astype(np.float64)
    prior = np.exp(-0.5 * ((grid - mu[:, None]) / spread) ** 2)
    rng = np.random.default_rng(2)
    clean = t.inverse(mu + spread * rng.normal(size=mu.shape)).astype(np.float64)
    noise = 0.5 * np.sqrt(np.average(maps**2, 1, prior[0]) - np.average(maps, 1, prior[0]) ** 2).mean()
    y = clean + noise * rng.normal(size=mu.shape)
    weight = prior * np.exp(-0.5 * ((maps - y[:, None]) / noise) ** 2)
    expected = (maps * weight).sum(1) / weight.sum(1)
    width = np.sqrt((maps**2 * weight).sum(1) / weight.sum(1) - expected**2)
    n = 4000
    guide = Measured("dm", y.reshape(NPIX, NPIX), noise)
    drawn = model.sample(SZ, n, "dpmpp_2m_sde", 40, init="matched", batch_size=n, guide=guide)["dm"][0].reshape(n, -1)
    plain = np.average(maps, 1, prior[0])
    assert np.abs(plain - expected).max() > 1.0 * width.max()
    assert np.abs((drawn.mean(0) - expected) / width).max() < 0.15
    assert np.abs(drawn.std(0) / width - 1).max() < 0.1


def test_decoding_is_the_inverse_and_its_slope():
    x = torch.linspace(-0.2, 1.2, 2 * 32, dtype=torch.float64).reshape(1, 2, 4, 8).requires_grad_()
    for transforms in (LINEAR, ASINH, LOG):
        maps, slope = decode([transforms[f] for f in OUTPUTS], x)
        for i, f in enumerate(OUTPUTS):
            assert np.allclose(maps[0, i].detach().numpy(), transforms[f].inverse(x[0, i].detach().numpy()), rtol=1e-6)
        assert torch.allclose(slope, torch.autograd.grad(maps.sum(), x)[0], rtol=1e-9)


def test_the_telescopes_transpose_is_its_transpose():
    telescope = Telescope("total", 1.7, OUTPUTS, 0.5, OM0, OB0)
    eye = torch.eye(D, dtype=torch.float64).reshape(D, 2, NPIX, NPIX)
    a = telescope.forward(eye).flatten(1)  # (D, m)
    unit = torch.eye(NPIX**2, dtype=torch.float64).reshape(-1, 1, NPIX, NPIX)
    assert torch.allclose(telescope.adjoint(unit).flatten(1), a.T, atol=1e-12)


def test_a_mock_is_named_by_seed_and_view():
    class Maps:
        fields = ("gas", "dm")

        def require(self, fields, what):
            assert set(fields) <= set(self.fields)

        def read(self, field, rows):
            return np.float32(10.0 if field == "gas" else 20.0) * np.ones((len(rows), NPIX, NPIX), np.float32)

    telescope = Telescope("total", 1.0, OUTPUTS, 0.5, OM0, OB0)
    many = mock(telescope, Maps(), 0.5, 3, np.array([7, 8, 9]))
    assert torch.equal(many[1], mock(telescope, Maps(), 0.5, 3, np.array([8]))[0])
    assert not torch.equal(many[1], mock(telescope, Maps(), 0.5, 4, np.array([8]))[0])
    all_views = mock(telescope, Maps(), 0.5, 3, np.arange(400)) - (0.15 * 10 + 0.85 * 20)
    assert abs(all_views.mean()) < 4 * 0.5 / math.sqrt(all_views.numel()) and abs(all_views.std() / 0.5 - 1) < 0.05


def test_data_go_with_their_views_and_pixels_without_noise_limit_are_free():
    """Two views with different data; half the pixels have none, and may hold anything."""
    model = gaussian(correlated=False)
    two = {"sz": np.zeros((2, NPIX, NPIX), np.float32)}
    y = np.stack([np.full((NPIX, NPIX), 40.0), np.full((NPIX, NPIX), 60.0)])
    noise = np.full((NPIX, NPIX), 0.05)
    y[:, :2], noise[:2] = np.nan, np.inf
    out = model.sample(two, 6, steps=20, batch_size=5, guide=Measured("dm", y, noise))["dm"]
    assert np.abs(out[0, :, 2:] - 40).max() < 0.5 and np.abs(out[1, :, 2:] - 60).max() < 0.5
    plain = model.sample(two, 6, steps=20, batch_size=5)["dm"]
    assert np.allclose(out[:, :, :2], plain[:, :, :2], atol=0.05)  # independent pixels without data: the same noise, the same samples


@pytest.mark.parametrize("transforms", [LINEAR, ASINH, LOG], ids=["linear", "asinh", "log10"])
def test_log_likelihood_is_the_density_in_the_maps_units(transforms):
    model = gaussian(transforms, spread=(0.05, 0.3), correlated=False)  # then the matched start is where the ODE ends, exactly
    d, rng = model.denoiser, np.random.default_rng(3)
    x = d.mean.double().numpy() + (rng.normal(size=(3, D)) * d.values.double().numpy() ** 0.5) @ d.vectors.double().numpy().T
    maps = {f: model.transforms[f].inverse(x.reshape(3, 2, NPIX, NPIX)[:, i]) for i, f in enumerate(OUTPUTS)}
    inputs = {"sz": np.zeros((3, NPIX, NPIX), np.float32)}
    # by hand, in float64: density of x at sigma_min, times |dx / dm| by finite differences of the transform
    values = d.values.double().numpy() + model.sde.sigma_min**2
    modes = (x - d.mean.double().numpy()) @ d.vectors.double().numpy()
    expected = -0.5 * (modes**2 / values + np.log(2 * np.pi * values)).sum(1)
    for f in OUTPUTS:
        t, m = model.transforms[f], maps[f].astype(np.float64)
        step = 1e-6 * np.maximum(np.abs(m), 1.0)
        expected += np.log((t.bend(m + step) - t.bend(m - step)) / (2 * step) / (t.high - t.low)).sum((1, 2))
    exact = model.log_likelihood(inputs, maps, probes=None, batch_size=2)
    assert exact.shape == (3,) and exact.dtype == np.float64
    assert np.abs(exact - expected).max() < 0.01
    assert (model.log_likelihood({"sz": inputs["sz"] + 0.3}, maps, probes=None) < expected - 1).all()  # the inputs are looked at


def test_probes_of_the_trace_are_named_by_the_view_and_know_their_error():
    model, rng = gaussian(spread=(0.05, 0.3)), np.random.default_rng(4)
    maps = {f: rng.uniform(5, 15, (3, NPIX, NPIX)) for f in OUTPUTS}
    inputs = {"sz": np.zeros((3, NPIX, NPIX), np.float32)}
    exact = model.log_likelihood(inputs, maps, probes=None, batch_size=2)
    nats, error = model.log_likelihood(inputs, maps, probes=16, with_error=True)
    assert (np.abs(nats - exact) < 5 * error).all() and (error > 0).all()
    one = model.log_likelihood({"sz": inputs["sz"][1]}, {f: m[1] for f, m in maps.items()}, probes=16, view=[1])
    assert np.allclose(one, nats[1:2], rtol=1e-6) and abs(one[0] - nats[1]) < 1e-3 * error[1]


def test_likelihood_of_pixels_at_log10s_floor_is_refused():
    with pytest.raises(ValueError, match="floor"):
        log_slope(LOG["gas"], np.full((1, 2, 2), 1e-4))


def test_a_regression_answers_once():
    model = gaussian(method="regression")
    calls = []
    model.denoiser.register_forward_hook(lambda *a: calls.append(1))
    out = model.sample(SZ)
    assert len(calls) == 1 and out["gas"].shape == (1, 1, NPIX, NPIX)
    assert np.array_equal(model.sample(SZ, seed=5)["gas"], out["gas"])
    with pytest.raises(ValueError, match="regression"):
        model.sample(SZ, samples=2)
    with pytest.raises(ValueError, match="regression"):
        model.log_likelihood(SZ, {f: np.ones((NPIX, NPIX)) for f in OUTPUTS})


def test_auto_takes_the_measured_steps_and_start():
    model = gaussian()
    auto = model.sample(SZ, 2)
    named = model.sample(SZ, 2, "dpmpp_2m_sde", AUTO_STEPS, init=AUTO_INIT)
    other = model.sample(SZ, 2, "dpmpp_2m_sde", AUTO_STEPS)
    assert np.array_equal(auto["gas"], named["gas"]) and not np.array_equal(auto["gas"], other["gas"])
    assert model.sample(SZ, steps=3)["dm"].shape == (1, 10, NPIX, NPIX)


def test_churn_reaches_heun():
    model = gaussian()
    a, b = (model.sample(SZ, 2, "heun", 6, churn=c)["gas"] for c in (0.0, 5.0))
    assert not np.array_equal(a, b)
    with pytest.raises(ValueError, match="churn"):
        model.sample(SZ, 2, "dpmpp_2m", 6, churn=5.0)


@pytest.mark.parametrize("sampler", ["dpmpp_2m_sde", "heun", "predictor_corrector"])
def test_the_call_with_fixed_buffers_draws_the_same(monkeypatch, sampler):
    """The twin of the CUDA graph on a CPU; its compiler is another one's test, so here the network runs as it is."""
    monkeypatch.setattr(drawing, "compiled", lambda module, backend: module)
    model = gaussian()
    inputs = {"sz": np.linspace(0, 0.2, 3 * NPIX**2, dtype=np.float32).reshape(3, NPIX, NPIX)}
    plain = model.sample(inputs, 3, sampler, 6, batch_size=4)  # three batches, the last one is filled up
    model.compiled = True
    kept = model.sample(inputs, 3, sampler, 6, batch_size=4)
    for f in OUTPUTS:
        assert np.array_equal(plain[f], kept[f])
    first = model._graph
    model.sample(inputs, 3, sampler, 6, batch_size=4)
    assert model._graph is first  # one shape is captured once
    model.sample(inputs, 1, sampler, 6, batch_size=2)
    assert model._graph is not first and len(model._graph.x) == 2


def test_a_moved_network_is_captured_anew_and_inference_mode_leaves_nothing_behind(monkeypatch):
    """A CUDA graph knows the weights by their addresses, and a move gives them others."""
    monkeypatch.setattr(drawing, "compiled", lambda module, backend: module)
    model = gaussian()
    model.compiled = True
    with torch.inference_mode():
        inside = model.sample(SZ, 2, "heun", 4, batch_size=2)
    first = model._graph
    outside = model.sample(SZ, 2, "heun", 4, batch_size=2)
    assert model._graph is first and all(np.array_equal(inside[f], outside[f]) for f in OUTPUTS)
    model.to("cpu").sample(SZ, 2, "heun", 4, batch_size=2)
    assert model._graph is not first


def test_a_compiled_denoiser_draws_the_same():
    model = gaussian()
    plain = model.sample(SZ, 2, steps=4)
    model.compiled = True
    for f, m in model.sample(SZ, 2, steps=4).items():
        assert np.abs(m - plain[f]).max() < 1e-5 * np.ptp(plain[f])


def test_inputs_unlike_the_training_maps_are_said():
    seen = {"sz": {"total": [0.0, 10.0], "peak": [0.0, 1.0]}}
    model = gaussian(seen=seen)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.sample({"sz": np.full((NPIX, NPIX), 0.3)}, 1, steps=2)
        gaussian().sample({"sz": np.full((NPIX, NPIX), 300.0)}, 1, steps=2)  # a model that does not know its range says nothing
    with pytest.warns(UserWarning, match="sz: peak"):
        model.sample({"sz": np.full((NPIX, NPIX), 300.0)}, 1, steps=2)


def test_a_guide_that_cannot_be_is_refused():
    model, y = gaussian(), np.ones((NPIX, NPIX))
    for guide, word in [
        (Measured("totl", y, 1.0), "total"),
        (Measured("total", y, 1.0), "om0"),
        (Measured("dm", y[:2], 1.0), "shape"),
        (Measured("dm", y, 0.0), "above 0"),
        (Measured("dm", y * np.nan, 1.0), "finite"),
        (Measured("dm", y, np.ones(3)), "noise"),
    ]:
        with pytest.raises(ValueError, match=word):
            model.sample(SZ, 1, steps=2, guide=guide)
    with pytest.raises(ValueError, match="pixels"):
        gaussian(pixel_mpc=None).sample(SZ, 1, steps=2, guide=Measured("dm", y, 1.0, beam=1.0))
    known = gaussian(Om0=OM0, Ob0=OB0)
    assert guide_of(known, Measured("total", y, 1.0), 1).telescope.weights == pytest.approx({"gas": 0.15, "dm": 0.85})
    for wrong in ({"samples": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            model.sample(SZ, steps=2, **wrong)


def test_sample_keys_are_named_by_seed_view_and_number():
    grid = sample_keys(3, np.array([5, 9]), 4)
    assert torch.equal(sample_keys(3, np.array([9, 5]), np.array([2, 0])), torch.stack([grid[1, 2], grid[0, 0]]))
    assert len(set(grid.flatten().tolist()) | set(sample_keys(4, np.array([5, 9]), 4).flatten().tolist())) == 16
