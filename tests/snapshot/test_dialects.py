"""Six codes, one physics: names, units, factors of a and h, and what each code means by its columns."""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest
from dialect_files import BARYONS, BOX, GAMMA_C2, MU_E, OMEGA, TITLES, H, physical, swift_attributes, write

from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError
from hpcdiff.snapshot import open_snapshot

CODES = list(TITLES)
K_OVER_MP = 1.380649e-16 / 1.67262192369e-24


@pytest.mark.parametrize("z", [0.0, 1.0])
@pytest.mark.parametrize("code", CODES)
def test_one_set_of_particles_is_the_same_whatever_the_code(tmp_path, code, z):
    data = physical(z)
    snapshot = open_snapshot(write(code, tmp_path / "any_name.hdf5", z, data), Background(Om0=0.25, h=0.5))
    assert snapshot.dialect == TITLES[code]
    assert snapshot.box == pytest.approx(BOX, rel=1e-6) and snapshot.redshift == z
    assert (snapshot.background.Om0, snapshot.background.h) == (OMEGA, H) and snapshot.background.Ob0 == pytest.approx(BARYONS)
    for kind in ("gas", "dm", "star"):
        want, got = data[kind], pickle.loads(pickle.dumps(snapshot)).read(kind, 0, 60, MU_E, ids=True)
        assert np.array_equal(got.index, np.arange(60)) and np.array_equal(got.ids, want["ids"])
        assert got.position == pytest.approx(want["position"], rel=1e-6) and got.mass == pytest.approx(want["mass"], rel=1e-6)
        if kind == "gas":
            assert got.h == pytest.approx(want["h"], rel=1e-6) and got.density == pytest.approx(want["density"], rel=1e-6)
            assert got.temperature == pytest.approx(want["temperature"], rel=1e-6)
            assert got.metallicity == pytest.approx(want["metallicity"]) and np.array_equal(got.star_forming, want["rate"] > 0)
            electrons = want["electrons"] if code != "eagle" else np.full(60, 1 / MU_E)  # EAGLE's files do not say
            assert got.electrons == pytest.approx(electrons, rel=1e-6)
    knows = {"gadget2": True, "gadget4": True, "tng": True, "simba": True, "swift": False, "eagle": False}[code]
    assert snapshot.has_h["dm"] == knows and (snapshot.read("dm", 0, 9).h is None) != knows
    assert snapshot.has_h["star"] and snapshot.read("star", 0, 60).h == pytest.approx(data["star"]["h"], rel=1e-6)


@pytest.mark.parametrize("code", CODES)
def test_units_of_the_header_serve_where_datasets_have_none(tmp_path, code):
    path, data = write(code, tmp_path / "s.hdf5", 1.0), physical(1.0)
    with h5py.File(path, "r+") as f:
        for name in ("PartType0", "PartType1", "PartType4"):
            for values in f[name].values():
                for attribute in list(values.attrs):
                    del values.attrs[attribute]
        if code == "swift":
            f["PartType0/ElectronNumberDensities"][:] /= 8  # comoving, as nothing says otherwise
            del f["PartType0/Temperatures"], f["Header"].attrs["Scale-factor"]  # and an older version
    snapshot = open_snapshot(path, Background())
    got, want = snapshot.read("gas", 0, 60, MU_E), data["gas"]
    for name in ("position", "mass", "h", "density", *(["temperature"] if code != "eagle" else [])):
        assert getattr(got, name) == pytest.approx(want[name], rel=1e-6), name
    if code != "eagle":
        assert got.electrons == pytest.approx(want["electrons"], rel=1e-6)
    assert snapshot.dialect == TITLES[code] and snapshot.read("dm", 0, 60).mass == pytest.approx(data["dm"]["mass"], rel=1e-6)


# One gas particle: stored numbers 0.02 (mass), 3 (length), 3e-7 (density), 2000 (energy), and what they are worth.
# Units over h, kpc, h = 0.7: m = 0.02e10/0.7 Msun; length 3/700 cMpc; rho = 3e-7 x 6.767905e-22 x 0.7^2 (1+z)^3 g/cm^3;
# u = 2000 (km/s)^2, T = 2/3 u mu m_p/k with mu = 0.5865255 (X_H = 0.76, mu_e = 1.13).
KPC_H = {"mass": 2.857143e8, "length": 0.004285714, "density": (9.948821e-29, 7.959057e-28), "temperature": 94741.47}
# No h, Mpc: m = 0.02e10 Msun; length 3 cMpc; rho = 3e-7 x 6.767905e-31 (1+z)^3; u = 2000 (1+z)^2 (100 km/s)^2.
NO_H = {"mass": 2e8, "length": 3.0, "density": (2.030372e-37, 1.624297e-36), "temperature": 9.474147e8}


