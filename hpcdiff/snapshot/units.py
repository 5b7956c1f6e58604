"""Units of a snapshot's datasets: what their attributes say, in the dialects of GADGET-4/TNG and of EAGLE, else the code's own."""

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


DIALECTS = (
    ("to_cgs", "a_scaling", "h_scaling"),
    ("CGSConversionFactor", "aexp-scale-exponent", "h-scale-exponent"),
)


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
    for cgs, a, h in DIALECTS:
        if number(attributes, cgs):  # TNG writes 0 for dimensionless
            unit = Unit(number(attributes, cgs), number(attributes, a) or 0.0, number(attributes, h) or 0.0)
    return unit._replace(cgs=rounded(unit.cgs, base))


def rounded(cgs: float, base: float) -> float:
    """`cgs`, or the power of ten of `base` if it is within 0.1 %: codes write 1.989e43 g where they mean 1e10 Msun."""
    power = np.rint(np.log10(cgs / base))
    near = base * 10.0**power
    return float(near) if abs(cgs / near - 1) < 1e-3 else float(cgs)


def code_units(groups: list) -> dict[str, Unit]:
    """Units of a GADGET run without attributes: comoving kpc/h, 1e10 Msun/h, km/s, unless the header says otherwise.

    Args:
        groups: attributes of `Header`, `Units`, `Parameters`, in which `UnitLength_in_cm` and the like are looked for.
    Returns:
        {"length", "mass", "density", "energy"}: comoving length, mass, density, specific energy.
    """

    def found(name: str, default: float) -> float:
        return next((value for g in groups if (value := number(g, name))), default)

    length = rounded(found("UnitLength_in_cm", MPC_CM / 1e3), MPC_CM)
    mass = rounded(found("UnitMass_in_g", MSUN_G * 1e10), MSUN_G)
    velocity = found("UnitVelocity_in_cm_per_s", 1e5)
    return {
        "length": Unit(length, 1, -1),
        "mass": Unit(mass, 0, -1),
        "density": Unit(mass / length**3, -3, 2),
        "energy": Unit(velocity**2, 0, 0),
    }
