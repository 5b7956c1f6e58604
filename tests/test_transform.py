"""Transforms invert exactly, fill [0, 1], and refuse fields that they cannot take."""

import numpy as np
import pytest

from hpcdiff import transform
from hpcdiff.errors import UserError


def field(rng):
    return rng.lognormal(0, 3, (20, 8, 8))


@pytest.mark.parametrize("name", ["linear", "asinh", "log10"])
def test_bounds_become_zero_and_one_and_the_inverse_inverts(name):
    x = field(np.random.default_rng(0))
    t = transform.fit(name, "gas", iter([x[:7], x[7:]]))
    u = t.forward(x)
    assert u.dtype == np.float32 and abs(u.min()) < 1e-6 and abs(u.max() - 1) < 1e-6
    np.testing.assert_allclose(t.inverse(u), x, rtol=2e-5, atol=1e-6 * x.max() if name == "linear" else 1e-6)
    assert np.all(np.diff(t.forward(np.sort(x.ravel()))) >= 0)


def test_closed_forms():
    x = np.array([0.0, 1.0, 3.0, 10.0])
    np.testing.assert_allclose(transform.fit("linear", "f", [x]).forward([5.0]), [0.5])
    asinh = transform.fit("asinh", "f", [x])
    assert asinh.scale == np.percentile([1.0, 3.0, 10.0], 99)
    np.testing.assert_allclose(asinh.forward([3.0]), np.arcsinh(3.0 / asinh.scale) / np.arcsinh(10 / asinh.scale), rtol=1e-6)
    log10 = transform.fit("log10", "f", [x])
    assert log10.scale == 1.0
    np.testing.assert_allclose(log10.forward([0.0, np.sqrt(10.0)]), [0.0, 0.5], atol=1e-7)


def test_values_beyond_the_bounds_are_not_clipped():
    t = transform.fit("asinh", "f", [np.array([0.5, 1.0, 2.0])])
    np.testing.assert_allclose(t.inverse(t.forward([40.0, -3.0])), [40.0, -3.0], rtol=1e-5)


def test_constant_and_non_positive_fields():
    with pytest.raises(UserError, match="constant"):
        transform.fit("linear", "gas", [np.ones((3, 4, 4))])
    with pytest.raises(UserError, match="positive"):
        transform.fit("log10", "gas", [-np.arange(4.0)])
