"""Physical constants (CGS and the units of maps), and a flat LambdaCDM background.

Units of the package: lengths in Mpc, masses in Msun, temperatures in K, unless a name says otherwise.
Constants: CODATA 2018 and IAU 2015 values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MPC_CM = 3.0856775814913673e24
"""Megaparsec in cm."""
MSUN_G = 1.988409870698051e33
"""Solar mass in g."""
G_CGS = 6.6743e-8
"""Gravitational constant, cm^3/g/s^2."""
G_MPC = G_CGS * MSUN_G / MPC_CM / 1e10
"""Gravitational constant, Mpc/Msun (km/s)^2."""
K_B = 1.380649e-16
"""Boltzmann constant, erg/K."""
M_P = 1.67262192369e-24
"""Proton mass, g."""
SIGMA_T = 6.6524587321e-25
"""Thomson cross-section, cm^2."""
M_E_C2 = 8.1871057769e-7
"""Electron rest energy, erg."""
KEV_ERG = 1.602176634e-9
"""Kiloelectronvolt in erg."""
RHO_CRIT_H2 = 3.0 * 1e4 / (8.0 * np.pi * G_MPC)
"""Critical density today over h^2, Msun/Mpc^3 (2.775e11)."""


@dataclass(frozen=True)
class Background:
    """Flat LambdaCDM background.

    Attributes:
        Om0, Ob0: matter and baryon density today over the critical one.
        h: Hubble constant over 100 km/s/Mpc.
        sigma8, ns, Tcmb0: fluctuation amplitude, spectral slope, CMB temperature in K.
    """

    Om0: float = 0.3
    Ob0: float = 0.045
    h: float = 0.7
    sigma8: float = 0.8
    ns: float = 0.96
    Tcmb0: float = 2.7255

    def efunc(self, z: float = 0.0) -> float:
        """H(z)/H0."""
        return float(np.sqrt(self.Om0 * (1 + z) ** 3 + 1 - self.Om0))

    def rho_crit(self, z: float = 0.0) -> float:
        """Critical density at redshift z, physical Msun/Mpc^3."""
        return RHO_CRIT_H2 * self.h**2 * self.efunc(z) ** 2

    def rho_mean(self, z: float = 0.0, component: str = "total") -> float:
        """Mean density at redshift z, physical Msun/Mpc^3, of `total`, `gas` (all baryons) or `dm` (Omega_m - Omega_b)."""
        omega = {"total": self.Om0, "gas": self.Ob0, "dm": self.Om0 - self.Ob0}[component]
        return RHO_CRIT_H2 * self.h**2 * omega * (1 + z) ** 3

    def radius(self, mass: np.ndarray, overdensity: float = 200.0, of: str = "mean", z: float = 0.0) -> np.ndarray:
        """Spherical-overdensity radius, physical Mpc, of a mass in Msun; `of` is `mean` or `crit`."""
        rho = self.rho_mean(z) if of == "mean" else self.rho_crit(z)
        return np.cbrt(3 * np.asarray(mass, float) / (4 * np.pi * overdensity * rho))

    def mass(self, radius: np.ndarray, overdensity: float = 200.0, of: str = "mean", z: float = 0.0) -> np.ndarray:
        """Spherical-overdensity mass, Msun, of a physical radius in Mpc; the inverse of `radius`."""
        rho = self.rho_mean(z) if of == "mean" else self.rho_crit(z)
        return 4 * np.pi / 3 * overdensity * rho * np.asarray(radius, float) ** 3


def colossus_cosmology(background: Background):
    """Tell colossus the cosmology, and return its own object; nothing is kept on disk.

    Left to itself, colossus keeps tables of its concentrations as pickles in the home folder, which all ranks then read and write at once.
    """
    from colossus.cosmology import cosmology
    from colossus.halo import concentration
    from colossus.utils.storage import StorageUser

    if concentration.storageUser is None:
        concentration.storageUser = StorageUser("halo.concentration", "", lambda: "concentration", lambda: "concentration", None)
    b = background
    baryons = max(b.Ob0, 1e-6)  # the transfer function has none for 0, and this is its limit
    numbers = {"H0": 100 * b.h, "Om0": b.Om0, "Ob0": baryons, "sigma8": b.sigma8, "ns": b.ns, "Tcmb0": b.Tcmb0}
    return cosmology.setCosmology("hpcdiff", {"flat": True, "relspecies": False, "persistence": "", **numbers})
