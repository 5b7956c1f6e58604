"""The halo model's physics, measured in the particles that the stage wrote."""

import h5py
import numpy as np
import pytest
from colossus.lss.bias import haloBias
from scipy.spatial import cKDTree

from hpcdiff import cosmology
from hpcdiff.config import Config
from hpcdiff.cosmology import Background
from hpcdiff.simulate import outskirts, profiles
from hpcdiff.simulate.__main__ import main
from hpcdiff.simulate.cluster import draw_cluster, median_concentration
from hpcdiff.simulate.neighbours import smoothing
from hpcdiff.simulate.plan import Plan

BACKGROUND = Background()
ALTERED = ["simulate.clusters=8", "simulate.mass_range=[3e14, 1.2e15]", "simulate.cell=34", "simulate.particle_mass=1e11"]


class Box:
    """The snapshot of a run, in Mpc and Msun."""

    def __init__(self, folder):
        self.halos = {k: v[:] for k, v in h5py.File(folder / "halos.hdf5").items()}
        parts = [h5py.File(p) for p in sorted((folder / "snapshot").glob("*.hdf5"))]
        h = parts[0]["Header"].attrs["HubbleParam"]
        self.side = parts[0]["Header"].attrs["BoxSize"] / 1e3 / h

        def read(name, unit):
            return np.concatenate([f[name][:] for f in parts]).astype(float) * unit

        self.x = {k: read(f"PartType{i}/Coordinates", 1 / 1e3 / h) for k, i in (("gas", 0), ("dm", 1))}
        self.h = {k: read(f"PartType{i}/SmoothingLength", 1 / 1e3 / h) for k, i in (("gas", 0), ("dm", 1))}
        self.m = {k: read(f"PartType{i}/Masses", 1e10 / h) for k, i in (("gas", 0), ("dm", 1))}
        self.rho = read("PartType0/Density", 1e10 / h * (1e3 * h) ** 3)
        self.u = read("PartType0/InternalEnergy", 1.0)

    def about(self, i, kind):
        """Positions relative to halo i, nearest images."""
        x = self.x[kind] - self.halos["position"][i]
        return x - self.side * np.round(x / self.side)

    def r(self, i, kind):
        return np.linalg.norm(self.about(i, kind), axis=1)


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    folder = tmp_path_factory.mktemp("box")
    (folder / "c.yaml").write_text("{}")
    assert main([str(folder / "c.yaml"), f"run.dir={folder}", *ALTERED]) == 0
    return Box(folder)


def test_around_clusters_is_what_is_clustered_about_them(box):
    """Diemer & Kravtsov 2014's outer terms, with the cosmic part of gas, from where the halo ends to the walls of its cell."""
    from colossus.halo import profile_outer

    median_concentration(BACKGROUND, 1e14, 1e15)  # tells colossus the cosmology
    edges, found, expected = np.array([2.0, 2.6, 3.3, 4.2]), [], []
    for i, (mass, radius) in enumerate(zip(box.halos["mass_200m"], box.halos["radius_200m"], strict=True)):
        outer = profile_outer.OuterTermCorrelationFunction(z=0, bias=haloBias(mass * 0.7, 0.0, "200m", model="tinker10"))
        r = np.linspace(edges[0], edges[-1], 400) * radius
        shell = 4 * np.pi * r**2 * (BACKGROUND.rho_mean() + outer.density(r * 700) * 1e9 * 0.49)
        inside = np.interp(edges * radius, r, np.concatenate([[0], np.cumsum(0.5 * (shell[1:] + shell[:-1]) * np.diff(r))]))
        found.append([np.histogram(box.r(i, k) / radius, edges, weights=box.m[k])[0] for k in ("gas", "dm")])
        expected.append(np.diff(inside))
    both = np.sum(found, axis=(0, 1)) / np.sum(expected, axis=0)
    assert both == pytest.approx(1, abs=0.15)
    gas, dm = np.sum(found, axis=(0, 2))
    assert gas / (gas + dm) == pytest.approx(0.15, abs=0.02)
    assert box.m["gas"].sum() / box.m["dm"].sum() == pytest.approx(0.045 / 0.255, rel=1e-6)


def test_m200m_in_the_particles(box):
    for i, (mass, radius) in enumerate(zip(box.halos["mass_200m"], box.halos["radius_200m"], strict=True)):
        found = sum(box.m[k][box.r(i, k) < radius].sum() for k in ("gas", "dm"))
        assert found == pytest.approx(mass, rel=0.02)
        assert mass / (4 / 3 * np.pi * radius**3) == pytest.approx(200 * BACKGROUND.rho_mean(), rel=1e-6)