@pytest.mark.parametrize(("z", "k"), [(0.0, 0), (1.0, 1)])
@pytest.mark.parametrize("code", CODES)
def test_numbers_worked_by_hand(tmp_path, code, z, k):
    path = write(code, tmp_path / "s.hdf5", z)
    mass, length, density, energy = "Masses", "SmoothingLength", "Density", "InternalEnergy"
    if code == "eagle":
        mass = "Mass"
    elif code == "swift":
        length, density, energy = "SmoothingLengths", "Densities", "InternalEnergies"
    with h5py.File(path, "r+") as f:
        gas = f["PartType0"]
        for name in ("ElectronAbundance", "Temperature", "Temperatures", "ElectronNumberDensities"):
            gas.pop(name, None)
        gas[mass][3], gas[density][3], gas[energy][3] = 0.02, 3e-7, 2000.0
        if length in gas:
            gas[length][3] = 3.0
    got = open_snapshot(path, Background()).read("gas", 3, 4, MU_E)
    want = NO_H if code == "swift" else KPC_H
    mega = 1e3 if code == "eagle" else 1  # EAGLE's unit of length is Mpc/h
    assert got.mass[0] == pytest.approx(want["mass"], rel=1e-6)
    assert got.density[0] == pytest.approx(want["density"][k] / mega**3, rel=1e-6)
    assert got.temperature[0] == pytest.approx(want["temperature"] * ((1 + z) ** 2 if code == "swift" else 1), rel=1e-6)
    if code == "tng":  # m/rho: 2 (3 x 2.857143e8 Msun / (4 pi 9.948821e-29 g/cm^3))^(1/3), comoving
        assert got.h[0] == pytest.approx(0.07186851, rel=1e-6)
    else:
        assert got.h[0] == pytest.approx(want["length"] * mega * (GAMMA_C2 if code == "swift" else 1), rel=1e-6)


@pytest.mark.parametrize(
    ("kernel", "gamma"),
    [
        ("Cubic spline (M4)", 1.825742),
        ("Quartic spline (M5)", 2.018932),
        ("Quintic spline (M6)", 2.195775),
        ("Wendland C2", 1.936492),
        ("Wendland C4", 2.207940),
        ("Wendland C6", 2.449490),
    ],
)
def test_swift_smoothing_lengths_become_support_radii(tmp_path, kernel, gamma):
    path = write("swift", tmp_path / "s.hdf5", 1.0)
    with h5py.File(path, "r+") as f:
        f["HydroScheme"].attrs["Kernel function"] = kernel
        stored = f["PartType0/SmoothingLengths"][:], f["PartType4/SmoothingLengths"][:]
    snapshot = open_snapshot(path, Background())
    assert snapshot.read("gas", 0, 60).h == pytest.approx(stored[0] * gamma, rel=1e-6)
    assert snapshot.read("star", 0, 60).h == pytest.approx(stored[1] * gamma, rel=1e-6)
    with h5py.File(path, "r+") as f:
        f["HydroScheme"].attrs["Kernel gamma"] = np.array([2.5], np.float32)
    assert open_snapshot(path, Background()).read("gas", 0, 60).h == pytest.approx(stored[0] * 2.5, rel=1e-6)
    with h5py.File(path, "r+") as f:
        del f["HydroScheme"].attrs["Kernel gamma"]
        f["HydroScheme"].attrs["Kernel function"] = "Unheard of"
    with pytest.raises(UserError, match=r"known kernel \(Unheard of\)"):
        open_snapshot(path, Background())


