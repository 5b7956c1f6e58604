"""The deposit: the pixel average, the mass, the edges of the map, and the same bits for any threads and pieces."""

from __future__ import annotations

import numpy as np
import pytest

from hpcdiff.project import deposit
from hpcdiff.project.image import BLOCK, Canvas, deposit_cost
from hpcdiff.project.kernel import column
from hpcdiff.project.pyramid import LARGEST, MARGIN, TAPS, Pyramid, bring_up, taps
from hpcdiff.project.tiles import SPILL
from hpcdiff.project.window import TILE

_B = np.linspace(0, 1, 20001)
_F = column(_B)


def _nodes(place: float, r: float, npix: int):
    """Gauss-Legendre nodes, weights and pixels along one side of a particle, in panels that end at the pixels' edges."""
    low, high = max(place - r, 0), min(place + r, npix)
    edges = np.unique(np.concatenate([np.linspace(low, high, 9), np.arange(np.ceil(low), high)]))
    nodes, weights = np.polynomial.legendre.leggauss(4 if r < 4 else 2)
    at = edges[:-1, None] + np.diff(edges)[:, None] * (nodes + 1) / 2
    return at.ravel() - place, (np.diff(edges)[:, None] * weights / 2).ravel(), np.floor(at).astype(int).ravel()


def exact_average(position, h, weights, npix, width):
    """Each pixel's average of the analytic column, by quadrature particle by particle."""
    image, scale = np.zeros((npix, npix)), npix / width
    for (x, y), r, w in zip(position[:, :2] * scale + npix / 2, h * scale, weights, strict=True):
        if max(abs(x - npix / 2), abs(y - npix / 2)) >= npix / 2 + r:
            continue
        (u, wu, i), (v, wv, j) = _nodes(x, r, npix), _nodes(y, r, npix)
        value = np.interp(np.hypot(u[:, None], v) / r, _B, _F) * (wu[:, None] * wv) * (w / r**2)
        first_i, first_j = (np.flatnonzero(np.diff(n, prepend=-1)) for n in (i, j))
        image[i[0] : i[-1] + 1, j[0] : j[-1] + 1] += np.add.reduceat(np.add.reduceat(value, first_i, axis=0), first_j, axis=1)
    return image * scale**2


def errors(image, exact):
    """sum |a - e| / sum e, and the 99th percentile of |a - e| / e over pixels above 1e-3 of the peak."""
    filled = exact > 1e-3 * exact.max()
    off = abs(image - exact)
    return off.sum() / exact.sum(), np.percentile(off[filled] / exact[filled], 99)


@pytest.mark.parametrize("h_pixels", [1e-12, 0.03, 0.3, 0.5, 0.9, 1.0, 1.7, 3.0, 8.0, 9.6, 20.0, 31.0])
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
        assert (image >= 0).all()
        assert image.sum(dtype=float) * pixel**2 == pytest.approx(3.0, rel=2e-6)


@pytest.mark.parametrize("h_pixels", [0.1, 0.4, 0.8, 1.0, 1.9, 4.0, 7.4, 7.6, 9.2, 14.0, 30.5, 40.0])
def test_pixels_are_averages_of_the_column(h_pixels):
    npix, width = 128, 12.8
    for place in np.random.default_rng(2).uniform(-0.3, 0.3, (3, 3)):
        h = np.array([h_pixels * width / npix])
        image = deposit(place[None], h, np.ones((1, 1)), npix, width)[0]
        total, _ = errors(image, exact_average(place[None], h, np.ones(1), npix, width))
        on_level = h_pixels / 2 ** max(np.ceil(np.log2(h_pixels / LARGEST)), 0)
        assert total < (4e-4 if h_pixels <= LARGEST else 1.2e-2 if on_level < 4.5 else 5e-3)


def test_sparse_particles_of_all_sizes_are_exact():
    rng = np.random.default_rng(4)
    n, npix, width = 20_000, 128, 12.8
    position, h = rng.uniform(-width / 2, width / 2, (n, 3)), 10 ** rng.uniform(np.log10(0.05), np.log10(30), n) * width / npix
    weights = rng.uniform(0.5, 1.5, n)
    total, worst = errors(deposit(position, h, weights, npix, width)[0], exact_average(position, h, weights, npix, width))
    assert total < 2e-4
    assert worst < 1e-3


def test_a_few_large_particles_are_exact_up_to_the_edge_of_the_map():
    rng = np.random.default_rng(5)
    n, npix, width = 300, 64, 6.4
    position, h = rng.uniform(-5, 5, (n, 3)), 10 ** rng.uniform(0, 0.9, n)
    exact = exact_average(position, h, np.ones(n), npix, width)
    image = deposit(position, h, np.ones(n), npix, width)[0]
    off = abs(image / exact - 1)
    assert off.mean() < 1.5e-3
    border = np.concatenate([off[0], off[-1], off[:, 0], off[:, -1]])
    assert border.max() < 5e-3


