"""Transforms invert, put bounds or spreads where they should be, agree between numpy and torch, and refuse fields that they cannot take."""

import numpy as np
import pytest
import torch

from hpcdiff import transform
from hpcdiff.errors import UserError
from hpcdiff.sections import TRANSFORMS


def field(rng):
    return rng.lognormal(0, 3, (20, 8, 8)).astype(np.float32)


@pytest.fixture
def x():
    return field(np.random.default_rng(0))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_inverse_inverts_and_order_is_kept(name, x):
    t = transform.fit(name, "gas", [x[:7], x[7:]])
    u = t.forward(x)
    assert u.dtype == np.float32
    smallest = 4e-7 * abs(t.high - t.low) if t.curve == "linear" else 2e-6 * t.scale
    np.testing.assert_allclose(t.inverse(u), x, rtol=3e-5, atol=smallest)
    assert np.all(np.diff(t.forward(np.sort(x.ravel()))) >= 0)


@pytest.mark.parametrize("name", ["linear", "minmax", "asinh", "log10"])
def test_bounds_become_zero_and_one(name, x):
    u = transform.fit(name, "gas", [x[:7], x[7:]]).forward(x)
    assert abs(u.min()) < 1e-6 and abs(u.max() - 1) < 1e-6


@pytest.mark.parametrize("curve", ["", "log10 ", "asinh "])
def test_spreads_become_what_they_should(curve, x):
    u = transform.fit(f"{curve}standard", "gas", [x[:7], x[7:]]).forward(x).astype(np.float64)
    assert abs(u.mean()) < 1e-5 and abs(u.std() - 1) < 1e-5
    u = transform.fit(f"{curve}4sigma", "gas", [x[:7], x[7:]]).forward(x).astype(np.float64)
    assert abs(u.mean() - 0.5) < 1e-6 and abs(u.std() - 1 / 8) < 1e-6


@pytest.mark.parametrize("name", TRANSFORMS)
def test_torch_agrees_with_numpy(name, x):
    t = transform.fit(name, "gas", [x])
    wide = np.concatenate([x.ravel() * 1.5, -x.ravel()[:50], [0.0]]).astype(np.float32)
    u = t.forward_tensor(torch.from_numpy(wide))
    assert u.dtype == torch.float32
    np.testing.assert_allclose(u.numpy(), t.forward(wide), rtol=3e-7, atol=1e-7)


def test_closed_forms():
    x = np.array([0.0, 1.0, 3.0, 10.0])
    np.testing.assert_allclose(transform.fit("linear", "f", [x]).forward([5.0]), [0.5])
    log10 = transform.fit("log10", "f", [x])
    assert log10.scale == 1.0
    np.testing.assert_allclose(log10.forward([0.0, np.sqrt(10.0)]), [0.0, 0.5], atol=1e-7)
    four = transform.fit("4sigma", "f", [x])
    np.testing.assert_allclose([four.low, four.high], [3.5 - 4 * x.std(), 3.5 + 4 * x.std()])
    standard = transform.fit("log10 standard", "f", [x])
    assert standard.low == pytest.approx((0 + 0 + np.log10(3) + 1) / 4)


def test_asinh_bends_at_the_99th_percentile_of_positive_pixels(x):
    signed = np.concatenate([x.ravel(), -x.ravel(), np.zeros(3000)])
    asinh = transform.fit("asinh", "f", [signed])
    assert asinh.scale == pytest.approx(np.percentile(x, 99, method="inverted_cdf"), rel=1 / 2048)
    u = asinh.forward([3.0])
    low, high = (np.arcsinh(b / asinh.scale) for b in (signed.min(), signed.max()))
    np.testing.assert_allclose(u, (np.arcsinh(3.0 / asinh.scale) - low) / (high - low), rtol=1e-6)


def test_values_beyond_the_bounds_are_not_clipped():
    for name in ("linear", "asinh", "4sigma", "asinh standard"):
        t = transform.fit(name, "f", [np.array([0.5, 1.0, 2.0])])
        np.testing.assert_allclose(t.inverse(t.forward([40.0, -3.0])), [40.0, -3.0], rtol=1e-5)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_constant_fields(name):
    with pytest.raises(UserError, match="constant"):
        transform.fit(name, "gas", [np.ones((3, 4, 4))])


def test_non_positive_fields():
    for name in ("log10", "asinh", "log10 standard"):
        with pytest.raises(UserError, match="positive"):
            transform.fit(name, "gas", [-np.arange(4.0)])
    with pytest.raises(UserError, match="equal"):
        transform.fit("log10", "gas", [np.array([-1.0, 0.0, 2.0])])
