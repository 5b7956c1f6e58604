"""Masses and positions of a catalogue against the particles: what is said, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError
from hpcdiff.project.sanity import add_mass, mass_ratios, refuse_strangers, shells, verdict, within

B, BOX, H = Background(), 60.0, 0.7
KINDS = ["gas", "dm"]


def nfw(mass: float, centre: np.ndarray, n: int, rng: np.random.Generator, c: float = 6.0) -> dict[str, np.ndarray]:
    """Gas and dark matter of an NFW halo out to 4 R200m: n particles inside R200m, M200m = mass."""
    x = np.geomspace(1e-3, 4 * c, 4000)
    inside = np.log1p(x) - x / (1 + x)
    unit = float(np.log1p(c) - c / (1 + c))
    total = round(n * inside[-1] / unit)
    r = np.interp(rng.random(total), inside / inside[-1], x) / c * B.radius(mass)
    direction = rng.normal(size=(total, 3))
    position = (centre + direction / np.linalg.norm(direction, axis=1)[:, None] * r[:, None]) % BOX
    table = np.column_stack([np.arange(total), position, np.full(total, 0.1), np.full(total, mass / n), np.zeros(total)])
    gas = rng.random(total) < 0.5
    return {"gas": table[gas], "dm": table[~gas, :6]}


def ratios(factor: float = 1.0, n: int = 2000, halos: int = 15, away: float = 0.0) -> np.ndarray:
    """Ratios of halos whose catalogue gives M200m / factor, with positions off by `away` Mpc."""
    rng = np.random.default_rng(3)
    out = []
    for mass in 10 ** rng.uniform(14, 15, halos):
        centre = rng.uniform(0, BOX, 3)
        tables = nfw(mass, centre, n, rng)
        wrong = (centre + away * np.array([1.0, 0, 0])) % BOX
        out.append(ratio_of(tables, wrong, mass / factor))
    return np.array(out)


def enclosed(tables: dict, centre: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Mass of all kinds inside spheres about one halo, shape (1, m) of `radius`."""
    out = np.zeros(radius.shape)
    for table in tables.values():
        row = np.arange(len(table))
        add_mass(table, np.zeros_like(row), row, centre[None], radius, BOX, out)
    return out.cumsum(axis=1)


def ratio_of(tables: dict, centre: np.ndarray, mass: float, within: float = 8.0) -> float:
    radius = shells(np.array([within]))
    return mass_ratios(radius, enclosed(tables, centre, radius), np.array([mass]), B)[0]


def test_mass_inside_a_sphere_over_the_edge_of_the_box():
    rng = np.random.default_rng(0)
    tables = nfw(5e14, np.array([0.2, 59.9, 30.0]), 5000, rng)
    centre, radius = np.array([0.2, 59.9, 30.0]), B.radius(5e14) * np.array([[0.5, 1.0]])
    half = (np.log1p(3) - 0.75) / (np.log1p(6) - 6 / 7)
    assert enclosed(tables, centre, radius)[0] == pytest.approx([5e14 * half, 5e14], rel=0.05)
    assert enclosed({"dm": tables["dm"]}, centre, radius)[0, 1] == pytest.approx(2.5e14, rel=0.06)


def test_the_mass_is_found_in_the_particles():
    assert ratios(n=5000) == pytest.approx(np.ones(15), rel=0.06)
    assert np.median(ratios(n=60)) == pytest.approx(1, abs=0.15)  # a coarse simulation
    assert verdict(ratios(n=60), H, KINDS) is None


@pytest.mark.parametrize(("factor", "says"), [(1 / H, "Msun/h"), (H, "divided by h"), (1 / H**3, "Mpc/h")])
def test_a_factor_of_h_is_said(factor, says):
    line = verdict(ratios(factor), H, KINDS)
    assert line is not None and says in line and "\n" not in line
    coarse = verdict(ratios(factor, n=100, halos=24), H, KINDS)
    assert coarse is not None and says in coarse


