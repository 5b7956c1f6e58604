"""Random fields, the constrained peak, and the displacements."""

import numpy as np
import pytest

from hpcdiff.cosmology import Background, colossus_cosmology
from hpcdiff.simulate.nbody import growth
from hpcdiff.simulate.nbody.excursion import Peak
from hpcdiff.simulate.nbody.initial import Waves, displaced, power, white, with_peak

SIDE = 40.0


def field(n, seed=3):
    waves = Waves(SIDE, n)
    spectrum = power(Background(), waves)
    return waves, spectrum, white(waves, seed) * np.sqrt(spectrum)


def test_white_noise_is_real_and_of_unit_variance():
    waves = Waves(SIDE, 32)
    modes = white(waves, 1)
    mesh = waves.mesh(modes)
    assert np.mean(mesh**2) == pytest.approx(waves.known().sum() * 2 - waves.known()[:, :, 0].sum(), rel=0.03)
    again = np.fft.rfftn(mesh) / waves.n**3  # only a field whose opposite waves are conjugate comes back
    assert np.abs(again - modes).max() < 1e-6 * np.abs(modes).max()
    other = white(waves, 2)
    assert abs(np.mean((modes * other.conj()).real)) < 0.03 * np.mean(np.abs(modes) ** 2)
    kurtosis = np.mean(mesh**4) / np.mean(mesh**2) ** 2
    assert kurtosis == pytest.approx(3, abs=0.15)


def test_a_finer_mesh_keeps_the_long_waves():
    coarse, fine = field(16)[2], field(32)[2]
    keep = np.r_[0:8, -7:0]
    there = np.ix_(keep, keep, np.arange(8))
    assert np.abs(coarse[there] - fine[there]).max() < 1e-4 * np.abs(coarse).max()
    assert np.abs(coarse[there]).max() > 0


def test_variance_in_spheres_is_that_of_the_spectrum():

    waves = Waves(400.0, 64)
    spectrum = power(Background(), waves)
    x = np.sqrt(waves.k2) * 16 / 0.7
    twice = np.full(33, 2.0)
    twice[[0, -1]] = 1
    variance = np.sum(twice * spectrum * (3 * (np.sin(x) - x * np.cos(x)) / x**3) ** 2)
    assert np.sqrt(variance) == pytest.approx(colossus_cosmology(Background()).sigma(16.0), rel=0.05)


def test_the_peak_is_what_was_asked_for_and_the_rest_stays_random():
    """Height within the sphere; slope and curvature under the Gaussian."""
    waves, spectrum, modes = field(32)
    wanted = Peak(radius=8.0, height=1.9, narrow=3.7, curvature=0.15)
    peak = with_peak(waves, modes, spectrum, wanted)
    x, c = np.sqrt(waves.k2) * wanted.radius, waves.n // 2
    smooth = waves.mesh(peak * 3 * (np.sin(x) - x * np.cos(x)) / x**3)
    assert smooth[c, c, c] == pytest.approx(wanted.height, rel=1e-6)
    gauss = peak * np.exp(-0.5 * waves.k2 * wanted.narrow**2)
    assert waves.mesh(-waves.k2 * gauss)[c, c, c] == pytest.approx(-wanted.curvature, rel=1e-6)
    for axis in range(3):
        assert abs(waves.mesh(1j * waves.k[axis] * gauss)[c, c, c]) < 1e-9
    # the mean field of two realisations differs by their own noise alone: the change lies along the constraints
    change = waves.mesh(peak - modes)
    far = np.linalg.norm(np.indices((32,) * 3) - c, axis=0) > 15
    assert change[~far].std() > 2 * change[far].std()
    assert waves.mesh(peak).std() > 0.7 * waves.mesh(modes).std()
    again = with_peak(waves, peak, spectrum, wanted)  # what is there is not put in twice
    assert np.abs(again - peak).max() < 1e-9 * np.abs(peak).max()


