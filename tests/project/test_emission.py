"""Bremsstrahlung, its Gaunt factor, and users' tables of Lambda(T, Z)."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from hpcdiff.cosmology import K_B, KEV_ERG, M_P
from hpcdiff.errors import UserError
from hpcdiff.project.emission import bremsstrahlung, gaunt, hydrogen_fraction, read_cooling

RYDBERG_KEV = 13.605693e-3


def kelvin(kev: float) -> np.ndarray:
    return np.array([kev]) * KEV_ERG / K_B


# van Hoof et al. 2014 and 2015: log10 gamma^2, and the total (frequency-integrated) thermally averaged Gaunt factor of hydrogen with
# relativistic electrons. The temperatures are 1.08, 1.71, 3.4, 5.4, 10.8, 17.1 and 34 keV.
PUBLISHED = {-1.9: 1.22984, -2.1: 1.20686, -2.4: 1.18009, -2.6: 1.16731, -2.9: 1.15629, -3.1: 1.15595, -3.4: 1.17420}


@pytest.mark.parametrize("log_gamma2", PUBLISHED)
def test_the_gaunt_factor_is_that_of_published_tables(log_gamma2):
    t = kelvin(RYDBERG_KEV / 10**log_gamma2)
    assert gaunt(t, 1.0) == pytest.approx(PUBLISHED[log_gamma2], rel=2e-3)


def test_the_gaunt_factor_follows_from_quantum_mechanics():
    """Exact matrix elements in hypergeometric functions (Karzas & Latter 1961, Eq. 17), averaged over energies here, at 2 keV and 100 eV."""
    mp = pytest.importorskip("mpmath")

    def line(ei: float, ef: float) -> float:
        """The Gaunt factor between two energies, eta^2 = Z^2 Ry/E."""
        x = -4 * ei * ef / (ei - ef) ** 2

        def integral(l_: int):
            phase = mp.power(abs(ef - ei) / (ef + ei), 1j * (ei + ef))
            series = mp.re(phase * mp.hyp2f1(l_ + 1 - 1j * ef, l_ + 1 - 1j * ei, 2 * l_ + 2, x))
            size = mp.re(mp.loggamma(l_ + 1 + 1j * ei) + mp.loggamma(l_ + 1 + 1j * ef)) + mp.pi * abs(ei - ef) / 2
            return (-x) ** (l_ + 1) / 4 * mp.exp(size) / mp.gamma(2 * l_ + 2) * series

        i0, i1 = integral(0), integral(1)
        bracket = (ei**2 + ef**2 + 2 * (ei * ef) ** 2) * i0 - 2 * ei * ef * mp.sqrt((1 + ei**2) * (1 + ef**2)) * i1
        return float(2 * mp.sqrt(3) / (mp.pi * ei * ef) * bracket * i0)

    energies, of_energy = np.polynomial.laguerre.laggauss(8)
    nodes, of_node = np.polynomial.legendre.leggauss(10)
    a = (nodes + 1) / 2
    lost, of_lost = a * a * (3 - 2 * a), of_node / 2 * 6 * a * (1 - a)  # the photon's share of the energy, dense at both ends
    for kev, hydrogen in ((2.0, 1.0), (2.0, 0.0), (0.1, 1.0)):
        gamma2 = RYDBERG_KEV / kev * (1 if hydrogen else 4)
        each = np.array([[line(np.sqrt(gamma2 / e), np.sqrt(gamma2 / (e * (1 - p)))) for p in lost] for e in energies])
        expected = (of_energy * energies) @ each @ of_lost
        assert gaunt(kelvin(kev), hydrogen) == pytest.approx(expected, rel=5e-3), (kev, hydrogen)


def test_hydrogen_and_helium_share_the_emission_by_mass():
    t = kelvin(1.5)
    assert gaunt(t, 0.76) == pytest.approx(0.76 * gaunt(t, 1.0) + 0.24 * gaunt(t, 0.0))
    assert hydrogen_fraction(2 / 1.76) == pytest.approx(0.76)


def test_bremsstrahlung_is_equation_6():
    """1.4e-27 g T^1/2 n_e sum z^2 n_i with n_H and n_He of X = 0.76; a fit in place of 1.2 changes g alone."""
    rho, t, x = np.array([1e-27, 3e-26]), np.array([2e7, 1e8]), 0.76
    n_h, n_he = x * rho / M_P, (1 - x) * rho / (4 * M_P)
    n_e, mu_e = n_h + 2 * n_he, 2 / (1 + x)
    expected = 1.4e-27 * np.sqrt(t) * n_e * (n_h + 4 * n_he)
    electrons = np.full(2, 1 / mu_e)
    assert bremsstrahlung(rho, t, electrons, mu_e, 1.2) == pytest.approx(1.2 * expected, rel=1e-9, abs=0)
    assert bremsstrahlung(rho, t, electrons, mu_e, "fit") == pytest.approx(gaunt(t, x) * expected, rel=1e-9, abs=0)


T = np.array([1e5, 1e6, 1e7, 1e8])
Z = np.array([0.0, 0.3, 1.0])
LAMBDA = 1e-23 * (1 + np.arange(12.0).reshape(4, 3) ** 2)


def text_table(path, header=("normalisation: n_e n_H", "metallicity_units: mass_fraction"), z=Z * 0.02, values=LAMBDA, t=T):
    rows = [f"{a!r} {b!r} {values[i, j]!r}" for j, b in enumerate(z.tolist()) for i, a in enumerate(t.tolist())]
    path.write_text("\n".join([*(f"# {line}" for line in header), "", *rows]).replace("np.float64(", "").replace(")", "") + "\n")
    return str(path)


def test_a_table_is_exact_at_its_nodes_and_bilinear_between(tmp_path):
    table = read_cooling(text_table(tmp_path / "a.txt"))
    t, z = np.repeat(T, 3), np.tile(Z * 0.02, 4)
    assert table(t, z) == pytest.approx(LAMBDA.ravel(), rel=1e-12, abs=0)
    assert table(np.array([10**6.5]), np.array([0.003])) == pytest.approx(LAMBDA[1:3, :2].mean(), rel=1e-9, abs=0)
    assert table(np.array([10**7.25]), np.array([0.02])) == pytest.approx(0.75 * LAMBDA[2, 2] + 0.25 * LAMBDA[3, 2], rel=1e-9, abs=0)


def test_beyond_a_table(tmp_path):
    """Colder gas is dark; hotter gas and other metallicities have the value at the edge."""
    table = read_cooling(text_table(tmp_path / "a.txt"))
    got = table(np.array([9e4, 0.0, 1e9, 1e7, 1e7]), np.array([0.0, 0.0, 0.0, -0.1, 0.9]))
    assert got == pytest.approx([0, 0, LAMBDA[3, 0], LAMBDA[2, 0], LAMBDA[2, 2]], rel=1e-9, abs=0)


def test_text_and_hdf5_tables_are_the_same_in_solar_units_too(tmp_path):
    header = ("normalisation: n_H n_H", "metallicity_units: solar", "solar_metallicity: 0.0134")
    text = read_cooling(text_table(tmp_path / "a.txt", header, Z))
    with h5py.File(tmp_path / "a.h5", "w") as f:
        f["temperature"], f["metallicity"], f["lambda"] = T[::-1], Z, LAMBDA[::-1]
        f.attrs.update(normalisation="n_H n_H", metallicity_units="solar", solar_metallicity=0.0134)
    binary = read_cooling(str(tmp_path / "a.h5"))
    for table in (text, binary):
        assert table(np.array([1e7]), np.array([0.3 * 0.0134])) == pytest.approx(LAMBDA[2, 1], rel=1e-9, abs=0)
    assert text.sha256 != binary.sha256 and len(text.sha256) == 64


@pytest.mark.parametrize(("norm", "other"), [("n_e n_H", 0.88), ("n_H n_H", 2 / 1.13 - 1)])
def test_emissivity_has_the_normalisation_of_the_table(tmp_path, norm, other):
    table = read_cooling(
        text_table(tmp_path / "a.txt", (f"normalisation: {norm}", "metallicity_units: mass_fraction"), Z[:1], LAMBDA[:, :1])
    )
    rho = np.array([3e-27])
    got = table.emissivity(rho, np.array([1e7]), np.array([0.88]), None, 1.13)
    assert got == pytest.approx((2 / 1.13 - 1) * other * (rho / M_P) ** 2 * LAMBDA[2, 0], rel=1e-9, abs=0)


FAULTS = {
    "no normalisation": (("metallicity_units: solar", "solar_metallicity: 0.02"), {}, "normalisation"),
    "other normalisation": (("normalisation: n_e n_e", "metallicity_units: solar"), {}, "n_e n_H"),
    "no unit": (("normalisation: n_e n_H",), {}, "metallicity_units"),
    "no sun": (("normalisation: n_e n_H", "metallicity_units: solar"), {}, "solar_metallicity"),
    "log t": (None, {"t": np.log10(T)}, "not its logarithm"),
    "log lambda": (None, {"values": np.log10(LAMBDA)}, "not its logarithm"),
    "metals": (None, {"z": Z * 60}, "metallicities"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_guessed_of_a_table(tmp_path, fault):
    header, keys, word = FAULTS[fault]
    path = text_table(tmp_path / "a.txt", **({"header": header} if header else {}), **keys)
    with pytest.raises(UserError, match=word) as error:
        read_cooling(path)
    assert "a.txt" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "# normalisation: n_e n_H\n1 2\n", "1 2 x\n", "1e6 0 1e-23\n1e7 0 1e-23\n1e7 0.1 1e-23\n"])
def test_a_damaged_table_is_one_line(tmp_path, text):
    (tmp_path / "b.txt").write_text(text)
    for path in ("b.txt", "none.txt", "."):
        with pytest.raises(UserError, match="cannot read project.cooling"):
            read_cooling(str(tmp_path / path))
