"""The Wendland C2 kernel seen in projection: its exact column, and the table of its integral over rectangles."""

from __future__ import annotations

from functools import cache

import numpy as np

TABLE = 256
"""Cells of the table along each side of a quadrant of the unit disc."""


def column(b: np.ndarray) -> np.ndarray:
    """Column integral F(b) of the Wendland C2 kernel W(q) = 21/(2 pi) (1-q)^4 (1+4q) of support radius 1.

    Its integral over the plane is 1 and F(0) = 7/pi; for a support radius h, divide by h^2.

    Args:
        b: distance from the axis over the support radius, any shape.
    """
    b = np.abs(np.asarray(b, np.float64))
    inside = b < 1
    b = np.where(inside, b, 1.0)
    c = np.sqrt(1 - b**2)
    length = np.arcsinh(c / np.maximum(b, 1e-150))
    i0 = c
    i1 = (c + b**2 * length) / 2
    i2 = b**2 * c + c**3 / 3
    i3 = (c + 3 * b**2 * i1) / 4
    i4 = b**4 * c + 2 * b**2 * c**3 / 3 + c**5 / 5
    i5 = (c + 5 * b**2 * i3) / 6
    return np.where(inside, 21 / np.pi * (i0 - 10 * i2 + 20 * i3 - 15 * i4 + 4 * i5), 0.0)


@cache
def rectangle_table() -> np.ndarray:
    """T[i, j], the integral of F over [0, i/n] x [0, j/n], float64 (n+1, n+1) with n = `TABLE`; T[n, n] = 1/4.

    Linear interpolation between its entries is the integral of a density that is constant in each cell, so the four
    corners of neighbouring pixels telescope and a particle's mass is kept whatever its size and place.
    """
    nodes, weights = np.polynomial.legendre.leggauss(3)
    edges = (np.arange(TABLE)[:, None] + (nodes + 1) / 2) / TABLE  # (n, 3)
    table = np.zeros((TABLE + 1, TABLE + 1))
    for i, x in enumerate(edges):
        f = column(np.hypot(x[:, None, None], edges))  # (3, n, 3)
        table[i + 1, 1:] = np.einsum("a,ajb,b->j", weights, f, weights)
    table = table.cumsum(axis=0).cumsum(axis=1)
    return table / (4 * table[-1, -1])
