"""Do the particles agree with the halo catalogue? Masses off by h or 1e10, and catalogues of another snapshot, are noticed."""

from __future__ import annotations

import numpy as np

from hpcdiff.cosmology import MSUN_G, Background
from hpcdiff.errors import UserError
from hpcdiff.project.periodic import nearest, nearest_image
from hpcdiff.project.window import jit

SHELLS = 16
"""Radii in which mass is added up, from a fiftieth of the largest on."""
ASTRAY = 3.0
"""R200m about a halo's centre within which half of its members must lie."""
AGREES, NAMED, REFUSED = 0.2, 0.1, 3.0
"""Nothing is said up to this deviation; a factor is named within this; a larger factor than this is refused."""


def shells(within: np.ndarray) -> np.ndarray:
    """Radii (n, SHELLS) about halos out to `within` (n,), any length: no radius of the catalogue's, which may be wrong, is used."""
    return np.asarray(within)[..., None] * np.geomspace(0.02, 1, SHELLS)


@jit
def add_mass(table, halo, row, centre, radius, box, out):
    """Add the mass of each particle of each halo to the smallest of the halo's spheres that holds it.

    Args:
        table: float64 (n, 5 + k): index, x, y, z (comoving Mpc), support radius, weights, of which the mass (Msun) is the first.
        halo, row: (pairs,), halos and rows of the table.
        centre, radius: (n_halos, 3) and (n_halos, m), ascending; comoving Mpc.
        box: side, comoving Mpc.
        out: float64 (n_halos, m), Msun; the sum along its rows up to a sphere is the mass inside it.
    """
    m = radius.shape[1]
    for k in range(len(halo)):
        n, p = halo[k], row[k]
        far2 = 0.0
        for axis in range(3):
            d = nearest(table[p, 1 + axis] - centre[n, axis], box)
            far2 += d * d
        shell = np.searchsorted(radius[n], np.sqrt(far2))
        if shell < m:
            out[n, shell] += table[p, 5]