def test_masses_cover_the_range_flat_in_log(box):
    x = np.log(np.sort(box.halos["mass_200m"]) / 3e14) / np.log(4)
    assert ((np.arange(8) / 8 <= x) & (x <= np.arange(1, 9) / 8)).all()


def test_dark_matter_follows_nfw(box):
    edges, ratio = np.array([0.1, 0.2, 0.35, 0.55, 0.8]), []
    for i, (mass, radius) in enumerate(zip(box.halos["mass_200m"], box.halos["radius_200m"], strict=True)):
        c = box.halos["concentration_200m"][i]
        expected = 0.85 * mass * np.diff(profiles.nfw_mass(edges * c)) / profiles.nfw_mass(c)
        ratio.append(np.histogram(box.r(i, "dm") / radius, edges, weights=box.m["dm"])[0] / expected)
    assert np.median(ratio, axis=0) == pytest.approx(1, abs=0.12)


def test_concentrations_are_those_of_diemer_and_joyce():
    config = Config()
    config.simulate.clusters = 500
    plan = Plan(config)
    cells = np.flatnonzero(plan.halo_id >= 0)
    c = np.array([draw_cluster(plan, k, plan.rng(k)).concentration for k in cells])
    median = np.median(c[(plan.mass[cells] > 7e14) & (plan.mass[cells] < 1.4e15)])
    assert median == pytest.approx(6.4, rel=0.12)  # physics: 6.4 at 1e15
    assert 0.12 < np.std(np.log10(c)) < 0.155  # 0.13 and the trend with mass; in profiles fitted to the particles subhalos add to it


def test_late_clusters_have_more_around_them(box):
    """In what is drawn, as the loadings say, and in the particles of the eight clusters."""
    config = Config()
    config.simulate.clusters = 500
    plan = Plan(config)
    drawn = [draw_cluster(plan, k, plan.rng(k)) for k in np.flatnonzero(plan.halo_id >= 0)]
    late, around = np.array([(-c.formation, np.log(c.surroundings)) for c in drawn]).T
    assert np.corrcoef(late, around)[0, 1] == pytest.approx(0.6, abs=0.1)
    assert np.std(around) == pytest.approx(0.35, abs=0.04) and np.exp(around).mean() == pytest.approx(1, abs=0.06)
    masses = [
        sum(box.m[k][(box.r(i, k) > 2.5 * radius) & (box.r(i, k) < 4 * radius)].sum() for k in ("gas", "dm"))
        / (mass * np.diff(clustered_between(mass, radius)))
        for i, (mass, radius) in enumerate(zip(box.halos["mass_200m"], box.halos["radius_200m"], strict=True))
    ]
    assert np.corrcoef(np.log(masses).ravel(), np.log(box.halos["surroundings"]))[0, 1] > 0.8


def clustered_between(mass, radius):
    """Mass within 2.5 and 4 R200m that is clustered about a halo in the mean, over its own."""
    r = np.linspace(0, 4, 800)[1:] * radius
    shell = 4 * np.pi * r**2 * BACKGROUND.rho_mean() * outskirts.density(BACKGROUND, mass, r)
    inside = np.concatenate([[0], np.cumsum(0.5 * (shell[1:] + shell[:-1]) * np.diff(r))])
    return np.interp(np.array([2.5, 4]) * radius, r, inside) / mass


def test_pressure_follows_the_debiased_profile(box):
    edges, ratio = np.array([0.2, 0.35, 0.6, 1.0]), []
    for i, (mass, radius) in enumerate(zip(box.halos["mass_200m"], box.halos["radius_200m"], strict=True)):
        c, m500, r500 = (box.halos[k][i] for k in ("concentration_200m", "mass_500c", "radius_500c"))
        r200 = profiles.critical(mass, radius, c, 200, BACKGROUND)[1]
        # electron pressure times volume of a particle: 2/3 u m mu/mu_e
        found = np.histogram(box.r(i, "gas") / r200, edges, weights=2 / 3 * box.u * box.m["gas"] * 0.588 / 1.136)[0]
        p500 = cosmology.G_MPC * m500 / (2 * r500) * 500 * BACKGROUND.rho_crit() * 0.15 * 0.588 / 1.136
        shells = [np.linspace(a, b, 200) * r200 for a, b in zip(edges[:-1], edges[1:], strict=True)]
        y = [1.217 * r / r500 for r in shells]
        gnfw = [5.048 / (x**0.433 * (1 + x**1.192) ** ((5.490 - 0.433) / 1.192)) for x in y]
        ratio.append(found / [p500 * np.trapezoid(4 * np.pi * r**2 * p, r) for r, p in zip(shells, gnfw, strict=True)])
    ratio = np.array(ratio)
    assert np.median(ratio, axis=0) == pytest.approx(1, abs=0.2)
    assert 0.04 < np.std(ratio.mean(axis=1)) < 0.3  # halos differ


