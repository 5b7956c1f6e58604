"""Reading snapshots: units of three dialects, slabs over chunks, what is missing and what is wrong."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from conftest import DATA
from tiny_box import BOX, H, particles, write_snapshot

from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError
from hpcdiff.snapshot import open_snapshot

K_OVER_MP = 1.380649e-16 / 1.67262192369e-24


@pytest.mark.parametrize("z", [0.0, 1.0])
def test_chunks_and_slabs_give_the_whole_in_mpc_and_msun(tmp_path, z):
    data = particles(n=200)
    write_snapshot(tmp_path / "snap.hdf5", data, chunks=11, z=z)
    snapshot = open_snapshot(tmp_path, Background())
    assert snapshot.box == pytest.approx(BOX) and snapshot.redshift == z and len(snapshot.paths) == 11
    n = snapshot.count("gas")
    edges = [0, 7, 7, 150, n]
    parts = [snapshot.read("gas", a, b) for a, b in zip(edges, edges[1:], strict=False)]
    gas = {name: np.concatenate([getattr(p, name) for p in parts]) for name, value in vars(parts[0]).items() if value is not None}
    assert np.array_equal(gas["index"], np.arange(n))
    for name, stored in (("position", "Coordinates"), ("mass", "Masses"), ("h", "SmoothingLength"), ("density", "Density")):
        assert gas[name] == pytest.approx(data[0][stored], rel=1e-9)
    electrons = 0.76 * 1.1
    mu = 4 / (1 + 3 * 0.76 + 4 * electrons)
    assert gas["electrons"] == pytest.approx(electrons)
    assert gas["temperature"] == pytest.approx(2 / 3 * data[0]["InternalEnergy"] * 1e10 * mu / K_OVER_MP, rel=1e-9)


def test_attributes_win_over_the_codes_own_units(tmp_path):
    data, z = particles(n=50), 1.0
    (path,) = write_snapshot(tmp_path / "s.hdf5", data, z=z)
    with h5py.File(path, "r+") as f:
        about = f["PartType0/SmoothingLength"]
        about[:] = data[0]["SmoothingLength"] / 2  # physical Mpc at z = 1, in the dialect of EAGLE
        about.attrs.update({"CGSConversionFactor": 3.085678e24, "aexp-scale-exponent": 0.0, "h-scale-exponent": 0.0})
        about = f["PartType1/Masses"]
        about[:] = data[1]["Masses"] * 1.988409870698051  # 1e33 g, in that of GADGET-4
        about.attrs.update({"to_cgs": [1e33], "a_scaling": [0.0], "h_scaling": [0.0]})
    snapshot = open_snapshot(path, Background())
    assert snapshot.read("gas", 0, 75).h == pytest.approx(data[0]["SmoothingLength"], rel=1e-6)
    assert snapshot.read("dm", 0, 75).mass == pytest.approx(data[1]["Masses"], rel=1e-6)


def test_cell_volume_stands_in_for_a_smoothing_length(tmp_path):
    data = particles(n=50)
    del data[0]["SmoothingLength"], data[0]["ElectronAbundance"]
    (path,) = write_snapshot(tmp_path / "s.hdf5", data)
    gas = open_snapshot(path, Background()).read("gas", 0, 75)
    volume = gas.mass * 1.988409870698051e33 / data[0]["Density"] / 3.0856775814913673e24**3
    assert 4 * np.pi / 3 * (gas.h / 2) ** 3 == pytest.approx(volume)
    assert gas.electrons == pytest.approx(1 / 1.13)


def test_cosmology_is_the_snapshots_and_config_fills_gaps(tmp_path):
    (path,) = write_snapshot(tmp_path / "s.hdf5", particles(n=20), OmegaBaryon=0.05)
    config = Background(Ob0=0.045, sigma8=0.77)
    background = open_snapshot(path, config).background
    assert background.Ob0 == 0.05 and background.sigma8 == 0.77
    with pytest.raises(UserError, match=r"cosmology.Ob0 is 0.045 and the snapshot's own is 0.05"):
        open_snapshot(path, config, {"cosmology.Ob0"})
    open_snapshot(path, Background(Ob0=0.05002), {"cosmology.Ob0"})


@pytest.mark.parametrize(("name", "key", "value"), [("Omega0", "Om0", 0.3), ("HubbleParam", "h", 0.7)])
def test_matter_and_hubble_are_never_guessed(tmp_path, name, key, value):
    (path,) = write_snapshot(tmp_path / "s.hdf5", particles(n=20))
    with h5py.File(path, "r+") as f:
        del f["Header"].attrs[name]
    with pytest.raises(UserError, match=rf"does not say cosmology.{key} .*{name}.*set cosmology.{key}"):
        open_snapshot(path, Background())
    snapshot = open_snapshot(path, Background(**{key: value * 0.9}), {f"cosmology.{key}"})
    assert getattr(snapshot.background, key) == value * 0.9 and key not in snapshot.assumed


@pytest.mark.parametrize("written", [None, 0.0, 0.04])
@pytest.mark.parametrize("gas", [True, False])
def test_baryons_of_none_are_meant_only_where_there_are_none(tmp_path, written, gas):
    """A header's 0 is what runs of dark matter alone write, and what others leave there."""
    data = particles(n=20)
    (path,) = write_snapshot(tmp_path / "s.hdf5", data if gas else {1: data[1]})
    with h5py.File(path, "r+") as f:
        del f["Header"].attrs["OmegaBaryon"]
        if written is not None:
            f["Header"].attrs["OmegaBaryon"] = written
    said = written is not None and (written > 0 or not gas)
    snapshot = open_snapshot(path, Background(Ob0=0.045))
    assert ("Ob0" in snapshot.assumed) == (not said) and snapshot.background.Ob0 == (written if said else 0.045)
    if said:
        with pytest.raises(UserError, match=f"cosmology.Ob0 is 0.05 and the snapshot's own is {written:g}"):
            open_snapshot(path, Background(Ob0=0.05), {"cosmology.Ob0"})
    else:
        assert "Ob0" not in open_snapshot(path, Background(Ob0=0.05), {"cosmology.Ob0"}).assumed


