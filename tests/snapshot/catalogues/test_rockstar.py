"""Rockstar: which mass is M200m, halos inside halos, consistent-trees' names."""

from __future__ import annotations

import numpy as np
import pytest
from fake_catalogues import BACKGROUND, BOX, KEPT, M200M, POSITION, write_rockstar

from hpcdiff.errors import UserError
from hpcdiff.snapshot import read_halos


def read(path, **more):
    return read_halos(path, BACKGROUND, BOX, **more)


def test_ids_are_the_catalogues_own(tmp_path):
    assert np.array_equal(read(write_rockstar(tmp_path / "out_1.list")).halo_id, 40 + KEPT)


def test_without_parents_all_halos_are_there_and_it_is_said(tmp_path):
    halos = read(write_rockstar(tmp_path / "out_1.list", parents=False))
    assert len(halos) == 7 and any("no column PID" in line for line in halos.dropped)


def test_unbound_particles_count_where_the_catalogue_knows_them(tmp_path):
    bound = read(write_rockstar(tmp_path / "out_1.list"))
    assert any("bound particles only" in line for line in bound.dropped)
    whole = read(write_rockstar(tmp_path / "out_2.list", names="M200b M200b_all M200c M500c"))
    assert whole.mass_200m == pytest.approx(1.1 * M200M) and not any("bound" in line for line in whole.dropped)
    strict = read(write_rockstar(tmp_path / "out_3.list", comments="Using Strict Spherical Overdensity Masses"))
    assert strict.mass_200m == pytest.approx(M200M) and not any("bound" in line for line in strict.dropped)


def test_consistent_trees(tmp_path):
    path = write_rockstar(tmp_path / "hlist_1.00000.list")
    header, *rest = path.read_text().splitlines()
    names = {"#ID": "#id", "DescID": "desc_id", "X": "x", "Y": "y", "Z": "z", "PID": "pid", "Rvir": "rvir", "Rs": "rs"}
    numbered = " ".join(f"{names.get(name, name)}({k + 1})" for k, name in enumerate(header.split()))
    rest[:3] = ["#Omega_M = 0.300000; Omega_L = 0.700000; h0 = 0.700000", "#Full box size = 70.000000 Mpc/h"]
    rest = [line if line.startswith("#") else f"0.5 {line}" for line in rest]
    path.write_text("\n".join([f"#scale(0) {numbered[1:]}", *rest]) + "\n")
    halos = read(path, redshift=1.0)
    assert halos.source == "rockstar" and halos.position == pytest.approx(POSITION) and halos.mass_200m == pytest.approx(M200M)
    with pytest.raises(UserError, match="box .* is 100 and the snapshot's is 50"):
        read_halos(path, BACKGROUND, 50.0, 1.0)
    with pytest.raises(UserError, match="redshift is 1 and the snapshot's is 0"):
        read(path)


def test_what_it_cannot_mean_is_refused(tmp_path):
    path = write_rockstar(tmp_path / "out_1.list", names="M200c M500c")
    with pytest.raises(UserError, match=r"no M200m \(its masses: M200c, M500c, Mvir\)"):
        read(path)
    text = write_rockstar(path).read_text()
    path.write_text(text.replace("Masses in Msun / h", "Masses in Msun"))
    with pytest.raises(UserError, match=r"says 'Units: Masses in Msun'"):
        read(path)
    path.write_text(text[:-60])
    with pytest.raises(UserError, match="row that cannot be read"):
        read(path)
    path.write_text("\n".join(line for line in text.splitlines() if line.startswith("#")) + "\n")
    with pytest.raises(UserError, match="no halo of the catalogue has an M200m"):
        read(path)
