"""A round NFW halo whose mass is read off the SZ signal: what is known without any map but the first.

ln M200m is a line in ln(aperture signal), fitted on the training views; the concentration is the median one of that mass
(Diemer & Joyce 2019); the projected profile is cut at the map's depth. An output's map is amplitude * profile + background, both
fitted on the training views: for gas the amplitude is the baryon fraction over the cosmic one.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from hpcdiff.cosmology import Background, colossus_cosmology
from hpcdiff.evaluate.baselines.training import solve
from hpcdiff.evaluate.inputs import depth_of
from hpcdiff.maps import MEAN_OF
from hpcdiff.measures import Rings
from hpcdiff.structure import slab
from hpcdiff.structure.nodes import Nodes

MASSES = np.geomspace(1e12, 1e16, 40)
"""M200m of the table of concentrations, Msun."""


class NFW:
    """Round NFW halos.

    Args:
        pixels: rings of the whole map. background: cosmology of the maps. outputs: fields, all densities over a mean one.
        catalog: columns of the map file. signal: (n,), aperture signal of the training views `rows`.
    Attributes:
        slope, intercept: of ln M200m (Msun) against ln(signal). amplitude: float64 (O, 2), of the profile, and the background.
    """

    def __init__(
        self, pixels: Rings, background: Background, outputs: list[str], catalog: dict, rows: np.ndarray, signal: np.ndarray
    ) -> None:
        self.pixels, self.background, self.catalog = pixels, background, catalog
        self.depth = [depth_of(catalog, field) for field in outputs]
        self.nodes = Nodes.of(pixels.npix, pixels.n)
        self.least = signal[signal > 0].min()  # an aperture may hold less than nothing once there is noise
        log_s, log_m = np.log(np.maximum(signal, self.least)), np.log(catalog["mass_200m"][rows])
        d = log_s - log_s.mean()
        spread = (d * d).sum()
        self.slope = float((d * log_m).sum() / spread) if spread > 0 else 0.0
        self.intercept = float(log_m.mean() - self.slope * log_s.mean())

    @staticmethod
    def refused(outputs: list[str], catalog: dict, rows: np.ndarray, signal: np.ndarray) -> str | None:
        """Why there can be no such baseline, or None."""
        if other := [f for f in outputs if f not in MEAN_OF]:
            return f"{other[0]} is no density"
        mass = catalog["mass_200m"][rows]
        if not (np.isfinite(mass) & (mass > 0)).all():
            return "the catalogue has no masses"
        return None if (signal > 0).any() else "no training view has a signal"

    def mass(self, signal: float) -> float:
        """M200m, Msun, of an aperture signal."""
        return float(np.exp(self.intercept + self.slope * np.log(max(signal, self.least))))

    def _shape(self, row: int, signal: float) -> np.ndarray:
        """Ring means of the projected halo over the mean column of matter, for each output's depth, (O, rings)."""
        z, width = float(self.catalog["redshift"][row]), float(self.catalog["width_mpc"][row])
        mass, b = self.mass(signal), self.background
        c = float(np.exp(np.interp(np.log(mass), np.log(MASSES), _concentrations(b, round(z, 3)))))
        r_s = float(b.radius(mass, 200, "mean", z)) / c
        rho_s = mass / (4 * np.pi * r_s**3 * slab.nfw_mass(c))
        x = self.nodes.radius * (width / self.pixels.npix / r_s)
        made: dict[float, np.ndarray] = {}
        for depth in (float(d[row]) for d in self.depth):
            if depth not in made:
                made[depth] = self.nodes.mean(slab.nfw(x, depth / 2 / r_s)) * (rho_s * r_s / (b.rho_mean(z) * depth))
        return np.stack([made[float(d[row])] for d in self.depth])

    def sums(self, rows: np.ndarray, signal: np.ndarray, profile: np.ndarray) -> dict[str, np.ndarray]:
        """The sums over some views that the fit needs; profile: ring means of the outputs, (n, O, rings)."""
        shape = np.stack([self._shape(int(row), s) for row, s in zip(rows, signal, strict=True)])  # (n, O, rings)
        basis = np.stack([shape, np.ones_like(shape)], 2)
        counts = self.pixels.counts.astype(np.float64)
        return {
            "nfw": np.einsum("noar,nobr,r->oab", basis, basis, counts),
            "nfw_profile": np.einsum("noar,nor,r->oa", basis, profile, counts),
        }

    def fit(self, total: dict[str, np.ndarray]) -> None:
        """Set amplitudes and backgrounds from the sums over all views."""
        self.amplitude = np.stack([solve(m, p[:, None])[:, 0] for m, p in zip(total["nfw"], total["nfw_profile"], strict=True)])

    def predict(self, row: int, signal: float) -> np.ndarray:
        """Maps (O, npix, npix) of one view."""
        return self.pixels.spread(self.amplitude[:, :1] * self._shape(row, signal) + self.amplitude[:, 1:])


@lru_cache(maxsize=64)
def _concentrations(background: Background, redshift: float) -> np.ndarray:
    """ln c200m at `MASSES`."""
    from colossus.halo import concentration

    b = background
    colossus_cosmology(b)
    return np.log(concentration.concentration(MASSES * b.h, "200m", redshift, model="diemer19"))
