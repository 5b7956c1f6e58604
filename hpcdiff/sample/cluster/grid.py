"""The model's grid on the sky: where its pixels are in an image, and the WCS that its maps are written with.

`[i, j]` of a map: i along the first axis of the FITS file, j along the second, as in the map file's pictures (i to the right, j upwards).
On the sky i runs to the west and j to the north (RA falls with i); in linear coordinates both grow.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError
from hpcdiff.maps.imports.fits import angular_distance
from hpcdiff.sample.cluster.sky import Sky


@dataclass
class Grid:
    """npix x npix pixels of `pixel_mpc` (physical Mpc) about a centre.

    Attributes:
        centre: (RA, Dec) ICRS in degrees, or (x, y) in Mpc.
        distance_mpc: angular-diameter distance, physical Mpc; None = linear coordinates.
    """

    npix: int
    pixel_mpc: float
    centre: tuple[float, float]
    distance_mpc: float | None

    @property
    def celestial(self) -> bool:
        """Is it on the sky?"""
        return self.distance_mpc is not None

    def wcs(self):
        """Its astropy WCS: RA---TAN, DEC--TAN in degrees (ICRS), or linear in Mpc."""
        from astropy.wcs import WCS

        wcs = WCS(naxis=2)
        wcs.wcs.crpix = [(self.npix + 1) / 2] * 2
        wcs.wcs.crval = self.centre
        if self.celestial:
            side = np.degrees(self.pixel_mpc / self.distance_mpc)
            wcs.wcs.ctype, wcs.wcs.cunit, wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], ["deg", "deg"], [-side, side]
            wcs.wcs.radesys = "ICRS"
        else:
            wcs.wcs.ctype, wcs.wcs.cunit, wcs.wcs.cdelt = ["X", "Y"], ["Mpc", "Mpc"], [self.pixel_mpc] * 2
        wcs.wcs.set()
        return wcs

    def corners_in(self, sky: Sky) -> np.ndarray:
        """Corners of the pixels in an image's pixels: float64 (npix + 1, npix + 1, 2), [i, j] -> (x, y).

        In the image, pixel (row, column) covers [column, column + 1] x [row, row + 1]. NaN where the image has no such point of the sky.
        """
        from astropy.wcs.utils import pixel_to_pixel

        edge = np.arange(self.npix + 1) - 0.5
        i, j = np.meshgrid(edge, edge, indexing="ij")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.celestial:
                x, y = pixel_to_pixel(self.wcs(), sky.wcs, i, j)
            else:
                world = self.wcs().wcs_pix2world(np.stack([i.ravel(), j.ravel()], 1), 0)
                x, y = sky.wcs.wcs_world2pix(world / _in_mpc(sky), 0).T
        return np.stack([np.reshape(x, i.shape), np.reshape(y, i.shape)], -1) + 0.5


def make_grid(
    npix: int, pixel_mpc: float, skies: list[Sky], ra: float | None, dec: float | None, redshift: float | None, background: Background
) -> Grid:
    """The grid about (ra, dec), degrees ICRS, or about the centre of the first image.

    Raises:
        UserError: images on the sky and in lengths together; no redshift for the sky; a centre where the sky has none.
    """
    from astropy.coordinates import SkyCoord

    first = skies[0]
    for sky in skies:
        if sky.celestial != first.celestial:
            raise UserError(
                "one map has angles on the sky and the other lengths", f"{first.where} and {sky.where}", "give both the same coordinates"
            )
    middle = (np.array(first.data.shape[::-1]) - 1) / 2
    if not first.celestial:
        if ra is not None:
            raise UserError("--ra and --dec are for maps on the sky", first.where, "leave them out: the map's centre is taken")
        x, y = first.wcs.wcs_pix2world([middle], 0)[0] * _in_mpc(first)
        return Grid(npix, pixel_mpc, (float(x), float(y)), None)
    if redshift is None:
        raise UserError("the map is in angles, and there is no redshift", first.where, "give --redshift, or the header key REDSHIFT")
    if not redshift > 0:
        raise UserError(f"a map on the sky cannot be at redshift {redshift:g}", first.where, "give --redshift")
    if ra is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            point = SkyCoord(first.wcs.pixel_to_world(*middle)).icrs
        ra, dec = float(point.ra.deg), float(point.dec.deg)
        if not np.isfinite([ra, dec]).all():
            raise UserError("the middle of the map is no point of the sky", first.where, "give --ra and --dec")
    return Grid(npix, pixel_mpc, (ra, dec), angular_distance(background, redshift))


def _in_mpc(sky: Sky) -> np.ndarray:
    """Mpc of one unit of each axis of an image in lengths, (2,)."""
    from astropy import units

    return np.array([unit.to(units.Mpc) for unit in sky.wcs.wcs.cunit])
