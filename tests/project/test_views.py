"""Sightlines, frames, the rows of the catalogue, and the flat mass sample."""

from __future__ import annotations

import numpy as np
import pytest

from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError
from hpcdiff.maps import split_ids
from hpcdiff.project.views import catalogue, directions, frames, rotation, sightlines, views_per_halo
from hpcdiff.sections import Project, Split, Views
from hpcdiff.snapshot import Halos


@pytest.mark.parametrize("sphere", ["half", "full"])
@pytest.mark.parametrize("n", [2, 7, 32])
def test_sightlines_follow_the_fibonacci_formula(n, sphere):
    s = sightlines(n, sphere)
    assert np.linalg.norm(s, axis=1) == pytest.approx(1, abs=1e-14)
    i = np.arange(n)
    assert s[:, 2] == pytest.approx(1 - (2 * i + 1) / (n if sphere == "full" else 2 * n))
    turn = np.angle((s[1:, 0] + 1j * s[1:, 1]) / (s[:-1, 0] + 1j * s[:-1, 1]))
    assert np.mod(turn, 2 * np.pi) == pytest.approx(np.pi * (3 - np.sqrt(5)))
    if sphere == "half":
        assert (s[:, 2] > 0).all()


def test_the_frame_is_the_smallest_rotation():
    for d in [*sightlines(50, "full"), [0, 0, 1.0], [0, 0, -1.0], [1.0, 0, 0]]:
        r = rotation(np.array(d))
        assert r @ r.T == pytest.approx(np.eye(3), abs=1e-12)
        assert np.linalg.det(r) == pytest.approx(1)
        assert r[2] == pytest.approx(np.array(d))  # its third row, the rotated z axis, is the sightline
        angle = np.arccos(np.clip((np.trace(r) - 1) / 2, -1, 1))
        assert angle == pytest.approx(np.arccos(d[2]), abs=1e-6)  # no rotation that takes z there is smaller
    assert np.array_equal(rotation(np.array([0, 0, 1.0])), np.eye(3))
    assert np.array_equal(rotation(np.array([0, 0, -1.0])), np.diag([1.0, -1, -1]))


def test_rows_of_a_frame_are_cyclic_and_right_handed():
    d = sightlines(9)[4]
    r = rotation(d)
    for axis, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):
        f = frames(d[None], [axis])[0]
        assert np.array_equal(f, r[[i, j, axis]])
        assert np.cross(f[0], f[1]) == pytest.approx(f[2])


