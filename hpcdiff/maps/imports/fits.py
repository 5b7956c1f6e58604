"""FITS images, and what their headers say against the user's words."""

from __future__ import annotations

import errno
import gzip
import math
import re
import warnings
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError
from hpcdiff.maps.imports.units import parse_unit

FITS_SUFFIXES = (".fits", ".fit", ".fits.gz", ".fits.fz")
LIGHT_KM_S = 299792.458
ANGLES = re.compile("RA--|DEC-|[GES]LON|[GES]LAT")
"""Axes whose unit is degrees where CUNIT is not there."""
BLOCK, MOST_AXES = 2880, 999
"""Bytes of a block, and axes of an image at most, by the FITS standard."""
MOST_HDUS = 1000
"""Parts of a file that are looked through for the image."""


@contextmanager
def _open(path: Path, extension: str | None, check):
    """The HDU with the image, its header checked."""
    from astropy.io import fits

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with a header is said below, in one line
            _refuse_endless(path)
            with fits.open(path, memmap=False) as hdus:
                hdu = _choose(hdus, path, extension)
                check(hdu.header, path)
                yield hdu
    except (OSError, EOFError, zlib.error, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, fits.VerifyError) as error:
        sizes = errno.EINVAL, errno.EOVERFLOW  # what seeking says of sizes below 0, or beyond all
        if isinstance(error, OSError) and error.errno not in (None, *sizes):
            raise
        raise UserError(f"not a whole FITS file ({' '.join(str(error).split())[:100]})", path, "save it again") from None


