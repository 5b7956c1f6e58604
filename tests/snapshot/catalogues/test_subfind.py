"""SUBFIND: which particles a group has, and what is wrong with chunks."""

from __future__ import annotations

from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from fake_catalogues import BACKGROUND, BOX, KEPT, LENGTHS, POSITION, with_nothing, write_eagle, write_subfind

from hpcdiff.errors import UserError
from hpcdiff.snapshot import read_halos
from hpcdiff.snapshot.dialects import KINDS


def read(path, **more):
    return read_halos(path, BACKGROUND, BOX, **more)


def snapshot(extra: int = 0) -> SimpleNamespace:
    """As many particles as the groups have, and some more."""
    return SimpleNamespace(count=lambda kind: int(LENGTHS[:, KINDS[kind]].sum()) + extra, groups=None)


@pytest.mark.parametrize("chunks", [1, 3])
def test_groups_follow_each_other_in_the_snapshot(tmp_path, chunks):
    halos = read(write_subfind(tmp_path, chunks=chunks), snapshot=snapshot())
    assert np.array_equal(halos.halo_id, KEPT)
    ends = np.cumsum(LENGTHS, axis=0)  # the group without a mass has no particles
    for kind, t in KINDS.items():
        start, length = halos.members[kind]
        assert np.array_equal(length, LENGTHS[:, t]) and np.array_equal(start + length, ends[:, t])


def test_a_group_that_is_left_out_still_takes_its_place(tmp_path):
    write_subfind(tmp_path)
    with h5py.File(tmp_path / "fof_subhalo_tab_099.hdf5", "r+") as f:
        f["Group/GroupLenType"][2] = 7
    halos = read(tmp_path, mass_range=[1e14, 3e14])
    start, _ = halos.members["dm"]
    assert np.array_equal(start, 7 + np.cumsum(LENGTHS[:, 1])[2:5])


def test_offsets_of_the_catalogue_win(tmp_path):
    halos = read(write_subfind(tmp_path, offsets=True, attributes=True), snapshot=snapshot(100))
    start, length = halos.members["gas"]
    assert np.array_equal(start, np.cumsum(LENGTHS[:, 0]) - LENGTHS[:, 0] + 10 * KEPT) and np.array_equal(length, LENGTHS[:, 0])


@pytest.mark.parametrize("where", ["groups_099", "offsets", "postprocessing/offsets"])
def test_an_offset_file_is_found(tmp_path, where):
    folder = write_subfind(tmp_path / "groups_099", chunks=2)
    starts = np.cumsum(with_nothing(LENGTHS), axis=0) + 1000
    (tmp_path / where).mkdir(parents=True, exist_ok=True)
    with h5py.File(tmp_path / where / "offsets_099.hdf5", "w") as f:
        f["Group/SnapByType"] = starts
    assert np.array_equal(read(folder).members["star"][0], starts[KEPT, 4])
    with h5py.File(tmp_path / where / "offsets_099.hdf5", "w") as f:
        f["Group/SnapByType"] = starts[:5]
    with pytest.raises(UserError, match="5 offsets for 7 groups"):
        read(folder)


def test_more_members_than_particles_are_refused(tmp_path):
    with pytest.raises(UserError, match=rf"reach gas particle {LENGTHS[:, 0].sum()} and the snapshot has {LENGTHS[:, 0].sum() - 1}"):
        read(write_subfind(tmp_path), snapshot=snapshot(-1))


def test_eagle_names_its_groups_from_one(tmp_path):
    halos = read(write_eagle(tmp_path))
    assert halos.members is None and np.array_equal(halos.extra["group_number"], KEPT + 1)


def test_a_missing_chunk_and_chunks_of_two_runs_are_refused(tmp_path):
    write_subfind(tmp_path, chunks=3)
    (tmp_path / "fof_subhalo_tab_099.1.hdf5").rename(tmp_path / "away")
    with pytest.raises(UserError, match="2 of the halo catalogue's 3 chunk files"):
        read(tmp_path)
    (tmp_path / "away").rename(tmp_path / "fof_subhalo_tab_099.1.hdf5")
    with h5py.File(tmp_path / "fof_subhalo_tab_099.2.hdf5", "r+") as f:
        f["Header"].attrs["Redshift"] = 0.1
    with pytest.raises(UserError, match=r"several runs \(redshift is 0.0 and 0.1\)"):
        read(tmp_path)
    write_subfind(tmp_path / "short", Ngroups_Total=9)
    with pytest.raises(UserError, match="promises 9 groups and the files hold 7"):
        read(tmp_path / "short")


def test_masses_that_are_no_m200m_are_named(tmp_path):
    write_subfind(tmp_path)
    with h5py.File(tmp_path / "fof_subhalo_tab_099.hdf5", "r+") as f:
        del f["Group/Group_M_Mean200"]
    with pytest.raises(UserError, match=r"no M200m \(its masses: Group_M_Crit200, Group_M_Crit500\)"):
        read(tmp_path)


def test_a_radius_that_not_every_group_has_is_not_taken(tmp_path):
    write_subfind(tmp_path)
    with h5py.File(tmp_path / "fof_subhalo_tab_099.hdf5", "r+") as f:
        f["Group/Group_R_Crit500"][5] = 0
    halos = read(tmp_path)
    assert set(halos.radii) == {"R200m", "R200c"} and any("no R500c" in line for line in halos.dropped)


def test_units_of_the_header_are_used(tmp_path):
    write_subfind(tmp_path)
    with h5py.File(tmp_path / "fof_subhalo_tab_099.hdf5", "r+") as f:  # Mpc/h and 1e14 Msun/h instead of kpc/h and 1e10 Msun/h
        f["Header"].attrs.update({"UnitLength_in_cm": 3.085678e24, "UnitMass_in_g": 1.989e47, "BoxSize": BOX * BACKGROUND.h})
        for name, data in f["Group"].items():
            if name == "GroupPos" or "_R_" in name:
                data[...] /= 1e3
            elif "_M_" in name:
                data[...] /= 1e4
    assert read(tmp_path).position == pytest.approx(POSITION, rel=1e-6)
