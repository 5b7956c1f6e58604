"""The parts of one cluster's posterior: resampling, units, masses, each against a closed form."""

import astropy.constants
import astropy.units as u
import numpy as np
import pytest

from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError
from hpcdiff.sample.cluster.masses import circle, covered, cylinder_masses, halo_radii, interval, surface_densities, weigh
from hpcdiff.sample.cluster.resample import refine, resample
from hpcdiff.sample.cluster.sky import unit_factor
from hpcdiff.sample.cluster.trained import Trained

TRAINED = Trained(Background(), (0.0, 0.0), {"gas": 12.8, "dm": 12.8}, 0.1)


def corners(npix, side, angle, centre, flip=False):
    """Corners of a rotated grid in the pixels of an image."""
    e = (np.arange(npix + 1) - npix / 2) * side
    i, j = np.meshgrid(-e if flip else e, e, indexing="ij")
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([centre[0] + c * i - s * j, centre[1] + s * i + c * j], -1)


def blob(ny, nx, s, x=None, y=None):
    row, column = np.mgrid[:ny, :nx] + 0.5
    return np.exp(-((column - (nx / 2 if x is None else x)) ** 2 + (row - (ny / 2 if y is None else y)) ** 2) / (2 * s**2))


def test_finer_pixels_keep_the_averages_and_the_sign():
    image = np.random.default_rng(0).exponential(1, (21, 30)) * (blob(21, 30, 4) > 1e-2)
    fine = refine(refine(image, 5, 0), 5, 1)
    assert fine.shape == (105, 150) and fine.min() >= -1e-12
    np.testing.assert_allclose(fine.reshape(21, 5, 30, 5).mean((1, 3)), image, atol=1e-12)


def test_a_grid_on_the_images_own_pixels_gives_them_back_with_i_along_the_columns():
    image = np.random.default_rng(0).normal(size=(40, 50))
    maps, share, blank = resample(image, corners(20, 1.0, 0.0, (25.0, 18.0)))
    np.testing.assert_allclose(maps, image[8:28, 15:35].T, atol=1e-12)  # [i, j] = [column, row]
    assert share == pytest.approx(1) and not blank.any()


@pytest.mark.parametrize("side", [0.3, 0.8, 1.7, 6.0])
@pytest.mark.parametrize("flip", [False, True])
def test_sums_are_conserved_on_any_grid(side, flip):
    image = blob(60, 60, 2.0, 29.2, 31.1) * np.random.default_rng(1).exponential(1, (60, 60))
    npix = int(36 / side)
    maps, share, _ = resample(image, corners(npix, side, 0.4, (30.0, 30.0), flip))
    assert maps.sum() * side**2 == pytest.approx(image.sum(), rel=2e-5)  # the blob's tail outside the grid is 1e-5 of it
    assert share == pytest.approx(1)


def test_a_smooth_image_is_as_exact_as_its_pixels_allow():
    image = blob(80, 80, 6.0)
    for side, tolerance in ((0.5, 0.005), (1.0, 0.005), (2.0, 0.01)):
        grid = corners(int(30 / side), side, 0.5, (40.0, 40.0))
        maps, _, _ = resample(image, grid)
        middle = (grid[:-1, :-1] + grid[1:, 1:]) / 2
        var = 36 + (side**2 - 1) / 12  # the image's pixels are averages of the sky already, the grid's are those of the sky too
        truth = 36 / var * np.exp(-((middle - 40.0) ** 2).sum(-1) / (2 * var))
        assert np.abs(maps - truth).max() < tolerance


def test_what_is_missing_is_told_as_a_fraction():
    image = np.ones((20, 20))
    _, share, _ = resample(image, corners(8, 1.0, 0.0, (20.25, 10.0)))  # a grid from 16.25 to 24.25
    assert share[:, 4] == pytest.approx([1, 1, 1, 0.75, 0, 0, 0, 0])
    far, share, _ = resample(image, corners(8, 1.0, 0.0, (200.0, 10.0)))
    assert not share.any() and not far.any()


