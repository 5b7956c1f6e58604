"""The finder of subhalos on mock halos."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from gates import finder
from mock_cluster import CONCENTRATION, NUMBER, PARTICLE, RADIUS, B, ball, clump, directions, host, together

from hpcdiff.cosmology import G_MPC
from hpcdiff.simulate import profiles


def particles_at(found, centre):
    """Of the subhalos within 0.15 Mpc of a point."""
    return sum(s.particles for s in found if np.linalg.norm(s.centre - centre) < 0.15)


both = pytest.mark.parametrize("velocities", [True, False])


@both
def test_a_smooth_halo_has_no_subhalos(velocities):
    """Six halos with their noise."""
    for seed in range(6):
        x, v = host(np.random.default_rng(seed))
        assert not finder.find(x, v if velocities else None, PARTICLE)


def test_the_density_of_an_ellipsoid_is_known_along_its_axes():
    """Within 0.3 in its logarithm along the longest axis and the shortest, where that in spheres is off by 0.4 and 0.6; nor has it finder."""
    for seed in range(6):
        x = host(np.random.default_rng(seed))[0] * [1.3, 1.0, 0.7]
        rho, _ = finder.density(x)
        over = np.log(rho / finder.smooth(x, rho, np.ones(len(x), bool)))
        along = np.abs(x) > 0.9 * np.linalg.norm(x, axis=1, keepdims=True)
        assert abs(np.median(over[along[:, 0]])) < 0.3 and abs(np.median(over[along[:, 2]])) < 0.3
        assert not finder.find(x)


@both
def test_subhalos_are_found_where_they_are_with_their_masses(velocities):
    """All of 30 particles or more from 0.35 R200m on, and nothing else; masses within 20 % in the median of each size, and 40 % each time."""
    sizes, places = (400, 150, 100, 80, 50, 30), (0.6, 0.5, 0.8, 0.4, 0.7, 0.8)
    ways = np.concatenate([np.eye(3), -np.eye(3)])
    ratios = []
    for seed in range(6):
        rng = np.random.default_rng(100 + seed)
        parts, centres = [host(rng, NUMBER - sum(sizes))], []
        for n, r, way in zip(sizes, places, ways, strict=True):
            x, v, centre = clump(rng, n, r)
            centres.append(r * RADIUS * way)
            parts.append((x - centre + centres[-1], v))
        x, v = together(*parts)
        found = finder.find(x, v if velocities else None, PARTICLE)
        ratios.append([particles_at(found, c) / n for n, c in zip(sizes, centres, strict=True)])
        assert len(found) == len(sizes)
    assert np.median(ratios, axis=0) == pytest.approx(1, abs=0.2)
    assert np.array(ratios) == pytest.approx(1, abs=0.4)


@pytest.mark.parametrize(("n", "r"), [(60, 0.35), (60, 0.8), (200, 0.35), (200, 0.6), (500, 0.6), (500, 0.8)])
def test_a_subhalo_grows_beyond_its_saddle_point(monkeypatch, n, r):
    """One as loose as tides leave it: NFW's profile up to where it is as dense in the mean as the host within its distance; mass within 15 %, in the inner parts 25 %, and nothing else."""
    inner = profiles.nfw_mass(r * CONCENTRATION) / profiles.nfw_mass(CONCENTRATION) * NUMBER
    radius, scale = r * RADIUS * np.cbrt(n / inner), float(B.radius(2 * n * PARTICLE)) / 7
    found = {}
    for whole in (True, False):
        if not whole:
            monkeypatch.setattr(finder, "_grown", lambda x, v, rho, cores, *rest: cores)
        ratios = []
        for seed in range(6):
            rng = np.random.default_rng(seed)
            x, v = ball(rng, n, radius, radius / scale)
            centre = r * RADIUS * directions(rng, 1)[0]
            x, v = together(host(rng), (x + centre, v + 600 * rng.normal(size=3)))
            (one,) = finder.find(x, v, PARTICLE, 0.03)
            assert np.linalg.norm(one.centre - centre) < 0.15 and one.reach < 1.01 * 2 / 3 * np.linalg.norm(one.centre)
            ratios.append(one.particles / n)
        found[whole] = np.mean(ratios)
    assert found[True] == pytest.approx(1, abs=0.15 if r > 0.5 else 0.25) and found[True] > found[False] + 0.03
    assert n < 500 or found[False] < 0.75


def test_what_is_bound_counts_to_the_virial_radius_and_not_beyond():
    """A halo that has just come in, with four times its virial radius of what surrounds it at rest: what is bound to its virial radius counts, up to a fifth less than all that is there."""
    mu, c, n = profiles.nfw_mass, 8.0, 300
    unit = float(np.cbrt(3 * PARTICLE / (4 * np.pi * finder.VIRIAL)))
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, v = ball(rng, int(n * mu(4 * c) / mu(c)), 4 * unit * np.cbrt(n), 4 * c)
        x, v = together(host(rng), (x + [6.0, 0, 0], v + [500.0, 0, 0]))
        (one,) = finder.find(x, v, PARTICLE, 0.03)
        assert one.particles == pytest.approx(0.92 * n, rel=0.16) and one.reach == pytest.approx(unit * np.cbrt(one.particles), rel=0.1)
        (all_of_it,) = finder.find(x, v, PARTICLE, 0.03, virial=0.05 * finder.VIRIAL)
        assert all_of_it.particles > 1.4 * n


