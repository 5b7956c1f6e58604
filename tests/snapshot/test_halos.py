"""Halo catalogues in HDF5 and CSV."""

from __future__ import annotations

import h5py
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
        ("short.csv", b"halo_id,x,y,z,mass_200m\n0,1,2\n", "a row with 3 columns, not 5, .*line 2"),
        ("lacks.csv", b"halo_id,x,y,z\n0,1,2,3\n", "neither mass_200m nor radius_200m"),
        ("noid.csv", b"id,x,y,z,mass_200m\n0,1,2,3,1e14\n", "no column 'halo_id'"),
        ("binary.csv", b"\xff\xfe\x00\x81", "not a CSV"),
        ("headonly.csv", b"halo_id,x,y,z,mass_200m\n", "empty"),
        ("index.csv", b"halo_id,x,y,z,mass_200m\n# shifted\n0,1,2,3,1e14\n7,1,1,2,3,1e14\n", "a row with 6 columns, not 5, .*line 4"),
        ("twice.csv", b"halo_id,x,y,z,mass_200m,x\n0,1,2,3,1e14,5\n", "two columns 'x'"),
        ("comment.csv", b"# a table\n# halo_id,x,y,z,mass_200m\n0,1,2,3,1e14\n", "take the # from line 2"),
        ("comments.csv", b"# halo_id, x, y, z, mass_200m\n", "empty.*take the # from line 1"),
        ("semicolon.csv", b"halo_id;x;y;z;mass_200m\n0;1;2;3;1e14\n", "put commas where there is ';'"),
        ("blanks.csv", b"halo_id x y z mass_200m\n0 1 2 3 1e14\n", "put commas where there is ' '"),
        ("hole.csv", b"halo_id,x,y,z,mass_200m,radius_500c\n0,1,2,3,1e14,1\n1,1,2,3,1e14,\n", "column 'radius_500c'.*line 3"),
        ("half.csv", b"halo_id,x,y,z,mass_200m\n0.5,1,2,3,1e14\n", "not whole numbers"),
        ("large.csv", b"halo_id,x,y,z,mass_200m\n9223372036854775808,1,2,3,1e14\n", "halo_id of the halo catalogue is beyond"),
        ("inexact.csv", b"halo_id,x,y,z,mass_200m\n9007199254740994.0,1,2,3,1e14\n", "beyond 9007199254740992"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=says):
            read_halos(tmp_path / name, Background())


def test_a_csv_as_other_programs_write_it(tmp_path):
    """A byte order mark, an index without a name, ids with a decimal point, blanks around the words."""
    path = tmp_path / "halos.csv"
    path.write_bytes("\ufeff, halo_id ,x,y,z,mass_200m,M/L,label\n0,9.0,1,2,3,1e14,5,a\n1,3.0,1,2,4,2e14,6,b\n".encode())
    halos = read_halos(path, Background(), 10.0)
    assert halos.halo_id.tolist() == [3, 9] and halos.position[:, 2].tolist() == [4, 3] and not halos.extra
    for words in ("has no name", "'M/L' of the halo catalogue is left out", "'label' of the halo catalogue is no numbers"):
        assert sum(words in line for line in halos.dropped) == 1, words


@pytest.mark.parametrize("suffix", [".hdf5", ".csv"])
def test_ids_of_63_bits_are_exact(tmp_path, suffix):
    ids = 2**63 - 1 - np.arange(5)
    write_halos(tmp_path / f"h{suffix}", POSITION, halo_id=ids)
    assert np.array_equal(read_halos(tmp_path / f"h{suffix}", Background()).halo_id, ids[::-1])
    with h5py.File(tmp_path / "h.hdf5", "a") as f:
        f.pop("halo_id", None)
        f["halo_id"] = ids.astype(np.uint64) + np.uint64(3)
    if suffix == ".hdf5":
        with pytest.raises(UserError, match="beyond 9223372036854775807"):
            read_halos(tmp_path / "h.hdf5", Background())


TAKEN = ("depth_mpc", "depth_gas_mpc", "beam_sz_mpc", "width_mpc", "redshift", "split", "axis", "checksum", "sightline")


@pytest.mark.parametrize("name", TAKEN)
def test_a_column_cannot_take_the_place_of_one_of_the_map_files(tmp_path, name):
    write_halos(tmp_path / "h.hdf5", POSITION, richness=np.arange(5), **{name: np.ones(5)})
    halos = read_halos(tmp_path / "h.hdf5", Background())
    assert list(halos.extra) == ["richness"] and sum(f"column {name!r}" in line for line in halos.dropped) == 1


@pytest.mark.parametrize(
    ("name", "column", "says"),
    [
        ("mass_200m", np.array([b"1e14"] * 5), "column 'mass_200m' of the halo catalogue is of type"),
        ("halo_id", np.array([b"a", b"b", b"c", b"d", b"e"]), "column 'halo_id' of the halo catalogue is of type"),
        ("mass_200c", np.array([b"1e14"] * 5), "column 'mass_200c' of the halo catalogue is of type"),
        ("position", np.full((5, 3), b"1"), "column 'position' of the halo catalogue is of type"),
        ("mass_200m", np.full((5, 1), 1e14), r"column 'mass_200m' of the halo catalogue has shape \(5, 1\), .*one number a halo"),
        ("halo_id", np.arange(5)[:, None], r"column 'halo_id' of the halo catalogue has shape \(5, 1\)"),
        ("position", np.ones((5, 2)), r"column 'position' of the halo catalogue has shape \(5, 2\), .*\(n, 3\)"),
        ("position", np.ones(5), r"column 'position' of the halo catalogue has shape \(5,\)"),
        ("richness", np.ones(4), "columns have different lengths"),
    ],
)
def test_columns_of_another_kind_or_shape_are_refused(tmp_path, name, column, says):
    write_halos(tmp_path / "h.hdf5", POSITION)
    with h5py.File(tmp_path / "h.hdf5", "r+") as f:
        f.pop(name, None)
        f[name] = column
    with pytest.raises(UserError, match=says) as caught:
        read_halos(tmp_path / "h.hdf5", Background())
    assert "\n" not in str(caught.value)


def test_a_bad_halo_is_named_by_its_id(tmp_path):
    """Rows of halos outside the mass range are gone by then, so that a row number would name another."""
    mass = np.array([1e12, 1e12, 1e14, 2e14, 3e14])
    position = POSITION.copy()
    position[3, 1] = np.nan
    write_halos(tmp_path / "h.hdf5", position, halo_id=np.array([50, 40, 30, 20, 10]), mass_200m=mass)
    with pytest.raises(UserError, match="position of the halo catalogue is not finite.*check its halo 20"):
        read_halos(tmp_path / "h.hdf5", Background(), mass_range=[1e13, 1e16])
    write_halos(tmp_path / "h.hdf5", POSITION, halo_id=np.array([50, 40, 30, 20, 10]), mass_200m=mass * [1, 1, 1, -1, 1])
    with pytest.raises(UserError, match="mass_200m of the halo catalogue is not above 0.*check its halo 20"):
        read_halos(tmp_path / "h.hdf5", Background())