@pytest.mark.parametrize(
    ("factor", "says"),
    [(1e10, "1e10 Msun?"), (1e10 / H, "1e10 Msun/h"), (1e-10, "check the units of the snapshot"), (1e-9, "kpc"), (1e3, "1e3 Msun")],
)
def test_a_large_factor_is_refused_and_named(factor, says):
    with pytest.raises(UserError, match="factor of") as refused:
        verdict(ratios(factor), H, KINDS, "halos.csv")
    assert says in str(refused.value) and "halos.csv" in str(refused.value)


def test_another_snapshot_is_refused():
    with pytest.raises(UserError, match="not where the particles are"):
        verdict(ratios(away=12.0), H, KINDS)
    scattered = 1e-3 * 10 ** np.random.default_rng(1).normal(0, 1, 40)  # a unit would move all halos alike
    with pytest.raises(UserError, match="not where the particles are"):
        verdict(scattered, H, KINDS)
    mixed = np.concatenate([ratios()[:5], np.zeros(10)])
    with pytest.raises(UserError, match="67% of 15 have nothing"):
        verdict(mixed, H, KINDS)


@pytest.mark.parametrize("factor", [5.0, 0.2])
def test_masses_that_no_unit_explains_are_not_called_misplaced(factor):
    with pytest.raises(
        UserError, match=f"weigh {factor:.2g}.* times .*another definition or unit|weigh .* times .*definition or unit"
    ) as refused:
        verdict(ratios(factor), H, KINDS)
    assert "not where" not in str(refused.value) and "nothing at" not in str(refused.value)


def test_members_must_lie_about_their_halos():
    """Three halos at the edge of the box; the halos' counts decide one by one, and most halos must be wrong."""
    centre, around = np.array([[0.1, 30.0, 30.0], [10.0, 10.0, 59.9], [40.0, 40.0, 40.0]]), np.array([2.0, 1.0, 3.0])
    halo = np.repeat([0, 1, 2], 5)
    offset = np.array([0.5, 1.9, -1.9, 2.1, 30.0] + [0.9, -0.9, 1.1, 1.1, 1.1] + [2.9] * 5)
    position = centre[halo] + np.stack([0 * offset, 0 * offset, offset], axis=1)
    position[:5] = centre[0] - np.stack([offset[:5], 0 * offset[:5], 0 * offset[:5]], axis=1)
    near = within(position % BOX, halo, centre, around, BOX)
    assert near.tolist() == [3, 2, 5]
    refuse_strangers(near, np.full(3, 5), "subfind", "groups.hdf5")
    with pytest.raises(UserError, match="members of 2 of 3 halos lie elsewhere.*groups.hdf5.*subfind.*another order"):
        refuse_strangers(np.array([2, 2, 5]), np.full(3, 5), "subfind", "groups.hdf5")
    refuse_strangers(np.zeros(3), np.zeros(3), "subfind", "groups.hdf5")


def test_little_is_said_where_little_is_known():
    assert verdict(np.full(9, 0.15), H, ["gas"]) is None and verdict(np.full(9, 0.1), H, ["gas", "star"]) is None
    assert verdict(np.full(9, np.nan), H, KINDS) is None and verdict(np.ones(9) * 1.19, H, KINDS) is None
    assert "another definition" in verdict(np.full(9, 1.9), H, KINDS)
    one_merger = np.array([1.0, 0.95, 1.05, 1.1, 30.0])
    assert verdict(one_merger, H, KINDS) is None


def test_a_map_narrower_than_the_halo_decides_nothing_unless_the_factor_is_large():
    rng = np.random.default_rng(0)
    centre, mass = np.full(3, 30.0), 1e15
    tables = nfw(mass, centre, 5000, rng)
    assert np.isnan(ratio_of(tables, centre, mass, 1.0))
    assert ratio_of(tables, centre, mass / 1e10, 1.0) > 1e9