def test_without_velocities_a_heavy_subhalo_keeps_what_is_below_its_saddle_point(monkeypatch):
    """Of a sixth of the cluster nine tenths are found; eight tenths lie above the saddle point."""
    found = {}
    for whole in (True, False):
        if not whole:
            monkeypatch.setattr(finder, "_with_outskirts", lambda x, part, free, subs: subs)
        ratios = []
        for seed in range(4):
            rng = np.random.default_rng(seed)
            x, v, centre = clump(rng, 800, 0.7)
            ratios.append(particles_at(finder.find(together(host(rng, NUMBER - 800), (x, v))[0]), centre) / 800)
        found[whole] = np.mean(ratios)
    assert found[True] == pytest.approx(1, abs=0.12) and found[True] > found[False] + 0.05


@both
def test_no_particle_is_in_two_subhalos(velocities):
    """Where a smaller one touches a larger one, both are found, with no more particles than there are and a tenth of the host's at most."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        (x, v, centre), (near, speed, place) = clump(rng, 200, 0.8), clump(rng, 60, 0.8)
        near, speed = near - place + centre + [0.3, 0.35, 0], speed - speed.mean(axis=0) + v.mean(axis=0)
        x, v = together(host(rng), (x, v), (near, speed))
        found = [s.particles for s in finder.find(x, v if velocities else None, PARTICLE)]
        assert len(found) == 2 and 220 < sum(found) < 286


def test_what_two_could_have_is_the_larger_one_s():
    """Sixteen particles and eight, and between them three that both reach."""
    large, small, between = (np.array([[place, 0.01 * i, 0] for i in range(n)]) for place, n in ((9.0, 16), (11.0, 8), (10.0, 3)))
    x = np.concatenate([large, small, between])
    own, few = np.arange(16), np.arange(16, 24)
    rho, free = np.r_[[2.0], np.ones(15), [2.0], np.ones(7), np.zeros(3)], np.arange(27) >= 24
    grown = finder._grown(x, np.zeros_like(x), rho, [few, own], free, 0.6, lambda near, speed: np.ones(len(near), bool))
    assert [sorted(g) for g in grown] == [[*own, 24, 25, 26], [*few]]
    alone = finder._grown(x, np.zeros_like(x), rho, [few], free, 0.6, lambda near, speed: np.ones(len(near), bool))
    assert [sorted(g) for g in alone] == [[*few, 24, 25, 26]]


def test_what_flies_by_is_not_bound():
    """Of 100 particles of a subhalo and 60 that pass through it at 2000 km/s only the first are bound; a dense place with its host's speeds is no subhalo."""
    rng = np.random.default_rng(3)
    x, v, centre = clump(rng, 100, 0.6)
    other = centre + 0.3 * directions(rng, 60) * rng.random((60, 1))
    all_x, all_v = together((x, v), (other, [2000, 0, 0] + v.mean(axis=0) + 300 * rng.normal(size=(60, 3))))
    own = finder.bound(all_x, all_v, PARTICLE, 0.02, v.mean(axis=0))
    assert own[:100].sum() >= 90 and not own[100:].any()
    assert not finder.bound(
        all_x, all_v, PARTICLE, 0.02, v.mean(axis=0) + [3000, 0, 0]
    ).any()  # at another speed too few are left, so none is
    rest = host(rng)
    fast = x, 1000 * rng.normal(size=x.shape)
    assert finder.find(together(rest, fast)[0]) and not finder.find(*together(rest, fast), PARTICLE)


def test_a_softer_well_holds_less():
    """Of two bodies each moves at v/2 about their middle in a well of G m/r: bound below v^2 = 8 G m/r; a softening of sqrt(3) r halves the well."""
    x, m = np.array([[0.0, 0, 0], [0.1, 0, 0]]), 1e12
    escape = np.sqrt(8 * G_MPC * m / 0.1)
    for softening, factor in ((1e-6, 1.0), (0.1 * 3**0.5, 0.5**0.5)):
        for part, held in ((0.98, True), (1.02, False)):
            v = np.array([[part * escape * factor, 0, 0], [0.0, 0, 0]])
            assert finder.bound(x, v, m, softening, v.mean(axis=0), least=2).all() == held


def test_a_tidal_tail_is_not_counted():
    """60 particles that stream away from a subhalo of 100 to both sides, in density a part of it or a subhalo."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, v, centre = clump(rng, 100, 0.7)
        along = np.concatenate([rng.uniform(0.4, 1.3, 30), rng.uniform(-1.3, -0.4, 30)])[:, None] * [0, 1.0, 0]
        tail = centre + along + 0.05 * rng.normal(size=(60, 3)), v.mean(axis=0) + 1500 * along + 200 * rng.normal(size=(60, 3))
        x, v = together(host(rng), (x, v), tail)
        (found,) = finder.find(x, v, PARTICLE)
        assert found.particles == pytest.approx(100, abs=15) and np.linalg.norm(found.centre - centre) < 0.1
        assert sum(s.particles for s in finder.find(x)) > 115
