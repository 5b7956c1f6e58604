"""The finder of subhalos on mock halos, and the mass function that it is held against."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from gates import subhalos
from gates.table import Table

from hpcdiff.cosmology import G_MPC, Background
from hpcdiff.simulate import particles, profiles

B = Background()
MASS, CONCENTRATION, NUMBER = 8e14, 6.0, 5000
RADIUS = float(B.radius(MASS))
PARTICLE = MASS / NUMBER
"""Msun of all matter for each dark-matter particle."""


def directions(rng, n):
    x = rng.normal(size=(n, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def ball(rng, n, radius, concentration):
    """n particles of an NFW sphere that ends at `radius` (Mpc): positions about its centre, and isotropic velocities (km/s) of its Jeans equation."""
    r = np.geomspace(1e-3, 1, 400) * radius
    rho = profiles.nfw_density(r * concentration / radius)
    inside = profiles.nfw_mass(r * concentration / radius) / profiles.nfw_mass(concentration) * n * PARTICLE
    pull = rho * G_MPC * inside / r**2
    weight = np.concatenate([[0], np.cumsum(0.5 * (pull[1:] + pull[:-1]) * np.diff(r))])
    sigma = np.sqrt((weight[-1] - weight) / rho)
    away = np.interp(rng.random(n), inside / inside[-1], r)
    return away[:, None] * directions(rng, n), np.interp(away, r, sigma)[:, None] * rng.normal(size=(n, 3))


def host(rng, n=NUMBER):
    return ball(rng, n, RADIUS, CONCENTRATION)


def clump(rng, n, r):
    """A subhalo of n particles at r R200m on the first axis, cut by the tides there, with a speed of its own; and where it is."""
    x, v = ball(rng, n, float(B.radius(n * PARTICLE)) * min(0.8 * r**0.7, 1), 8.0)
    centre = np.array([r * RADIUS, 0, 0])
    return x + centre, v + 600 * rng.normal(size=3), centre


def together(*parts):
    return tuple(np.concatenate(p) for p in zip(*parts, strict=True))


def particles_at(found, centre):
    """Of the subhalos within 0.15 Mpc of a point."""
    return sum(s.particles for s in found if np.linalg.norm(s.centre - centre) < 0.15)


both = pytest.mark.parametrize("velocities", [True, False])


@both
def test_a_smooth_halo_has_no_subhalos(velocities):
    """Six halos with their noise."""
    for seed in range(6):
        x, v = host(np.random.default_rng(seed))
        assert not subhalos.find(x, v if velocities else None, PARTICLE)


def test_the_density_of_an_ellipsoid_is_known_along_its_axes():
    """Within 0.3 in its logarithm along the longest axis and the shortest, where that in spheres is off by 0.4 and 0.6; nor has it subhalos."""
    for seed in range(6):
        x = host(np.random.default_rng(seed))[0] * [1.3, 1.0, 0.7]
        rho, _ = subhalos.density(x)
        over = np.log(rho / subhalos.smooth(x, rho, np.ones(len(x), bool)))
        along = np.abs(x) > 0.9 * np.linalg.norm(x, axis=1, keepdims=True)
        assert abs(np.median(over[along[:, 0]])) < 0.3 and abs(np.median(over[along[:, 2]])) < 0.3
        assert not subhalos.find(x)


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
        found = subhalos.find(x, v if velocities else None, PARTICLE)
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
            monkeypatch.setattr(subhalos, "_grown", lambda x, v, rho, cores, *rest: cores)
        ratios = []
        for seed in range(6):
            rng = np.random.default_rng(seed)
            x, v = ball(rng, n, radius, radius / scale)
            centre = r * RADIUS * directions(rng, 1)[0]
            x, v = together(host(rng), (x + centre, v + 600 * rng.normal(size=3)))
            (one,) = subhalos.find(x, v, PARTICLE, 0.03)
            assert np.linalg.norm(one.centre - centre) < 0.15 and one.reach < 1.01 * 2 / 3 * np.linalg.norm(one.centre)
            ratios.append(one.particles / n)
        found[whole] = np.mean(ratios)
    assert found[True] == pytest.approx(1, abs=0.15 if r > 0.5 else 0.25) and found[True] > found[False] + 0.03
    assert n < 500 or found[False] < 0.75


def test_what_is_bound_counts_to_the_virial_radius_and_not_beyond():
    """A halo that has just come in, with four times its virial radius of what surrounds it at rest: what is bound to its virial radius counts, up to a fifth less than all that is there."""
    mu, c, n = profiles.nfw_mass, 8.0, 300
    unit = float(np.cbrt(3 * PARTICLE / (4 * np.pi * subhalos.VIRIAL)))
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, v = ball(rng, int(n * mu(4 * c) / mu(c)), 4 * unit * np.cbrt(n), 4 * c)
        x, v = together(host(rng), (x + [6.0, 0, 0], v + [500.0, 0, 0]))
        (one,) = subhalos.find(x, v, PARTICLE, 0.03)
        assert one.particles == pytest.approx(0.92 * n, rel=0.16) and one.reach == pytest.approx(unit * np.cbrt(one.particles), rel=0.1)
        (all_of_it,) = subhalos.find(x, v, PARTICLE, 0.03, virial=0.05 * subhalos.VIRIAL)
        assert all_of_it.particles > 1.4 * n


def test_without_velocities_a_heavy_subhalo_keeps_what_is_below_its_saddle_point(monkeypatch):
    """Of a sixth of the cluster nine tenths are found; eight tenths lie above the saddle point."""
    found = {}
    for whole in (True, False):
        if not whole:
            monkeypatch.setattr(subhalos, "_with_outskirts", lambda x, part, free, subs: subs)
        ratios = []
        for seed in range(4):
            rng = np.random.default_rng(seed)
            x, v, centre = clump(rng, 800, 0.7)
            ratios.append(particles_at(subhalos.find(together(host(rng, NUMBER - 800), (x, v))[0]), centre) / 800)
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
        found = [s.particles for s in subhalos.find(x, v if velocities else None, PARTICLE)]
        assert len(found) == 2 and 220 < sum(found) < 286


def test_what_flies_by_is_not_bound():
    """Of 100 particles of a subhalo and 60 that pass through it at 2000 km/s only the first are bound; a dense place with its host's speeds is no subhalo."""
    rng = np.random.default_rng(3)
    x, v, centre = clump(rng, 100, 0.6)
    other = centre + 0.3 * directions(rng, 60) * rng.random((60, 1))
    all_x, all_v = together((x, v), (other, [2000, 0, 0] + v.mean(axis=0) + 300 * rng.normal(size=(60, 3))))
    own = subhalos.bound(all_x, all_v, PARTICLE, 0.02, v.mean(axis=0))
    assert own[:100].sum() >= 90 and not own[100:].any()
    assert not subhalos.bound(
        all_x, all_v, PARTICLE, 0.02, v.mean(axis=0) + [3000, 0, 0]
    ).any()  # at another speed too few are left, so none is
    rest = host(rng)
    fast = x, 1000 * rng.normal(size=x.shape)
    assert subhalos.find(together(rest, fast)[0]) and not subhalos.find(*together(rest, fast), PARTICLE)


