"""Forces against a direct Ewald sum, momentum, and threads."""

import numpy as np
import pytest

from hpcdiff.simulate.nbody.gravity import Gravity

SIDE, EPS, OM = 10.0, 0.05, 0.3


def ewald(x, m, eps):
    """-grad(phi) and phi of point masses G m in a periodic box with a uniform background, by direct summation; Plummer's eps."""
    from scipy.special import erfc

    alpha = 2 / SIDE
    d = x - x[:, None]
    d -= SIDE * np.round(d / SIDE)
    force, phi = np.zeros_like(x), np.zeros(len(x))
    span = np.arange(-2, 3)
    for n in np.stack(np.meshgrid(span, span, span), -1).reshape(-1, 3):
        s = d + SIDE * n
        r = np.linalg.norm(s, axis=-1)
        if not n.any():
            np.fill_diagonal(r, np.inf)
        damped = erfc(alpha * r)
        r_safe = np.where(np.isinf(r), 1, r)
        f = (damped + 2 * alpha * r_safe / np.sqrt(np.pi) * np.exp(-((alpha * r) ** 2))) / r_safe**3 * ~np.isinf(r)
        p = damped / r
        if not n.any():
            f += ((r_safe**2 + eps**2) ** -1.5 - r_safe**-3.0) * ~np.isinf(r)
            p += (r_safe**2 + eps**2) ** -0.5 * ~np.isinf(r) - 1 / r
        force += np.einsum("ij,ijk,j->ik", f, s, m)
        phi -= p @ m
    waves = np.arange(-5, 6)
    for n in np.stack(np.meshgrid(waves, waves, waves), -1).reshape(-1, 3):
        if n.any():
            k = 2 * np.pi / SIDE * n
            weight = 4 * np.pi / SIDE**3 * np.exp(-(k @ k) / (4 * alpha**2)) / (k @ k)
            phase = d @ k
            force += weight * (np.sin(phase) @ m)[:, None] * k
            phi -= weight * np.cos(phase) @ m
    return force, phi + 2 * alpha / np.sqrt(np.pi) * m + np.pi / (alpha**2 * SIDE**3) * m.sum()


@pytest.fixture(scope="module")
def scene():
    """Half of the particles everywhere, half in two clumps, one at a corner of the box."""
    rng = np.random.default_rng(1)
    x = (
        np.concatenate([rng.uniform(0, SIDE, (200, 3)), 0.3 * rng.normal(size=(100, 3)), [6, 5, 4] + 0.6 * rng.normal(size=(100, 3))])
        % SIDE
    )
    return x, rng.uniform(0.5, 2, len(x))


def test_forces_are_those_of_an_ewald_sum(scene):
    x, mass = scene
    gravity = Gravity(SIDE, 32, EPS, OM)
    expected, phi = ewald(x, gravity._point_mass(mass), EPS)
    got = gravity.forces(x, mass)
    error = np.linalg.norm(got - expected, axis=1)
    assert np.sqrt(np.mean(error**2)) < 0.005 * np.sqrt(np.mean(expected**2))
    assert np.percentile(error / np.linalg.norm(expected, axis=1), 90) < 0.01
    got = gravity.potential(x, mass)
    assert np.abs(got - phi).max() < 0.005 * phi.std()


def test_momentum_is_conserved(scene):
    x, mass = scene
    pull = Gravity(SIDE, 32, EPS, OM).forces(x, mass) * mass[:, None]
    assert np.linalg.norm(pull.sum(axis=0)) < 1e-4 * np.linalg.norm(pull, axis=1).sum()


def test_forces_do_not_depend_on_where_the_box_is_cut(scene):
    x, mass = scene
    gravity = Gravity(SIDE, 32, EPS, OM)
    whole_cells = np.array([3, 11, 29]) * SIDE / 32
    a, b = gravity.forces(x, mass), gravity.forces((x + whole_cells) % SIDE, mass)
    assert np.abs(a - b).max() < 1e-4 * np.abs(a).max()


def test_any_number_of_threads_gives_the_same_bits(scene):
    x, mass = scene
    one, two = (Gravity(SIDE, 32, EPS, OM, threads).forces(x, mass) for threads in (1, 2))
    assert (one == two).all()
