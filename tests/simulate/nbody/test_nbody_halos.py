"""Halos whose numbers are known."""

import numpy as np
import pytest

from hpcdiff.cosmology import G_MPC, Background
from hpcdiff.simulate import profiles
from hpcdiff.simulate.nbody.halos import Matter, formation

SIDE, B = 30.0, Background()


def clump(rng, n, radius, c, centre):
    """Particles of an NFW halo that ends at its radius, and their (Kepler-like) depth."""
    x = np.geomspace(1e-3, 1, 400)
    r = profiles.Radial(x, profiles.nfw_density(c * x)).draw(rng, n) * radius
    u = rng.normal(size=(n, 3))
    return (centre + r[:, None] * u / np.linalg.norm(u, axis=1, keepdims=True)) % SIDE, -np.log1p(c * r / radius) / np.maximum(
        r, 1e-6
    ) * radius


@pytest.fixture(scope="module")
def matter():
    """A halo of 4e14 Msun and c = 6 across a wall, with denser clumps deep inside it and near its edge; one of 6e13; a thin background."""
    rng, m = np.random.default_rng(2), 2e10
    place = np.array([[0.2, 15, 29.9], [18, 4, 9], [1.0, 15, 29.9], [28.2, 15, 29.4]])
    parts = []
    for mass, c, depth, centre in zip((4e14, 6e13, 3e13, 4e13), (6, 9, 40, 200), (1, 0.3, 0.05, 0.1), place, strict=True):
        x, phi = clump(rng, round(mass / m), B.radius(mass), c, centre)
        parts.append((x, depth * phi))
    rest = rng.uniform(0, SIDE, (3000, 3))
    x, phi = (np.concatenate(k) for k in zip(*parts, (rest, np.zeros(3000)), strict=True))
    return Matter(x, np.full(len(x), m), phi, SIDE, B), place


def test_halos_are_found_with_their_masses(matter):
    matter, place = matter
    first, second = matter.halos(2e13)  # the clumps are denser than the halo that they are in, and are not halos
    assert np.abs(first.centre - place[0]).max() < 0.05 and np.abs(second.centre - place[1]).max() < 0.05
    assert second.mass_200m == pytest.approx(6e13, rel=0.03)
    assert 4.2e14 < first.mass_200m < 5e14  # with what fell into it
    assert second.radius_200m == pytest.approx(float(B.radius(second.mass_200m)), rel=1e-6)
    m500, r500 = profiles.critical(6e13, float(B.radius(6e13)), 9, 500, B)
    assert (second.mass_500c, second.radius_500c) == (pytest.approx(m500, rel=0.06), pytest.approx(r500, rel=0.02))
    assert len(matter.halos(1e14)) == 1
    m200, r200 = profiles.critical(6e13, float(B.radius(6e13)), 9, 200, B)
    assert (second.mass_200c, second.radius_200c) == (pytest.approx(m200, rel=0.05), pytest.approx(r200, rel=0.02))
    x = np.linspace(1e-3, r200 / second.radius_200m, 4000)  # the binding energy of an NFW halo within R200c
    within = 6e13 * profiles.nfw_mass(9 * x) / profiles.nfw_mass(9)
    expected = G_MPC * np.average(within / (x * second.radius_200m), weights=np.gradient(within))
    assert second.depth == pytest.approx(expected, rel=0.05)


def test_concentration_is_that_of_the_profile(matter):
    matter, _ = matter
    halo = matter.halos(2e13)[1]
    everything = np.ones(len(matter.x), bool)
    c = 9 * halo.radius_200c / halo.radius_200m
    assert matter.concentration(halo, 0.0, everything) == pytest.approx(c, rel=0.1)
    least = 0.15 * halo.radius_200c
    outer = np.linalg.norm(matter.x - halo.centre, axis=1) > least
    assert matter.concentration(halo, 0.0, outer) < 0.6 * c  # of these particles alone, which have a hole
    assert matter.concentration(halo, least, outer) == pytest.approx(c, rel=0.25)  # beyond which it is not looked at


def test_formation_is_when_half_of_the_mass_was_there():
    """A ball grows by shells: the kept positions have a known part of it collapsed, the rest far away."""
    rng, m = np.random.default_rng(3), 1e11
    n = 4000
    final = n * m
    ball, _ = clump(rng, n, 0.3, 5, np.full(3, 15.0))
    kept = []
    for a, part in ((0.3, 0.1), (0.5, 0.3), (0.7, 0.7), (0.9, 0.95)):
        x = rng.uniform(0, SIDE, (n, 3))
        x[: round(part * n)] = ball[: round(part * n)]
        kept.append((a, x.astype(np.float32)))
    formed = formation(tuple(kept), np.arange(n), np.full(n, m), final, SIDE, B.rho_mean())
    assert formed == pytest.approx(0.6, abs=0.01)
    assert formation((), np.arange(n), np.full(n, m), final, SIDE, B.rho_mean()) == pytest.approx(0.5)