def test_a_pixel_that_a_broken_projection_has_folded_has_nothing():
    """A bow tie, of which the halves cancel out, alone and beside a whole pixel."""
    bow_tie = np.array([[[8.0, 8.0], [8.0, 12.0]], [[12.0, 12.0], [12.0, 8.0]]])
    maps, share, _ = resample(np.ones((20, 20)), bow_tie)
    assert maps == 0 and share == 0
    grid = np.array([[[2.0 * i, 2.0 * j] for j in range(3)] for i in range(3)]) + 4
    grid[2, 1], grid[2, 2] = grid[2, 2].copy(), grid[2, 1].copy()  # folds two of four
    maps, share, _ = resample(np.ones((20, 20)), grid)
    assert np.isfinite(maps).all() and np.isfinite(share).all() and share[0] == pytest.approx(1) and maps[0] == pytest.approx(1)
    assert maps[1, 1] == share[1, 1] == 0


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_a_grid_over_the_seam_of_the_whole_sky_is_not_averaged_over_it(shift):
    image = np.ones((60, 360))
    image[:, 100:260] = 1e3  # the other side of the sky
    grid = corners(8, 1.0, 0.3, (360.0 - shift, 30.0))
    grid[..., 0] %= 360
    maps, share, _ = resample(image, grid)
    assert maps.max() == pytest.approx(1) and 0.3 < share.mean() < 0.9
    assert (share < 1e-9).any() and np.all((maps > 0) == (share > 0))


def test_blank_pixels_are_told_and_filled_with_the_nearest():
    image = np.ones((20, 20)) * 3
    image[10, 12] = np.nan
    maps, share, blank = resample(image, corners(8, 2.0, 0.0, (10.0, 10.0)))
    assert np.argwhere(blank).tolist() == [[5, 4]] and blank[5, 4] == pytest.approx(0.25)
    assert maps == pytest.approx(3) and share == pytest.approx(1)


@pytest.mark.parametrize(
    ("field", "text", "factor"),
    [
        *[("sz", "uK", 1), ("sz", "µK", 1), ("sz", "uK_CMB", 1), ("sz", "K_CMB", 1e6), ("sz", "mK", 1e3), ("sz", "K", 1e6)],
        *[("sz", "muK", 1), ("sz", "Compton y", 2.7255e6), ("sz", "dimensionless", 2.7255e6), ("compton_y", "uK", 1 / 2.7255e6)],
        *[("compton_y", "1", 1), ("xray", "erg/s/cm2", 1), ("xray", "erg s-1 cm**-2", 1), ("xray", "W m-2", 1e3)],
        *[("temperature", "keV", 1), ("temperature", "K", 1 / u.keV.to(u.K, equivalencies=u.temperature_energy()))],
        ("gas", "Msun/Mpc2", 1 / (Background().rho_mean(0, "gas") * 12.8)),
    ],
)
def test_units(field, text, factor):
    assert unit_factor(field, text, TRAINED, None, "f") == pytest.approx(factor, rel=1e-6)


@pytest.mark.parametrize(
    ("field", "text", "words"),
    [
        *[("sz", None, "no BUNIT"), ("sz", "", "no BUNIT"), ("sz", "mJy", "uK"), ("sz", "MJy/sr", "uK"), ("sz", "K_RJ", "uK_CMB")],
        *[("sz", "MK2", "uK"), ("xray", "counts", "erg/s/cm2"), ("xray", "erg/s/cm2/arcmin2", "erg/s/cm2"), ("xray", "uK", "erg/s/cm2")],
        *[("compton_y", "erg", "dimensionless"), ("temperature", "uK_CMB2", "keV"), ("sz", "blurbs", "blurbs")],
    ],
)
def test_wrong_units_are_refused_and_those_that_fit_are_named(field, text, words):
    with pytest.raises(UserError, match=words.replace("(", r"\(")) as error:
        unit_factor(field, text, TRAINED, None, "f.fits")
    assert "f.fits" in str(error.value) and field in str(error.value)


@pytest.mark.parametrize("radius", [0.4, 1.0, 3.3, 7.9])
def test_circles_have_their_area(radius):
    for npix in (16, 17):
        assert circle(npix, radius).sum() == pytest.approx(np.pi * radius**2, rel=2e-3)


def test_cylinder_masses_in_closed_form():
    pixel, npix, s = 0.05, 128, 0.6
    x = (np.arange(npix) - (npix - 1) / 2) * pixel
    gauss = 2e14 * np.exp(-(x[:, None] ** 2 + x[None, :] ** 2) / (2 * s**2))
    sigma = np.stack([np.full((npix, npix), 1e13), gauss, gauss])
    radius = np.array([1.0, 0.8, 9.0])
    mass = cylinder_masses(sigma, radius, pixel)
    assert mass[0] == pytest.approx(np.pi * 1e13, rel=1e-3)
    assert mass[1] == pytest.approx(2e14 * 2 * np.pi * s**2 * (1 - np.exp(-(0.8**2) / (2 * s**2))), rel=2e-3)
    assert np.isnan(mass[2])  # larger than the map


