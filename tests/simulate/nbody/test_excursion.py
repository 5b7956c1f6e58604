"""Excursion set peaks: moments, number of halos, and what a drawn peak is like."""

import numpy as np
import pytest

from hpcdiff.cosmology import Background, colossus_cosmology
from hpcdiff.simulate.nbody import excursion
from hpcdiff.simulate.nbody.excursion import COLLAPSE, Excursion, peaks_of

B = Background()


@pytest.fixture(scope="module")
def of():
    return Excursion(B)


def radius_of(mass):
    return float(np.cbrt(3 * mass / (4 * np.pi * B.rho_mean())))


def test_number_of_maxima_s_weight():
    """Bardeen et al. 1986: F falls as x^8 to 0 and grows as x^3 - 3x; it is the mean of what a Gaussian Hessian gives."""
    far = np.array([8.0, 12.0])
    assert peaks_of(far) == pytest.approx(far**3 - 3 * far, rel=1e-6)
    assert peaks_of(np.array([-1.0, 0.0])).tolist() == [0, 0]
    assert peaks_of(np.array([0.4]))[0] / peaks_of(np.array([0.2]))[0] == pytest.approx(2**8, rel=0.1)
    # a Hessian of unit trace variance has <a_ii a_jj> = 1/5 or 1/15; at a given trace what is left of it is random
    rng, n, x = np.random.default_rng(0), 400_000, 2.0
    hessian = rng.normal(size=(n, 3, 3)) / np.sqrt(15)
    hessian = np.where(np.eye(3, dtype=bool), hessian * np.sqrt(2), 0) + np.where(np.triu(np.ones((3, 3)), 1) > 0, hessian, 0)
    hessian = np.triu(hessian) + np.triu(hessian, 1).transpose(0, 2, 1)
    hessian += np.eye(3) * ((x - np.trace(hessian, axis1=1, axis2=2)) / 3)[:, None, None]
    values = np.linalg.eigvalsh(hessian)
    weight = np.where(values[:, 0] > 0, np.abs(values.prod(axis=1)), 0)
    assert 27 * weight.mean() == pytest.approx(float(peaks_of(np.array([x]))[0]), rel=0.02)


def test_moments_are_those_of_the_spectrum(of):
    cosmology = colossus_cosmology(B)
    for mass in (1e14, 1e15):
        radius = radius_of(mass)
        found = of.moments(radius)
        assert found.sigma0 == pytest.approx(cosmology.sigma(radius * B.h), rel=2e-3)
        laplacian = cosmology.sigma(found.narrow * B.h, filt="gaussian", j=2) * B.h**2
        assert found.sigma2 == pytest.approx(laplacian, rel=5e-3)
        assert 0.4 < found.narrow / radius < 0.5 and 0.5 < found.gamma < 1


@pytest.mark.parametrize("mass", [1e13, 1e14, 4e14, 1e15, 2e15])
def test_as_many_halos_as_are_found(of, mass):
    """Tinker et al. 2008, in M200m, within 10 %; nothing was fitted to it."""
    from colossus.lss import mass_function

    colossus_cosmology(B)
    radii = [radius_of(f * mass) for f in (0.99, 1.01)]
    slope = np.log(of.moments(radii[0]).sigma0 / of.moments(radii[1]).sigma0) / np.log(1.01 / 0.99)
    number = B.rho_mean() / mass * of.multiplicity(radius_of(mass)) * slope
    published = mass_function.massFunction(mass * B.h, 0.0, mdef="200m", model="tinker08", q_out="dndlnM") * B.h**3
    assert number == pytest.approx(published, rel=0.1)


def test_drawn_peaks_are_those_of_the_density(of):
    """Quantiles give back the mean of what the joint density says; all are peaks, above the collapse of a sphere, and fall as the sphere grows."""
    radius, n = radius_of(1.5e14), 24
    m = of.moments(radius)
    u, v = ((np.indices((n, n)) + 0.5) / n).reshape(2, -1)
    drawn = [of.peak(radius, *q) for q in zip(u, v, strict=True)]
    beta = (np.array([p.height for p in drawn]) - COLLAPSE) / m.sigma0
    x = np.array([p.curvature for p in drawn]) / m.sigma2
    each, curve, part = of._joint(m)
    each, curve, part = np.sqrt(each[1:] * each[:-1]), 0.5 * (curve[1:] + curve[:-1]), part / part.sum()
    assert beta.mean() == pytest.approx(part.sum(axis=1) @ each, rel=0.02)
    assert x.mean() == pytest.approx(part.sum(axis=0) @ curve, rel=0.01)
    assert x.std() == pytest.approx(np.sqrt(part.sum(axis=0) @ (curve - x.mean()) ** 2), rel=0.05)
    assert (beta > 0).all() and (x > m.gamma * beta).all()
    assert x.mean() == pytest.approx(2.7, abs=0.15) and x.std() == pytest.approx(0.6, abs=0.1)
    without = m.gamma * COLLAPSE / m.sigma0
    assert x.mean() > without + 1  # far more than that of a peak that is given its overdensity alone
    assert {p.radius for p in drawn} == {radius} and {p.narrow for p in drawn} == {m.narrow}


def test_peaks_change_smoothly_with_their_sphere(of):
    """The search for a sphere needs it: the same quantiles, a little larger, is nearly the same peak."""
    heights, curvatures = np.array([(p.height, p.curvature) for p in (of.peak(r, 0.3, 0.8) for r in np.linspace(9, 18, 40))]).T
    for values in (heights, curvatures):
        assert (np.diff(values) < 0).all() and (np.abs(np.diff(values, 2)) < 0.2 * np.abs(np.diff(values)[1:])).all()


def test_window_of_a_sphere_at_small_and_large_arguments():
    x = np.array([0.0, 1e-3, 9.99e-3, 1.001e-2, 4.4934094579])
    assert excursion.top_hat(x) == pytest.approx([1, 1 - 1e-7, 1 - 0.998e-5, 1 - 1.002e-5, 0], abs=2e-8)