def test_swift_numbers_stored_physical_get_no_factor_of_a(tmp_path):
    path, data = write("swift", tmp_path / "s.hdf5", 1.0), physical(1.0)
    with h5py.File(path, "r+") as f:
        gas = f["PartType0"]
        comoving = gas["ElectronNumberDensities"][:] / 8
        gas["ElectronNumberDensities"][:] = comoving
        cgs = gas["ElectronNumberDensities"].attrs["Conversion factor to CGS (not including cosmological corrections)"][0]
        gas["ElectronNumberDensities"].attrs.update(swift_attributes(cgs, -3, 1.0))
        gas["Densities"][:] = data["gas"]["density"] / gas["Densities"].attrs[next(k for k in gas["Densities"].attrs if "not incl" in k)]
        gas["Densities"].attrs["Value stored as physical"] = [1]
    got = open_snapshot(path, Background()).read("gas", 0, 60)
    assert got.electrons == pytest.approx(data["gas"]["electrons"], rel=1e-6)
    assert got.density == pytest.approx(data["gas"]["density"], rel=1e-4)


def test_attributes_of_one_dataset_win_and_zero_means_dimensionless(tmp_path):
    path, data = write("gadget2", tmp_path / "s.hdf5", 1.0), physical(1.0)
    with h5py.File(path, "r+") as f:
        f["PartType0/SmoothingLength"][:] = data["gas"]["h"] / 2  # physical Mpc at z = 1, as EAGLE would say it
        f["PartType0/SmoothingLength"].attrs.update(
            {"CGSConversionFactor": 3.085678e24, "aexp-scale-exponent": 0.0, "h-scale-exponent": 0.0}
        )
        f["PartType0/Masses"][:] = data["gas"]["mass"] * 1.988409870698051  # 1e33 g, in GADGET-4's way
        f["PartType0/Masses"].attrs.update({"to_cgs": 1e33, "a_scaling": 0.0, "h_scaling": 0.0})
        f["PartType0/Density"].attrs.update({"to_cgs": 0.0, "a_scaling": 0.0, "h_scaling": 0.0})  # says nothing
    got = open_snapshot(path, Background()).read("gas", 0, 60)
    assert got.h == pytest.approx(data["gas"]["h"], rel=1e-6) and got.mass == pytest.approx(data["gas"]["mass"], rel=1e-6)
    assert got.density == pytest.approx(data["gas"]["density"], rel=1e-6)


@pytest.mark.parametrize(
    ("code", "dataset", "rows"),
    [
        ("tng", "GFM_Metals", lambda x: np.column_stack([x, np.zeros((60, 9))])),
        ("simba", "Metallicity", lambda x: np.column_stack([0.1 * (1 - x), 0.9 * (1 - x), np.full((60, 9), 0.5)])),
        ("swift", "ElementMassFractions", lambda x: np.column_stack([x, np.zeros((60, 8))])),
        ("eagle", "SmoothedElementAbundance/Hydrogen", lambda x: x),
    ],
)
def test_hydrogen_of_each_particle_sets_electrons_and_temperature(tmp_path, code, dataset, rows):
    path, data = write(code, tmp_path / "s.hdf5"), physical(0.0)
    hydrogen = np.linspace(0.1, 1.0, 60)
    with h5py.File(path, "r+") as f:
        for name in ("ElectronNumberDensities", "Temperatures", "Temperature"):
            f["PartType0"].pop(name, None)
        del f[f"PartType0/{dataset}"]
        f[f"PartType0/{dataset}"] = rows(hydrogen)
    got = open_snapshot(path, Background()).read("gas", 0, 60, MU_E)
    electrons = hydrogen * data["gas"]["abundance"] if code in ("tng", "simba") else np.full(60, 1 / MU_E)
    assert got.electrons == pytest.approx(electrons, rel=1e-6)
    mu = 4 / (1 + 3 * hydrogen + 4 * electrons)
    assert got.temperature == pytest.approx(2 / 3 * data["gas"]["energy"] * mu / K_OVER_MP, rel=1e-6)


def test_wind_among_the_stars_is_left_out_everywhere(tmp_path):
    path, data = write("tng", tmp_path / "s.hdf5"), physical(0.0)
    with h5py.File(path, "r+") as f:
        born = f["PartType4/GFM_StellarFormationTime"]
        born[::3] = -0.2
        born[1] = 0.0
    stars = np.setdiff1d(np.arange(60), [*range(0, 60, 3), 1])
    snapshot = open_snapshot(path, Background())
    got, (index, position) = snapshot.read("star", 0, 60, ids=True), snapshot.positions("star", 0, 60)
    assert snapshot.count("star") == 60 and np.array_equal(got.index, stars) and np.array_equal(index, stars)
    assert np.array_equal(got.position, position) and got.mass == pytest.approx(data["star"]["mass"][stars])
    assert np.array_equal(got.ids, data["star"]["ids"][stars])
    assert np.array_equal(snapshot.read("star", 10, 20).index, stars[(stars >= 10) & (stars < 20)])


