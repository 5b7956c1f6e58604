"""SOAP: ids, group numbers, satellites."""

from __future__ import annotations

from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from fake_catalogues import BACKGROUND, BOX, KEPT, M200M, write_soap

from hpcdiff.errors import UserError
from hpcdiff.snapshot import read_halos
from hpcdiff.snapshot.catalogues import soap


def read(path, **more):
    return read_halos(path, BACKGROUND, BOX, **more)


@pytest.mark.parametrize(("groups", "first"), [("GroupNr_bound", 10), ("FOFGroupIDs", 100), (None, None)])
def test_group_numbers_are_those_of_the_particles(tmp_path, groups, first):
    halos = read(write_soap(tmp_path / "s.hdf5"), snapshot=SimpleNamespace(groups=groups, count=None))
    assert np.array_equal(halos.halo_id, 10 + KEPT) and halos.members is None
    if first is None:
        assert "group_number" not in halos.extra
    else:
        assert np.array_equal(halos.extra["group_number"], first + KEPT)


def test_blocks_of_rows_give_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(soap, "BLOCK", 2)
    halos = read(write_soap(tmp_path / "s.hdf5"))
    assert halos.mass_200m == pytest.approx(M200M) and np.array_equal(halos.halo_id, 10 + KEPT)
    assert any("1 of the catalogue's halos are satellites" in line for line in halos.dropped)


def test_without_an_index_rows_are_ids(tmp_path, monkeypatch):
    monkeypatch.setattr(soap, "BLOCK", 2)
    with h5py.File(write_soap(tmp_path / "s.hdf5"), "r+") as f:
        del f["InputHalos/HaloCatalogueIndex"]
    assert np.array_equal(read(tmp_path / "s.hdf5").halo_id, KEPT)


def test_apertures_without_200_mean_are_named(tmp_path):
    with h5py.File(write_soap(tmp_path / "s.hdf5"), "r+") as f:
        del f["SO/200_mean"]
    with pytest.raises(UserError, match=r"no M200m \(its masses: SO/200_crit, SO/500_crit\)"):
        read(tmp_path / "s.hdf5")