def test_a_softer_well_holds_less():
    """Of two bodies each moves at v/2 about their middle in a well of G m/r: bound below v^2 = 8 G m/r; a softening of sqrt(3) r halves the well."""
    x, m = np.array([[0.0, 0, 0], [0.1, 0, 0]]), 1e12
    escape = np.sqrt(8 * G_MPC * m / 0.1)
    for softening, factor in ((1e-6, 1.0), (0.1 * 3**0.5, 0.5**0.5)):
        for part, held in ((0.98, True), (1.02, False)):
            v = np.array([[part * escape * factor, 0, 0], [0.0, 0, 0]])
            assert subhalos.bound(x, v, m, softening, v.mean(axis=0), least=2).all() == held


def test_a_tidal_tail_is_not_counted():
    """60 particles that stream away from a subhalo of 100 to both sides, in density a part of it or a subhalo."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, v, centre = clump(rng, 100, 0.7)
        along = np.concatenate([rng.uniform(0.4, 1.3, 30), rng.uniform(-1.3, -0.4, 30)])[:, None] * [0, 1.0, 0]
        tail = centre + along + 0.05 * rng.normal(size=(60, 3)), v.mean(axis=0) + 1500 * along + 200 * rng.normal(size=(60, 3))
        x, v = together(host(rng), (x, v), tail)
        (found,) = subhalos.find(x, v, PARTICLE)
        assert found.particles == pytest.approx(100, abs=15) and np.linalg.norm(found.centre - centre) < 0.1
        assert sum(s.particles for s in subhalos.find(x)) > 115


def test_the_expected_function_is_that_of_jiang_and_van_den_bosch():
    """Its mass is the fraction; light subhalos are as many as a power law of -0.82 has; 0.5 of the host or more have almost none."""
    assert subhalos.expected(0.1, 1e-4, 1, power=1) == pytest.approx(0.1)
    light, heavier = subhalos.expected(0.1, 1e-3, 2e-3), subhalos.expected(0.1, 1e-2, 2e-2)
    assert light / heavier == pytest.approx(10**0.82, rel=1e-3)
    assert subhalos.expected(0.1, 0.5, 1) < 0.02 * subhalos.expected(0.1, 0.1, 1)
    psi = np.geomspace(1e-4, 1, 4001)
    norm = 0.1 / np.trapezoid(psi**-0.82 * np.exp(-50 * psi**4), psi)
    assert light == pytest.approx(norm / 0.82 * (1e-3**-0.82 - 2e-3**-0.82), rel=1e-3)


def test_the_halo_model_draws_from_that_function(monkeypatch):
    """In their numbers within the virial radius, from light ones to the heaviest; a third as many are beyond it."""
    seen = []

    def clumps(rng, n, centre, *rest):
        seen.append((n, np.linalg.norm(centre, axis=1)))
        return np.empty((0, 3))

    monkeypatch.setattr(particles, "clumps", clumps)
    radius, concentration = float(B.radius(1e15)), 6.0
    plan = SimpleNamespace(m_dm=1e10, f_baryon=B.Ob0 / B.Om0, background=B)
    cluster = SimpleNamespace(
        mass=1e15, radius=radius, concentration=concentration, subhalo_fraction=0.1, disturbed=False, axes=np.ones(3), rotation=np.eye(3)
    )
    inner = profiles.matter(B, 1e15, concentration, 3 * radius)[0]
    for seed in range(300):
        particles._subhalos(plan, 85_000, cluster, inner, np.random.default_rng(seed))
    mass, virial = profiles.critical(1e15, radius, concentration, profiles.virial_overdensity(B), B)
    counts, r = (np.concatenate(values) for values in zip(*seen[::2], strict=True))
    psi = counts * plan.m_dm / (1 - plan.f_baryon) / mass
    edges = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.5)
    found = np.histogram(psi[r < virial], edges)[0]
    wanted = 300 * np.array([subhalos.expected(0.1, *pair) for pair in zip(edges[:-1], edges[1:], strict=True)])
    assert np.all(np.abs(found - wanted) < 4 * np.sqrt(wanted) + 0.02 * wanted), (found, wanted)
    assert found[-1] > 10 and 0.25 < np.mean(r > virial) < 0.45


def test_dynamical_times_since_formation():
    """In an Einstein-de Sitter universe (virial overdensity 18 pi^2) n = 9.778/1.628 ln(1/a); a host that formed late has more subhalos."""
    assert profiles.virial_overdensity(B) / B.Om0 == pytest.approx(337, rel=0.01)
    one = Background(Om0=1.0, Ob0=0.1)
    n = 9.778 / 1.628 * np.sqrt(18 * np.pi**2 / 178) * np.log(2)
    assert subhalos.mass_fraction(one, 0.5) == pytest.approx(0.3563 * n**-0.6 - 0.075, rel=1e-3)
    late, early, latest = (subhalos.mass_fraction(B, a) for a in (0.7, 0.5, 0.95))
    assert 0.07 < early < 0.11 < late < 0.2 and latest == pytest.approx(0.2813)


def drawn(rng, count, share=1.0):
    """Hosts with as many subhalos of 0.005 or more as there should be, times a share, all resolved."""
    of, edges = [], np.geomspace(0.005, 1, 80)
    number = share * np.array([subhalos.expected(0.1, *pair) for pair in zip(edges[:-1], edges[1:], strict=True)])
    for _ in range(count):
        psi = np.repeat(np.sqrt(edges[1:] * edges[:-1]), rng.poisson(number))
        of.append(subhalos.Host(psi, np.full(len(psi), 0.65), 0.005, 0.1))
    return of


def test_hosts_with_the_subhalos_they_should_have_hold_and_others_do_not():
    rng, right, half = np.random.default_rng(2), Table(), Table()
    subhalos.gates(right, drawn(rng, 400))
    subhalos.gates(half, drawn(rng, 400, 0.35))
    assert all(row["holds"] for row in right.rows) and len(right.rows) == 6
    assert all(abs(row["value"] - 1) < 4 * row["error"] < 1 for row in right.rows[:5])
    assert all(
        row["low"] == pytest.approx(0.67 - row["error"], abs=1e-3) and row["high"] == pytest.approx(1.5 + row["error"], abs=1e-3)
        for row in right.rows[:5]
    )
    assert [row["holds"] for row in half.rows] == [False] * 5 + [True]
    few = Table()
    subhalos.gates(few, drawn(rng, 100))
    assert [a["error"] / b["error"] for a, b in zip(few.rows[:5], right.rows, strict=False)] == pytest.approx([2] * 5, rel=1e-3)


def test_the_counts_of_two_finders_are_in_the_documentation():
    root = Path(__file__).resolve().parents[2]
    content = json.loads((root / "benchmarks" / "results" / "simulation_gates_nbody.json").read_text())
    assert subhalos.markdown(content) in (root / "docs" / "simulation.md").read_text()


def test_bins_that_no_host_resolves_have_no_row():
    table = Table()
    subhalos.gates(table, [subhalos.Host(np.array([0.2, 0.04]), np.array([0.6, 0.7]), 0.05, 0.1)])
    assert [row["what"].split("m/M ")[1] for row in table.rows if "m/M" in row["what"]] == ["above 0.1 (1 in 1 clusters)"]
    assert table.rows[1]["value"] == pytest.approx(0.2 / subhalos.expected(0.1, 0.05, 1, power=1), rel=1e-3)


def snapshot_of(x, v, mass):
    """One cluster at the origin, of dark-matter particles of these masses, Msun."""
    halo = {"mass_200m": MASS, "radius_200m": RADIUS, "concentration_200m": CONCENTRATION, "formation_scale_factor": 0.6}
    return SimpleNamespace(
        background=B,
        m={"dm": mass},
        halos={k: np.array([value]) for k, value in halo.items()},
        v=v,
        about=lambda i, kind, radius: (np.flatnonzero(np.linalg.norm(x, axis=1) < radius), x[np.linalg.norm(x, axis=1) < radius]),
    )


def test_hosts_are_measured_within_the_virial_radius():
    """A subhalo of 300 particles at 0.5 R200m counts as its mass over the virial mass; one at 0.95 R200m is outside, though its particles are searched."""
    rng = np.random.default_rng(8)
    x, v, centre = clump(rng, 300, 0.5)
    out = clump(rng, 100, 0.93)
    x, v = together(host(rng, NUMBER - 400), (x, v), (-out[0], out[1]))
    snapshot = snapshot_of(x, v, np.full(NUMBER, PARTICLE * (1 - B.Ob0 / B.Om0)))
    (one,) = subhalos.hosts(snapshot)
    mass, radius = profiles.critical(MASS, RADIUS, CONCENTRATION, profiles.virial_overdensity(B), B)
    assert one.psi == pytest.approx([300 * PARTICLE / mass], rel=0.2) and one.r == pytest.approx([0.5 * RADIUS / radius], abs=0.03)
    assert one.resolved == pytest.approx(30 * PARTICLE / mass) and 0.75 < radius / RADIUS < 0.9
    snapshot.v = None
    assert subhalos.hosts(snapshot)[0].psi == pytest.approx([300 * PARTICLE / mass], rel=0.2)


@both
def test_heavy_particles_that_fell_in_are_no_subhalo(velocities):
    """40 of eight times the mass, close together at 0.5 R200m, on the other side of a subhalo; wherever they are in the order."""
    rng = np.random.default_rng(8)
    x, v, centre = clump(rng, 300, 0.5)
    x, v = together(host(rng, NUMBER - 300), (x, v))
    heavy = clump(rng, 40, 0.5)
    mixed_x, mixed_v = together((-heavy[0][:20], heavy[1][:20]), (x, v), (-heavy[0][20:], heavy[1][20:]))
    light, mass = PARTICLE * (1 - B.Ob0 / B.Om0), np.full(len(mixed_x), 8.0)
    mass[20:-20] = 1
    (alone,) = subhalos.hosts(snapshot_of(x, v, np.full(len(x), light)), velocities=velocities)
    (mixed,) = subhalos.hosts(snapshot_of(mixed_x, mixed_v, light * mass), velocities=velocities)
    assert len(alone.psi) == 1 and np.array_equal(mixed.psi, alone.psi) and np.array_equal(mixed.r, alone.r)
    assert mixed.resolved == alone.resolved
