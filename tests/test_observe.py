"""The observation model: widths add in quadrature, light is conserved, counts are Poisson, draws follow their key."""

import numpy as np
import pytest
import torch
from conftest import make_maps
from scipy import stats

from hpcdiff import diffusion
from hpcdiff.config import Config
from hpcdiff.errors import UserError
from hpcdiff.maps import MapFile
from hpcdiff.observe import SMALL, Observation, ObservedMaps, observation_keys, observations, poisson, smooth
from hpcdiff.sections import Microwave, Observe, XRay

FWHM = np.sqrt(8 * np.log(2))


def gaussian(n, s, centre=None):
    y, x = np.mgrid[:n, :n] - ((n - 1) / 2 if centre is None else centre)
    return torch.from_numpy(np.exp(-(x**2 + y**2) / (2 * s**2)) / (2 * np.pi * s**2))[None]


@pytest.mark.parametrize(("width", "beam"), [(2.0, 0.5), (2.0, 3.0), (4.0, 1.0)])
def test_a_gaussian_stays_one_and_widths_add_in_quadrature(width, beam):
    seen = smooth(gaussian(64, width), beam * FWHM)
    wanted = gaussian(64, np.hypot(width, beam))
    assert (seen - wanted).abs().max() < 1e-6 * wanted.max()


def test_light_is_conserved_and_edges_are_not_darkened():
    x = torch.rand(3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = smooth(x, 6.0)
    torch.testing.assert_close(seen.sum((1, 2)), x.sum((1, 2)))
    flat = torch.full((1, 32, 32), 7.0, dtype=torch.float64)
    torch.testing.assert_close(smooth(flat, 6.0), flat)


def test_edges_reflect_and_do_not_wrap():
    corner = gaussian(32, 1.5, centre=0)
    seen = smooth(corner, 4.0)
    assert seen[0, -1, 0] < 1e-6 * seen.max()
    doubled = torch.cat([corner.flip(2), corner], 2)
    doubled = torch.cat([doubled.flip(1), doubled], 1)
    k = 2 * np.pi * torch.fft.fftfreq(64, dtype=torch.float64)
    wanted = torch.fft.ifft2(torch.fft.fft2(doubled) * torch.exp(-0.5 * (k[:, None] ** 2 + k**2) * (4.0 / FWHM) ** 2)).real
    torch.testing.assert_close(seen, wanted[:, 32:, 32:])


@pytest.mark.parametrize("mean", [0.01, 0.7, 4.0, SMALL, SMALL * 1.001, 25.0, 300.0, 1e5])
def test_counts_are_the_inverse_of_the_poisson_distribution(mean):
    """At evenly spaced quantiles counts are right but where the quantile lies within 1e-4 of a step."""
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    counts = poisson(torch.full_like(u, mean), u).numpy()
    assert (counts == np.round(counts)).all() and counts.min() >= 0
    values, number = np.unique(counts, return_counts=True)
    distance = np.abs(np.cumsum(number) / len(u) - stats.poisson.cdf(values, mean)).max()
    assert distance < 1e-4
    assert counts.mean() == pytest.approx(mean, rel=1e-3) and counts.var() == pytest.approx(mean, rel=2e-3)


def test_no_counts_where_there_is_no_light():
    u = torch.tensor([2.0**-24, 0.5, 1 - 2.0**-24])
    assert poisson(torch.zeros(3, dtype=torch.float64), u).tolist() == [0, 0, 0]
    largest = poisson(torch.full((3,), SMALL, dtype=torch.float64), u)[2]
    assert largest == stats.poisson.ppf(1 - 2.0**-24, SMALL)


def test_drawn_counts_pass_a_chi_square():
    x = torch.full((40, 64, 64), 3e-6)
    seen = Observation("xray", XRay(exposure=1e6, background=0.5), None)(x, torch.arange(40))
    counts = (seen.double() * 1e6 + 0.5).round().numpy().ravel()
    values = np.arange(13)
    wanted = stats.poisson.pmf(values, 3.5) * counts.size
    wanted[-1] = counts.size - wanted[:-1].sum()
    found = np.array([(counts == v).sum() for v in values[:-1]] + [(counts >= 12).sum()])
    assert stats.chisquare(found, wanted).pvalue > 1e-3
    assert seen.mean() == pytest.approx(3e-6, rel=5e-3)


def test_the_psf_comes_before_the_counts():
    """A point source, seen with a wide PSF: neighbouring pixels are independent, with variance equal to the blurred mean."""
    x = torch.zeros(2000, 16, 16)
    x[:, 8, 8] = 1.0
    settings = XRay(psf=0.3, exposure=1000.0)
    seen = Observation("xray", settings, 0.1)(x, torch.arange(2000)).double() * 1000
    mean = 1000 * smooth(x[:1].double(), 3.0)[0]
    chosen = mean > 5
    assert (seen.var(0)[chosen] / mean[chosen]).mean() == pytest.approx(1.0, abs=0.03)
    assert torch.corrcoef(torch.stack([seen[:, 8, 8], seen[:, 8, 9]]))[0, 1].abs() < 0.08


def test_noise_has_its_deviation_and_its_own_draws():
    x, keys = torch.zeros(50, 32, 32), torch.arange(50)
    sz = Observation("sz", Microwave(noise=2.5), None)(x, keys)
    assert sz.std() == pytest.approx(2.5, rel=0.01) and abs(sz.mean()) < 0.05
    y = Observation("compton_y", Microwave(noise=2.5), None)(x, keys)
    for other in (y, 2.5 * diffusion.normal(keys, 0, (32, 32))):
        assert torch.corrcoef(torch.stack([sz.flatten(), other.flatten()]))[0, 1].abs() < 0.02


@pytest.mark.parametrize(
    ("field", "settings"), [("sz", Microwave(beam=0.3, noise=1.0)), ("xray", XRay(psf=0.2, exposure=50.0, background=2.0))]
)
def test_draws_follow_the_key_whatever_the_batch(field, settings):
    x = torch.rand(12, 16, 16, generator=torch.Generator().manual_seed(1))
    keys = diffusion.derive_key(5, torch.arange(12))
    see = Observation(field, settings, 0.1)
    whole = see(x, keys)
    parts = torch.cat([see(x[:5], keys[:5]), see(x[5:], keys[5:])])
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-6)
    assert whole.dtype == torch.float32 and not torch.equal(whole, see(x, keys + 1))