def some_halos(n: int = 30, mass: np.ndarray | None = None) -> Halos:
    rng = np.random.default_rng(0)
    mass = 10 ** rng.uniform(14, 15, n) if mass is None else mass
    ids = 3 * np.arange(n) + 1
    return Halos(ids, rng.uniform(0, 100, (n, 3)), mass, Background().radius(mass), ids // 2)


def test_rows_are_ordered_and_keep_halos_together():
    project = Project(views=Views(sightlines=3, axes=["z", "x"]), split=Split(train=0.5, val=0.25, test=0.25))
    c = catalogue(some_halos(), project, 0.5, 100.0)
    key = np.stack([c["halo_id"], c["sightline_index"], c["axis"]])
    assert np.array_equal(np.lexsort(key[::-1]), np.arange(30 * 3 * 2))
    assert all(len(np.unique(c["split"][c["halo_id"] == h])) == 1 for h in c["halo_id"])
    assert c["radius_200m"][0] == pytest.approx(some_halos().radius_200m[0] / 1.5)  # physical
    grouped = catalogue(some_halos(), Project(split=Split(by="group", train=0.5, val=0.25, test=0.25)), 0.0, 100.0)
    assert all(len(np.unique(grouped["split"][grouped["group"] == g])) == 1 for g in grouped["group"])


def test_many_halos_at_once_are_the_halos_one_by_one():
    n = np.array([1, 5, 2, 69, 5])
    at_once = directions(np.concatenate([np.arange(m) for m in n]), np.repeat(n, n), "half")
    assert np.array_equal(at_once, np.concatenate([sightlines(m, "half") for m in n]))
    every = np.concatenate([at_once, [[0, 0, -1.0]]])
    assert np.array_equal(rotation(every), np.stack([rotation(d) for d in every]))
    views = Views(mode="flat_mass", per_dex=2000, max_per_halo=60, axes=["x", "z"])
    halos = some_halos(40)
    c = catalogue(halos, Project(views=views), 0.0, 100.0)
    counts = views_per_halo(halos.mass_200m, halos.halo_id, views)
    assert len(np.unique(counts)) > 2 and len(c["halo_id"]) == 2 * counts.sum()
    for halo, m in zip(halos.halo_id, counts, strict=True):
        mine = c["halo_id"] == halo
        assert np.array_equal(c["sightline"][mine], np.repeat(sightlines(m), 2, axis=0))
        assert np.array_equal(c["axis"][mine], np.tile([0, 2], m)) and np.array_equal(
            c["sightline_index"][mine], np.repeat(np.arange(m), 2)
        )


def test_an_empty_part_names_a_seed():
    halos = some_halos(5)
    with pytest.raises(UserError, match="project.split.seed=") as refused:
        catalogue(halos, Project(), 0.0, 100.0)
    seed = int(str(refused.value).rpartition("=")[2])
    assert set(catalogue(halos, Project(split=Split(seed=seed)), 0.0, 100.0)["split"]) == {0, 1, 2}


def tinker08(low: float = 14.0, high: float = np.log10(4.82e15)) -> tuple[np.ndarray, np.ndarray]:
    """Edges in log10 M200m/Msun and expected halos below each, in (500 Mpc/h)^3 of the paper's cosmology at z = 0."""
    from colossus.cosmology import cosmology
    from colossus.lss import mass_function

    numbers = {"H0": 70.0, "Om0": 0.3, "Ob0": 0.045, "sigma8": 0.8, "ns": 0.96, "Tcmb0": 2.7255}
    cosmology.setCosmology("paper", {"flat": True, "relspecies": False, "persistence": "", **numbers})
    edges = np.linspace(low, high, 1001)
    mass = 10 ** ((edges[1:] + edges[:-1]) / 2) * 0.7
    density = mass_function.massFunction(mass, 0.0, mdef="200m", model="tinker08", q_out="dndlnM")
    return edges, np.concatenate([[0], np.cumsum(density * np.log(10) * np.diff(edges) * 500.0**3)])


def test_the_papers_sample():
    """Some 6200 halos, 3000 views in every 0.1 dex in which 23 sightlines a halo suffice, 34,700 views in all."""
    edges, below = tinker08()
    assert below[-1] == pytest.approx(6200, rel=0.02)
    rng = np.random.default_rng(7)
    quota = 10 ** np.interp(np.arange(0.5, below[-1]), below, edges)
    poisson = 10 ** np.interp(rng.random(rng.poisson(below[-1])) * below[-1], below, edges)
    for mass in (quota, poisson):
        views = 3 * views_per_halo(mass, rng.permutation(len(mass)), Views(mode="flat_mass", per_dex=30000, max_per_halo=69))
        assert views.sum() == pytest.approx(34_700, rel=0.03)
        dex = np.floor(10 * np.log10(mass) + 1e-9).astype(int) - 140
        halos, sums = np.bincount(dex), np.bincount(dex, views)
        full = halos * 69 >= 3000
        assert full.sum() == 10 and np.array_equal(sums[~full], 69 * halos[~full])
        assert sums[full] == pytest.approx(np.full(10, 3000), rel=3e-3)  # the lowest bin begins at the lowest mass


def test_a_bin_cut_by_the_catalogue_is_as_dense_as_the_others():
    mass = 10 ** np.random.default_rng(3).uniform(14.27, 14.5, 4000)
    views = 3 * views_per_halo(mass, np.arange(4000), Views(mode="flat_mass", per_dex=30000))
    density = np.histogram(np.log10(mass), [14.27, 14.3, 14.4, 14.5], weights=views)[0] / [0.03, 0.1, 0.1]
    assert density == pytest.approx([30000] * 3, rel=0.005)


def test_an_added_halo_moves_little():
    rng = np.random.default_rng(2)
    views = Views(mode="flat_mass", per_dex=6000, max_per_halo=300)  # 200 sightlines a bin
    mass = np.concatenate(
        [[1e14], 10 ** rng.uniform(14.0, 14.1, 700), 10 ** rng.uniform(14.1, 14.2, 30), 10 ** rng.uniform(14.2, 14.3, 150)]
    )
    ids = np.arange(len(mass))
    before = views_per_halo(mass, ids, views)
    for k in range(20):
        for log_mass, n in ((14.05, 701), (14.15, 30), (14.25, 150)):
            after = views_per_halo(np.append(mass, 10**log_mass), np.append(ids, 10_000 + k), views)
            change = after[:-1] - before
            own = np.abs(np.log10(mass) - log_mass) <= 0.05
            assert (change[~own] == 0).all() and (change <= 0).all()
            if n > 200:
                assert change.sum() in (0, -1)  # at most one halo leaves
            else:
                assert change.min() >= -(200 / n**2 + 1)


def test_thinning_knows_nothing_of_the_split():
    ids = np.arange(20_000)
    kept = views_per_halo(np.full(20_000, 10**14.05), ids, Views(mode="flat_mass", per_dex=60_000)) > 0
    assert kept.sum() == pytest.approx(1000, abs=1000)  # the bin is cut at its only mass
    for seed in range(30):
        part = split_ids(ids[kept], Split(seed=seed))
        assert np.mean(part == 0) == pytest.approx(0.8, abs=5 * np.sqrt(0.16 / kept.sum()))
