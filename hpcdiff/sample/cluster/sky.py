"""One FITS image with what its header says of it: units and where its pixels are."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcdiff.errors import UserError
from hpcdiff.maps import MEAN_OF, UNITS
from hpcdiff.maps.imports.fits import FITS_SUFFIXES, read_fits
from hpcdiff.maps.imports.units import parse_unit
from hpcdiff.sample.cluster.trained import Trained

FITS = {
    "sz": "a temperature (uK, mK, K, uK_CMB) or Compton y (dimensionless)",
    "compton_y": "Compton y (dimensionless) or a temperature (uK, mK, K, uK_CMB)",
    "xray": "a power over an area (erg/s/cm2, W/m2)",
    "temperature": "an energy or a temperature (keV, K)",
    **dict.fromkeys(MEAN_OF, "dimensionless (over the mean), or a mass over an area (Msun/Mpc2, g/cm2)"),
}
"""Units that would fit each field, in words."""
THERMODYNAMIC = re.compile(r"(micro|mu|u|µ|μ|m|)K[ _]?(?:\(?(?:CMB|cmb)\)?|thermo)?")
"""K_CMB and the like: microwave maps in thermodynamic temperature, which astropy has no name for."""
DIMENSIONLESS = ("dimensionless", "1", "y", "compton y", "compton-y", "compton_y", "comptony", "y_sz", "none")


@dataclass
class Sky:
    """One image.

    Attributes:
        field: which map it is, a field of the model. where: file, for messages.
        data: float64 (ny, nx), FITS order, in the map file's units; NaN where the image has none.
        wcs: astropy WCS of its two axes. celestial: angles on the sky (True) or lengths (False).
        header: the FITS header; `redshift` in it, or None.
    """

    field: str
    where: Path
    data: np.ndarray
    wcs: object
    celestial: bool
    header: object

    @property
    def redshift(self) -> float | None:
        """The header's key REDSHIFT; None where there is none.

        Raises:
            UserError: it is no number above or at 0.
        """
        said = self.header.get("REDSHIFT")
        if said is None:
            return None
        if isinstance(said, bool) or not isinstance(said, (int, float)) or not 0 <= said < 1100:
            raise UserError(f"its header's REDSHIFT is {said!r}", self.where, "give --redshift, or mend the header")
        return float(said)


def read_sky(field: str, text: str | Path, trained: Trained, redshift: float | None) -> Sky:
    """Read one image of a field; a cube whose further axes have length 1 counts as an image.

    Args:
        field: a field of the model. text: FILE.fits, or FILE.fits[EXTENSION].
        trained: the model's maps, for T_cmb and the mean density. redshift: of the cluster, None = the header's.
    Raises:
        UserError: no such file, no image, no or wrong units, no usable coordinates.
    """
    text = str(text)
    match = re.fullmatch(r"(.+)\[([^\[\]]+)\]", text)
    path, extension = (Path(match[1]), match[2]) if match else (Path(text), None)
    if not path.is_file():
        raise UserError(f"the {field} map is not there", path, f"name a FITS file ({', '.join(FITS_SUFFIXES)})")
    headers = []
    data = read_fits(path, extension, lambda header, _path: headers.append(header.copy()), None)
    header = headers[-1]
    if data.dtype.kind not in "fiu":
        raise UserError(f"the image is of type {data.dtype}", path, "give real numbers")
    with np.errstate(invalid="ignore"):  # of NaNs that signal
        image = np.array(data, np.float64).reshape([n for n in data.shape[:-2] if n != 1] + list(data.shape[-2:]))
    if image.ndim != 2 or min(image.shape) < 2:
        raise UserError(f"the image has shape {data.shape}", path, "give one image of two axes")
    image[np.isinf(image)] = np.nan
    wcs, celestial = _coordinates(header, path)
    sky = Sky(field, path, image, wcs, celestial, header)
    sky.data *= unit_factor(field, header.get("BUNIT"), trained, redshift if redshift is not None else sky.redshift, path)
    return sky


def unit_factor(field: str, text: object, trained: Trained, redshift: float | None, where: object) -> float:
    """By what an image with this BUNIT is multiplied to be in the map file's units; Compton y and T_cmb y turn into each other.

    Raises:
        UserError: there is no unit, or one that does not fit; the line names those that would.
    """
    from astropy import units

    said = "" if text is None else str(text).strip()
    fits = f"{field} takes {FITS[field]}"
    if not said:
        raise UserError("the header has no BUNIT", where, fits)
    if kelvin := THERMODYNAMIC.fullmatch(said):
        unit = {"": units.K, "m": units.mK}.get(kelvin[1], units.uK)
    elif said.lower() in DIMENSIONLESS:
        unit = units.dimensionless_unscaled
    else:
        try:
            unit = parse_unit(said, where)
        except UserError:
            raise UserError(f"BUNIT {said!r} is no unit that is known here", where, fits) from None
    try:
        with np.errstate(all="ignore"):  # of scales beyond all numbers
            factor = _factor(field, unit, trained, redshift, where)
    except units.UnitConversionError:
        factor = np.nan
    if not 1e-100 < factor < 1e100:  # nor NaN
        raise UserError(f"BUNIT {said!r} does not fit", where, fits)
    return factor


def _factor(field: str, unit, trained: Trained, redshift: float | None, where: object) -> float:
    from astropy import units

    target = parse_unit(UNITS[field], where)
    none, t_cmb = units.dimensionless_unscaled, trained.background.Tcmb0 * units.K
    if field == "sz" and unit.is_equivalent(none):
        return float((unit.to(none) * t_cmb).to_value(target))
    if field == "compton_y" and unit.is_equivalent(units.K):
        return float((1 * unit / t_cmb).to_value(none))
    if field in MEAN_OF and not unit.is_equivalent(none):
        mean = trained.msun_per_mpc2(field, redshift)
        if mean is not None:
            return float(unit.to(units.Msun / units.Mpc**2) / mean)
    return float(unit.to(target, equivalencies=units.temperature_energy() if field == "temperature" else []))


def _coordinates(header, path: Path) -> tuple[object, bool]:
    """The WCS of the two image axes, and whether it is angles on the sky.

    Raises:
        UserError: there is none, or its units are neither angles on the sky nor lengths.
    """
    from astropy import units
    from astropy.wcs import WCS

    how = "give a celestial WCS in degrees (CTYPE RA---TAN, ...), or a linear one with CUNIT Mpc or kpc"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = WCS(header)
            if not _has_scale(header):
                raise UserError("the header has no coordinates (WCS), or pixels without a size", path, how)
            if whole.has_celestial:
                if set(whole.axis_type_names) and [a["coordinate_type"] for a in whole.get_axis_types()][:2] != ["celestial"] * 2:
                    raise UserError("the first two axes are not those of the sky", path, how)
                if not _has_area(whole.celestial):
                    raise UserError("the header has pixels without a size", path, how)
                return whole.celestial, True
            linear = whole.sub(2)
            lengths = list(linear.wcs.cunit)
            sizes = np.abs(np.linalg.svd(linear.pixel_scale_matrix, compute_uv=False))
    except UserError:
        raise
    except Exception as error:  # astropy and wcslib raise a dozen classes for a broken header
        raise UserError(f"its coordinates are not understood ({' '.join(str(error).split())[:100]})", path, how) from None
    for unit in lengths:
        if not unit.is_equivalent(units.Mpc):
            raise UserError(f"CUNIT is {str(unit)!r} and CTYPE no projection of the sky", path, how)
    if not (np.isfinite(sizes).all() and sizes.min() > 0):
        raise UserError("its pixels have no size", path, how)
    return linear, False


def _has_area(wcs) -> bool:
    """Do its pixels span an area? Those of a broken matrix lie on a line, or are no numbers."""
    sizes = np.linalg.svd(wcs.pixel_scale_matrix, compute_uv=False)
    return bool(np.isfinite(sizes).all() and sizes.min() > 1e-9 * sizes.max())


def _has_scale(header) -> bool:
    """Does the header say how large a pixel is? The standard's default is a whole degree, which nobody means."""
    cd = [header.get(f"CD{i}_{j}") for i in (1, 2) for j in (1, 2)]
    return any(cd) if any(v is not None for v in cd) else bool(header.get("CDELT1")) and bool(header.get("CDELT2"))
