"""What particles carry: cuts, temperatures, tables, float32's range, and the fields' attributes."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import tiny_box
from bodies import cloud, project, render, views
from conftest import run
from test_emission import LAMBDA, T, Z, text_table

from hpcdiff.config import read_config
from hpcdiff.cosmology import K_B, KEV_ERG, M_P, MPC_CM, MSUN_G, Background
from hpcdiff.errors import UserError
from hpcdiff.project import fields
from hpcdiff.project.__main__ import main
from hpcdiff.project.emission import read_cooling

KEV = KEV_ERG / K_B


def gas_of_all_sorts():
    """Eight particles: cold or hot, dense or thin, forming stars or not."""
    sort = np.arange(8)
    gas = {
        "density": np.where(sort & 2, 1e-24, 1e-27),
        "temperature": np.where(sort & 1, 5e7, 1e4),
        "electrons": 0.88,
        "star_forming": (sort & 4) > 0,
    }
    return cloud(np.zeros((8, 3)), 1e10, 0.2, **gas)


@pytest.mark.parametrize(
    ("cut", "kept", "said"),
    [
        ({}, range(8), "none"),
        ({"temperature": 3e5}, (1, 3, 5, 7), "T > 300000 K"),
        ({"density": 5e-25}, (0, 1, 4, 5), "rho < 5e-25 g/cm^3"),
        ({"star_forming": False}, (0, 1, 2, 3), "no star formation"),
        ({"temperature": 3e5, "density": 5e-25, "star_forming": False}, (1,), "T > 300000 K, rho < 5e-25 g/cm^3, no star formation"),
    ],
)
def test_each_cut_removes_exactly_what_it_should(cut, kept, said):
    """The hot fields lose it, masses keep it, unless the cut is told to act on `gas` too."""
    gas, names = gas_of_all_sorts(), ["mass", "y", "xray", "spectroscopic", "spectroscopic_t"]
    keep = np.isin(np.arange(8), list(kept))
    whole = fields.weights(gas, names, project())
    got = fields.weights(gas, names, project(gas_cut=cut))
    assert (whole > 0).all()
    assert np.array_equal(got[:, 0], whole[:, 0])
    assert np.array_equal(got[:, 1:], np.where(keep[:, None], whole[:, 1:], 0))
    everywhere = project(fields=["gas", "xray"], gas_cut={**cut, "fields": ["gas", "xray"]})
    got = fields.weights(gas, names, everywhere)
    assert np.array_equal(got[:, 0], np.where(keep, whole[:, 0], 0)) and np.array_equal(got[:, 1], whole[:, 1])
    about = fields.attributes(everywhere, Background(), 0.0, views(4, 4))
    assert about["gas"]["gas_cut"] == about["xray"]["gas_cut"] == said


def test_no_cut_touches_dark_matter_or_stars():
    body = cloud(np.zeros((3, 3)), [1.0, 2.0, 3.0], 0.2)
    p = project(gas_cut={"temperature": 1e9, "star_forming": False, "fields": ["gas"]})
    assert fields.weights(body, ["mass"], p).ravel().tolist() == [1, 2, 3]


def test_a_cut_of_gas_leaves_total_whole():
    """Both are made of masses; where `gas` is not projected, its cut touches none of them."""
    p = project(fields=["total", "sz"], gas_cut={"temperature": 3e5, "fields": ["gas", "sz"]})
    mass, y = fields.weights(gas_of_all_sorts(), ["mass", "y"], p).T
    assert (mass == 1e10).all() and np.array_equal(y > 0, np.arange(8) % 2 == 1)


def test_gas_that_is_cut_must_be_read_whole():
    """Masses alone need no temperatures, but where the cut acts on `gas`."""
    assert not fields.reads_gas(project(fields=["gas"]), "gas")
    assert fields.reads_gas(project(fields=["gas"], gas_cut={"density": 1e-25, "fields": ["gas"]}), "gas")
    assert fields.reads_gas(project(fields=["temperature"]), "gas") and not fields.reads_gas(project(fields=["dm", "sz"]), "dm")


def test_the_spectroscopic_weight():
    """m rho T^(-3/4) (Mazzotta et al. 2004); gas of no temperature is not seen."""
    gas = cloud(np.zeros((3, 3)), [1e10, 2e10, 1e10], 0.1, density=[1e-27, 5e-27, 1e-27], temperature=[KEV, 16 * KEV, 0], electrons=0.88)
    w, wt = fields.weights(gas, ["spectroscopic", "spectroscopic_t"], project()).T
    assert w == pytest.approx([1e10, 10e10 / 8, 0]) and wt == pytest.approx([1e10, 16 * 10e10 / 8, 0])


def test_xray_of_a_table(tmp_path):
    """n_e n_H Lambda(T, Z) m/rho, at nodes of the table; gas colder than the table is dark."""
    gas = cloud(np.zeros((3, 3)), 1e10, 0.1, density=1e-26, temperature=[T[2], T[3], 2e4], electrons=0.87, metallicity=Z[[0, 2, 1]] * 0.02)
    p = project(fields=["xray"], cooling=text_table(tmp_path / "l.txt"), mu_e=1.14)
    expected = 0.87 * (2 / 1.14 - 1) * 1e-26 / M_P**2 * np.array([LAMBDA[2, 0], LAMBDA[3, 2], 0]) * 1e10 * MSUN_G / MPC_CM**2
    assert fields.weights(gas, ["xray"], p).ravel() == pytest.approx(expected, rel=1e-9, abs=0)
    about = fields.attributes(p, Background(), 0.0, views(4, 4))["xray"]
    assert len(about["cooling"]) == 64 and "gaunt" not in about
    gas.metallicity = None
    one = text_table(tmp_path / "one.txt", z=Z[:1], values=LAMBDA[:, :1])
    assert fields.weights(gas, ["xray"], project(cooling=one)).ravel()[1] > 0


def test_the_largest_cluster_and_the_smallest_stay_within_float32():
    """A 1e15 Msun cluster at 640^2 and a 1e11 Msun clump of 1e5 Msun particles: no overflow, and no loss to denormal numbers."""
    names = ["gas", "sz", "compton_y", "xray", "temperature"]
    for total, n, rho in ((1.5e14, 400, 1e-25), (1e10, 400, 1e-30)):
        offset = np.random.default_rng(0).normal(0, 0.02, (n, 3))
        gas = cloud(offset, total / n, 0.02, density=rho, temperature=1e8, electrons=0.88)
        maps = render(project(fields=names, npix=16, oversample=40), views(1.0, 4.0), {"gas": gas})
        weights = fields.weights(gas, ["xray"], project())
        assert maps["xray"].sum(dtype=float) / 256 == pytest.approx(weights.sum(), rel=1e-4, abs=0)
        for name in names:
            image = maps[name][maps[name] > 0]
            assert np.isfinite(image).all() and len(image) > 3, name
            assert image.max() < 1e25 and image.max() > 1e-25, name
        assert maps["temperature"].max() == pytest.approx(1e8 / KEV, rel=1e-4)


def test_attributes_say_what_was_done():
    p = project(
        fields=["gas", "dm", "sz", "xray", "temperature"],
        depth={"gas": 5, "dm": 5, "sz": 50, "xray": 5, "temperature": 5},
        beam={"sz": 0.2},
        oversample=4,
        gaunt="fit",
        gas_cut={"temperature": 1e6},
    )
    rows = views(4, 50, axes=(0, 1), depth_gas_mpc=5, depth_dm_mpc=5, depth_sz_mpc=50, beam_sz_mpc=0.2)
    rows["depth_xray_mpc"] = np.array([5.0, 6.0])
    about = fields.attributes(p, Background(), 0.5, rows)
    assert about["gas"]["to_msun_per_mpc2"] == pytest.approx(5 * Background().rho_mean(0.5, "gas"))
    assert (about["sz"]["depth_mpc"], about["sz"]["beam_fwhm_mpc"], about["sz"]["oversample"]) == (50, 0.2, 4)
    assert "beam_fwhm_mpc" not in about["gas"] and "gas_cut" not in about["gas"] and "gas_cut" not in about["dm"]
    assert "depth_mpc" not in about["xray"], "the views do not share it"
    assert about["xray"]["gaunt"] == "fit" and about["xray"]["mu_e"] == 1.13
    assert about["temperature"]["units"] == "keV" and about["temperature"]["gas_cut"] == "T > 1e+06 K"


@pytest.mark.parametrize(
    ("keys", "rows", "word"),
    [
        ({"method": "mesh", "oversample": 2}, {}, "mesh"),
        ({"method": "mesh", "beam": 0.5}, {}, "mesh"),
        ({"method": "mesh"}, {"depth_mpc": 5.0}, "depth must equal width"),
        ({"method": "mesh", "fields": ["dm"]}, {"depth_dm_mpc": 5.0}, "depth must equal width"),
        ({"beam": 0.05, "npix": 64, "fields": ["sz"]}, {"beam_sz_mpc": 0.05}, "project.oversample=3"),
        ({"beam": 0.1, "npix": 64, "fields": ["sz"]}, {"beam_sz_mpc": 0.1}, "project.oversample=2"),
        ({"fields": ["gas", "total"], "gas_cut": {"density": 1e-25, "fields": ["gas"]}}, {}, "total"),
        ({"fields": ["xray"], "cooling": "/nowhere/lambda.txt"}, {}, "/nowhere/lambda.txt"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_read(keys, rows, word):
    rows = {**views(4.0, 4.0), **{name: np.array([value]) for name, value in rows.items()}}
    with pytest.raises(UserError, match=word):
        fields.check(project(**keys), rows)
    fields.check(project(beam=0.05, npix=64, oversample=3, fields=["sz"]), {**views(4.0, 4.0), "beam_sz_mpc": np.array([0.05])})


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("project.gaunt=fitted", "fit"),
        ("project.gaunt=0", "above 0"),
        ("project.beam={sx: 1}", "did you mean 'sz'"),
        ("project.beam=-1", "above 0"),
        ("project.oversample=0", "at least 1"),
        ("project.gas_cut.fields=[dm]", "one of"),
        ("project.gas_cut.temprature=1", "project.gas_cut.temperature"),
    ],
)
def test_wrong_keys_are_refused(tmp_path, override, word):
    (tmp_path / "c.yaml").write_text("{}")
    with pytest.raises(UserError, match=word):
        read_config(tmp_path / "c.yaml", [override])


def test_through_the_whole_chain(tmp_path):
    """A file of two phases of gas at z = 1, cut, smoothed and averaged down: point-like particles on finer pixels' centres."""
    rng, z, npix, fine = np.random.default_rng(1), 1.0, 16, 0.0625
    centre = np.array([20.0, 20.0, 20.0])
    place = (rng.integers(-12, 12, (400, 3)) + 0.5) * fine  # physical Mpc
    hot = rng.random(400) < 0.7
    u = np.where(hot, rng.uniform(3e5, 2e6, 400), 100.0)  # (km/s)^2
    rho = 10 ** rng.uniform(-29, -27, 400)
    data = {"Coordinates": centre + 2 * place, "Masses": np.full(400, 1e10), "SmoothingLength": np.full(400, 1e-5)}
    gas = {**data, "Density": rho, "InternalEnergy": u, "ElectronAbundance": np.full(400, 1.16)}
    tiny_box.write_snapshot(tmp_path / "s.hdf5", {0: gas, 1: data}, z=z)
    tiny_box.write_halos(tmp_path / "halos.csv", centre[None])
    names = ["gas", "compton_y", "xray", "temperature"]
    config = tiny_box.write_config(
        tmp_path / "c.yaml",
        tmp_path,
        tmp_path / "s.hdf5",
        tmp_path / "halos.csv",
        fields=names,
        npix=npix,
        width=4.0,
        depth=4.0,
        oversample=4,
        beam={"compton_y": 0.25, "temperature": 0.25},
        gaunt="fit",
        gas_cut={"temperature": 1e5},
        split={"train": 1.0, "val": 0.0, "test": 0.0},
    )
    assert main([str(config)]) == 0
    kelvin = 2 / 3 * u * 1e10 * 4 / (1 + 3 * 0.76 + 4 * 0.76 * 1.16) * M_P / K_B
    particles = cloud(place, 1e10, 1e-5, density=rho, temperature=kelvin, electrons=0.76 * 1.16)
    weight = dict(zip(("mass", "y", "xray", "w", "wt"), fields.weights(particles, ["mass", "y", "xray", "spectroscopic", "spectroscopic_t"],
                  project(gaunt="fit")).T, strict=True))  # fmt: skip
    x = (np.arange(npix * 4) + 0.5) * fine - 2.0

    def line(at: np.ndarray, fwhm: float) -> np.ndarray:
        sigma = fwhm / np.sqrt(8 * np.log(2))
        near = (
            np.exp(-0.5 * ((x - at[:, None]) / sigma) ** 2) * fine / sigma / np.sqrt(2 * np.pi) if fwhm else abs(x - at[:, None]) < fine / 2
        )
        return near.reshape(len(at), npix, 4).mean(axis=2) / fine  # (n, npix)

    with h5py.File(tmp_path / "maps.h5") as f:
        assert f["fields/xray"].attrs["gas_cut"] == "T > 100000 K" and f["fields/compton_y"].attrs["beam_fwhm_mpc"] == 0.25
        for row, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):

            def image(name: str, fwhm: float, keep=hot, i=i, j=j) -> np.ndarray:
                return np.einsum("n,ni,nj->ij", weight[name] * keep, line(place[:, i], fwhm), line(place[:, j], fwhm))

            truth = {"gas": image("mass", 0, np.ones(400)) / (Background().rho_mean(z, "gas") * 4), "xray": image("xray", 0)}
            truth |= {"compton_y": image("y", 0.25)}
            for name, expected in truth.items():
                assert f["fields"][name][row] == pytest.approx(expected, abs=float(2e-5 * expected.max())), name
            seen = f["fields/temperature"][row]
            assert seen[4:12, 4:12] == pytest.approx((image("wt", 0.25) / image("w", 0.25))[4:12, 4:12], rel=1e-3)
            assert (seen[0] == 0).all()


