"""The paper's 3D mesh: its definition by brute force, the scatter of the mass that it is known for, the same bits for any threads."""

from __future__ import annotations

import numpy as np
import pytest

from hpcdiff.project import deposit
from hpcdiff.project.mesh import Mesh


def test_mesh_is_the_kernel_at_the_cells_centres():
    rng = np.random.default_rng(0)
    n, width = 14, 7.0
    position, h, weights = rng.uniform(-4.5, 4.5, (200, 3)), 10 ** rng.uniform(-0.7, 0.6, 200), rng.uniform(0, 1, (200, 2))
    centre = (np.arange(n) + 0.5) * width / n - width / 2
    grid = np.stack(np.meshgrid(centre, centre, centre, indexing="ij"))
    expected = np.zeros((2, n, n))
    for p, size, w in zip(position[:, [1, 2, 0]], h, weights, strict=True):
        q = np.minimum(np.sqrt(((grid - p[:, None, None, None]) ** 2).sum(axis=0)) / size, 1)
        kernel = 21 / (2 * np.pi * size**3) * (1 - q) ** 4 * (1 + 4 * q)
        expected += w[:, None, None] * kernel.sum(axis=2) * width / n
    image = deposit(position, h, weights, n, width, axis="x", method="mesh")
    assert image == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("h_cells", "scatter", "tolerance"), [(1.0, 0.66, 0.06), (1.5, 0.08, 0.01), (2.0, 0.009, 0.002)])
def test_small_particles_gain_and_lose_mass(h_cells, scatter, tolerance):
    rng = np.random.default_rng(1)
    mass = []
    for place in rng.uniform(-0.5, 0.5, (1500, 3)):
        mesh = Mesh(1, 8, 8.0, 1)
        mesh.add(*place[:, None], np.array([h_cells]), np.ones((1, 1)))
        mass.append(mesh.image().sum(dtype=float))
    assert np.std(mass) == pytest.approx(scatter, abs=tolerance)
    assert np.mean(mass) == pytest.approx(1, abs=4 * scatter / np.sqrt(len(mass)))


def test_a_kernel_between_centres_is_lost_and_one_across_a_face_is_cut():
    def total(x, y, z, h):
        mesh = Mesh(1, 16, 16.0, 1)
        mesh.add(*np.array([[x], [y], [z]]), np.array([h]), np.ones((1, 1)))
        return mesh.image().sum(dtype=float)

    assert total(0.0, 0.0, 0.0, 0.5) == 0
    assert total(0.0, 0.0, 0.0, 5.0) == pytest.approx(1, abs=1e-3)
    assert total(0.0, 0.0, 8.0, 5.0) == pytest.approx(0.5, abs=1e-3)
    assert total(8.0, -8.0, 8.0, 5.0) == pytest.approx(0.125, abs=1e-3)


def test_bits_do_not_depend_on_threads_nor_on_pieces():
    rng = np.random.default_rng(3)
    n = 5000
    x, y, z = rng.normal(0, 1, (3, n))
    h, weights = 10 ** rng.uniform(-2, 0, n), rng.uniform(0, 1, (n, 2))
    images = []
    for threads, pieces in ((1, [n]), (2, [n]), (7, [n]), (3, [17, 1000, n])):
        mesh, start = Mesh(2, 30, 4.0, threads), 0
        for stop in pieces:
            mesh.add(x[start:stop], y[start:stop], z[start:stop], h[start:stop], weights[start:stop])
            start = stop
        images.append(mesh.image())
    assert images[0].any()
    assert all(np.array_equal(images[0], image) for image in images[1:])


def test_refuses_what_is_not_finite():
    mesh = Mesh(1, 8, 1.0, 1)
    for h, weight in ((0.0, 1.0), (np.nan, 1.0), (1.0, np.inf)):
        with pytest.raises(ValueError, match="finite"):
            mesh.add(*np.zeros((3, 1)), np.array([h]), np.array([[weight]]))
