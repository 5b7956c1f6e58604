"""Does a catalogue belong to the snapshot, and are its numbers in the units that it should have?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError
from hpcdiff.snapshot.catalogues.table import Request

TOLERANCE = 0.05
"""By how much the median M200m may differ from the mass inside R200m."""
MANY = 30
"""So many halos fill a box that a corner of it is conspicuous."""


def check_header(about: dict[str, float], request: Request, path: Path) -> None:
    """Refuse a catalogue whose header names another redshift, box, matter density or Hubble constant than the snapshot's."""
    ours = {"redshift": request.redshift, "box": request.box, "Om0": request.background.Om0, "h": request.background.h}
    for name, words in (
        ("redshift", "redshift"),
        ("box", "box (comoving Mpc)"),
        ("Om0", "matter density"),
        ("h", "Hubble constant"),
    ):
        theirs, mine = about.get(name), ours[name]
        if theirs is None or mine is None:
            continue
        allowed = 2e-3 * (1 + mine) if name == "redshift" else 1e-3 * mine
        if abs(theirs - mine) > allowed:
            raise UserError(
                f"the halo catalogue's {words} is {theirs:.6g} and the snapshot's is {mine:.6g}", path, "give the snapshot's own catalogue"
            )


def check_positions(position: np.ndarray, ids: np.ndarray, request: Request, path: Path) -> np.ndarray:
    """Positions inside the box, float64 (n, 3); halos beyond it, or in a corner of it that a unit explains, are refused."""
    box = request.box
    if box is None:
        return position
    outside = ((position < -1e-5 * box) | (position > (1 + 1e-5) * box)).any(axis=1)
    if outside.any():
        far = np.nanmax(abs(position))
        how = f"they reach {far / box:.4g} boxes: are they kpc?" if far > 20 * box else "positions are comoving Mpc, not Mpc/h or kpc"
        raise UserError(f"halo {ids[np.argmax(outside)]} lies outside the box of {box:.6g} comoving Mpc", path, how)
    low, high = position.min(axis=0) / box, position.max(axis=0) / box
    if len(position) >= 3 and 0 < high.max() <= 1.01e-3:
        raise UserError("all halos lie within a thousandth of the box", path, "are the positions Gpc? give comoving Mpc")
    for words, factor in _length_factors(request.background, request.scale_factor):
        if (
            len(position) >= MANY
            and factor < 0.98
            and (high <= 1.001 * factor).all()
            and (high >= 0.9 * factor).all()
            and (low < 0.1).all()
        ):
            raise UserError(
                f"all halos lie below {high.max():.4g} of the box along every axis", path, f"are the positions {words}? give comoving Mpc"
            )
    return np.where((position < 0) | (position >= box), position % box, position)


def _length_factors(background: Background, a: float) -> list[tuple[str, float]]:
    return [("Mpc/h", background.h), ("physical, not comoving", a), ("physical and Mpc/h", a * background.h)]


def check_radii(mass: np.ndarray, radius: np.ndarray, request: Request, path: Path) -> str | None:
    """Compare M200m (Msun) with the mass inside R200m (comoving Mpc) at 200 times the mean density.

    Returns:
        A line about single halos that disagree, or None.
    Raises:
        UserError: the median differs by more than 5 %; a factor that would explain it is named.
    """
    ratio = mass / request.background.mass(radius)
    typical = float(np.median(ratio))
    if abs(typical - 1) > TOLERANCE:
        raise UserError(
            f"the halo catalogue's masses are {typical:.4g} times those inside its radii at 200 times the mean density",
            path,
            f"{explanation(typical, request) or 'check the units and the definition of both'}; give M200m in Msun, R200m in comoving Mpc",
        )
    off = int((abs(ratio - 1) > TOLERANCE).sum())
    return f"{off} of the halos have an R200m that differs from M200m's by more than {TOLERANCE:.0%} in mass" if off else None


def explanation(ratio: float, request: Request) -> str | None:
    """What would explain masses that are `ratio` times those inside the radii, in words; None = nothing that is known."""
    h, a = request.background.h, request.scale_factor
    omega = request.background.rho_mean(request.redshift) / request.background.rho_crit(request.redshift)
    known = {
        "the masses look like Msun/h": h,
        "the masses look like 1e10 Msun": 1e-10,
        "the masses look like 1e10 Msun/h": 1e-10 * h,
        "the masses look too large by 1/h": 1 / h,
        "the masses look too large by 1e10": 1e10,
        "the radii look like Mpc/h": h**-3,
        "masses and radii look like Msun/h and Mpc/h": h**-2,
        "the radii look like kpc": 1e-9,
        "the radii look like kpc/h": 1e-9 * h**-3,
        "masses and radii look like Msun/h and kpc/h": 1e-9 * h**-2,
        "the radii look like Gpc": 1e9,
        "they look like M200c and R200c": 1 / omega,
        "they look like M500c and R500c": 2.5 / omega,
    }
    if a < 0.97:
        known |= {"the radii look physical, not comoving": a**-3, "the radii look like physical kpc": 1e-9 * a**-3}
    distance = {words: abs(np.log(ratio / value)) for words, value in known.items()}
    best = min(distance, key=distance.get)
    return best if distance[best] < 0.03 else None


def check_members(members: dict[str, np.ndarray] | None, request: Request, path: Path) -> None:
    """Refuse a catalogue whose groups have particles that the snapshot has not."""
    for kind, ranges in (members or {}).items():
        if (ranges < 0).any():
            raise UserError(f"the halo catalogue has negative offsets or lengths of {kind}", path, "make it again")
        if request.snapshot is None or not len(ranges):
            continue
        there, wanted = request.snapshot.count(kind), int(ranges.sum(axis=1).max())
        if wanted > there:
            raise UserError(
                f"the halo catalogue's groups reach {kind} particle {wanted} and the snapshot has {there}",
                path,
                "give the snapshot's own catalogue",
            )
