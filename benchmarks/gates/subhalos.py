"""The subhalo mass function of clusters, held against Jiang & van den Bosch 2016."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gates.finder import SOFTENING, find
from gates.halos import Snapshot
from gates.table import Table, lines
from hpcdiff.cosmology import Background
from hpcdiff.simulate import particles, profiles

COUNTED = 30
"""Particles of the smallest subhalo that the gates count."""
BINS = (0.01, 0.03, 0.1, 1.0)
"""Of the mass of a subhalo over the virial mass of its host."""
LIMITS = (0.67, 1.5)
"""Of what is found over what is expected, beyond its noise."""


def mass_fraction(background: Background, formed: float) -> float:
    """Mean mass in subhalos above 1e-4 of the virial mass of a host that had half of it at the scale factor `formed` (Jiang & van den Bosch 2016).

    0.3563 n^-0.6 - 0.075, with n the dynamical times since then; n is at least 1, below which the fraction would grow without bounds.
    """
    a = np.linspace(formed, 1, 200)
    rate = np.array([np.sqrt(profiles.virial_overdensity(background, s) / 178) / s for s in a])  # of times H(z)/H0: that of da/dt falls out
    n = 9.778 / 1.628 * np.trapezoid(rate, a)  # 1/H0 is 9.778 Gyr/h, a dynamical time at 178 times the critical density 1.628 Gyr/h
    return 0.3563 * max(float(n), 1.0) ** -0.6 - 0.075


def expected(fraction: float, low: float, high: float, power: float = 0.0) -> float:
    """Sum of psi^power over the subhalos with psi, mass over the host's, between two values: evolved mass function of Jiang & van den Bosch 2016.

    That of `hpcdiff.simulate.particles`, of which `fraction` of the mass is above psi = 1e-4.
    """

    return fraction * particles.subhalo_sum(low, high, power) / particles.subhalo_sum(particles.UNRESOLVED, 1, 1)


@dataclass(frozen=True)
class Host:
    """A cluster and its subhalos within the virial radius: their masses over the virial mass, distances over the virial radius, (n,)."""

    psi: np.ndarray
    r: np.ndarray
    resolved: float
    """psi of `COUNTED` particles."""
    fraction: float
    """Mass in subhalos that is expected (`mass_fraction`)."""


def hosts(s: Snapshot, softening: float = SOFTENING, velocities: bool = True) -> list[Host]:
    """Every cluster of a snapshot; subhalos that reach beyond R200m end there."""
    b, found = s.background, []
    for i, radius in enumerate(s.halos["radius_200m"]):
        m, r = virial(s, i)
        which, x = light(s, i, radius)
        v = s.v[which] if velocities and s.v is not None else None
        dense = profiles.virial_overdensity(b) * b.rho_crit()
        subs = [h for h in find(x, v, particle(s), softening, virial=dense) if np.linalg.norm(h.centre) < r]
        psi, away = np.array([h.particles for h in subs]) * particle(s) / m, np.array([np.linalg.norm(h.centre) for h in subs]) / r
        found.append(Host(psi, away, *expectation(s, i)))
    return found


def virial(s: Snapshot, i: int) -> tuple[float, float]:
    """Virial mass (Msun) and radius (Mpc) of a cluster, from its M200m."""
    mass, radius, c = (s.halos[k][i] for k in ("mass_200m", "radius_200m", "concentration_200m"))
    return profiles.critical(mass, radius, c, profiles.virial_overdensity(s.background), s.background)


def particle(s: Snapshot) -> float:
    """Msun of all matter for each light dark-matter particle."""
    return s.m["dm"].min() * s.background.Om0 / (s.background.Om0 - s.background.Ob0)


def light(s: Snapshot, i: int, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Dark-matter particles within a radius (Mpc) of a cluster, and where they are about it, without the heavier ones that come from far around."""
    which, x = s.about(i, "dm", radius)
    fine = s.m["dm"][which] < 1.5 * s.m["dm"].min()
    return which[fine], x[fine]


def expectation(s: Snapshot, i: int) -> tuple[float, float]:
    """What a `Host` has as `resolved` and as `fraction`."""
    return COUNTED * particle(s) / virial(s, i)[0], mass_fraction(s.background, s.halos["formation_scale_factor"][i])


def counts(of: list[Host]) -> list[dict]:
    """In each range of their mass how many subhalos are in the clusters in which they are resolved, and how many are expected; the last is all of them."""
    rows = []
    for low, high in [*zip(BINS[:-1], BINS[1:], strict=True), (BINS[0], 1.0)]:
        there = [h for h in of if h.resolved <= low]
        n = sum(int(np.sum((h.psi >= low) & (h.psi < high))) for h in there)
        m = sum(expected(h.fraction, low, high) for h in there)
        rows.append({"from": low, "to": high, "clusters": len(there), "found": n, "expected": float(m)})
    return rows


def markdown(content: dict) -> str:
    """What two finders count in the same clusters (`counts` of each, of a JSON file) as it stands in docs/simulation.md."""
    own, other = content["subhalos"]["own"], content["subhalos"]["rockstar"]
    rows = [
        [f"{a['from']:g}-{a['to']:g}", str(a["clusters"]), f"{a['expected']:.1f}", str(b["found"]), str(a["found"])]
        for a, b in zip(own, other, strict=True)
    ]
    return lines(["m/M", "clusters", "Jiang & van den Bosch 2016", "ROCKSTAR", "finder of the gates"], rows)


def gates(table: Table, of: list[Host], finder: str = "") -> None:
    """Numbers of subhalos between bounds of their mass in the clusters in which they are resolved, their mass, and where they are.

    The errors are the Poisson noise of what is expected, and what is found may be off by a factor of 1.5, as finders differ, and by that.
    """
    for row in counts(of):
        low, high, m = row["from"], row["to"], row["expected"]
        noise, ratio = (m**-0.5, row["found"] / m) if row["clusters"] else (0.0, np.nan)
        name = f"{low:g}-{high:g}" if high < 1 else f"above {low:g}"
        what = f"subhalos{finder} over Jiang & van den Bosch 2016, m/M {name} ({row['found']} in {row['clusters']} clusters)"
        table.gate("subhalos", what, ratio, *_beyond(noise), noise)
    counted = [h.psi >= h.resolved for h in of]
    found = sum(h.psi[c].sum() for h, c in zip(of, counted, strict=True))
    m, square = (sum(expected(h.fraction, h.resolved, 1.0, power) for h in of) for power in (1, 2))
    error = square**0.5 / m
    table.gate(
        "subhalos",
        f"mass in subhalos{finder} of {COUNTED} particles or more over Jiang & van den Bosch 2016",
        found / m,
        *_beyond(error),
        error,
    )
    r = np.concatenate([h.r[c] for h, c in zip(of, counted, strict=True)])
    table.median("subhalos", f"distance of subhalos{finder} from the centre over the virial radius ({len(r)})", r, 0.5, 0.8)


def _beyond(noise: float) -> tuple[float, float]:
    return LIMITS[0] - noise, LIMITS[1] + noise
