"""The same clusters written by every halo finder are the same halos, at z = 0 and z = 1."""

from __future__ import annotations

import numpy as np
import pytest
from fake_catalogues import (
    BACKGROUND,
    BOX,
    M200C,
    M200M,
    POSITION,
    radii,
    write_ahf,
    write_eagle,
    write_rockstar,
    write_soap,
    write_subfind,
)

from hpcdiff.errors import UserError
from hpcdiff.snapshot import read_halos

WRITERS = {
    "tng": ("subfind", lambda folder, z: write_subfind(folder / "groups_099", z)),
    "tng chunks": ("subfind", lambda folder, z: write_subfind(folder / "groups_099", z, chunks=3)),
    "one of the chunks": ("subfind", lambda folder, z: write_subfind(folder, z, chunks=9) / "fof_subhalo_tab_099.2.hdf5"),
    "gadget-4": ("subfind", lambda folder, z: write_subfind(folder, z, offsets=True, attributes=True)),
    "eagle": ("subfind", lambda folder, z: write_eagle(folder, z)),
    "soap physical": ("soap", lambda folder, z: write_soap(folder / "halo_properties_0077.hdf5", z)),
    "soap comoving": ("soap", lambda folder, z: write_soap(folder / "halo_properties_0077.hdf5", z, physical=False)),
    "rockstar": ("rockstar", lambda folder, z: write_rockstar(folder / "out_99.list", z)),
    "ahf": ("ahf", lambda folder, z: write_ahf(folder / f"run.z{z:.3f}.AHF_halos", z)),
}


@pytest.mark.parametrize("z", [0.0, 1.0])
@pytest.mark.parametrize("writer", WRITERS)
def test_every_format_gives_the_same_halos(tmp_path, writer, z):
    source, write = WRITERS[writer]
    path = write(tmp_path, z)
    for name in ("auto", source):
        halos = read_halos(path, BACKGROUND, BOX, z, name)
        assert halos.source == source and len(halos) == 6
        assert halos.position == pytest.approx(POSITION, rel=1e-6)
        assert halos.mass_200m == pytest.approx(M200M, rel=1e-6)
        assert halos.radius_200m == pytest.approx(radii(z)["R200m"], rel=1e-6)
        for key, radius in halos.radii.items():
            assert radius == pytest.approx(radii(z)[key], rel=1e-6)
        assert set(halos.radii) == ({"R200m"} if source == "ahf" else {"R200m", "R200c", "R500c"})
        assert source == "ahf" or halos.extra["mass_200c"] == pytest.approx(M200C, rel=1e-6)
        assert np.array_equal(halos.group, halos.halo_id) and len(np.unique(halos.halo_id)) == 6
        assert any("1 of the catalogue's halos" in line for line in halos.dropped)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_mass_range_is_applied(tmp_path, writer):
    source, write = WRITERS[writer]
    halos = read_halos(write(tmp_path, 0.0), BACKGROUND, BOX, 0.0, source, mass_range=[1.4e14, 7e14])
    assert halos.mass_200m == pytest.approx(M200M[1:5], rel=1e-6)
    assert any(line.startswith("2 of the catalogue's halos lie outside") for line in halos.dropped)
    with pytest.raises(UserError, match=r"mass_range \[1e\+15, 1e\+16\] Msun \(the largest is 9e\+14\), .*widen it"):
        read_halos(write(tmp_path, 0.0), BACKGROUND, BOX, 0.0, source, mass_range=[1e15, 1e16])


@pytest.mark.parametrize("writer", WRITERS)
def test_a_catalogue_of_another_snapshot_is_refused(tmp_path, writer):
    source, write = WRITERS[writer]
    with pytest.raises(UserError, match="redshift is 1 and the snapshot's is 0"):
        read_halos(write(tmp_path, 1.0), BACKGROUND, BOX, 0.0, source)


@pytest.mark.parametrize("writer", [w for w in WRITERS if w != "ahf"])  # whose file says nothing of either
@pytest.mark.parametrize(
    ("background", "box", "says"),
    [
        (BACKGROUND, 2 * BOX, r"box \(comoving Mpc\) is 100 and the snapshot's is 200"),
        (type(BACKGROUND)(Om0=0.31, h=0.7), BOX, "matter density is 0.3 and the snapshot's is 0.31"),
        (type(BACKGROUND)(Om0=0.3, h=0.68), BOX, "Hubble constant is 0.7 and the snapshot's is 0.68"),
    ],
)
def test_a_catalogue_of_another_universe_is_refused(tmp_path, writer, background, box, says):
    source, write = WRITERS[writer]
    with pytest.raises(UserError, match=says):
        read_halos(write(tmp_path, 0.0), background, box, 0.0, source)


@pytest.mark.parametrize("source", ["subfind", "soap", "rockstar", "ahf"])
def test_a_file_of_another_format_is_refused(tmp_path, source):
    other = write_rockstar(tmp_path / "out.list") if source != "rockstar" else write_ahf(tmp_path / "run.AHF_halos")
    hdf5 = write_soap(tmp_path / "s.hdf5") if source == "subfind" else write_subfind(tmp_path / "groups") / "fof_subhalo_tab_099.hdf5"
    for path in (other, hdf5):
        with pytest.raises(UserError):
            read_halos(path, BACKGROUND, BOX, 0.0, source)
    with pytest.raises(UserError, match="did you mean 'soap'"):
        read_halos(hdf5, BACKGROUND, BOX, 0.0, "saop")
    with pytest.raises(UserError, match="not there"):
        read_halos(tmp_path / "none*.hdf5", BACKGROUND, BOX, 0.0, source)
