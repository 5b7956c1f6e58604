"""What is around a cluster, in closed form."""

import numpy as np
import pytest

from hpcdiff.cosmology import Background
from hpcdiff.simulate import outskirts, profiles

B = Background()


def test_far_away_is_the_mean_density_and_the_halo_has_none_of_it():
    r = np.array([0.05, 1.0, 140.0])
    found = outskirts.density(B, 1e15, r)
    assert found[0] < 1e-2 * found[1] and found[2] == pytest.approx(1, abs=0.02)
    assert outskirts.filling(B, 0.0, r) == pytest.approx(np.ones(3))
    assert outskirts.filling(B, 1e15, r)[0] < 1e-6 and outskirts.filling(B, 1e15, r)[2] == pytest.approx(found[2])


def test_what_is_clustered_is_more_or_less_for_one_mass():
    r = np.array([2.0, 5.0, 20.0])
    mean, twice = outskirts.density(B, 1e15, r), outskirts.density(B, 1e15, r, 2.0)
    none = outskirts.density(B, 1e15, r, 0.0)
    assert twice - mean == pytest.approx(mean - none) and (none <= 1).all()
    assert outskirts.mean_filling(B, 1e15, 24.0, 2.0) > 1.4 * outskirts.mean_filling(B, 1e15, 24.0)


def test_heavier_halos_have_more_about_them():
    r = np.array([10.0, 20.0])
    light, heavy = outskirts.density(B, 1e14, r), outskirts.density(B, 1e15, r)
    assert ((heavy - 1) > 1.5 * (light - 1)).all() and (light[0] - 1) > 1.5 * (light[1] - 1) > 0


def test_infall_and_filling_are_the_whole():
    r = np.linspace(0.5, 12, 30)
    parts = outskirts.density(B, 5e14, r) * outskirts.infall(r / B.radius(5e14)) + outskirts.filling(B, 5e14, r)
    assert parts == pytest.approx(outskirts.density(B, 5e14, r))


def test_the_mean_over_a_cell_is_that_of_points_in_it():
    x = np.random.default_rng(0).uniform(-15, 15, (400_000, 3))
    assert outskirts.mean_filling(B, 3e14, 30.0) == pytest.approx(outskirts.filling(B, 3e14, np.linalg.norm(x, axis=1)).mean(), rel=0.01)


@pytest.mark.parametrize("mass", [1.5e14, 1.2e15])
def test_a_halo_with_its_infall_has_m200m_within_r200m(mass):
    """Of both parts, of which the infall has its own density, as much is inside as the mass says."""
    radius = float(B.radius(mass))
    inner, outer = profiles.matter(B, mass, 6.0, profiles.OUTERMOST * radius)
    total = profiles.total_mass(B, mass, 6.0)
    r = np.geomspace(1e-3 * radius, profiles.OUTERMOST * radius, 3000)
    infall = np.trapezoid(4 * np.pi * r**2 * B.rho_mean() * outskirts.density(B, mass, r) * outskirts.infall(r / radius), r) / mass
    more = profiles.total_mass(B, mass, 6.0, 2.0) - total
    assert more == pytest.approx(total - profiles.total_mass(B, mass, 6.0, 0.0), rel=1e-2) and more > 0.1
    assert (total - infall) * inner.within(radius) + infall * outer.within(radius) == pytest.approx(1, abs=1e-3)
    assert 1.3 < total < 1.9 and 1.0 < total - infall < 1.2