def test_a_finished_run_with_another_table_is_refused(tmp_path, capsys):
    centre = np.full((1, 3), 20.0)
    tiny_box.write_snapshot(tmp_path / "s.hdf5", tiny_box.particles(n=50, centres=centre))
    tiny_box.write_halos(tmp_path / "halos.csv", centre)
    keys = {"fields": ["xray"], "split": {"train": 1.0, "val": 0.0, "test": 0.0}, "cooling": str(tmp_path / "l.txt")}
    config = tiny_box.write_config(tmp_path / "c.yaml", tmp_path, tmp_path / "s.hdf5", tmp_path / "halos.csv", **keys)
    assert main([str(config)]) == 2
    assert "l.txt" in capsys.readouterr().err
    text_table(tmp_path / "l.txt", z=Z[:1], values=LAMBDA[:, :1])
    assert main([str(config)]) == 0
    text_table(tmp_path / "l.txt", z=Z[:1], values=2 * LAMBDA[:, :1])
    read_cooling.cache_clear()
    assert main([str(config)]) == 2
    assert "inputs.cooling was" in capsys.readouterr().err


def test_every_field_has_the_same_bits_on_any_number_of_ranks(tmp_path):
    """Beam, oversampling, cuts, depths and temperatures, on 1 and 3 ranks."""
    centres = np.array([[10.0, 12.0, 30.0], [39.9, 25.0, 8.0]])
    data = tiny_box.particles(seed=3, n=600, centres=centres)
    data[4] = {name: data[1][name][:100] for name in ("Coordinates", "Masses", "SmoothingLength")}
    tiny_box.write_snapshot(tmp_path / "s.hdf5", data, chunks=2)
    tiny_box.write_halos(tmp_path / "halos.csv", centres)
    names = ["gas", "dm", "star", "total", "sz", "xray", "temperature"]
    keys = {"fields": names, "npix": 12, "width": 6.0, "depth": {**dict.fromkeys(names, 6.0), "sz": 14.0}, "oversample": 3}
    keys |= {"beam": {"sz": 1.0, "temperature": 0.5}, "gas_cut": {"temperature": 1e5}, "views": {"sightlines": 2}}
    paths = [tmp_path / "c.yaml", tmp_path / "run1", tmp_path / "s.*.hdf5", tmp_path / "halos.csv"]
    config = tiny_box.write_config(*paths, **keys, split={"train": 1.0, "val": 0.0, "test": 0.0})
    assert main([str(config)]) == 0
    done = run("project", str(config), f"run.dir={tmp_path}/run3", ranks=3)
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "run1/maps.h5") as one, h5py.File(tmp_path / "run3/maps.h5") as three:
        for name in names:
            assert one["fields"][name][:].any() and one["fields"][name][:].tobytes() == three["fields"][name][:].tobytes(), name