def _refuse_endless(path: Path) -> None:
    """Raise a ValueError for what astropy would follow without end: a header with more axes than FITS has, or that leads back."""
    from astropy.io import fits

    with open(path, "rb") as f:
        opened = gzip.open if f.read(2) == b"\x1f\x8b" else open
    with opened(path, "rb") as f:
        while True:
            size, axes = 0, 0
            try:
                header = fits.Header.fromfile(f)
                axes = max(header.get("NAXIS", 0), header.get("ZNAXIS", 0))
                if axes <= MOST_AXES:
                    sizes = [header.get(f"NAXIS{k + 1}", 0) for k in range(header.get("NAXIS", 0))]
                    groups = bool(sizes) and sizes[0] == 0 and header.get("GROUPS") is True
                    values = header.get("GCOUNT", 1) * (header.get("PCOUNT", 0) + math.prod(sizes[groups:]) * bool(sizes))
                    size = abs(header.get("BITPIX", 8)) // 8 * values
                    f.seek(-(-max(size, 0) // BLOCK) * BLOCK, 1)
            except (OSError, EOFError, zlib.error, TypeError, ValueError, LookupError, OverflowError, fits.VerifyError):
                return  # the end, or what astropy will say something of
            if size < 0 or axes > MOST_AXES:
                raise ValueError("it has a size below 0" if size < 0 else f"it has {axes} axes")


def _finite(hdus):
    """The HDUs one by one, as astropy reads them: damaged sizes may lead it back for ever."""
    for k, hdu in enumerate(hdus):
        if k == MOST_HDUS:
            raise ValueError(f"it has more than {MOST_HDUS} parts")
        yield hdu


def _choose(hdus, path: Path, extension: str | None):
    images = [k for k, hdu in enumerate(_finite(hdus)) if hdu.is_image and hdu.header.get("NAXIS", 0) >= 2]
    names = [hdus[k].name or str(k) for k in images]
    if extension is not None:
        wanted = [k for k, name in zip(images, names, strict=True) if extension in (str(k), name)]
        if len(wanted) != 1:
            raise UserError(f"no image in the extension {extension!r}", path, f"it has images in {', '.join(names) or 'none'}")
        return hdus[wanted[0]]
    if len(images) != 1:
        how = f"say which: {path.name}[{names[0]}]" if images else "name another file"
        raise UserError(f"{len(images)} extensions hold an image ({', '.join(names) or 'none'})", path, how)
    return hdus[images[0]]


def shape_of_fits(path: Path, extension: str | None, check) -> tuple[tuple[int, ...], np.dtype]:
    """Shape of the image, in numpy's order of axes, and its type once it is scaled."""
    with _open(path, extension, check) as hdu:
        kind = np.dtype("f4" if hdu.header["BITPIX"] == -32 else "f8")
        return tuple(hdu.shape), kind


def read_fits(path: Path, extension: str | None, check, images: np.ndarray | None) -> np.ndarray:
    """These planes of a cube, or the whole image where `images` is None; BSCALE and BZERO are applied."""
    with _open(path, extension, check) as hdu:
        if images is None:
            return np.array(hdu.section[:])
        return np.stack([hdu.section[int(k)] for k in images])


class HeaderCheck:
    """Holds FITS headers against what the user said, as far as they say something: BUNIT, CDELT or CD, CUNIT.

    Args:
        field, text: the field and its units in the user's words.
        pixel_mpc: side of a pixel, physical Mpc; NaN where it differs from view to view, and is not compared.
        background, redshift: to compare angles; a redshift of 0 has no distance.
    """

    def __init__(self, field: str, text: str, pixel_mpc: float, background: Background, redshift: float) -> None:
        self.field, self.text, self.pixel_mpc = field, text, pixel_mpc
        self.background, self.redshift, self.notes = background, redshift, set()

    def __call__(self, header, path: Path) -> None:
        """Raise a UserError if the header contradicts what was said; what cannot be compared is added to `notes`."""
        self._units(str(header.get("BUNIT", "")).strip(), path)
        if not np.isnan(self.pixel_mpc):
            self._pixels(header, path)

    def _units(self, said: str, path: Path) -> None:
        from astropy import units

        if not said:
            return
        try:
            factor = parse_unit(said, path).to(parse_unit(self.text, "units"))
        except units.UnitConversionError:
            factor = np.nan
        except UserError:
            self.notes.add(f"{self.field}: BUNIT {said!r} is no unit that astropy knows, so it is not compared")
            return
        if not abs(factor - 1) < 1e-6:
            raise UserError(f"BUNIT is {said!r}, and units.{self.field} is {self.text!r}", path, "mend the one that is wrong")

    def _pixels(self, header, path: Path) -> None:
        from astropy import units

        sizes, names = _pixel_sizes(header)
        if sizes is None:
            return
        if abs(sizes[0] / sizes[1] - 1) > 1e-3 or names[0] != names[1]:
            raise UserError(f"pixels of {sizes[0]:.6g} {names[0]} by {sizes[1]:.6g} {names[1]}", path, "give maps of square pixels")
        if not names[0]:
            self.notes.add(f"{self.field}: CDELT has no CUNIT, so the pixel size is not compared")
            return
        try:
            size = sizes[0] * parse_unit(names[0], path)
        except UserError:
            self.notes.add(f"{self.field}: CUNIT {names[0]!r} is no unit that astropy knows, so the pixel size is not compared")
            return
        angular = size.unit.is_equivalent(units.rad)
        if angular and not self.redshift > 0:
            self.notes.add(f"{self.field}: pixels of {size:.4g}, and no redshift above 0 that all views share, so they are not compared")
            return
        try:
            mpc = size.to_value("rad") * angular_distance(self.background, self.redshift) if angular else size.to_value("Mpc")
        except units.UnitConversionError:
            raise UserError(f"CUNIT is {names[0]!r}", path, "a pixel has a length or an angle") from None
        if abs(mpc / self.pixel_mpc - 1) > 5e-3:
            what = f"its header has pixels of {size:.6g}" + (f", {mpc:.6g} Mpc at z = {self.redshift:.6g}" if angular else "")
            raise UserError(f"{what}, and you say {self.pixel_mpc:.6g} Mpc", path, "mend the one that is wrong")


def _pixel_sizes(header) -> tuple[tuple[float, float] | None, tuple[str, str]]:
    """Sides of a pixel along the two image axes and their units; None where the header has none."""
    names = ["", ""]
    for k in (1, 2):
        default = "deg" if ANGLES.match(str(header.get(f"CTYPE{k}", ""))) else ""
        names[k - 1] = str(header.get(f"CUNIT{k}", default)).strip() or default
    if any(f"CD{i}_{j}" in header for i in (1, 2) for j in (1, 2)):
        matrix = [[float(header.get(f"CD{i}_{j}", 0.0)) for j in (1, 2)] for i in (1, 2)]
    elif "CDELT1" in header:
        matrix = [[float(header.get(f"CDELT{i}", 1.0)) * float(header.get(f"PC{i}_{j}", i == j)) for j in (1, 2)] for i in (1, 2)]
    else:
        return None, tuple(names)
    sizes = np.hypot(matrix[0], matrix[1])
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        return None, tuple(names)
    return (float(sizes[0]), float(sizes[1])), tuple(names)


def angular_distance(background: Background, z: float) -> float:
    """Angular-diameter distance in flat LambdaCDM, physical Mpc: c/(H0 (1+z)) int_0^z dz'/E(z')."""
    from scipy.integrate import quad

    return LIGHT_KM_S / (100 * background.h) / (1 + z) * quad(lambda x: 1 / background.efunc(x), 0, z)[0]