def test_map_units_become_masses_by_the_mean_density():
    b, samples = Background(), {"gas": np.ones((2, 8, 8)), "dm": np.ones((2, 8, 8))}
    sigma = surface_densities(samples, TRAINED, 0.3)
    rho = 3 * (70.0 * u.km / u.s / u.Mpc) ** 2 / (8 * np.pi * astropy.constants.G)
    rho = rho.to_value(u.Msun / u.Mpc**3)
    assert sigma["gas"] == pytest.approx(0.045 * rho * 12.8, rel=1e-3)  # at the training maps' redshift, 0
    assert sigma["dm"] == pytest.approx(0.255 * rho * 12.8, rel=1e-3)
    assert sigma["total"] == pytest.approx(0.3 * rho * 12.8, rel=1e-3) and b.Om0 == 0.3


def nfw_column(npix, pixel, m500, c500, z, depth):
    """Surface density of an NFW halo of known M500c on the mean density, Msun/Mpc^2: its column, summed numerically."""
    b = Background()
    r500 = (3 * m500 / (4 * np.pi * 500 * b.rho_crit(z))) ** (1 / 3)
    rs = r500 / c500
    rho_s = m500 / (4 * np.pi * rs**3 * (np.log(1 + c500) - c500 / (1 + c500)))
    sub = 4
    x = (np.arange(npix * sub) - (npix * sub - 1) / 2) * pixel / sub
    l = np.concatenate([[0], np.geomspace(1e-3, depth / 2, 200)])  # noqa: E741
    r = np.hypot(x[:, None], x[None, :])
    out = np.zeros_like(r)
    for a, c in zip(l, l[1:], strict=False):
        q = np.sqrt(r**2 + ((a + c) / 2) ** 2) / rs
        out += 2 * (c - a) * rho_s / (q * (1 + q) ** 2)
    return r500, out.reshape(npix, sub, npix, sub).mean((1, 3)) + b.rho_mean(z) * depth


def test_radii_of_a_halo_at_another_redshift_than_the_training_maps():
    npix, pixel, z = 64, 0.1, 0.4
    trained = Trained(Background(), (0.0, 0.0), {"gas": 12.8, "dm": 12.8}, pixel)
    r500, sigma = nfw_column(npix, pixel, 5e14, 3.0, z, 12.8)
    total = sigma / (Background().rho_mean(0) * 12.8)  # in the training maps' units: gas and dm alike
    out = weigh({"gas": total[None], "dm": total[None]}, trained, z, pixel, {"R500c": None, "R200c": None})
    assert out["R500c"]["radius_mpc"]["p50"] == pytest.approx(r500, rel=0.02)
    b = Background()
    expected = cylinder_masses(sigma[None], np.array([r500]), pixel)[0]
    assert out["R500c"]["mass_msun"]["total"]["p50"] == pytest.approx(expected, rel=0.03)
    assert out["R500c"]["mass_msun"]["gas"]["p50"] == pytest.approx(expected * b.Ob0 / b.Om0, rel=0.03)
    assert out["R200c"]["radius_mpc"]["p50"] > r500 and out["R500c"]["reason"] is None
    fitted, source = halo_radii({"dm": sigma[None] * 0.85}, trained, z, pixel)
    assert fitted["R500c"][0] == pytest.approx(r500, rel=0.02) and "dm" in source


def test_given_radii_are_taken_and_too_large_ones_said():
    samples = {"dm": np.ones((7, 16, 16))}
    out = weigh(samples, TRAINED, 0.2, 0.1, {"R500c": 0.5, "R200c": 3.0})
    one = TRAINED.msun_per_mpc2("dm", 0.2)
    assert out["R500c"]["mass_msun"]["dm"]["p50"] == pytest.approx(np.pi * 0.25 * one, rel=2e-3)
    assert out["R500c"]["radius_from"] == "given" and out["R500c"]["reason"] is None
    assert out["R200c"]["mass_msun"]["dm"]["p50"] is None and "7 of 7" in out["R200c"]["reason"]


@pytest.mark.parametrize("samples", [3, 6, 10, 25])
def test_the_interval_of_a_perfect_posterior_holds_the_truth_as_often_as_it_says(samples):
    rng = np.random.default_rng(5)
    held = []
    for _ in range(4000):
        x = rng.normal(size=samples + 1)
        i = interval(x[1:])
        held.append(i["p16"] <= x[0] <= i["p84"])
    said = covered(samples)
    assert said == pytest.approx(0.68) if samples >= 6 else said < 0.6
    assert abs(np.mean(held) - said) < 4 * np.sqrt(said * (1 - said) / 4000)


def test_intervals_of_few_samples_are_none():
    assert interval(np.array([2.0])) == {"p16": None, "p50": 2.0, "p84": None, "mean": 2.0, "samples": 1}
    assert interval(np.array([np.nan, np.nan]))["p50"] is None
