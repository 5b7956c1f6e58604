"""How brightly hot gas shines: thermal bremsstrahlung with its Gaunt factor, or a table of Lambda(T, Z)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np

from hpcdiff.cosmology import K_B, KEV_ERG, M_P
from hpcdiff.errors import UserError
from hpcdiff.scout import refuse_crashing

BREMSSTRAHLUNG = 1.4e-27
"""Constant of Hsu et al. (2025), Eq. 6, erg cm^3/s/K^0.5; rounded there, 1.4255e-27 to more digits."""
RYDBERG_ERG = 13.605693e-3 * KEV_ERG
"""Rydberg energy, erg."""
LOG_GAMMA2 = np.linspace(-5.0, 2.0, 36)
"""Nodes in log10 of gamma^2 = Z^2 Ry/kT."""
GAUNT = (
    *(1.1064, 1.1074, 1.1086, 1.1102, 1.1121, 1.1146, 1.1177, 1.1216, 1.1265, 1.1327, 1.1405, 1.1502),
    *(1.1622, 1.1771, 1.1952, 1.2169, 1.2424, 1.2716, 1.3038, 1.3376, 1.3709, 1.4007, 1.4241, 1.4381),
    *(1.4410, 1.4325, 1.4142, 1.3886, 1.3586, 1.3269, 1.2953, 1.2649, 1.2365, 1.2103, 1.1863, 1.1646),
)
"""Gaunt factor of Karzas & Latter (1961), averaged over a thermal spectrum and over frequency, at the nodes."""
RELATIVISTIC = (6.7692, 4.6222, 3.1862, 2.2778, 1.7402, 1.4430, 1.2879, 1.2107, 1.1742, 1.1589, 1.1553, 1.1588, 1.1673, 1.1801, 1.1969)
"""The same for hydrogen with relativistic electrons (van Hoof et al. 2015) at the first nodes; from the next on they agree within 0.1 %."""
NORMALISATIONS = ("n_e n_H", "n_H n_H")


def gaunt(temperature: np.ndarray, hydrogen: float) -> np.ndarray:
    """Gaunt factor of the bolometric free-free emission of ionised hydrogen and helium.

    sum_i z_i^2 n_i g(z_i^2 Ry/kT) over sum_i z_i^2 n_i, where hydrogen and helium have the shares X and 1 - X of the sum.
    The relativistic correction of hydrogen is used for both. Collisions between electrons are left out.

    Args:
        temperature: (n,), K; below 1.6e3 and above 1.6e10 the ends of the tables hold.
        hydrogen: X, hydrogen's share of the mass.
    """
    log_gamma2 = np.log10(RYDBERG_ERG / (K_B * np.asarray(temperature, np.float64)))
    excess = np.log(np.divide(RELATIVISTIC, GAUNT[: len(RELATIVISTIC)]))
    relativistic = np.exp(np.interp(log_gamma2, LOG_GAMMA2[: len(excess) + 1], [*excess, 0.0]))
    of_hydrogen, of_helium = (np.interp(log_gamma2 + shift, LOG_GAMMA2, GAUNT) for shift in (0.0, np.log10(4.0)))
    return (hydrogen * of_hydrogen + (1 - hydrogen) * of_helium) * relativistic


def bremsstrahlung(density: np.ndarray, temperature: np.ndarray, electrons: np.ndarray, mu_e: float, factor: float | str) -> np.ndarray:
    """Bolometric emissivity of Eq. 6, 1.4e-27 g_ff T^0.5 n_e sum z^2 n_i, erg/s/cm^3; sum z^2 n_i = mu_e n_e.

    Args:
        density: (n,), g/cm^3. temperature: (n,), K. electrons: (n,), electrons a proton mass.
        mu_e: mean molecular weight per electron of the fully ionised gas, 2/(1 + X).
        factor: g_ff, or "fit" (`gaunt`).
    """
    n_e = density * electrons / M_P
    g = gaunt(temperature, hydrogen_fraction(mu_e)) if factor == "fit" else factor
    return BREMSSTRAHLUNG * g * np.sqrt(temperature) * n_e * mu_e * n_e


def hydrogen_fraction(mu_e: float) -> float:
    """X of ionised hydrogen and helium with a mean molecular weight per electron of mu_e = 2/(1 + X)."""
    return min(max(2 / mu_e - 1, 0.0), 1.0)


@dataclass(frozen=True)
class Cooling:
    """A user's table of Lambda(T, Z).

    Attributes:
        log_t: float64 (n,), log10 of T in K, growing.
        metals: float64 (m,), mass fraction of metals, growing; m = 1 holds for gas of any metallicity.
        values: float64 (n, m), erg cm^3/s.
        hydrogen_squared: whether the emissivity is n_H^2 Lambda rather than n_e n_H Lambda.
        sha256: of the file.
    """

    log_t: np.ndarray
    metals: np.ndarray
    values: np.ndarray
    hydrogen_squared: bool
    sha256: str

    def __call__(self, temperature: np.ndarray, metallicity: np.ndarray | None = None) -> np.ndarray:
        """Lambda in erg cm^3/s, bilinear in log T and Z.

        Gas colder than the table shines not at all; hotter gas, and gas with more or fewer metals, has the value at the
        table's edge.

        Args:
            temperature: (n,), K. metallicity: (n,), mass fraction of metals; only for a table of several.
        """
        log_t = np.log10(np.maximum(temperature, 1e-30))
        i, f = _place(log_t, self.log_t)
        if len(self.metals) == 1:
            found = (1 - f) * self.values[i, 0] + f * self.values[i + 1, 0]
        else:
            j, g = _place(metallicity, self.metals)
            low = (1 - f) * self.values[i, j] + f * self.values[i + 1, j]
            found = (1 - g) * low + g * ((1 - f) * self.values[i, j + 1] + f * self.values[i + 1, j + 1])
        return np.where(log_t < self.log_t[0], 0.0, found)

    def emissivity(self, density: np.ndarray, temperature: np.ndarray, electrons: np.ndarray, metallicity, mu_e: float) -> np.ndarray:
        """n_e n_H Lambda or n_H^2 Lambda, erg/s/cm^3, with n_H = X rho/m_p and X = 2/mu_e - 1; arguments as `bremsstrahlung`."""
        n_h = hydrogen_fraction(mu_e) * density / M_P
        other = n_h if self.hydrogen_squared else density * electrons / M_P
        return n_h * other * self(temperature, metallicity)


def _place(x: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The interval of each x, and where in it, 0 to 1; the ends hold outside."""
    x = np.clip(x, nodes[0], nodes[-1])
    i = np.clip(np.searchsorted(nodes, x, "right") - 1, 0, len(nodes) - 2)
    return i, (x - nodes[i]) / (nodes[i + 1] - nodes[i])


