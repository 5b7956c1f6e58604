"""What is measured of one view: spectra on half the plane, observables, references, structure."""

import numpy as np
import pytest

from hpcdiff import measures
from hpcdiff.evaluate import morphology
from hpcdiff.evaluate.observables import Observables
from hpcdiff.evaluate.reference import BANDS, RINGS, Reference, Summaries
from hpcdiff.evaluate.spectra import HalfModes
from hpcdiff.structure import Structure


@pytest.mark.parametrize("npix", [8, 15, 32, 33])
def test_half_the_plane_gives_the_power_of_the_whole(npix):
    a, b = np.random.default_rng(0).standard_normal((2, 3, npix, npix))
    rings, half = measures.mode_rings(npix), HalfModes(npix)
    assert half.n == rings.n and half.counts == pytest.approx(rings.counts) and half.radius == pytest.approx(rings.radius)
    whole = measures.power(np.fft.fft2(a), np.fft.fft2(b), rings)
    assert half.power(half.transform(a), half.transform(b)) == pytest.approx(whole, rel=1e-10, abs=1e-10)


def halo(npix=64, width=12.8, at=(0.0, 0.0), lump=None):
    x = (np.arange(npix) - (npix - 1) / 2) * width / npix
    image = 100 * (1 + ((x[:, None] - at[0]) ** 2 + (x[None, :] - at[1]) ** 2) / 0.4**2) ** -1.2
    if lump:
        image += 4 * np.exp(-((x[:, None] - lump[0]) ** 2 + (x[None, :] - lump[1]) ** 2) / (2 * 0.25**2))
    return image


def test_observables_are_apertures_and_the_offset_of_the_peak():
    sz, xray = halo(at=(0.4, 0.0)), halo() ** 2
    got = Observables(64, ["xray", "sz"], Structure(64, 0.7, 0.3, 0.045))(np.stack([xray, sz]), 12.8, 12.8, 0.0)
    x = (np.arange(64) - 31.5) * 0.2
    inside = np.hypot(x[:, None], x[None]) <= 1.0
    assert got["sz"] == pytest.approx(sz[inside].sum() * 0.04) and got["xray"] == pytest.approx(xray[inside].sum() * 0.04)
    assert got["offset_mpc"] == pytest.approx(0.4, abs=0.1)  # of the SZ peak, wherever sz stands among the inputs
    tiny = Observables(4, ["sz"], Structure(4, 0.7, 0.3, 0.045))  # pixels of 3.2 Mpc: the aperture is one pixel then, not nothing
    assert tiny(np.ones((1, 4, 4)), 12.8, 12.8, 0.0)["sz"] == pytest.approx(4 * 3.2**2)


def test_summaries_are_means_of_rings():
    image = np.random.default_rng(1).lognormal(size=(2, 32, 32))
    of = Summaries(measures.pixel_rings(32), HalfModes(32)).of_maps(image)
    assert of["profile"].shape == (2, RINGS) and of["band_powers"].shape == (2, BANDS)
    assert of["mass"][:, 0] == pytest.approx(image.sum((1, 2)))
    x = np.arange(32) - 15.5
    r = np.hypot(x[:, None], x[None])
    assert of["profile"][:, 0] == pytest.approx(image[:, r < 1].mean(1))
    modes = np.abs(np.fft.fft2(image)) ** 2
    n = np.fft.fftfreq(32, 1 / 32)
    first = np.hypot(n[:, None], n[None]).astype(int) == 1
    assert of["band_powers"][:, 0] == pytest.approx(np.log(modes[:, first].mean(1)))


class FakeMaps:
    """Maps of round halos: the training split has masses of scatter 0.2 about 10 times the input's."""

    def __init__(self, n=200, halos=None):
        rng = np.random.default_rng(3)
        self.x = rng.lognormal(0, 0.5, n)[:, None, None] * halo(16)
        self.y = 10 * self.x * (1 + 0.2 * rng.standard_normal(n))[:, None, None]
        self.catalog = {"halo_id": np.arange(n) if halos is None else halos}

    def rows(self, part):
        return np.arange(len(self.x))

    def read(self, field, rows):
        return {"sz": self.x, "dm": self.y}[field][rows]


