"""Shared draws: their means and bounds."""

import numpy as np
import pytest

from hpcdiff.simulate import draws, profiles


def test_masses_have_their_mean_sum_and_distribution():
    rng = np.random.default_rng(0)
    found = [draws.masses(rng, 0.01, 1.0, lambda m: m**-0.9, 2.0) for _ in range(400)]
    total = np.array([m.sum() for m in found])
    assert total.mean() == pytest.approx(2.0, abs=4 * total.std() / np.sqrt(len(total)))
    m = np.concatenate(found)
    assert m.min() >= 0.01 and m.max() <= 1.0
    # of dN/dln m ~ m^-0.9 this part is above a tenth
    expected = (0.1**-0.9 - 1) / (0.01**-0.9 - 1)
    assert np.mean(m > 0.1) == pytest.approx(expected, abs=4 * np.sqrt(expected / len(m)))


def test_clumps_are_nfw_within_their_size_about_their_centres():
    centre, size = np.array([[1.0, 2.0, 3.0], [50.0, 0.0, 0.0]]), np.array([0.5, 2.0])
    x = draws.clumps(np.random.default_rng(1), np.array([4000, 6000]), centre, size, np.array([0, 4]))
    for part, c, s, kind in zip(np.split(x, [4000]), centre, size, (0, 4), strict=True):
        r = np.sort(np.linalg.norm(part - c, axis=1) / s)
        assert r[-1] <= 1 and np.abs((part - c).mean(axis=0)).max() < 5 * s / np.sqrt(len(part))
        k = draws.CONCENTRATIONS[kind]
        closed = (np.log1p(k * r) - k * r / (1 + k * r)) / (np.log1p(k) - k / (1 + k))
        assert np.abs(closed - np.arange(len(r)) / len(r)).max() < 1.95 / np.sqrt(len(r))  # Kolmogorov, Smirnov: one in a thousand


def test_unit_vectors_are_even_or_about_the_axes():
    rng, n = np.random.default_rng(2), 20000
    even = draws.directions(rng, n)
    assert np.allclose(np.linalg.norm(even, axis=1), 1) and np.allclose(even.T @ even / n, np.eye(3) / 3, atol=0.02)
    some = draws.toward(rng, n, np.array([[0.0, 0.0, 1.0]]), 0.6)
    assert np.allclose(np.linalg.norm(some, axis=1), 1)
    assert np.mean(some[:, 2] > 0.5) == pytest.approx(0.6 + 0.4 * 0.25, abs=0.02)  # of even ones a quarter lies there


def test_stirring_has_the_field_as_its_convergence_and_leaves_the_centre():
    waves = draws.Ripples(np.random.default_rng(3), 2.0, 0.15)
    x, step = np.random.default_rng(4).normal(size=(50, 3)), 1e-4
    slope = sum((waves.stirring(x + step * e) - waves.stirring(x - step * e)) @ e for e in np.eye(3)) / (2 * step)
    assert np.allclose(-slope, waves.field(x), atol=1e-6)
    assert np.allclose(waves.stirring(np.zeros((1, 3))), 0)
    far = 500 * np.random.default_rng(5).normal(size=(20000, 3))
    assert waves.field(far).std() == pytest.approx(0.15, rel=0.1)


def test_light_halos_are_more_concentrated():
    rng = np.random.default_rng(6)
    light, heavy = (draws.CONCENTRATIONS[draws.concentrations(rng, np.full(4000, m))].mean() for m in (1e11, 1e14))
    assert light > heavy and profiles.nfw_density(1.0) > profiles.nfw_density(2.0)