def test_which_inputs_are_observed():
    observe = Observe(sz=Microwave(noise=1.0), xray=XRay(background=3.0))
    assert list(observations(observe, ["sz", "xray", "temperature"], None)) == ["sz"]  # a background without an exposure does nothing
    assert observations(Observe(), ["sz", "xray"], None) == {}
    for observe in (Observe(sz=Microwave(beam=1.0)), Observe(xray=XRay(psf=1.0))):
        with pytest.raises(UserError, match="no common size"):
            observations(observe, ["sz", "xray"], None)


def test_one_observation_a_view():
    a, b = observation_keys(0, np.array([3, 4])), observation_keys(0, np.array([4, 3]))
    assert a.tolist() == b.tolist()[::-1] and a[0] != a[1] and a[0] != observation_keys(1, np.array([3]))[0]


def test_a_map_file_seen_through_its_telescopes(tmp_path):
    make_maps(tmp_path / "maps.h5", halos=12, npix=8)
    maps, rows = MapFile(tmp_path / "maps.h5"), np.array([7, 2, 9])
    settings = Config(observe=Observe(sz=Microwave(beam=0.4, noise=1.0))).resolved("observe")["observe"]
    seen = ObservedMaps(maps, settings, ["sz", "xray"], 0)
    pixel = maps.attributes["pixel_mpc"]
    wanted = Observation("sz", Microwave(beam=0.4, noise=1.0), pixel)(torch.from_numpy(maps.read("sz", rows)), observation_keys(0, rows))
    assert np.array_equal(seen.read("sz", rows), wanted.numpy()) and not np.array_equal(seen.read("sz", rows), maps.read("sz", rows))
    assert np.array_equal(seen.read("sz", rows[1:]), seen.read("sz", rows)[1:])
    assert seen.fingerprint == maps.fingerprint
    for field in ("xray", "gas"):
        assert np.array_equal(seen.read(field, rows), maps.read(field, rows))
    for other in (ObservedMaps(maps, settings, ["xray"], 0), ObservedMaps(maps, {}, ["sz"], 0)):
        assert np.array_equal(other.read("sz", rows), maps.read("sz", rows))
