"""Radial laws in closed form."""

import numpy as np
import pytest

from hpcdiff.simulate import profiles


def test_what_is_taken_away_and_what_remains_are_the_whole():
    """F = p F^power + (1 - p) rest, at every radius: subhalos and the smooth halo together follow the profile."""
    r = np.geomspace(1e-3, 3, 300)
    whole = profiles.Radial(r, profiles.nfw_density(6 * r))
    for part, power in ((0.1, 1.4), (0.3, 1.4)):
        rest = whole.less(part, power)
        assert part * whole.cumulative**power + (1 - part) * rest.cumulative == pytest.approx(whole.cumulative, abs=1e-12)
        assert (np.diff(rest.cumulative) >= 0).all()
    assert (np.diff(whole.less(0.95, 1.4).cumulative) >= 0).all()  # more than can be taken everywhere


def test_radii_are_drawn_from_the_cumulative_mass():
    r = np.geomspace(1e-3, 1, 400)
    drawn = profiles.Radial(r, profiles.nfw_density(7 * r)).draw(np.random.default_rng(0), 20000)
    expected = profiles.nfw_mass(7 * np.array([0.1, 0.3, 0.6])) / profiles.nfw_mass(7.0)
    assert [np.mean(drawn < x) for x in (0.1, 0.3, 0.6)] == pytest.approx(expected, abs=0.012)


def test_the_concentration_is_that_of_the_mass():
    """Of an NFW sphere of light particles, and where beyond 0.4 R200c each is of eight times the mass; counted as alike they would be more concentrated."""
    x = np.geomspace(1e-3, 1, 400)
    r = np.sort(profiles.Radial(x, profiles.nfw_density(6 * x)).draw(np.random.default_rng(4), 40_000))
    inner, outer = r[r < 0.4], r[r >= 0.4]
    heavy = outer[: len(outer) // 8 * 8].reshape(-1, 8).mean(axis=1)
    mixed, mass = np.concatenate([inner, heavy]), np.repeat([2e10, 1.6e11], [len(inner), len(heavy)])
    light = profiles.fitted_concentration(r, 0.08, np.full(len(r), 2e10))
    assert light == pytest.approx(6, rel=0.03)
    assert profiles.fitted_concentration(mixed, 0.08, mass) == pytest.approx(light, rel=0.002)
    assert profiles.fitted_concentration(mixed, 0.08, np.ones(len(mixed))) > 1.5 * light
