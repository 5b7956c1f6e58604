"""Halos of known mass, concentration, shape and substructure are measured as what they are."""

import numpy as np
import pytest
from halos import OB, OM, H, halo, paint
from scipy.integrate import quad

from hpcdiff.structure import Structure, match, slab

NPIX, WIDTH = 64, 12.8


@pytest.fixture(scope="module")
def structure():
    return Structure(NPIX, H, OM, OB)


@pytest.mark.parametrize("half_depth", [0.5, 3.0, 40.0])
def test_columns_are_the_integrals_of_the_densities(half_depth):
    for x in (0.05, 0.5, 0.98, 1.0, 1.02, 4.0):
        nfw = 2 * quad(lambda s, x=x: 1 / (np.hypot(x, s) * (1 + np.hypot(x, s)) ** 2), 0, half_depth, points=[x], limit=200)[0]
        king = 2 * quad(lambda s, x=x: (1 + x * x + s * s) ** -1.5, 0, half_depth)[0]
        assert slab.nfw(np.array(x), half_depth) == pytest.approx(nfw, rel=1e-4)
        assert slab.king(np.array(x), half_depth) == pytest.approx(king, rel=1e-6)


def test_masses_within_a_sphere_are_the_integrals_of_the_densities():
    for x in (0.1, 1.0, 8.0):
        assert slab.nfw_mass(x) == pytest.approx(quad(lambda r: r / (1 + r) ** 2, 0, x)[0], rel=1e-6)
        assert slab.king_mass(x) == pytest.approx(quad(lambda r: r * r * (1 + r * r) ** -1.5, 0, x)[0], rel=1e-6)


@pytest.mark.parametrize("z", [0.0, 0.6])
@pytest.mark.parametrize(("npix", "width", "depth"), [(64, 12.8, 12.8), (64, 12.8, 4.0), (65, 9.0, 25.0), (128, 12.8, 12.8)])
def test_masses_and_concentration_of_nfw_halos(npix, width, depth, z):
    known = [(1.2e14, 7.0), (4e14, 3.0), (4e14, 5.0), (1e15, 4.0)]
    halos = [halo(m, c, z) for m, c in known]
    maps = np.stack([paint(rho_s, r_s, npix, width, depth, z) for rho_s, r_s, _ in halos])
    for field in ("total", "dm"):
        out = Structure(npix, H, OM, OB).measure(field, maps, width, depth, z)
        assert out["m200c"] == pytest.approx([m for m, _ in known], rel=0.03)
        assert out["m500c"] == pytest.approx([h[2] for h in halos], rel=0.03)
        assert out["concentration"] == pytest.approx([c for _, c in known], rel=0.04)


def test_gas_has_its_own_mass_and_a_core(structure):
    """Gas of a King profile whose density over its cosmic share is that of a halo: its mass is the share of the halo's."""
    known = [(2e14, 2.5), (8e14, 4.0)]
    halos = [halo(m, c, 0.2, "king") for m, c in known]
    maps = np.stack([paint(rho_s, r_s, NPIX, WIDTH, WIDTH, 0.2, "king") for rho_s, r_s, _ in halos])
    out = structure.measure("gas", maps, WIDTH, WIDTH, 0.2)
    assert out["m200c"] == pytest.approx([m * OB / OM for m, _ in known], rel=0.03)
    assert out["m500c"] == pytest.approx([h[2] * OB / OM for h in halos], rel=0.03)
    assert out["concentration"] == pytest.approx([c for _, c in known], rel=0.04)


def test_lumps_and_shape_move_the_mass_little(structure):
    """Many small lumps that hold a tenth of the mass, drawn from the halo, and an elongation: within 10 %."""
    rng = np.random.default_rng(0)
    rho_s, r_s, m500 = halo(5e14, 4.5, 0.0)
    smooth = paint(rho_s, r_s, NPIX, WIDTH, WIDTH, 0.0, q=0.75, angle=0.5)
    maps = np.stack([1 + (smooth - 1) * rng.lognormal(-0.02, 0.2, smooth.shape) for _ in range(6)])
    assert structure.measure("total", maps, WIDTH, WIDTH, 0.0)["m500c"] == pytest.approx(m500, rel=0.1)


@pytest.mark.parametrize("q", [1.0, 0.85, 0.7, 0.5])
def test_ellipticity_is_one_minus_the_axis_ratio(structure, q):
    rho_s, r_s, _ = halo(6e14, 4.0, 0.0)
    maps = np.stack([paint(rho_s, r_s, NPIX, WIDTH, WIDTH, 0.0, q=q, angle=a) for a in (0.0, 0.4, 2.0)])
    assert structure.measure("dm", maps, WIDTH, WIDTH, 0.0)["ellipticity"] == pytest.approx(1 - q, abs=0.03)
    assert structure.measure("xray", maps, WIDTH, WIDTH, 0.0)["ellipticity"] == pytest.approx(1 - q, abs=0.03)


