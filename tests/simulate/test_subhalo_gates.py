"""The subhalo mass function that clusters are held against, and what is counted in them."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from gates import subhalos
from gates.table import Table
from mock_cluster import CONCENTRATION, MASS, NUMBER, PARTICLE, RADIUS, B, clump, host, snapshot_of, together

from hpcdiff.cosmology import Background
from hpcdiff.simulate import particles, profiles


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


def test_bins_that_no_host_resolves_do_not_hold():
    table = Table()
    subhalos.gates(table, [subhalos.Host(np.array([0.2, 0.04]), np.array([0.6, 0.7]), 0.05, 0.1)])
    rows = [row for row in table.rows if "m/M" in row["what"]]
    assert [row["value"] is None for row in rows] == [True, True, False, True] and "above 0.1 (1 in 1 clusters)" in rows[2]["what"]
    assert not any(row["holds"] for row in rows if row["value"] is None)
    assert table.rows[4]["value"] == pytest.approx(0.2 / subhalos.expected(0.1, 0.05, 1, power=1), rel=1e-3)


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


@pytest.mark.parametrize("velocities", [True, False])
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
