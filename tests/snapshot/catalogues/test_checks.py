"""A catalogue in other units is noticed, and the unit that would explain it is named."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from fake_catalogues import BACKGROUND, BOX, H, write_soap, write_subfind
from tiny_box import write_halos

from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError
from hpcdiff.snapshot import read_halos

MANY = np.random.default_rng(2).uniform(0, BOX, (200, 3))
MASS = 10 ** np.random.default_rng(3).uniform(14, 15, 200)
RADIUS = BACKGROUND.radius(MASS)


def read(tmp_path, z: float = 0.0, position: np.ndarray = MANY, **columns):
    write_halos(tmp_path / "h.hdf5", position, **columns)
    return read_halos(tmp_path / "h.hdf5", BACKGROUND, BOX, z)


@pytest.mark.parametrize(
    ("mass", "radius", "says"),
    [
        (H, 1, "masses look like Msun/h"),
        (1e-10, 1, "masses look like 1e10 Msun;"),
        (1e-10 * H, 1, "masses look like 1e10 Msun/h"),
        (1 / H, 1, "too large by 1/h"),
        (1, H, "radii look like Mpc/h"),
        (H, H, "masses and radii look like Msun/h and Mpc/h"),
        (1, 1e3, "radii look like kpc;"),
        (1, 1e3 * H, "radii look like kpc/h"),
        (1, 0.5, "radii look physical, not comoving"),
        (17.0, 1, "check the units and the definition"),
    ],
)
def test_masses_and_radii_that_contradict_each_other_are_explained(tmp_path, mass, radius, says):
    z = 1.0 if radius == 0.5 else 0.0
    with pytest.raises(UserError, match=says):
        read(tmp_path, z, mass_200m=mass * MASS, radius_200m=radius * RADIUS)


@pytest.mark.parametrize(("overdensity", "name"), [(200, "M200c"), (500, "M500c")])
def test_masses_of_another_definition_are_named(tmp_path, overdensity, name):
    with pytest.raises(UserError, match=f"they look like {name}"):
        read(tmp_path, mass_200m=MASS, radius_200m=BACKGROUND.radius(MASS, overdensity, "crit"))


def test_single_radii_that_disagree_are_counted(tmp_path):
    radius = np.where(np.arange(200) < 9, 1.1, 1.01) * RADIUS
    assert any(line.startswith("9 of the halos have an R200m") for line in read(tmp_path, mass_200m=MASS, radius_200m=radius).dropped)


@pytest.mark.parametrize(
    ("factor", "z", "says"), [(1e3, 0, "are they kpc"), (H, 0, "are the positions Mpc/h"), (0.5, 1, "physical"), (1e-3, 0, "Gpc")]
)
def test_positions_in_other_units_are_refused(tmp_path, factor, z, says):
    with pytest.raises(UserError, match=says):
        read(tmp_path, z, position=factor * MANY, mass_200m=MASS)


def test_halos_of_one_corner_are_no_mistake(tmp_path):
    assert len(read(tmp_path, position=10 + 0.3 * MANY, mass_200m=MASS)) == 200
    assert len(read(tmp_path, position=MANY[:5] * H, mass_200m=MASS[:5])) == 5


def test_critical_radii_of_a_native_catalogue(tmp_path):
    halos = read(tmp_path, 1.0, mass_200m=MASS, radius_500c=0.4 * RADIUS, mass_200c=0.8 * MASS)
    assert halos.radii["R500c"] == pytest.approx(0.4 * RADIUS) and "radius_500c" not in halos.extra
    density = 0.8 * MASS / (4 * np.pi / 3 * (halos.radii["R200c"] / 2) ** 3)  # physical, at z = 1
    assert density == pytest.approx(200 * 2.775e11 * 0.49 * (0.3 * 8 + 0.7), rel=1e-3)


def test_radii_and_members_change_the_fingerprint(tmp_path):
    prints = set()
    for name, z in (("a", 0.0), ("b", 0.5)):  # the same physical masses, other critical radii
        folder = write_subfind(tmp_path / name, z)
        prints.add(read_halos(folder, BACKGROUND, BOX, z).fingerprint())
    with h5py.File(folder / "fof_subhalo_tab_099.hdf5", "r+") as f:
        f["Group/GroupLenType"][0, 1] += 1
    prints.add(read_halos(folder, BACKGROUND, BOX, 0.5).fingerprint())
    assert len(prints) == 3


def test_what_is_not_a_number_is_refused(tmp_path):
    with h5py.File(write_soap(tmp_path / "s.hdf5"), "r+") as f:
        f["InputHalos/HaloCentre"][1, 1] = np.nan
    with pytest.raises(UserError, match="position of the halo catalogue is not finite"):
        read_halos(tmp_path / "s.hdf5", Background(Om0=0.3, h=0.7), BOX)
    with h5py.File(write_soap(tmp_path / "s.hdf5"), "r+") as f:
        f["SO/200_mean/TotalMass"][1] = np.nan
    with pytest.raises(UserError, match="mass_200m of the halo catalogue is not finite"):
        read_halos(tmp_path / "s.hdf5", Background(Om0=0.3, h=0.7), BOX)
    with h5py.File(write_soap(tmp_path / "s.hdf5"), "r+") as f:
        f["InputHalos/HaloCatalogueIndex"][1] = f["InputHalos/HaloCatalogueIndex"][0]
    with pytest.raises(UserError, match="10 stands twice"):
        read_halos(tmp_path / "s.hdf5", Background(Om0=0.3, h=0.7), BOX)
