"""The deposit: closed forms of the kernel, the pixel average, the mass, and the same bits for any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

from hpcdiff.project import deposit
from hpcdiff.project.kernel import column


def test_column_is_the_kernels_line_integral():
    def wendland(q):
        return 21 / (2 * np.pi) * (1 - q) ** 4 * (1 + 4 * q) if q < 1 else 0.0

    for b in (0.0, 0.01, 0.2, 0.5, 0.9, 0.99):
        numeric = 2 * quad(lambda s, b=b: wendland(np.hypot(s, b)), 0, np.sqrt(1 - b * b))[0]
        assert column(b) == pytest.approx(numeric, rel=1e-7)
    assert column(0.0) == pytest.approx(7 / np.pi, rel=1e-12)
    assert quad(lambda b: 2 * np.pi * b * column(b), 0, 1)[0] == pytest.approx(1, rel=1e-8)


@pytest.mark.parametrize("h_pixels", [1e-6, 0.03, 0.3, 0.5, 0.9, 1.0, 1.7, 3.0, 8.0, 20.0, 31.0])
def test_mass_is_kept_at_any_size_and_place(h_pixels):
    rng = np.random.default_rng(1)
    npix, width = 64, 12.8
    pixel = width / npix
    h = h_pixels * pixel
    room = width / 2 - h
    position = np.concatenate([rng.uniform(-room, room, (40, 3)), [[0, 0, 5], [pixel / 2, -pixel / 2, 0], [0, pixel / 2, 0]]])
    position[:, :2] = np.clip(position[:, :2], -room, room)
    for p in position:
        image = deposit(p[None], np.array([h]), np.array([[3.0]]), npix, width)
        assert image.sum(dtype=float) * pixel**2 == pytest.approx(3.0, rel=1e-6)


def exact_average(p, h, npix, width, n=24):
    """Average of the analytic column over each pixel, by Gauss-Legendre quadrature in n x n panels of 4 x 4 nodes."""
    nodes, weights = np.polynomial.legendre.leggauss(4)
    fine = ((np.arange(npix * n)[:, None] + (nodes + 1) / 2) / (npix * n) - 0.5) * width
    f = column(np.hypot((fine - p[0])[:, :, None, None], (fine - p[1])[None, None]) / h) / h**2
    panels = np.einsum("iajb,a,b->ij", f, weights / 2, weights / 2)
    return panels.reshape(npix, n, npix, n).mean(axis=(1, 3))


@pytest.mark.parametrize("h_pixels", [0.4, 1.0, 1.9, 4.0, 9.0, 30.0])
def test_pixels_are_averages_of_the_column(h_pixels):
    npix, width = (16, 3.2) if h_pixels > 1 else (6, 1.2)
    position, h = np.array([[0.137, -0.321, 9.0]]), np.array([h_pixels * width / npix])
    image = deposit(position, h, np.ones((1, 1)), npix, width)[0]
    exact = exact_average(position[0], h[0], npix, width, n=60 if h_pixels < 1 else 24)
    filled = exact > 1e-3 * exact.max()
    assert abs(image - exact).sum() < 1e-3 * exact.sum()
    assert np.percentile(abs(image / np.where(filled, exact, 1) - 1)[filled], 99) < 0.01


def test_only_the_part_inside_the_map_arrives():
    npix, width, h = 32, 3.2, np.array([1.0])
    on_edge = deposit(np.array([[1.6, 0.0, 0.0]]), h, np.ones((1, 1)), npix, width)
    on_corner = deposit(np.array([[1.6, -1.6, 0.0]]), h, np.ones((1, 1)), npix, width)
    assert on_edge.sum(dtype=float) * 0.01 == pytest.approx(0.5, rel=1e-6)
    assert on_corner.sum(dtype=float) * 0.01 == pytest.approx(0.25, rel=1e-6)
    assert not deposit(np.array([[2.7, 0.0, 0.0]]), h, np.ones((1, 1)), npix, width).any()
    huge = deposit(np.zeros((1, 3)), np.array([1e5]), np.ones((1, 1)), npix, width)
    assert huge * 1e10 == pytest.approx(7 / np.pi, rel=0.01)


def test_a_uniform_lattice_gives_one():
    side = (np.arange(-30, 30) + 0.5) * 0.1
    position = np.stack(np.meshgrid(side, side, [0.0], indexing="ij"), axis=-1).reshape(-1, 3)
    for h in (0.02, 0.35, 0.9):
        image = deposit(position, np.full(len(position), h), np.full((len(position), 1), 0.01), 20, 2.0)
        assert image == pytest.approx(1, abs=0.003)


@pytest.mark.parametrize(("axis", "first", "second"), [("x", 1, 2), ("y", 2, 0), ("z", 0, 1)])
def test_axes_are_cyclic(axis, first, second):
    place = np.array([0.33, -0.71, 0.92])
    image = deposit(place[None], np.array([0.01]), np.ones((1, 1)), 32, 3.2, axis=axis)[0]
    i, j = np.unravel_index(image.argmax(), image.shape)
    assert (i, j) == tuple(np.floor((place[[first, second]] + 1.6) * 10).astype(int))
    assert image[i, j] == pytest.approx(100, rel=1e-6)


def test_bits_do_not_depend_on_threads_nor_on_companions():
    rng = np.random.default_rng(3)
    n = 20_000
    position, h = rng.normal(0, 1, (n, 3)), 10 ** rng.uniform(-3, 0.5, n)
    weights = rng.uniform(0, 1, (n, 3))
    one = deposit(position, h, weights, 50, 6.0, threads=1)
    for threads in (2, 3, 7):
        assert np.array_equal(one, deposit(position, h, weights, 50, 6.0, threads=threads))
    assert np.array_equal(one[1], deposit(position, h, weights[:, 1], 50, 6.0)[0])


def test_refuses_what_makes_no_sense():
    good = {"position": np.zeros((2, 3)), "h": np.ones(2), "weights": np.ones((2, 1)), "npix": 8, "width": 1.0}
    for wrong in (
        {"h": np.array([1.0, 0])},
        {"h": np.array([1.0, np.nan])},
        {"position": np.full((2, 3), np.nan)},
        {"weights": np.ones(3)},
    ):
        with pytest.raises(ValueError):
            deposit(**{**good, **wrong})
    for wrong, says in (({"axis": "w"}, "one of x, y, z"), ({"method": "mesh"}, "not built yet")):
        with pytest.raises(ValueError, match=says):
            deposit(**good, **wrong)
    assert not deposit(np.zeros((0, 3)), np.zeros(0), np.zeros((0, 2)), 8, 1.0).any()