def test_only_the_part_inside_the_map_arrives():
    npix, width = 32, 3.2
    for h in (0.5, 1.0, 1.6):
        on_edge = deposit(np.array([[1.6, 0.0, 0.0]]), np.array([h]), np.ones((1, 1)), npix, width)
        on_corner = deposit(np.array([[1.6, -1.6, 0.0]]), np.array([h]), np.ones((1, 1)), npix, width)
        assert on_edge.sum(dtype=float) * 0.01 == pytest.approx(0.5, rel=1e-4)
        assert on_corner.sum(dtype=float) * 0.01 == pytest.approx(0.25, rel=1e-4)
    assert not deposit(np.array([[2.7, 0.0, 0.0]]), np.array([1.0]), np.ones((1, 1)), npix, width).any()


@pytest.mark.parametrize("h", [1e2, 1e5, 1e9, 1e30])
@pytest.mark.parametrize("npix", [1, 5, 32])
def test_particles_far_larger_than_the_map_are_flat(h, npix):
    position = np.array([[0.3 * h, -0.4 * h, 0.0]])
    image = deposit(position, np.array([h]), np.ones((1, 1)), npix, 3.2, threads=1)
    if h < 1e15:
        centre = ((np.arange(npix) + 0.5) / npix - 0.5) * 3.2
        exact = column(np.hypot(centre[:, None] - position[0, 0], centre - position[0, 1]) / h)
        assert image[0] * h**2 == pytest.approx(exact, rel=5e-3)
    else:
        assert (image >= 0).all() and image.max() < 1e-30
    beyond = deposit(np.array([[1.2 * h + 1e3, 0.0, 0.0]]), np.array([h]), np.ones((1, 1)), npix, 3.2, threads=1)
    assert beyond.max() * min(h, 1e15) ** 2 < 1e-6  # coarse pixels reach a little beyond the kernel


def test_nothing_overflows_on_a_large_map():
    npix = 8192
    position = np.array([[4.0, -4.0, 0], [1e300, 0, 0], [0, -1e300, 0], [4.0959, 4.0959, 0], [-4.0961, 0, 0]])
    h = np.array([1e-15, 1.0, 1e-300, 1e-5, 1e-5])
    image = deposit(position, h, np.ones(5), npix, 8.192, threads=2)[0]
    assert image.sum(dtype=float) * 1e-6 == pytest.approx(2, rel=1e-6)
    assert np.count_nonzero(image) == 1 + 4  # the first lies on a corner of four pixels


def test_weights_of_any_size_and_sign():
    rng = np.random.default_rng(6)
    position, h = rng.uniform(-1, 1, (500, 3)), 10 ** rng.uniform(-2, 0, 500)
    weights = rng.normal(size=(500, 1)) * np.array([1.0, 1e-30, 1e25, 0.0, -1.0])
    image = deposit(position, h, weights, 40, 2.0)
    rounding = 1e-6 * float(abs(image[0]).max())
    assert image[1] == pytest.approx(1e-30 * image[0], rel=1e-5, abs=1e-30 * rounding)
    assert image[2] == pytest.approx(1e25 * image[0], rel=1e-5, abs=1e25 * rounding)
    assert not image[3].any()
    assert np.array_equal(image[4], -image[0])


def test_a_uniform_lattice_gives_one():
    side = (np.arange(-30, 30) + 0.5) * 0.1
    position = np.stack(np.meshgrid(side, side, [0.0], indexing="ij"), axis=-1).reshape(-1, 3)
    for h in (0.02, 0.35, 0.9, 1.5):
        image = deposit(position, np.full(len(position), h), np.full((len(position), 1), 0.01), 20, 2.0)
        assert image == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("axis", "first", "second"), [("x", 1, 2), ("y", 2, 0), ("z", 0, 1)])
def test_axes_are_cyclic(axis, first, second):
    rng = np.random.default_rng(7)
    body = np.concatenate([rng.uniform([-1, 0, 0], [1, 0.2, 0.1], (300, 3)), rng.uniform(0.5, 1.2, (100, 3)), [[0.33, -0.71, 0.92]]])
    h = np.full(len(body), 0.3)
    image = deposit(body, h, np.ones(len(body)), 32, 3.2, axis=axis)[0]
    turned = np.stack([body[:, first], body[:, second], np.zeros(len(body))], axis=1)
    exact = exact_average(turned, h, np.ones(len(body)), 32, 3.2)
    assert errors(image, exact)[0] < 1e-3
    assert errors(image.T, exact)[0] > 0.3


def clustered(n):
    rng = np.random.default_rng(3)
    return rng.normal(0, 1, (n, 3)), 10 ** rng.uniform(-3, 0.5, n), rng.uniform(0, 1, (n, 3))


def test_bits_do_not_depend_on_threads_nor_on_companions():
    position, h, weights = clustered(40_000)
    one = deposit(position, h, weights, 50, 6.0, threads=1)
    for threads in (2, 3, 7):
        assert np.array_equal(one, deposit(position, h, weights, 50, 6.0, threads=threads))
    assert np.array_equal(one[1], deposit(position, h, weights[:, 1], 50, 6.0)[0])
    many = deposit(position, h, np.tile(weights, 3)[:, :7], 50, 6.0)
    assert np.array_equal(many, np.tile(one, (3, 1, 1))[:7])


