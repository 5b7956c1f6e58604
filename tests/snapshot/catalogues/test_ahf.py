"""AHF: its masses are M200m only where their density says so; ids of 64 bits."""

from __future__ import annotations

import numpy as np
import pytest
from fake_catalogues import BACKGROUND, BOX, KEPT, M200C, M200M, radii, write_ahf

from hpcdiff.errors import UserError
from hpcdiff.snapshot import read_halos


def read(path, z: float = 0.0):
    return read_halos(path, BACKGROUND, BOX, z)


@pytest.mark.parametrize(("z", "times"), [(0.0, 666.7), (1.0, 258.3)])
def test_masses_of_another_overdensity_are_refused(tmp_path, z, times):
    path = write_ahf(tmp_path / "run.AHF_halos", z, M200C, radii(z)["R200c"])
    with pytest.raises(UserError, match=rf"not M200m: they enclose {times} times the mean density \(200 times the critical one\)"):
        read(path, z)


@pytest.mark.parametrize("first", [1, 5_000_000_000_000_000_001])
def test_ids_keep_all_bits(tmp_path, first):
    assert np.array_equal(read(write_ahf(tmp_path / "run.AHF_halos", first=first)).halo_id, first + KEPT)


def test_ids_beyond_int64_become_rows(tmp_path):
    assert np.array_equal(read(write_ahf(tmp_path / "run.AHF_halos", first=2**63 + 5)).halo_id, KEPT)


def test_other_names_of_the_same_columns(tmp_path):
    path = write_ahf(tmp_path / "run.AHF_halos")
    path.write_text(path.read_text().replace("Mvir(4)", "Mhalo(4)").replace("Rvir(10)", "Rhalo(10)"))
    assert read(path).mass_200m == pytest.approx(M200M)