def test_ellipticity_is_that_of_the_inner_region(structure):
    """An elongated halo with a round rim: the rim, far beyond R500c, does not count."""
    rho_s, r_s, _ = halo(3e14, 4.0, 0.0)
    image = paint(rho_s, r_s, NPIX, WIDTH, WIDTH, 0.0, q=0.6)
    x = (np.arange(NPIX) - (NPIX - 1) / 2) * WIDTH / NPIX
    image[np.hypot(x[:, None], x[None, :]) > 4] = 50
    assert structure.measure("xray", image[None], WIDTH, WIDTH, 0.0)["ellipticity"] == pytest.approx(0.4, abs=0.03)


def test_offset_is_how_far_the_peak_was_moved(structure):
    rho_s, r_s, _ = halo(6e14, 4.0, 0.0, "king")
    for shift in ((0.0, 0.0), (0.3, 0.0), (-0.2, 0.45), (0.07, -0.6)):
        image = paint(rho_s, r_s, NPIX, WIDTH, WIDTH, 0.0, "king", shift=shift)
        assert structure.measure("gas", image[None], WIDTH, WIDTH, 0.0)["offset_mpc"] == pytest.approx(np.hypot(*shift), abs=0.04)


def test_fields_without_mass_have_a_shape_alone(structure):
    rho_s, r_s, _ = halo(6e14, 4.0, 0.0)
    image = paint(rho_s, r_s, NPIX, WIDTH, WIDTH, 0.0)
    out = structure.measure("sz", image[None], WIDTH, WIDTH, 0.0)
    assert all(np.isnan(out[name]).all() for name in ("m500c", "m200c", "concentration"))
    assert np.isfinite(out["ellipticity"]).all() and np.isfinite(out["offset_mpc"]).all()


def test_maps_without_a_halo_have_no_mass(structure):
    maps = np.stack([np.zeros((NPIX, NPIX)), np.ones((NPIX, NPIX)), -np.ones((NPIX, NPIX)), np.full((NPIX, NPIX), np.nan)])
    out = structure.measure("dm", maps, WIDTH, WIDTH, 0.0)
    assert all(np.isnan(out[name]).all() for name in ("m500c", "m200c", "concentration"))


def test_a_map_has_the_same_bits_alone_and_among_others(structure):
    rng = np.random.default_rng(1)
    rho_s, r_s, _ = halo(6e14, 4.0, 0.0)
    maps = paint(rho_s, r_s, NPIX, WIDTH, WIDTH, 0.0) * rng.lognormal(0, 0.2, (5, NPIX, NPIX))
    together, alone = structure.measure("dm", maps, WIDTH, WIDTH, 0.0), structure.measure("dm", maps[3:4], WIDTH, WIDTH, 0.0)
    assert all(np.array_equal(together[name][3:4], alone[name]) for name in alone)


def planted(places, height=1.0, q=1.0):
    """A halo with a Gaussian lump (0.25 Mpc) of `height` over the halo's own value at each place (Mpc)."""
    rho_s, r_s, _ = halo(8e14, 4.0, 0.0)
    image = paint(rho_s, r_s, NPIX, WIDTH, WIDTH, 0.0, q=q, angle=0.3)
    x = (np.arange(NPIX) - (NPIX - 1) / 2) * WIDTH / NPIX
    lumps = sum(height * np.exp(-((x[:, None] - a) ** 2 + (x[None, :] - b) ** 2) / (2 * 0.25**2)) for a, b in places)
    return image * (1 + lumps)


def test_planted_lumps_are_found_where_they_are(structure):
    places = np.array([[1.5, 0.3], [-0.9, -1.6], [1.3, -1.9]])
    found = structure.clumps(planted(places), WIDTH)
    assert len(found) == 3
    for place in places:
        assert np.hypot(*(found[:, :2] - place).T).min() < 0.1
    # smoothed by s = 0.254 Mpc a lump of 0.25 Mpc keeps 1 / (1 + (s / 0.25)^2) = 0.49 of its height
    assert found[:, 2] == pytest.approx(0.49, abs=0.12)
    assert len(structure.clumps(planted(places), WIDTH, radius_mpc=2.1)) == 2
    assert len(structure.clumps(planted(places, 0.4), WIDTH)) == 0
    assert len(structure.clumps(planted(places, 0.4), WIDTH, contrast=0.1)) == 3


@pytest.mark.parametrize("q", [1.0, 0.8, 0.6])
def test_a_smooth_halo_has_no_lumps(structure, q):
    assert len(structure.clumps(planted([], q=q), WIDTH)) == 0


def test_completeness_and_purity():
    truth = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0], [5.0, 5.0]])
    found = np.array([[0.1, 0.0, 2.0], [0.0, 0.1, 2.0], [1.2, 0.0, 1.0]])  # the first true peak has two beside it: one is false
    assert match(truth, found, 0.3) == (2 / 4, 2 / 3)
    assert match(truth, found, 0.15) == (1 / 4, 1 / 3)
    assert match(found, truth, 0.3) == (2 / 3, 2 / 4)
    completeness, purity = match(truth, np.empty((0, 3)), 0.3)
    assert completeness == 0 and np.isnan(purity)
    assert all(np.isnan(match(np.empty((0, 3)), np.empty((0, 3)), 0.3)))
