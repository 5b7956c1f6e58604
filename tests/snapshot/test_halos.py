"""Halo catalogues in HDF5 and CSV."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_box import write_halos

from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError
from hpcdiff.snapshot import read_halos

POSITION = np.random.default_rng(0).uniform(0, 10, (5, 3))


@pytest.mark.parametrize("suffix", [".hdf5", ".csv"])
def test_columns_are_sorted_completed_and_carried(tmp_path, suffix):
    path = tmp_path / f"halos{suffix}"
    ids, mass = np.array([9, 3, 7, 1, 4]), np.array([1.0, 2, 3, 4, 5]) * 1e14
    write_halos(path, POSITION, halo_id=ids, mass_200m=mass, concentration=ids * 1.0)
    halos = read_halos(path, Background(), 10.0)
    order = np.argsort(ids)
    assert np.array_equal(halos.halo_id, np.sort(ids)) and np.array_equal(halos.group, halos.halo_id)
    assert np.array_equal(halos.position, POSITION[order]) and np.array_equal(halos.mass_200m, mass[order])
    assert halos.extra["concentration"] == pytest.approx(np.sort(ids))
    mean = 2.775e11 * 0.49 * 0.3
    assert 4 * np.pi / 3 * 200 * mean * halos.radius_200m**3 == pytest.approx(halos.mass_200m, rel=1e-3)


def test_mass_from_radius(tmp_path):
    path = tmp_path / "halos.csv"
    path.write_text("halo_id,x,y,z,radius_200m\n0,1,2,3,1.5\n")
    assert Background().radius(read_halos(path, Background()).mass_200m) == pytest.approx(1.5)


def test_a_group_is_kept(tmp_path):
    write_halos(tmp_path / "h.hdf5", POSITION, group=np.array([0, 0, 1, 1, 2]))
    assert np.array_equal(read_halos(tmp_path / "h.hdf5", Background()).group, [0, 0, 1, 1, 2])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"halo_id": np.array([1, 2, 3, 2, 5])}, "stands twice"),
        ({"mass_200m": np.array([1.0, -2, 3, 4, 5])}, "not above 0"),
        ({"mass_200m": np.array([1.0, np.nan, 3, 4, 5])}, "not finite"),
        ({"halo_id": np.array([1, 2, 3.5, 2, 5])}, "whole numbers"),
    ],
)
def test_senseless_rows_are_refused(tmp_path, change, says):
    write_halos(tmp_path / "h.hdf5", POSITION, **change)
    with pytest.raises(UserError, match=says):
        read_halos(tmp_path / "h.hdf5", Background())


def test_files_that_are_no_catalogue_are_refused(tmp_path):
    write_halos(tmp_path / "h.hdf5", POSITION)
    with pytest.raises(UserError, match="outside the box"):
        read_halos(tmp_path / "h.hdf5", Background(), 5.0)
    for name, content, says in (
        ("none.csv", None, "not there"),
        ("none.hdf5", None, "not there"),
        ("empty.csv", b"", "empty"),
        ("empty.hdf5", b"", "not a whole HDF5"),
        ("text.csv", b"halo_id,x,y,z,mass_200m\n0,1,2,three,1e14\n", "no number"),
        ("short.csv", b"halo_id,x,y,z,mass_200m\n0,1,2\n", "too few columns"),
        ("lacks.csv", b"halo_id,x,y,z\n0,1,2,3\n", "neither mass_200m nor radius_200m"),
        ("noid.csv", b"id,x,y,z,mass_200m\n0,1,2,3,1e14\n", "no column 'halo_id'"),
        ("binary.csv", b"\xff\xfe\x00\x81", "not a CSV"),
        ("headonly.csv", b"halo_id,x,y,z,mass_200m\n", "empty"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=says):
            read_halos(tmp_path / name, Background())
