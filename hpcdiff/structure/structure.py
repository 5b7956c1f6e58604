"""The structure of projected halos, all numbers of all maps of a view and field in one call."""

from __future__ import annotations

import numpy as np

from hpcdiff.cosmology import Background
from hpcdiff.measures import pixel_rings
from hpcdiff.structure import clumps, shape
from hpcdiff.structure.fit import PROFILES, fit, radius_at

QUANTITIES = ("m500c", "m200c", "concentration", "ellipticity", "offset_mpc")
"""What `Structure.measure` gives."""
SHAPES = {"total": "nfw", "dm": "nfw", "star": "nfw", "gas": "king"}
"""Fields that are a mass, and the profile that is fitted to them: gas has a core."""
INNER = 0.1
"""Aperture of shape and peak where no R500c is known, over the map's width."""


class Structure:
    """Measures projected halos.

    Args:
        npix: pixels a side. h: Hubble constant over 100 km/s/Mpc. om0, ob0: matter and baryons today over the critical density.
    """

    def __init__(self, npix: int, h: float, om0: float, ob0: float) -> None:
        self.npix, self.background = npix, Background(Om0=om0, Ob0=ob0, h=h)
        self.rings, self.whole = pixel_rings(npix), pixel_rings(npix, whole=True)

    def measure(self, field: str, maps: np.ndarray, width_mpc: float, depth_mpc: float, redshift: float) -> dict[str, np.ndarray]:
        """Numbers of each map, {name: float64 (n,)}, names as in `QUANTITIES`, NaN where undefined.

        `m500c`, `m200c` (Msun) and `concentration` come from the fit of a projected profile on the mean density, about the map's
        centre, cut at the map's depth. A field's density is taken over its share of matter (Eq. 3 of Hsu et al. 2025 times
        Omega_m): the radius is where it has 500 or 200 times the critical density so scaled. For `total` and `dm` (NFW) the mass
        is the halo's, for `dm` as if baryons followed it, and the concentration is c200c. For `gas` and `star` it is the field's
        own mass within its own such radius; for `gas` the profile is King's and the concentration R200c over its core radius.
        `ellipticity` is 1 - b/a within R500c, `offset_mpc` how far the smoothed map's highest point within R500c lies from the
        centre; 0.1 of the width stands for R500c in fields that are no mass, or where the fit fails.

        Args:
            field: its name. maps: (n, npix, npix) in the map file's units. width_mpc, depth_mpc: physical. redshift: of the halo.
        """
        maps = np.ascontiguousarray(maps, np.float64)
        out = {name: np.full(len(maps), np.nan) for name in QUANTITIES}
        pixel = width_mpc / self.npix
        aperture = np.full(len(maps), INNER * width_mpc)
        if field in SHAPES:
            profile, b = SHAPES[field], self.background
            rho_mean, rho_crit = b.rho_mean(redshift), b.rho_crit(redshift)
            sigma = self.rings.mean(maps) * (rho_mean * depth_mpc)
            rho_s, r_s = fit(self.rings, sigma, width_mpc, depth_mpc, rho_mean, rho_crit, profile)
            own = b.Ob0 / b.Om0 if field in ("gas", "star") else 1.0
            for name, density in (("m500c", 500 * rho_crit), ("m200c", 200 * rho_crit)):
                x = radius_at(rho_s, density, profile)
                out[name] = 4 * np.pi * rho_s * r_s**3 * PROFILES[profile][1](x) * own
                if name == "m500c":
                    aperture = np.where(np.isfinite(x), x * r_s, aperture)
            out["concentration"] = x
        pixels = np.clip(aperture / pixel, 3, self.npix / 3)
        out["ellipticity"] = shape.ellipticity(maps, pixels)
        out["offset_mpc"] = shape.offset(maps, pixels) * pixel
        return out

    def clumps(self, image: np.ndarray, width_mpc: float, radius_mpc: float | None = None, contrast: float = clumps.CONTRAST) -> np.ndarray:
        """Substructure of one map (npix, npix): peaks over its round profile, highest contrast first.

        Args:
            width_mpc: of the map. radius_mpc: how far from the centre; None = as far as the map goes on all sides.
            contrast: least height over the surroundings, in units of the round profile.
        Returns:
            float64 (m, 3): position along i and j from the map's centre, Mpc, and the contrast.
        """
        pixel = width_mpc / self.npix
        reach = self.npix / 2 - 5 if radius_mpc is None else min(radius_mpc / pixel, self.npix / 2 - 5)
        image = np.ascontiguousarray(image, np.float64)
        low = max(0, int(self.npix / 2 - reach) - 6)  # all that a peak within reach is held against
        middle = slice(low, self.npix - low)
        seen, index = shape.smooth(image, low, self.npix - low), np.ascontiguousarray(self.whole.index[middle, middle])
        found = clumps.peaks(seen, index, self.whole.n, reach, contrast, clumps.FLOOR * image.mean())
        return found * np.array([pixel, pixel, 1.0])

    @staticmethod
    def match(truth: np.ndarray, found: np.ndarray, radius_mpc: float) -> tuple[float, float]:
        """Completeness and purity of peaks; see `clumps.match`."""
        return clumps.match(truth, found, radius_mpc)