def test_growth_is_that_of_its_differential_equation():

    colossus = colossus_cosmology(Background())
    for a in (0.05, 0.3, 0.7, 1.0):
        assert growth.growth(a, 0.3) == pytest.approx(colossus.growthFactor(1 / a - 1), rel=2e-3)
        slope = np.log(growth.growth(a * 1.001, 0.3) / growth.growth(a / 1.001, 0.3)) / np.log(1.001**2)
        assert growth.rate(a, 0.3) == pytest.approx(slope, rel=1e-4)
    assert growth.growth(0.02, 1.0) == pytest.approx(0.02, rel=1e-6)
    assert growth.drift(0.5, 0.8, 1.0) == pytest.approx(2 * (0.5**-0.5 - 0.8**-0.5), rel=1e-9)
    assert growth.kick(0.5, 0.8, 1.0) == pytest.approx(2 * (0.8**0.5 - 0.5**0.5), rel=1e-9)


def test_displacements_follow_the_density():
    """The density of slightly displaced particles is the linear one, and both lattices sample one field."""
    waves, _, modes = field(16)
    a = 0.02
    x, p = displaced(waves, modes, 0.3, a)
    lattice = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"), -1).reshape(-1, 3) * SIDE / 16
    shift = (x - lattice + SIDE / 2) % SIDE - SIDE / 2
    spread = np.stack([np.fft.rfftn(s.reshape((16,) * 3)) / 16**3 for s in shift.T])
    delta = -1j * sum(k * s for k, s in zip(waves.k, spread, strict=True))
    want = growth.growth(a, 0.3) * modes
    assert np.abs(delta - want)[waves.known()].max() < 0.1 * np.abs(want).max()
    speed = a**2 * growth.efunc(a, 0.3) * growth.rate(a, 0.3)
    assert np.abs(p - speed * shift).max() < 0.1 * np.abs(p).max()
    other, _ = displaced(waves, modes, 0.3, a, offset=1.0)  # one whole cell on: the same particles
    assert np.abs(np.sort(other[:, 0]) - np.sort(x[:, 0])).max() < 1e-6


def test_second_order_of_crossing_waves_has_its_closed_form():
    """For cos(k x) and cos(q y): the second potential is -A B cos(k x) cos(q y) / (k^2 + q^2), and one wave alone has none."""
    waves, D = Waves(SIDE, 16), growth.growth(0.5, 0.3)
    ratio, rate2 = growth.second_order(0.5, 0.3)
    first, second = np.zeros((16, 16, 9), complex), np.zeros((16, 16, 9), complex)
    first[2, 0, 0] = first[-2, 0, 0] = 0.4  # 0.8 cos
    second[0, 3, 0] = second[0, -3, 0] = 0.3
    k, q = 2 * 2 * np.pi / SIDE, 3 * 2 * np.pi / SIDE
    lattice = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"), -1).reshape(-1, 3) * SIDE / 16

    def moved(modes):
        x, p = displaced(waves, modes, 0.3, 0.5)
        return (x - lattice + SIDE / 2) % SIDE - SIDE / 2, p

    x, y = lattice[:, 0], lattice[:, 1]
    linear = np.stack([-0.8 / k * np.sin(k * x), -0.6 / q * np.sin(q * y), 0 * x], 1)
    assert np.abs(moved(first)[0][:, 0] - D * linear[:, 0]).max() < 1e-9
    gradient = np.stack([k * np.sin(k * x) * np.cos(q * y), q * np.cos(k * x) * np.sin(q * y), 0 * x], 1) * 0.8 * 0.6 / (k**2 + q**2)
    shift, p = moved(first + second)
    assert np.abs(shift - D * linear - ratio * D**2 * gradient).max() < 1e-9
    assert ratio == pytest.approx(-3 / 7, rel=0.01) and np.abs(ratio * D**2 * gradient).max() > 0.1
    speed = 0.5**2 * growth.efunc(0.5, 0.3)
    assert np.abs(p - speed * (growth.rate(0.5, 0.3) * D * linear + rate2 * ratio * D**2 * gradient)).max() < 1e-9
