"""The gas rule on a halo whose potential is known: an NFW halo."""

import numpy as np
import pytest

from hpcdiff.cosmology import G_MPC, Background
from hpcdiff.simulate import profiles
from hpcdiff.simulate.nbody import gas
from hpcdiff.simulate.nbody.halos import Halo

SIDE, B, MASS, C = 40.0, Background(), 6e14, 6.5
R = float(B.radius(MASS))
SOFTENING = 0.044
"""Mpc, with which the rule was calibrated."""
CENTRE = np.array([39.5, 20.0, 1.0])
M500, R500 = profiles.critical(MASS, R, C, 500, B)
M200, R200 = profiles.critical(MASS, R, C, 200, B)


def enclosed(x):
    """Mass within x = r/R200m over M200m."""
    return profiles.nfw_mass(C * x) / profiles.nfw_mass(C)


def halo():
    """The halo, and gas that follows the matter out to 3 R200m: positions, potential, number density, particle mass, r/R200m."""
    rng, n = np.random.default_rng(1), 60_000
    x = np.geomspace(2e-3, 3, 600)
    r = profiles.Radial(x, profiles.nfw_density(C * x)).draw(rng, n)
    u = rng.normal(size=(n, 3))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    v2 = G_MPC * MASS / R
    inside = np.linspace(1e-3, R200 / R, 4000)
    depth = v2 * np.average(enclosed(inside) / inside, weights=np.gradient(enclosed(inside)))
    soft = np.hypot(r, SOFTENING / R)
    phi = -v2 * np.log1p(C * soft) / soft / profiles.nfw_mass(C)
    particle = B.Ob0 / B.Om0 * MASS * enclosed(3.0) / n
    number = n * C**3 * profiles.nfw_density(C * r) / (4 * np.pi * R**3 * profiles.nfw_mass(C * 3))
    spheres = Halo(CENTRE, MASS, R, M500, R500, M200, R200, depth)
    return spheres, (CENTRE + R * r[:, None] * u) % SIDE, phi, number, particle, r


@pytest.fixture(scope="module")
def settled():
    spheres, x, phi, number, particle, r = halo()
    return gas.settle([(spheres, 0.64, 0.0, gas.POLYTROPE)], x, phi, number, particle, SIDE, B), number, particle, r


def test_mass_is_kept_and_the_halo_has_its_gas(settled):
    out, number, particle, r = settled
    assert out.mass.sum() == pytest.approx(len(r) * particle, rel=1e-9)
    assert out.mass[r * R < R200].sum() == pytest.approx(gas.gas_fraction(MASS) * B.Ob0 / B.Om0 * M200, rel=1e-6)
    assert (out.mass > 0).all() and out.mass[r > gas.REACH] == pytest.approx(particle, rel=1e-9)
    assert out.density == pytest.approx(out.mass * number)


@pytest.mark.parametrize("room", [1.2, 1.02, 1.0])
def test_small_halos_between_others_have_no_negative_gas(monkeypatch, room):
    """Little gas belongs to the halo, and little room is around it: what it lacks lies elsewhere, and the mass is kept."""
    monkeypatch.setattr(gas, "gas_fraction", lambda mass, retention: 0.06)
    spheres, x, phi, number, particle, r = halo()
    there = (r < room) | (r > gas.REACH)
    out = gas.settle([(spheres, 0.64, 0.0, gas.POLYTROPE)], *(k[there] for k in (x, phi, number)), particle, SIDE, B)
    assert (out.mass >= 0).all() and np.isfinite(out.energy).all() and (out.energy > 0).all()
    assert out.mass.sum() == pytest.approx(np.sum(there) * particle, rel=1e-9)
    assert out.mass[r[there] * R < R200].sum() == pytest.approx(0.06 * B.Ob0 / B.Om0 * M200, rel=1e-4)  # but for what `THINNEST` adds
    assert out.mass.max() < 6 * particle


def test_pressure_is_near_the_debiased_profile(settled):
    out, _, _, r = settled
    pressure = out.density * out.energy * 2 / 3 * profiles.MU / profiles.MU_E / profiles.electron_p500(M500, R500, B)
    ratios = []
    for low, high in ((0.1, 0.2), (0.2, 0.35), (0.35, 0.5), (0.5, 0.7), (0.7, 1.0)):  # of R200c
        shell = (r * R > low * 1.5 * R500) & (r * R < high * 1.5 * R500)
        ratios.append(np.median(pressure[shell] / profiles.debiased_pressure(r[shell] * R / R500)))
    assert np.all(np.abs(np.array(ratios) - 1) < 0.2), ratios