@pytest.mark.parametrize(("few", "many"), [(0, 1000), (0, 0)])
def test_bits_do_not_depend_on_how_buffers_are_kept(monkeypatch, few, many):
    position, h, weights = clustered(30_000)
    one = deposit(position, h, weights, 300, 6.0, threads=1)
    monkeypatch.setattr("hpcdiff.project.image.FEW", few)
    monkeypatch.setattr("hpcdiff.project.image.MANY", many)
    for threads in (2, 5):
        assert np.array_equal(one, deposit(position, h, weights, 300, 6.0, threads=threads))


def test_tiles_of_one_colour_do_not_meet():
    kind = Pyramid(700)
    for side, _, _, tiles, first in kind.levels.tolist():
        assert tiles * TILE >= side + SPILL
        for colour in range(4):
            tile = np.flatnonzero(kind.colour[first : first + tiles**2] == colour)
            row, column = tile // tiles, tile % tiles
            apart = np.maximum(abs(row[:, None] - row), abs(column[:, None] - column))
            assert (apart[apart > 0] * TILE >= TILE + SPILL).all()


def test_bits_do_not_depend_on_pieces():
    n = BLOCK + 60_000
    position, h, weights = clustered(n)
    images = []
    for threads, stops in ((1, [n]), (2, [1, 70_000, 70_000, BLOCK - 1, n]), (3, [BLOCK, BLOCK + 5, n])):
        canvas, start = Canvas(3, 40, 6.0, threads), 0
        for stop in stops:
            canvas.add(position[start:stop, 0], position[start:stop, 1], h[start:stop], weights[start:stop])
            start = stop
        images.append(canvas.image())
    assert np.array_equal(images[0], images[1])
    assert np.array_equal(images[0], images[2])


def test_bringing_up_keeps_every_pixels_mass_and_sign():
    rng = np.random.default_rng(8)
    kind = Pyramid(21)
    coarse, fine = (np.zeros((side, 2, side)) for side in (kind.levels[2, 0], kind.levels[1, 0]))
    coarse[:] = rng.normal(size=coarse.shape) ** 3
    bring_up(coarse, fine, MARGIN, MARGIN, taps(), 0, len(coarse))
    inside = slice(MARGIN - MARGIN // 2, MARGIN - MARGIN // 2 + len(fine) // 2)
    halves = fine[: 2 * (len(fine) // 2), :, : 2 * (len(fine) // 2)]
    summed = halves[0::2, :, 0::2] + halves[1::2, :, 0::2] + halves[0::2, :, 1::2] + halves[1::2, :, 1::2]
    assert summed == pytest.approx(coarse[inside, :, inside], rel=1e-12, abs=1e-14)
    for part in (halves[0::2, :, 0::2], halves[1::2, :, 1::2]):
        assert (part * coarse[inside, :, inside] > 0).all()
    assert 2 * np.sum(np.arange(1, TAPS + 1) * taps()) == pytest.approx(0.25, rel=1e-12)


def test_cost_does_not_grow_with_the_area():
    cost = deposit_cost(np.array([0.01, 0.7, 3.0, 9.0, 30.0, 1e3, 1e12]), 128)
    assert (cost > 0).all()
    assert cost[2] > cost[0]
    assert cost.max() < 10 * cost.min()


def test_refuses_what_makes_no_sense():
    good = {"position": np.zeros((2, 3)), "h": np.ones(2), "weights": np.ones((2, 1)), "npix": 8, "width": 1.0}
    for wrong in (
        {"h": np.array([1.0, 0])},
        {"h": np.array([1.0, np.nan])},
        {"h": np.array([1.0, np.inf])},
        {"position": np.full((2, 3), np.nan)},
        {"position": np.array([[0, 0, 0], [0, 0, np.inf]])},
        {"weights": np.full((2, 1), np.nan)},
        {"weights": np.ones(3)},
        {"position": np.zeros((2, 2))},
        {"npix": 0},
        {"width": 0.0},
    ):
        for method in ("exact", "mesh"):
            with pytest.raises(ValueError):
                deposit(**{**good, **wrong}, method=method)
    for wrong, says in (({"axis": "w"}, "one of x, y, z"), ({"method": "voronoi"}, "exact, mesh")):
        with pytest.raises(ValueError, match=says):
            deposit(**good, **wrong)
    with pytest.raises(ValueError, match="float32"):
        deposit(**{**good, "weights": np.full((2, 1), 1e300)})
    assert not deposit(np.zeros((0, 3)), np.zeros(0), np.zeros((0, 2)), 8, 1.0).any()
    assert deposit(np.zeros((2, 3)), np.ones(2), np.ones((2, 0)), 8, 1.0).shape == (0, 8, 8)
