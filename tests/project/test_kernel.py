"""The kernel in projection: its closed form against the line integral, and the sum of products that stands for it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

from hpcdiff.project.kernel import DEGREE, POWER, column, separable


def test_column_is_the_kernels_line_integral():
    def wendland(q):
        return 21 / (2 * np.pi) * (1 - q) ** 4 * (1 + 4 * q) if q < 1 else 0.0

    for b in (0.0, 0.01, 0.2, 0.5, 0.9, 0.99):
        numeric = 2 * quad(lambda s, b=b: wendland(np.hypot(s, b)), 0, np.sqrt(1 - b * b))[0]
        assert column(b) == pytest.approx(numeric, rel=1e-7)
    assert column(0.0) == pytest.approx(7 / np.pi, rel=1e-12)
    assert quad(lambda b: 2 * np.pi * b * column(b), 0, 1)[0] == pytest.approx(1, rel=1e-8)


def test_products_stand_for_the_column_and_hold_its_mass():
    tail, half, sign = separable()
    s = (np.arange(500) + 0.5) / 500
    powers = np.arange(POWER + 1, POWER + 1 + DEGREE + 1)
    factor = (tail * powers) @ (1 - s) ** (powers[:, None] - 1)  # minus the derivative of the tail integral
    product = np.einsum("m,mi,mj->ij", sign, factor, factor)
    exact = column(np.hypot(s[:, None], s))
    assert abs(product - exact).sum() < 3e-4 * exact.sum()
    assert abs(product - exact).max() < 5e-4 * exact.max()
    assert 4 * np.sum(sign * half**2) == pytest.approx(1, rel=1e-12)