def damaged(path, kind, name, row, value):
    with h5py.File(path, "r+") as f:
        f[f"PartType{kind}/{name}"][row] = value


@pytest.mark.parametrize(
    ("kind", "name", "value", "says"),
    [
        (0, "Coordinates", np.nan, "coordinates that are not finite"),
        (1, "Coordinates", 1e7, "outside the box"),
        (0, "Coordinates", -0.05 * 1e3 * H * BOX, "outside the box"),
        (1, "Masses", -1.0, "negative"),
        (0, "SmoothingLength", 0.0, "smoothing lengths"),
        (1, "SmoothingLength", np.nan, "smoothing lengths"),
        (1, "SmoothingLength", 0.51e3 * H * BOX, "more than half the box"),
        (0, "Density", 0.0, "densit"),
        (0, "InternalEnergy", np.nan, "temperatures"),
    ],
)
def test_senseless_particles_are_refused(tmp_path, kind, name, value, says):
    (path,) = write_snapshot(tmp_path / "s.hdf5", particles(n=50))
    damaged(path, kind, name, 17, value)
    with pytest.raises(UserError, match=f"(?s){says}.*the first is particle 17; 1 in all"):
        open_snapshot(path, Background()).read("gas" if kind == 0 else "dm", 0, 75)


def test_particles_that_drifted_out_come_back_through_the_wall(tmp_path):
    (path,) = write_snapshot(tmp_path / "s.hdf5", particles(n=50))
    stored = np.array([[-0.2, 40.3, 40.0], [-1e-300, 39.9, 0.0]]) * 1e3 * H
    with h5py.File(path, "r+") as f:
        f["PartType1/Coordinates"][:2] = stored
    position = open_snapshot(path, Background()).read("dm", 0, 75).position
    assert position[:2] == pytest.approx(np.array([[39.8, 0.3, 0.0], [0.0, 39.9, 0.0]]), abs=1e-9)
    assert (position >= 0).all() and (position < BOX).all()


