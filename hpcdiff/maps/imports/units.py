"""What one of the user's units is in the map file's: exact factors alone."""

from __future__ import annotations

import warnings

import numpy as np

from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError
from hpcdiff.maps.layout import MEAN_OF, UNITS

POSSIBLE = {
    "sz": "a temperature, as uK or K; for Compton y name the field compton_y",
    "compton_y": "dimensionless; for a temperature name the field sz",
    "xray": "a power over an area, as erg/s/cm^2",
    "temperature": "an energy or a temperature, as keV or K",
    **dict.fromkeys(MEAN_OF, "dimensionless (over the mean), or a mass over an area, as Msun/Mpc^2, g/cm^2, Msun/pix"),
}


def parse_unit(text: str, where: object):
    """An astropy unit; `littleh` is known.

    Raises:
        UserError: no unit, a logarithmic one, or one with h = hours.
    """
    from astropy import cosmology, units

    try:
        with units.add_enabled_units(cosmology.units), warnings.catch_warnings():
            warnings.simplefilter("ignore", units.UnitsWarning)  # erg/s/cm^2 is well understood
            unit = units.Unit("" if text.strip() == "dimensionless" else text)
    except (ValueError, TypeError) as error:
        said = " ".join(str(error).split(";")[0].split())
        raise UserError(f"{text!r} is not a unit ({said[:100]})", where, "write it as astropy does: Msun/Mpc^2, uK, erg/s/cm^2") from None
    if not isinstance(unit, units.UnitBase):
        raise UserError(f"{text!r} is logarithmic", where, "give the images themselves, not their logarithms")
    if units.hour in unit.bases:
        raise UserError(f"the h in {text!r} is an hour", where, "write littleh for H0/(100 km/s/Mpc)")
    return unit


def factors(
    field: str, text: str, background: Background, redshift: np.ndarray, pixel_mpc: np.ndarray, depth_mpc: np.ndarray, where: str
) -> np.ndarray:
    """By what the images of a field are multiplied to be in the map file's units, float64 (N,).

    Args:
        field, text: the field and its units in the user's words.
        background: cosmology, for `littleh` and the mean density.
        redshift, pixel_mpc, depth_mpc: of each view, (N,); physical Mpc, NaN where unknown.
        where: for messages.
    Raises:
        UserError: the units cannot be turned into the map file's by a factor, or the depth is needed and unknown.
    """
    from astropy import units

    key = f"{where}, units.{field}"
    scale, unit = _without(parse_unit(text, key), background.h, np.asarray(pixel_mpc, float))
    if field in MEAN_OF and not unit.is_equivalent(units.dimensionless_unscaled):
        target = units.Msun / units.Mpc**2
        if np.isnan(depth_mpc).any():
            raise UserError(f"to divide {field} in {text!r} by the mean density takes the depth", where, "give the key depth_mpc")
        scale = scale / np.array([background.rho_mean(z, MEAN_OF[field]) for z in redshift]) / depth_mpc
    else:
        target = parse_unit(UNITS[field], key)
    try:
        same = units.temperature_energy() if field == "temperature" else []
        return scale * unit.to(target, equivalencies=same)
    except units.UnitConversionError:
        raise UserError(f"{field} in {text!r} cannot be turned into {UNITS[field]!r} by a factor", key, f"give {POSSIBLE[field]}") from None


def _without(unit, h: float, pixel_mpc: np.ndarray):
    """Take `littleh` and `pix` out of a unit: what they bring, (N,), and the unit that is left."""
    from astropy import units
    from astropy.cosmology.units import littleh

    scale = np.ones(len(pixel_mpc))
    for base, power in zip(unit.bases, unit.powers, strict=True):
        if base == littleh:
            scale, unit = scale * h ** float(power), unit / littleh**power
        elif base == units.pix:
            scale, unit = scale * pixel_mpc ** (2 * float(power)), unit / units.pix**power * units.Mpc ** (2 * power)
    return scale, unit
