"""Units of a snapshot's datasets: what their attributes say, in the three ways that codes write them, else the code's own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hpcdiff.cosmology import MPC_CM, MSUN_G


class Unit(NamedTuple):
    """A stored number times `cgs` a^a h^h is physical CGS."""

    cgs: float
    a: float
    h: float

    def physical(self, scale_factor: float, hubble: float) -> float:
        """The factor from stored numbers to physical CGS."""
        return self.cgs * scale_factor**self.a * hubble**self.h


ATTRIBUTES = (
    ("to_cgs", "a_scaling", "h_scaling"),  # GADGET-4, AREPO
    ("CGSConversionFactor", "aexp-scale-exponent", "h-scale-exponent"),  # EAGLE
    ("Conversion factor to CGS (not including cosmological corrections)", "a-scale exponent", "h-scale exponent"),  # SWIFT
)
"""Names of the attributes of a dataset that give its CGS factor and the exponents of a and h."""
STORED_PHYSICAL = "Value stored as physical"
"""SWIFT's mark of a dataset that holds physical numbers: its a exponent then only says how one would go back to comoving ones."""
CODE_UNITS = {
    "length": ("UnitLength_in_cm", "UnitLength_In_CGS", "Unit length in cgs (U_L)"),
    "mass": ("UnitMass_in_g", "UnitMass_In_CGS", "Unit mass in cgs (U_M)"),
    "velocity": ("UnitVelocity_in_cm_per_s", "UnitVelocity_In_CGS"),
    "time": ("Unit time in cgs (U_t)",),
}
"""Names of the attributes of `Header`, `Units`, `Parameters` that give a code's units in CGS."""


def number(attributes, name: str) -> float | None:
    """A scalar attribute, which some codes write as an array of one; None if it is not there or is no number."""
    if name not in attributes:
        return None
    try:
        return float(np.ravel(attributes[name])[0])
    except (TypeError, ValueError, IndexError):
        return None


def unit_of(attributes, default: Unit, base: float = 1.0) -> Unit:
    """A dataset's unit: its attributes win over the code's own.

    Args:
        attributes: of the dataset.
        default: what holds where it has none.
        base: the CGS value of the unit (Mpc, Msun, ...) of which this one is meant to be a power of ten.
    """
    unit = default
    for cgs, a, h in ATTRIBUTES:
        if number(attributes, cgs):  # TNG writes 0 for dimensionless
            unit = Unit(number(attributes, cgs), number(attributes, a) or 0.0, number(attributes, h) or 0.0)
            if number(attributes, STORED_PHYSICAL):
                unit = unit._replace(a=0.0)
            break
    return unit._replace(cgs=rounded(unit.cgs, base))


def rounded(cgs: float, base: float) -> float:
    """`cgs`, or the power of ten of `base` if it is within 0.1 %: codes write 1.989e43 g where they mean 1e10 Msun."""
    power = np.rint(np.log10(cgs / base))
    near = base * 10.0**power
    return float(near) if abs(cgs / near - 1) < 1e-3 else float(cgs)


def code_units(groups: list, little_h: bool) -> dict[str, Unit]:
    """A run's units where datasets have no attributes: comoving kpc/h, 1e10 Msun/h, km/s, unless the file says otherwise.

    Args:
        groups: attributes of `Units`, `Header`, `Parameters`, in which `CODE_UNITS` are looked for.
        little_h: whether the code counts lengths and masses in units over h, and u as it is; else (SWIFT) there is no h,
            and u is multiplied by a^2.
    Returns:
        {"length", "mass", "density", "energy", "number_density", "temperature"}: comoving length, mass, comoving density,
        specific energy, comoving number density, K.
    """

    def found(of: str, default: float) -> float:
        return next((value for g in groups for name in CODE_UNITS[of] if (value := number(g, name))), default)

    length = rounded(found("length", MPC_CM / 1e3), MPC_CM)
    mass = rounded(found("mass", MSUN_G * 1e10), MSUN_G)
    time = found("time", 0.0)
    velocity = length / time if time else found("velocity", 1e5)
    h = 1 if little_h else 0
    return {
        "length": Unit(length, 1, -h),
        "mass": Unit(mass, 0, -h),
        "density": Unit(mass / length**3, -3, 2 * h),
        "energy": Unit(rounded(velocity**2, 1.0), 0 if little_h else -2, 0),
        "number_density": Unit(length**-3, -3, 3 * h),
        "temperature": Unit(1.0, 0, 0),
    }
