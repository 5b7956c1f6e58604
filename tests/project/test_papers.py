"""The projections of the papers, from the configs that stand in `configs/`, on a tiny box."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import tiny_box
from scipy.ndimage import gaussian_filter

from hpcdiff.config import read_config
from hpcdiff.cosmology import Background
from hpcdiff.project import deposit
from hpcdiff.project.__main__ import main
from hpcdiff.project.lengths import radius_of_nfw

CONFIGS = Path(__file__).parents[2] / "configs"
CENTRES = np.array([[10.0, 12.0, 30.0], [30.0, 25.0, 8.0], [22.0, 3.0, 15.0]])
SPLIT = "project.split={train: 1.0, val: 0.0, test: 0.0}"


def box(folder: Path) -> list[str]:
    """A snapshot with stars and star-forming gas, a catalogue, and the overrides that name them."""
    data = tiny_box.particles(seed=3, n=2000, centres=CENTRES)
    data[4] = {name: data[1][name][:500] for name in ("Coordinates", "Masses", "SmoothingLength")}
    data[0]["StarFormationRate"] = np.where(np.arange(len(data[0]["Masses"])) % 5 == 0, 0.1, 0.0)
    tiny_box.write_snapshot(folder / "s.hdf5", data)
    tiny_box.write_halos(folder / "halos.hdf5", CENTRES)
    return [f"run.dir={folder}/run", f"project.snapshot={folder}/s.hdf5", f"project.halos={folder}/halos.hdf5", SPLIT]


def test_de_andres_2024(tmp_path):
    """2 R200c wide, 640 pixels smoothed and averaged down to 80, 29 sightlines."""
    assert main([str(CONFIGS / "deandres2024.yaml"), *box(tmp_path)]) == 0
    with h5py.File(tmp_path / "run/maps.h5") as f:
        catalog = {name: data[:] for name, data in f["catalog"].items()}
        assert f["fields/total"].shape == (3 * 29, 80, 80) and set(f["fields"]) == {"compton_y", "xray", "star", "total"}
        assert catalog["width_mpc"] == pytest.approx(2 * catalog["radius_200c"])
        inside = Background().mass(catalog["radius_200c"], 200, "crit")
        assert (inside < 2e14).all() and (inside > 1e14).all(), "M200c of an M200m of 2e14"
        assert f["fields/total"].attrs["oversample"] == 8 and f["fields/xray"].attrs["gaunt"] == "fit"
        with h5py.File(tmp_path / "s.hdf5") as snapshot:
            star = {name: snapshot[f"PartType4/{name}"][:] / 700 for name in ("Coordinates", "SmoothingLength")}
            mass = snapshot["PartType4/Masses"][:] / 0.7 * 1e10
        for row in (0, 28, 40, 86):
            offset, width = star["Coordinates"] - catalog["position"][row], catalog["width_mpc"][row]
            seen = (offset - 40 * np.rint(offset / 40)) @ catalog["frame"][row].T
            near = abs(seen[:, 2]) < width / 2
            image = deposit(seen[near], star["SmoothingLength"][near], mass[near], 720, width * 720 / 640)[0]
            sigma = 0.015 / 2 * 640 / np.sqrt(8 * np.log(2))
            smoothed = gaussian_filter(image.astype(float), sigma, truncate=6)[40:-40, 40:-40]
            expected = smoothed.reshape(80, 8, 80, 8).mean(axis=(1, 3)) / (Background().rho_mean(0, "gas") * width)
            assert expected.max() > 2 * expected.mean() > 0
            assert f["fields/star"][row] == pytest.approx(expected, rel=5e-3, abs=float(1e-3 * expected.max()))


GROUPS = np.array([[10.0, 12.0, 30.0], [10.5, 12.8, 30.5], [11.2, 11.7, 30.4], [30.0, 25.0, 8.0]])
"""The first three overlap within a map; the second is below the paper's masses; the last is stretched along z."""
MASS = np.array([2e14, 5e13, 1.8e14, 3e14])
KELVIN = np.array([2e7, 4e7, 6e7, 8e7])


