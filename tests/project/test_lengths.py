"""Lengths in radii, one a field, radii from masses, and which views fit into the periodic box."""

from __future__ import annotations

import numpy as np
import pytest

from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError
from hpcdiff.project.lengths import check_lengths, computed_radii, half_extent, parse, radius_of_nfw
from hpcdiff.project.periodic import images, nearest_image
from hpcdiff.project.views import catalogue, frames, sightlines
from hpcdiff.sections import Project, Split, Views
from hpcdiff.snapshot import Halos

B = Background()


def halos_of(mass: list[float], radii: dict | None = None, box: float = 200.0, position=None) -> Halos:
    mass, n = np.array(mass), len(mass)
    position = np.random.default_rng(1).uniform(0, box, (n, 3)) if position is None else position
    return Halos(np.arange(n), position, mass, B.radius(mass), np.arange(n), radii=radii or {})


def rows_of(halos: Halos, z: float = 0.0, box: float = 200.0, **project: object) -> dict[str, np.ndarray]:
    views = project.pop("views", Views(axes=["z"]))
    return catalogue(halos, Project(split=Split(train=1, val=0, test=0), views=views, **project), z, box, B)


def test_parse():
    assert parse(12.8, "width") == (12.8, None) and parse("12.8", "width") == (12.8, None)
    assert parse("2 R200m", "width") == (2, "R200m") and parse("0.015*R500c", "beam") == (0.015, "R500c")
    for wrong in ("2 R500", "R200m", "-1 R200m", "2 R500m", "0", "nan", "1e999 R200m", "2 R200m R200m"):
        with pytest.raises(UserError, match="project.width is"):
            parse(wrong, "width")


def test_a_radius_at_any_redshift_is_physical():
    halos = halos_of([1e14, 1e15], {"R200c": np.array([1.1, 2.4]), "R500c": np.array([0.8, 1.7])})
    rows = rows_of(halos, z=1.0, width="2 R200m", depth="4 R200c", beam="0.01 R500c")
    assert rows["width_mpc"] == pytest.approx(B.radius(np.array([1e14, 1e15]), z=1.0) * 2)
    assert rows["depth_mpc"] == pytest.approx([2.2, 4.8])
    assert rows["radius_200c"] == pytest.approx([0.55, 1.2]) and rows["radius_500c"] == pytest.approx([0.4, 0.85])
    for field in ("gas", "dm", "sz", "xray"):
        assert rows[f"beam_{field}_mpc"] == pytest.approx([0.004, 0.0085])


def test_depths_and_beams_of_fields():
    project = Project(fields=["sz", "dm"], depth={"sz": 30, "dm": "2 R200m"}, beam={"sz": 0.5})
    rows = rows_of(halos_of([1e15]), fields=["sz", "dm"], depth=project.depth, beam=project.beam)
    assert rows["depth_mpc"] == rows["depth_sz_mpc"] == [30] and rows["depth_dm_mpc"] == pytest.approx(2 * B.radius(np.array([1e15])))
    assert rows["beam_sz_mpc"] == [0.5] and "beam_dm_mpc" not in rows and check_lengths(project) == {"R200m"}
    for depth, says in (({"sz": 30}, "no length for dm"), ({"sz": 1, "dm": 1, "gas": 2}, "'gas'")):
        with pytest.raises(UserError, match=says):
            check_lengths(Project(fields=["sz", "dm"], depth=depth))
    with pytest.raises(UserError, match="project.beam names 'sy'.*'sz'"):
        check_lengths(Project(fields=["sz", "dm"], beam={"sy": 1}))
    assert "depth_dm_mpc" not in rows_of(halos_of([1e15]), fields=["sz", "dm"])


@pytest.mark.parametrize("z", [0.0, 1.0])
@pytest.mark.parametrize(("name", "overdensity"), [("R200c", 200), ("R500c", 500)])
def test_radii_from_masses(z, name, overdensity):
    """The mean density inside is `overdensity` times the critical one, for an NFW profile with colossus' c of that very mass."""
    from colossus.halo import concentration

    mass = 10 ** np.array([13.0, 13.37, 14.21, 15.66])
    radius = radius_of_nfw(mass, name, z, B)
    c = concentration.concentration(mass * B.h, "200m", z, model="diemer19")
    outer = B.radius(mass, 200, "mean", z)

    def enclosed(r):
        x, m = c * r / outer, lambda x: np.log1p(x) - x / (1 + x)
        return mass * m(x) / m(c)

    assert enclosed(radius) / (4 / 3 * np.pi * radius**3) == pytest.approx(overdensity * B.rho_crit(z), rel=2e-3)
    assert (radius < outer).all()
    line = computed_radii(halos_of([1e14]), Project(width=f"2 {name}"))
    assert len(line) == 1 and name in line[0]
    assert computed_radii(halos_of([1e14], {name: np.array([1.0])}), Project(width=f"2 {name}")) == []