@pytest.mark.parametrize("power", [1.06, 1.2, 1.34])
def test_gas_is_in_equilibrium_and_has_the_energy_of_the_binding(monkeypatch, power):
    """Without turbulence and of any index: dP/dr = -rho dphi/dr, and the thermal energy within R200c goes with the binding energy there."""
    monkeypatch.setattr(gas.profiles, "nonthermal", lambda x, turbulence: 0 * x)
    spheres, x, phi, number, particle, r = halo()
    out = gas.settle([(spheres, 0.64, 0.0, power)], x, phi, number, particle, SIDE, B)
    pressure, order = out.density * out.energy * 2 / 3, np.argsort(r)
    order = order[(r[order] > 0.05) & (r[order] < 0.7)][::50]
    work = -np.cumsum(0.5 * (out.density[order][1:] + out.density[order][:-1]) * np.diff(phi[order]))
    assert pressure[order][1:] - pressure[order][0] == pytest.approx(work, rel=0.05, abs=0.01 * pressure[order][0])
    inside = r * R < R200
    rule = (out.energy ** (1 / (power - 1)) / number)[inside]  # of the polytrope, before it is blended with what is outside
    assert np.average(out.energy[inside], weights=rule) == pytest.approx(gas.VIRIAL * 0.5 * spheres.depth, rel=0.005)


def test_late_halos_are_more_turbulent_and_light_ones_have_less_gas():
    assert gas.turbulence(0.8) > 1.15 * gas.turbulence(0.64) > 1.3 * gas.turbulence(0.5)
    assert 0.8 < gas.gas_fraction(1e15) < 0.85 and 0.2 < gas.gas_fraction(1e13) < 0.4


def test_early_halos_have_denser_cores_and_others_scatter_about_them():
    """The index has the mean and the scatter that it should have where halos formed as in the halo model; a low one makes a core denser and brighter, and no hotter."""
    late, other = np.random.default_rng(1).normal(size=(2, 4000))
    drawn = np.array([gas.index(0.64 * 10 ** (0.09 * one), two) for one, two in zip(late, other, strict=True)])
    assert drawn.mean() == pytest.approx(gas.POLYTROPE, abs=0.003) and drawn.std() == pytest.approx(gas.SCATTER, rel=0.05)
    assert np.corrcoef(drawn, late)[0, 1] == pytest.approx(gas.LATE, abs=0.05)
    assert 1.04 < gas.index(0.1, -9.0) < gas.index(0.64) == gas.POLYTROPE < gas.index(1.0, 9.0) < 1.36
    spheres, x, phi, number, particle, r = halo()
    steep, flat = (gas.settle([(spheres, 0.64, 0.0, power)], x, phi, number, particle, SIDE, B) for power in (1.14, 1.26))
    core, shell = r < 0.06, (r * R > 0.4 * R500) & (r * R < R500)
    bright = [np.sum((out.mass * out.density * np.sqrt(out.energy))[r * R < R500]) for out in (steep, flat)]
    assert bright[0] > 1.2 * bright[1] and np.median((steep.density / flat.density)[core]) > 1.2
    assert np.median((steep.energy / flat.energy)[core]) < 0.95
    assert np.median((steep.density * steep.energy / flat.density / flat.energy)[shell]) == pytest.approx(1, abs=0.1)


def test_retention_scatters_the_gas_as_in_the_halo_model():
    assert [profiles.gas_scatter(m) for m in (5e15, 1e15, 1e14, 1e12)] == pytest.approx([0.1, 0.1, 0.2, 0.25])
    spread = [np.log(gas.gas_fraction(m, 1.0) / gas.gas_fraction(m)) for m in (1e15, 1e14)]
    assert spread == pytest.approx([0.1, 0.2]) and gas.gas_fraction(1e15, 9.0) == gas.MOST
    spheres, x, phi, number, particle, r = halo()
    inside = r * R < R200
    kept = [gas.settle([(spheres, 0.64, f, gas.POLYTROPE)], x, phi, number, particle, SIDE, B) for f in (-1.0, 1.0)]
    few, much = (out.mass[inside].sum() for out in kept)
    assert np.log(much / few) == pytest.approx(2 * profiles.gas_scatter(MASS), rel=1e-5)
    assert kept[0].mass.sum() == pytest.approx(kept[1].mass.sum(), rel=1e-9)


def test_no_place_is_empty_even_above_the_edge_of_the_polytrope():
    """As on the ridge between two halos that meet, where the potential is higher than the gas may climb."""
    spheres, x, phi, number, particle, r = halo()
    ridge = np.flatnonzero((r > 0.3) & (r < 0.5))[:8]
    phi = phi.copy()
    phi[ridge] = 0.0
    out = gas.settle([(spheres, 0.64, 0.0, gas.POLYTROPE)], x, phi, number, particle, SIDE, B)
    assert out.mass[ridge] == pytest.approx(gas.THINNEST * particle) and (out.density > 0).all() and (out.energy > 0).all()
    assert out.mass.sum() == pytest.approx(len(r) * particle, rel=1e-9)