class FakeBaselines:
    """A guide that is 30 % too low."""

    inputs, outputs, names, reason = ["sz"], ["dm"], ("wiener",), None

    def predict(self, x, row, names=None):
        return {"wiener": 7 * x}


def test_references_lie_about_the_truth_as_training_says():
    """The guide's bias is taken out and its scatter put in; and what the truth is has no part in it."""
    from hpcdiff.world import World

    summaries = Summaries(measures.pixel_rings(16), HalfModes(16))
    reference = Reference(World(), FakeMaps(), FakeBaselines(), summaries)
    assert reference.guide == "wiener"
    assert reference.mean[0, "mass"] == pytest.approx(10 / 7 - 1, abs=0.08)
    assert reference.spread[0, "mass"] == pytest.approx(0.2 * 10 / 7, rel=0.25)
    assert reference.spread[0, "band_powers"] == pytest.approx(
        2 * np.std(np.log(1 + 0.2 * np.random.default_rng(0).normal(size=999))), rel=0.3
    )
    image = FakeMaps().x[0]
    guess = {k: v[0] for k, v in summaries.of_maps(7 * image[None]).items()}
    samples = summaries.of_maps(image * 10 * (1 + 0.2 * np.linspace(-1, 1, 10))[:, None, None])
    truth = {k: v[0] for k, v in summaries.of_maps(10 * image[None]).items()}
    far = {k: v[0] for k, v in summaries.of_maps(40 * image[None]).items()}
    middle = np.mean([reference.ranks(0, truth, guess, samples, np.random.default_rng(n))["mass"] for n in range(200)])
    assert 2 < middle < 6
    above = summaries.of_maps(np.repeat(12 * image[None], 10, 0))  # one deviation above: further from the reference than the truth is
    beyond = np.mean([reference.ranks(0, truth, guess, above, np.random.default_rng(n))["mass"] for n in range(400)])
    assert 1.8 < beyond < 4.5  # in P(z < 1/2) = 0.69 of the draws; nearly always if the guide's bias were left in
    assert all(r == 10 for r in reference.ranks(0, far, guess, samples, np.random.default_rng(0)).values())
    few = Reference(World(), FakeMaps(30, np.repeat([1, 2, 3], 10)), FakeBaselines(), summaries)
    assert few.guide is None and "3 halos" in few.reason


def test_structure_rows_of_a_view():
    structure, place = Structure(64, 0.7, 0.3, 0.045), (12.8, 12.8, 0.0, 3.0)
    truth = halo(lump=(1.6, 0.6))
    samples = np.stack([halo(lump=(1.6, 0.6)), halo(), halo(lump=(-1.5, -1.5)), halo()]) * np.array([0.9, 1.1, 1.2, 1.3])[:, None, None]
    got = morphology.measure(structure, "dm", truth, samples.mean(0), samples, place, np.random.default_rng(0))
    of = structure.measure("dm", np.concatenate([truth[None], samples]), 12.8, 12.8, 0.0)
    for name in morphology.QUANTITIES:
        assert got[f"structure/{name}/truth"] == of[name][0]
        assert got[f"structure/{name}/samples"] == pytest.approx(of[name][1:].mean())
    assert got["structure/m500c/rank"] == (of["m500c"][1:] < of["m500c"][0]).sum()
    assert got["peaks/truth"] == 1
    assert got["peaks/completeness_per_sample"] == pytest.approx(0.25)  # one of four shows it
    assert got["peaks/purity_per_sample"] == pytest.approx(0.5)  # of the two that show a peak, one
    seen = structure.match(structure.clumps(truth, 12.8, 3.0), structure.clumps(samples.mean(0), 12.8, 3.0), 0.6)
    assert got["peaks/completeness"] == seen[0] == 0  # a lump of one sample in four drowns in the mean
    flat = morphology.measure(structure, "dm", np.ones((64, 64)), samples.mean(0), samples, place, np.random.default_rng(0))
    assert np.isnan(flat["structure/m500c/rank"]) or np.isfinite(flat["structure/m500c/truth"])
    assert np.isnan(flat["peaks/completeness"])