def test_overdensity_masses():
    m500, r500 = profiles.critical(1e15, float(BACKGROUND.radius(1e15)), 6.4, 500, BACKGROUND)
    assert m500 == pytest.approx(4 / 3 * np.pi * r500**3 * 500 * BACKGROUND.rho_crit(), rel=1e-9)
    from colossus.halo import mass_defs

    median_concentration(BACKGROUND, 1e14, 1e15)  # tells colossus the cosmology
    theirs = mass_defs.changeMassDefinition(1e15 * 0.7, 6.4, 0.0, "200m", "500c")
    assert (m500 * 0.7, r500 * 0.7e3) == pytest.approx(theirs[:2], rel=2e-3)


def test_gas_fraction_and_its_scatter(box):
    inside = [
        box.m["gas"][box.r(i, "gas") < r].sum() / (0.15 * m)
        for i, (m, r) in enumerate(zip(box.halos["mass_200m"], box.halos["radius_200m"], strict=True))
    ]
    assert np.mean(inside) == pytest.approx(0.9, abs=0.12)
    assert np.corrcoef(inside, box.halos["gas_fraction"])[0, 1] > 0.9
    config = Config()
    config.simulate.clusters = 500
    plan = Plan(config)
    cells = np.flatnonzero(plan.halo_id >= 0)
    g = np.array([draw_cluster(plan, k, plan.rng(k)).gas_fraction for k in cells])
    light, heavy = plan.mass[cells] < 2e14, plan.mass[cells] > 8e14
    assert 0.14 < np.std(np.log(g[light])) < 0.24
    assert 0.08 < np.std(np.log(g[heavy])) < 0.13


@pytest.mark.parametrize("kind", ["gas", "dm"])
def test_smoothing_length_is_the_distance_to_the_64th_neighbour(box, kind):
    rng = np.random.default_rng(1)
    sample = rng.integers(0, len(box.x[kind]), 60)
    for p in sample:
        d = box.x[kind] - box.x[kind][p]
        r = np.sort(np.linalg.norm(d - box.side * np.round(d / box.side), axis=1))
        assert box.h[kind][p] == pytest.approx(r[64], rel=1e-5)  # r[0] is the particle itself


def test_density_is_the_kernel_sum(box):
    for p in np.random.default_rng(2).integers(0, len(box.rho), 40):
        d = box.x["gas"] - box.x["gas"][p]
        q = np.linalg.norm(d - box.side * np.round(d / box.side), axis=1) / box.h["gas"][p]
        q = q[(q > 0) & (q < 1)]
        rho = box.m["gas"][0] * np.sum(21 / (2 * np.pi) * (1 - q) ** 4 * (1 + 4 * q)) / box.h["gas"][p] ** 3
        assert box.rho[p] == pytest.approx(rho, rel=1e-4)
    assert np.sum(box.m["gas"] / box.rho) == pytest.approx(box.side**3, rel=0.1)  # the particles fill the box


def test_density_of_random_points_is_unbiased():
    rng = np.random.default_rng(0)
    x = rng.random((4000, 3))
    images = np.concatenate([x + s for s in np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), -1).reshape(-1, 3)])
    h, density = smoothing(x, lambda margin: images, 0.5, True)
    assert density.mean() == pytest.approx(4000, rel=0.02)
    assert (h**3).mean() == pytest.approx(64 / 4000 / (4 / 3 * np.pi), rel=0.03)


def test_margin_grows_until_it_holds_every_neighbour():
    x = np.random.default_rng(0).random((500, 3))
    tree, asked = cKDTree(x), []

    def around(margin):
        asked.append(margin)
        return x[tree.query_ball_point([0.5] * 3, 0.15 + margin)]

    own = x[tree.query_ball_point([0.5] * 3, 0.15)]
    assert len(own) > 0
    h, density = smoothing(own, around, 0.01, True)
    assert len(asked) > 1
    assert h == pytest.approx(tree.query(own, k=[65])[0][:, 0], rel=1e-12)
    assert density == pytest.approx(smoothing(own, lambda margin: x, 2.0, True)[1], rel=1e-12)
    h, _ = smoothing(own, around, float(np.median(h)), False)  # enough for half of them
    assert h == pytest.approx(tree.query(own, k=[65])[0][:, 0], rel=1e-12)