def test_density_zero_where_it_gives_the_support_radius(tmp_path):
    (path,) = write_snapshot(tmp_path / "s.hdf5", particles(n=50))
    with h5py.File(path, "r+") as f:
        del f["PartType0/SmoothingLength"]
        f["PartType0/Density"][9] = 0.0
    for gas, says in ((True, "densities that are not above 0"), (False, r"smoothing lengths \(or densities\)")):
        with pytest.raises(UserError, match=f"{says}.*the first is particle 9; 1 in all"):
            open_snapshot(path, Background()).read("gas", 0, 75, gas=gas)


def test_files_that_are_no_snapshot_are_refused(tmp_path):
    paths = write_snapshot(tmp_path / "s.hdf5", particles(n=50), chunks=3)
    text = paths[1].read_bytes()
    for content, says in ((b"", "not a whole HDF5"), (text[: len(text) // 2], "not a whole HDF5"), (b"text" * 999, "not a whole HDF5")):
        paths[1].write_bytes(content)
        with pytest.raises(UserError, match=says):
            open_snapshot(tmp_path, Background())
    paths[1].unlink()
    with pytest.raises(UserError, match="2 of the snapshot's 3 chunk"):
        open_snapshot(tmp_path, Background())
    with pytest.raises(UserError, match="not there"):
        open_snapshot(tmp_path / "nothing*.hdf5", Background())
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(UserError, match="no Header"):
        open_snapshot(tmp_path / "empty.h5", Background())


@pytest.mark.skipif(not DATA.is_dir(), reason=f"real snapshots are not at hand ({DATA})")
def test_gadget4():
    snapshot = open_snapshot(DATA / "gadget4_lcdm_gas.hdf5", Background())
    assert snapshot.box == pytest.approx(50 / 0.7) and snapshot.background.Ob0 == 0.04
    gas, dm = snapshot.read("gas", 0, 32768), snapshot.read("dm", 0, 32768)
    mean = Background(Ob0=0.04)
    assert gas.mass.sum() / snapshot.box**3 == pytest.approx(mean.rho_mean(0, "gas"), rel=2e-3)
    assert dm.mass.sum() / snapshot.box**3 == pytest.approx(mean.rho_mean(0, "dm"), rel=2e-3)
    assert dm.h is None and not snapshot.has_h["dm"]
    # the SPH density is the kernel sum over about 64 neighbours within h, so it holds about 64 particle masses
    inside = 4 * np.pi / 3 * gas.h**3 * gas.density * 3.0856775814913673e24**3 / 1.988409870698051e33 / gas.mass
    assert 40 < np.median(inside) < 100


@pytest.mark.skipif(not DATA.is_dir(), reason=f"real snapshots are not at hand ({DATA})")
@pytest.mark.parametrize(("name", "box"), [("galaxy_tng", 75 / 0.6774), ("galaxy_eagle", 67.77 / 0.6777)])
def test_tng_and_eagle(name, box):
    snapshot = open_snapshot(DATA / f"{name}.hdf5", Background())
    assert snapshot.box == pytest.approx(box, rel=1e-5)
    gas, stars = snapshot.read("gas", 0, 100), snapshot.read("star", 0, 2000)
    assert ((gas.position >= 0) & (gas.position < box)).all() and np.ptp(stars.position, axis=0).max() < 1
    assert 1e5 < np.median(gas.mass) < 1e7 and 1e5 < np.median(stars.mass) < 1e7  # both have 1.4e6 to 1.8e6 Msun a particle
    assert 1e3 < np.median(gas.temperature) < 1e8 and 0 < np.median(gas.h) < 0.1