def subfind_box(folder: Path) -> dict[int, dict[str, np.ndarray]]:
    """A snapshot whose particles stand group by group, unbound ones behind them, and its SUBFIND catalogue.

    Returns:
        {type: columns}: `position` and `h` in Mpc, `mass` in Msun, `group` (-1: unbound), and of gas whether it is `hot`.
    """
    rng, out, data = np.random.default_rng(8), {}, {}
    for kind, sizes in ((0, [500, 300, 400, 600]), (1, [450, 350, 500, 550])):
        group = np.repeat([0, 1, 2, 3, -1], [*sizes, 500])
        n = len(group)
        position = np.where(group[:, None] < 0, GROUPS[0], GROUPS[group]) + rng.normal(0, 0.5, (n, 3))
        position[group == 3, 2] = GROUPS[3, 2] + rng.uniform(-9.5, 9.5, (group == 3).sum())
        out[kind] = {
            "position": position % tiny_box.BOX,
            "h": rng.uniform(0.02, 0.3, n),
            "mass": rng.uniform(1, 2, n) * 1e11,
            "group": group,
        }
        units = {"Coordinates": "position", "SmoothingLength": "h", "Masses": "mass"}
        data[kind] = {name: out[kind][ours] for name, ours in units.items()}
    n, group = len(out[0]["mass"]), out[0]["group"]
    sort = rng.integers(0, 5, n)  # forming stars, cold, dense, and two parts hot
    kelvin = np.where(sort == 1, 1e5, np.where(sort >= 3, KELVIN[group], 1e8))
    out[0]["hot"] = sort >= 3
    data[0]["StarFormationRate"] = np.where(sort == 0, 0.1, 0.0)
    data[0]["Density"] = np.where(sort == 2, 1e-24, 1e-27)
    data[0]["ElectronAbundance"] = np.full(n, 1.1)
    mu = 4 / (1 + 3 * 0.76 + 4 * 0.76 * 1.1)
    data[0]["InternalEnergy"] = 1.5 * kelvin * 1.380649e-16 / (mu * 1.67262192e-24) / 1e10
    tiny_box.write_snapshot(folder / "s.hdf5", data)
    with h5py.File(folder / "fof_subhalo_tab_099.hdf5", "w") as f:
        header = {"BoxSize": tiny_box.BOX * 700, "Redshift": 0.0, "NumFiles": 1, "Ngroups_Total": 4, "HubbleParam": 0.7, "Omega0": 0.3}
        f.create_group("Header").attrs.update(header)
        f["Group/GroupPos"], f["Group/Group_M_Mean200"] = GROUPS * 700, MASS * 0.7 / 1e10
        lengths = np.zeros((4, 6), np.int32)
        for kind in (0, 1):
            lengths[:, kind] = np.bincount(out[kind]["group"] + 1)[1:]
        f["Group/GroupLenType"] = lengths
    return out


def test_chadayammuri_2023(tmp_path):
    """The hot gas of each halo's own members, 4 Mpc wide and 512 pixels, 20 Mpc deep, in x, y and z; M200m in the paper's range."""
    particles = subfind_box(tmp_path)
    halos = f"project.halos={tmp_path}/fof_subhalo_tab_099.hdf5"
    overrides = [f"run.dir={tmp_path}/run", f"project.snapshot={tmp_path}/s.hdf5", halos, SPLIT]
    assert main([str(CONFIGS / "chadayammuri2023.yaml"), *overrides]) == 0
    with h5py.File(tmp_path / "run/maps.h5") as f:
        maps, catalog = f["fields"], {name: data[:] for name, data in f["catalog"].items()}
        assert maps["gas"].shape == (9, 512, 512) and catalog["axis"].tolist() == [0, 1, 2] * 3
        assert np.array_equal(catalog["halo_id"], np.repeat([0, 2, 3], 3))
        assert "T > 300000 K" in maps["gas"].attrs["gas_cut"] and "no star formation" in maps["xray"].attrs["gas_cut"]
        for row, halo in enumerate(catalog["halo_id"]):
            for field, kind in (("gas", 0), ("dm", 1)):
                p = particles[kind]
                offset = p["position"] - GROUPS[halo]
                seen = (offset - 40 * np.rint(offset / 40)) @ catalog["frame"][row].T
                mine = (p["group"] == halo) & (abs(seen[:, 2]) < 10.0) & p.get("hot", True)
                expected = deposit(seen[mine], p["h"][mine], p["mass"][mine], 512, 4.0)[0] / maps[field].attrs["to_msun_per_mpc2"]
                assert np.abs(maps[field][row] - expected).max() < 1e-4 * expected.max()
                others = (p["group"] != halo) & (abs(seen[:, 2]) < 10.0) & (abs(seen[:, :2]).max(axis=1) < 2.0)
                foreign = deposit(seen[others], p["h"][others], p["mass"][others], 512, 4.0)[0] / maps[field].attrs["to_msun_per_mpc2"]
                theirs = (foreign > 1e-2 * expected.max()) & (expected == 0)
                assert halo == 3 or (others.sum() > 1.5 * mine.sum() and theirs.sum() > 20), "others are there to be left out"
                assert (maps[field][row][theirs] < 1e-4 * expected.max()).all()
            gas, kev = maps["gas"][row], maps["temperature"][row]
            bright = gas > 1e-3 * gas.max()
            assert np.allclose(kev[bright], KELVIN[halo] * 1.380649e-16 / 1.602176634e-9, rtol=1e-3)
            assert not kev[gas == 0].any() and not maps["xray"][row][gas == 0].any() and (maps["xray"][row][bright] > 0).all()
        far = abs(particles[0]["position"][:, 2] - GROUPS[3, 2]) > 2.5
        assert (far & (particles[0]["group"] == 3)).sum() > 300, "members that a shallower map would lose"


PAPERS = {"hsu2025": (1e14, 4.82e15), "deandres2024": (10**13.5 / 0.6777, np.inf), "chadayammuri2023": (1e14, np.inf)}
"""Lowest and highest masses, Msun: M200m of Hsu et al., M200c of the others."""


@pytest.mark.parametrize("paper", PAPERS)
def test_mass_ranges_are_the_papers(paper):
    """In M200m: an NFW halo that is as heavy as the bound within R200m has the paper's lowest M200c."""
    config = read_config(CONFIGS / f"{paper}.yaml")
    low, high = config.project.mass_range
    if paper == "hsu2025":
        assert (low, high) == PAPERS[paper] and config.simulate.mass_range == [low, high]
        return
    planck = Background(Om0=0.3089, Ob0=0.0486, h=0.6774, sigma8=0.8159, ns=0.9667)
    assert planck.mass(radius_of_nfw(np.array([low]), "R200c", 0.0, planck), 200, "crit") == pytest.approx(PAPERS[paper][0], rel=0.01)
    assert high >= 1e16