def mass_ratios(radius: np.ndarray, enclosed: np.ndarray, mass_200m: np.ndarray, background: Background) -> np.ndarray:
    """M200m of the particles about each halo over the catalogue's, float64 (n,).

    R200m is where the enclosed mean density last is 200 times the mean one, so that a catalogue whose radii follow from its
    wrong masses still shows the true factor. The ratio is 0 where it never is, and NaN where R200m lies beyond the largest
    radius (unless the mass inside that is more than 3 times the catalogue's already).

    Args:
        radius: (n, m) comoving Mpc, ascending, as `shells` gives them.
        enclosed: (n, m) Msun, of all matter.
        mass_200m: (n,), the catalogue's, Msun.
        background: the cosmology; the comoving mean density is today's.
    """
    radius, enclosed = np.atleast_2d(radius), np.atleast_2d(enclosed)
    over = enclosed / background.mass(radius)
    n, m = over.shape
    last = m - 1 - np.argmax((over >= 1)[:, ::-1], axis=1)
    rows, after = np.arange(n), np.minimum(last + 1, m - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        high, low = np.log(over[rows, last]), np.log(over[rows, after])
        part = np.where(last < m - 1, high / (high - low), 0.0)
        inside = enclosed[rows, last] * (enclosed[rows, after] / enclosed[rows, last]) ** part
        ratio = np.where((over >= 1).any(axis=1), inside / mass_200m, 0.0)
    return np.where((last == m - 1) & (over[:, -1] >= 1) & (ratio < REFUSED), np.nan, ratio)


def within(position: np.ndarray, halo: np.ndarray, centre: np.ndarray, around: np.ndarray, box: float) -> np.ndarray:
    """How many of the particles (m, 3) of `halo` (m,) lie within `around` (n,) of its `centre` (n, 3), all comoving Mpc: int64 (n,)."""
    near = (nearest_image(position - centre[halo], box) ** 2).sum(axis=1) <= around[halo] ** 2
    return np.bincount(halo[near], minlength=len(centre))


def refuse_strangers(near: np.ndarray, members: np.ndarray, kind_of_catalogue: str, where: object) -> None:
    """Refuse members that are not where their halos are.

    Args:
        near: (n,), members of each halo within `ASTRAY` R200m of its centre.
        members: (n,), all of them that were read.
        kind_of_catalogue: as `Halos.source`.
        where: what is named in an error.
    Raises:
        UserError: of more than half of the halos that have members, more than half of the members lie elsewhere.
    """
    some = members > 0
    astray = int((2 * near[some] < members[some]).sum())
    if 2 * astray > some.sum():
        what = f"the members of {astray} of {some.sum()} halos lie elsewhere: most are more than {ASTRAY:g} R200m from the centre"
        how = f"is this {kind_of_catalogue} catalogue of another snapshot, or made afterwards from particles in another order?"
        raise UserError(what, where, f"{how} project.particles=all does without members")


def verdict(ratios: np.ndarray, h: float, kinds: list[str] | set[str], where: object = "the halo catalogue") -> str | None:
    """What there is to say about M200m of the particles over that of the catalogue.

    Args:
        ratios: (n_halos,), as `mass_ratios` gives them; NaN = unknown.
        h: the Hubble constant over 100 km/s/Mpc.
        kinds: of the particles that were counted. Gas and dark matter must be there: a part of the matter says little.
        where: what is named in an error.
    Returns:
        A line to print, or None where all is well or nothing is known. The median counts: one halo may be in a merger.
    Raises:
        UserError: a factor of more than 3, or nothing at the positions of most halos.
    """
    ratios = np.asarray(ratios, np.float64)
    ratios = ratios[np.isfinite(ratios)]
    if not len(ratios) or not {"gas", "dm"} <= set(kinds):
        return None
    typical, n = float(np.median(ratios)), len(ratios)
    if abs(typical - 1) <= AGREES:
        return None
    said = f"particles inside R200m weigh {typical:.3g} times the catalogue's M200m (median of {n} halo{'s' * (n > 1)})"
    factor, why, mend = _explained(typical, ratios, h)
    if 1 / REFUSED < typical < REFUSED:
        if factor is None:
            return f"{said}: another definition of mass or centre?"
        return f"{said}, a factor of {factor}: {why}? {mend}"
    if factor is None:
        empty = float(np.mean(ratios < 0.05))
        if empty <= 0.5:
            how = "are its masses of another definition or unit, or are the particles' masses?"
            raise UserError(said, where, f"{how} --check shows how they are read")
        raise UserError(
            f"the halos are not where the particles are: {empty:.0%} of {n} have nothing at their positions, and {said}",
            where,
            "is it of another snapshot, or are its positions Mpc/h, kpc or physical?",
        )
    raise UserError(f"{said}, a factor of {factor}: {why}?", where, mend)


def _explained(typical: float, ratios: np.ndarray, h: float) -> tuple[str | None, str, str]:
    """The factor near `typical` that a unit explains, what it would mean, and how to mend it; (None, "", "") if there is none."""
    msun = "give mass_200m in Msun"
    factors = {
        "1/h": (1 / h, "are its masses Msun/h", msun),
        "h": (h, "were its masses, already Msun, divided by h", msun),
        "1/h^3": (h**-3, "are its radii, from which masses follow, Mpc/h", "give radius_200m in comoving Mpc"),
        "h^3": (h**3, "were its radii, already Mpc, divided by h", "give radius_200m in comoving Mpc"),
        "1e10": (1e10, "are its masses 1e10 Msun", msun),
        "1e10/h": (1e10 / h, "are its masses 1e10 Msun/h", msun),
        "1e-10": (1e-10, "are the particles' masses 1e10 Msun, taken for Msun", "check the units of the snapshot"),
        "1e-10 h": (1e-10 * h, "are the particles' masses 1e10 Msun/h, taken for Msun", "check the units of the snapshot"),
        "1e-9": (1e-9, "are its radii, from which masses follow, kpc", "give radius_200m in comoving Mpc"),
        "1e-9/h^3": (1e-9 * h**-3, "are its radii, from which masses follow, kpc/h", "give radius_200m in comoving Mpc"),
        "1e3": (1e3, "are its masses 1e3 Msun", msun),
        "1e-3": (1e-3, "are its masses 1e-3 Msun", msun),
        "1/Msun in g": (1 / MSUN_G, "are its masses grams", msun),
    }
    positive = np.log(np.maximum(ratios, 1e-60))
    if np.subtract(*np.percentile(positive, [84, 16])) > np.log(4) or not typical > 0:  # a unit moves all halos alike
        return None, "", ""
    name = min(factors, key=lambda f: abs(np.log(typical / factors[f][0])))
    value, why, mend = factors[name]
    large = not 1 / REFUSED < value < REFUSED
    near = abs(typical / value - 1) < (1.5 * NAMED if large else NAMED)
    return (name, why, mend) if near else (None, "", "")