def test_a_catalogue_of_many_halos_takes_the_grid():
    """Radii of 370,000 halos are interpolated: neighbours in mass have nearly equal R/R200m, and order is kept."""
    mass = np.sort(10 ** np.random.default_rng(0).uniform(12.5, 15.8, 370_000))
    ratio = radius_of_nfw(mass, "R500c", 0.5, B) / B.radius(mass, 200, "mean", 0.5)
    assert np.abs(np.diff(ratio)).max() < 1e-3 and 0.3 < ratio.min() < ratio.max() < 0.7


def brute_force(position, half, frame, width, depth, h, box):
    """Every image of every particle that touches the map: (particle, offset along the frame), from 343 copies of the box."""
    shifts = np.array(list(np.ndindex(7, 7, 7))) - 3.0
    row = np.repeat(np.arange(len(position)), len(shifts))
    seen = (position[row] - half + np.tile(shifts, (len(position), 1)) * box) @ frame.T
    inside = (abs(seen[:, 2]) < depth / 2) & (abs(seen[:, :2]).max(axis=1) < width / 2 + h[row])
    return row[inside], seen[inside]


@pytest.mark.parametrize("sphere", ["unrotated", "full"])
def test_views_that_fit_show_every_image_once(sphere):
    """In views that just fit, centres in the cuboid are nearest images; kernels that reach in from over the edge are found."""
    rng = np.random.default_rng(4)
    box, n = 20.0, 400
    position, h = rng.uniform(0, box, (n, 3)), 10 ** rng.uniform(-1, 0.5, n)
    halo = rng.uniform(0, box, 3)
    over_edge = 0
    for direction in sightlines(1 if sphere == "unrotated" else 6, "full"):
        for axis in range(3):
            frame = frames(direction[None], [axis])
            width, depth = 1.0, 0.7
            scale = box / 2 / half_extent(frame, np.array([width / 2]), np.array([depth / 2])).max()
            width, depth = width * scale * (1 - 1e-12), depth * scale * (1 - 1e-12)
            rows, expected = brute_force(position, halo, frame[0], width, depth, h, box)
            centres, _ = brute_force(position, halo, frame[0], width, depth, np.zeros(n), box)
            assert len(np.unique(centres)) == len(centres)
            offset = nearest_image(position - halo, box)
            reach = half_extent(np.repeat(frame, n, axis=0), width / 2 + h, np.full(n, depth / 2))
            found, at = images(offset, reach, box)
            seen = at @ frame[0].T
            inside = (abs(seen[:, 2]) < depth / 2) & (abs(seen[:, :2]).max(axis=1) < width / 2 + h[found])
            assert np.array_equal(np.sort(found[inside]), np.sort(rows))
            for a in np.unique(rows):
                ours, theirs = seen[inside & (found == a)], expected[rows == a]
                assert ours[np.lexsort(ours.T.round(6))] == pytest.approx(theirs[np.lexsort(theirs.T.round(6))], abs=1e-9)
            over_edge += len(rows) - len(np.unique(rows))
    assert over_edge > 0
    pieces = [images(offset[a : a + 7], reach[a : a + 7], box) for a in range(0, n, 7)]
    assert np.array_equal(np.concatenate([p[1] for p in pieces]), at)  # the order does not depend on the pieces


def test_what_does_not_fit_is_refused():
    halos = halos_of([1e14])
    rows_of(halos, width=39.9, depth=39.9, box=40.0)
    for key in ("width", "depth"):
        with pytest.raises(UserError, match=f"project.{key} of 41 physical Mpc.*does not fit into the box of 40"):
            rows_of(halos, box=40.0, **{key: 41})
    with pytest.raises(UserError, match="box of 20"):  # 12.8 physical Mpc at z = 1 are 25.6 comoving; the box is 20 physical
        rows_of(halos, z=1.0, width=21, box=40.0)
    rows_of(halos, z=1.0, width=19, box=40.0)
    rotated = Views(sightlines=9, axes=["x", "y", "z"])
    rows_of(halos, width=40 / np.sqrt(3), depth=40 / np.sqrt(3), views=rotated, box=40.0)  # fits in any direction
    with pytest.raises(UserError, match="sightline"):
        rows_of(halos, width=30, depth=30, views=rotated, box=40.0)