def test_decoupled_wind_counts_as_star_forming(tmp_path):
    path = write("simba", tmp_path / "s.hdf5")
    with h5py.File(path, "r+") as f:
        f["PartType0/DelayTime"][:7] = 0.01
    got, rate = open_snapshot(path, Background()).read("gas", 0, 60), physical(0.0)["gas"]["rate"]
    assert got.star_forming[:7].all() and np.array_equal(got.star_forming[7:], rate[7:] > 0)


def test_unknown_stays_unknown(tmp_path):
    path = write("gadget4", tmp_path / "s.hdf5")
    with h5py.File(path, "r+") as f:
        for name in ("StarFormationRate", "Metallicity", "ElectronAbundance"):  # an adiabatic run
            del f[f"PartType0/{name}"]
    got = open_snapshot(path, Background()).read("gas", 0, 60, mu_e=1.2)
    assert got.star_forming is None and got.metallicity is None and got.ids is None and got.group is None
    assert got.electrons == pytest.approx(1 / 1.2)
    bare = open_snapshot(path, Background()).read("gas", 0, 60, gas=False)
    assert bare.density is None and bare.temperature is None and bare.h is not None


def test_subfinds_lengths_serve_where_they_are_of_the_same_kind(tmp_path):
    path, data = write("gadget2", tmp_path / "s.hdf5"), physical(0.0)
    with h5py.File(path, "r+") as f:
        for n in (0, 1):
            f.move(f"PartType{n}/SmoothingLength", f"PartType{n}/SubfindHsml")
    snapshot = open_snapshot(path, Background())
    assert snapshot.read("gas", 0, 60).h == pytest.approx(data["gas"]["h"])
    assert snapshot.read("dm", 0, 60).h == pytest.approx(data["dm"]["h"])


@pytest.mark.parametrize(("code", "name"), [("simba", "HaloID"), ("eagle", "GroupNumber"), ("tng", None)])
def test_numbers_of_the_halos(tmp_path, code, name):
    snapshot = open_snapshot(write(code, tmp_path / "s.hdf5"), Background())
    assert snapshot.groups == name
    if name is None:
        with pytest.raises(UserError, match="PartType0 has no"):
            snapshot.read("gas", 0, 5, groups=True)
    else:
        want = np.arange(60) % 7 if code == "simba" else np.where(np.arange(60) % 3, 5, -(2**30))
        assert np.array_equal(snapshot.read("dm", 20, 50, groups=True).group, want[20:50])


def test_the_description_names_what_is_read(tmp_path):
    text = "\n".join(open_snapshot(write("swift", tmp_path / "s.hdf5"), Background()).describe())
    for word in ("SWIFT", "SmoothingLengths x 1.93649 (Wendland C2)", "Temperatures", "ElectronNumberDensities", "60 particles"):
        assert word in text
    text = "\n".join(open_snapshot(write("eagle", tmp_path / "e.hdf5"), Background()).describe())
    for word in ("EAGLE", "fully ionised", "MassTable", "from neighbours", "of the cosmic mean", "GroupNumber"):
        assert word in text


@pytest.mark.parametrize(
    ("code", "dataset", "quantity", "says"),
    [
        ("gadget2", "PartType0/Density", "density", r"PartType0 has no Density, which the field 'xray' needs"),
        ("swift", "PartType0/Densities", "density", r"PartType0 has no Densities, which the field 'xray' needs"),
        ("gadget2", "PartType0/InternalEnergy", "temperature", r"PartType0 has no Temperature or InternalEnergy, which the field 'xray'"),
    ],
)
def test_a_missing_dataset_is_named_with_its_field(tmp_path, code, dataset, quantity, says):
    path = write(code, tmp_path / "s.hdf5")
    with h5py.File(path, "r+") as f:
        del f[dataset]
    snapshot = open_snapshot(path, Background())
    with pytest.raises(UserError, match=says):
        snapshot.require("gas", quantity, "xray")
    with pytest.raises(UserError, match=f"has no .*{dataset.split('/')[1]}, which give.* the {quantity}"):
        snapshot.read("gas", 0, 5)
    assert len(snapshot.read("gas", 0, 5, gas=False).mass) == 5