def test_gas_is_no_function_of_the_dark_matter(box):
    """Rounder, cored, and with halo-to-halo and place-to-place scatter of the gas at given dark matter."""
    shape, core, local = [], [], []
    for i, radius in enumerate(box.halos["radius_200m"]):
        ratios = []
        for kind in ("gas", "dm"):
            x = box.about(i, kind)
            x = x[np.linalg.norm(x, axis=1) < 0.7 * radius]
            ratios.append(np.sqrt(np.linalg.eigvalsh(x.T @ x)))
        shape.append(ratios[0][0] / ratios[0][2] - ratios[1][0] / ratios[1][2])
        n = [[np.sum(box.r(i, kind) < f * radius) for f in (0.1, 1)] for kind in ("gas", "dm")]
        core.append((n[0][0] / n[1][0]) / (n[0][1] / n[1][1]))
        octants = [
            np.bincount((x[np.linalg.norm(x, axis=1) < radius] > 0) @ [1, 2, 4], minlength=8)
            for x in (box.about(i, "gas"), box.about(i, "dm"))
        ]
        local.append(np.std(np.log(octants[0] / octants[1])))
    assert np.mean(shape) > 0.05
    assert np.mean(core) < 0.8
    assert np.median(local) > 0.08  # counting noise of octants of 500 particles is 0.06


def test_subhalos_are_there(box):
    """More close pairs of dark matter at half the radius than a smooth halo has."""
    for i in np.argsort(box.halos["mass_200m"])[-3:]:
        radius, x = box.halos["radius_200m"][i], box.about(i, "dm")
        r = np.linalg.norm(x, axis=1)
        x = x[(r > 0.3 * radius) & (r < 0.9 * radius)]
        turned = x * np.sign(np.random.default_rng(0).normal(size=(len(x), 3)))  # the same profile, without neighbours
        assert len(cKDTree(x).query_pairs(0.03 * radius)) > 1.3 * len(cKDTree(turned).query_pairs(0.03 * radius))


def test_no_column_is_empty(box):
    grid = (np.arange(32) + 0.5) / 32 * 12.8 - 6.4
    pixels = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    for kind in ("gas", "dm"):
        for i in range(3):
            x = box.about(i, kind)
            near = np.abs(x[:, 2]) < 6.4
            covered = np.zeros(len(pixels), bool)
            for p, h in zip(x[near], box.h[kind][near], strict=True):
                if np.abs(p[:2]).max() < 6.4 + h and h > 0.4:
                    covered |= np.hypot(*(pixels - p[:2]).T) < h
            assert covered.all()


def test_intergalactic_gas_has_its_temperature(box):
    far = np.ones(len(box.u), bool)
    for i, radius in enumerate(box.halos["radius_200m"]):
        far &= box.r(i, "gas") > 4 * radius
    temperature = 2 / 3 * box.u * 0.588 * cosmology.M_P / cosmology.K_B * 1e10
    igm = 1e4 * (box.rho / BACKGROUND.rho_mean(component="gas")) ** 0.6
    assert (temperature > 0.99 * igm).all()
    diffuse = far & (box.rho < 2 * BACKGROUND.rho_mean(component="gas"))
    assert np.mean(np.abs(temperature / igm - 1)[diffuse] < 0.01) > 0.3


def test_pressure_scale_is_that_of_the_electrons():
    m500, r500 = 3e14 / 0.7, 1.0
    gas = cosmology.G_MPC * m500 / (2 * r500) * 500 * BACKGROUND.rho_crit() * 0.15
    assert gas / profiles.electron_p500(m500, r500, BACKGROUND) == pytest.approx(1.9, abs=0.05)
    assert abs(profiles.MU - 0.588) < 1e-3
    # P500 of Arnaud et al. 2010 at 3e14 Msun/h70: 1.65e-3 keV/cm^3
    m500 = 3e14
    r500 = float(BACKGROUND.radius(m500, 500, "crit"))
    per_kev = cosmology.MSUN_G / cosmology.MPC_CM**3 * 1e10 / cosmology.KEV_ERG
    assert profiles.electron_p500(m500, r500, BACKGROUND) * per_kev == pytest.approx(1.65e-3, rel=0.2)
