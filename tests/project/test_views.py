"""Sightlines, frames, the rows of the catalogue, and the flat mass sample."""

from __future__ import annotations

import numpy as np
import pytest

from hpcdiff.config import Project, Split, Views
from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError
from hpcdiff.project.views import catalogue, frame, length_mpc, rotation, sightlines, views_per_halo
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
        f = frame(d, axis)
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


def test_widths_in_radii():
    radius = np.array([1.5, 2.0])
    assert length_mpc("2 R200m", radius, "width") == pytest.approx([3, 4])
    assert length_mpc(12.8, radius, "width") == pytest.approx([12.8, 12.8])
    for wrong in ("2 R500", "R200m", "-1 R200m"):
        with pytest.raises(UserError, match="R200m"):
            length_mpc(wrong, radius, "width")


def test_a_map_may_not_reach_its_own_image():
    with pytest.raises(UserError, match="half the box"):
        catalogue(some_halos(), Project(width=12.8), 0.0, 25.0)
    with pytest.raises(UserError, match="half the box"):  # 12.8 physical Mpc at z = 1 are 25.6 comoving
        catalogue(some_halos(), Project(width=12.8), 1.0, 40.0)


def test_an_empty_part_names_a_seed():
    halos = some_halos(5)
    with pytest.raises(UserError, match="project.split.seed=") as refused:
        catalogue(halos, Project(), 0.0, 100.0)
    seed = int(str(refused.value).rpartition("=")[2])
    assert set(catalogue(halos, Project(split=Split(seed=seed)), 0.0, 100.0)["split"]) == {0, 1, 2}


def test_flat_mass_is_flat_and_capped():
    rng = np.random.default_rng(1)
    mass = np.concatenate([10 ** rng.uniform(14.0, 14.1, 5000), 10 ** rng.uniform(14.5, 14.6, 300), 10 ** rng.uniform(15.0, 15.1, 4)])
    counts = views_per_halo(mass, np.arange(len(mass)), Views(mode="flat_mass", per_dex=30000, max_per_halo=69))
    assert 3 * counts[:5000].sum() == 3000 and counts[:5000].max() == 1
    assert 3 * counts[5000:5300].sum() == 3000 and np.ptp(counts[5000:5300]) <= 1
    assert (3 * counts[5300:] == 69).all()