@lru_cache(maxsize=4)
def read_cooling(path: str) -> Cooling:
    """Read a table of Lambda(T, Z); `docs/cooling.md` says the same to users.

    HDF5: datasets `temperature` (n,) in K, `metallicity` (m,) and `lambda` (n, m) in erg cm^3/s, and root attributes
    `normalisation` ("n_e n_H" or "n_H n_H"), `metallicity_units` ("mass_fraction" or "solar") and, with "solar",
    `solar_metallicity` (the Sun's mass fraction of metals). Text: the attributes as lines `# name: value`, then rows of
    T, Z, Lambda for every T with every Z, in any order. Nothing is guessed: what is missing is asked for.

    Raises:
        UserError: not there, not readable, or numbers that make no such table.
    """
    where = Path(path)
    try:
        content = where.read_bytes()
        about, t, z, values = _read_hdf5(where) if h5py.is_hdf5(where) else _read_text(content.decode())
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            "cannot read project.cooling as a table of T, Z, Lambda", where, f"{error}; docs/cooling.md has the layout"
        ) from None
    unit, norm = about.get("metallicity_units"), " ".join(str(about.get("normalisation", "")).split())
    if norm not in NORMALISATIONS:
        raise UserError(f"normalisation of the cooling table is {norm or 'missing'}", where, f"say one of {', '.join(NORMALISATIONS)}")
    if unit not in ("mass_fraction", "solar"):
        raise UserError(f"metallicity_units of the cooling table are {unit or 'missing'}", where, "say mass_fraction or solar")
    try:
        sun = float(about["solar_metallicity"]) if unit == "solar" else 1.0
    except (KeyError, TypeError, ValueError):
        raise UserError("the cooling table has no solar_metallicity", where, "say the Sun's mass fraction of metals") from None
    if not 1e6 < t.max(initial=0) < 1e12 or not t.min() > 0 or len(t) < 2:
        raise UserError("the temperatures of the cooling table are no K of hot gas", where, "give K, not its logarithm, to above 1e6")
    if not (np.isfinite(values).all() and values.min() >= 0 and 0 < values.max() < 1e-12):
        raise UserError("Lambda of the cooling table is out of range", where, "give erg cm^3/s, not its logarithm, at least 0")
    if not (z.min() >= 0 and sun > 0 and z.max() * sun <= 1):
        raise UserError("the metallicities of the cooling table are out of range", where, f"give {unit}, at least 0")
    return Cooling(np.log10(t), z * sun, values, norm == NORMALISATIONS[1], hashlib.sha256(content).hexdigest())


def _read_hdf5(path: Path) -> tuple[dict, np.ndarray, np.ndarray, np.ndarray]:
    refuse_crashing(path, "cooling table")
    with h5py.File(path) as f:
        about = {k: v.decode() if isinstance(v, bytes) else v for k, v in f.attrs.items()}
        t, z, values = (np.asarray(f[name][()], np.float64) for name in ("temperature", "metallicity", "lambda"))
    z = np.atleast_1d(z)
    values = values[:, None] if values.ndim == 1 else values
    if t.ndim != 1 or z.ndim != 1 or values.shape != (len(t), len(z)):
        raise ValueError(f"shapes do not agree: temperature {t.shape}, metallicity {z.shape}, lambda {values.shape}")
    rows, columns = np.argsort(t), np.argsort(z)
    t, z = t[rows], z[columns]
    if (np.diff(t) <= 0).any() or (np.diff(z) <= 0).any():
        raise ValueError("a temperature or metallicity stands there twice")
    return about, t, z, values[rows][:, columns]


def _read_text(text: str) -> tuple[dict, np.ndarray, np.ndarray, np.ndarray]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    headers = [line.lstrip("# ").partition(":") for line in lines if line.startswith("#")]
    rows = np.array([[float(x) for x in line.replace(",", " ").split()] for line in lines if not line.startswith("#")])
    if rows.ndim != 2 or rows.shape[1] != 3:
        raise ValueError("give three columns: T, Z, Lambda")
    (t, i), (z, j) = (np.unique(rows[:, column], return_inverse=True) for column in (0, 1))
    values = np.full((len(t), len(z)), np.nan)
    values[i, j] = rows[:, 2]
    if len(rows) != values.size or np.isnan(values).any():
        raise ValueError(f"{len(rows)} rows are not every one of {len(t)} temperatures with every one of {len(z)} metallicities, once")
    return {name.strip(): value.strip() for name, _, value in headers}, t, z, values
