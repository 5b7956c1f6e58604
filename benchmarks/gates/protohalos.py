"""What in the linear density became the halos of a periodic box, against the peaks that clusters are begun from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gates import projected
from gates.halos import HALF_DEPTH
from gates.table import lines
from hpcdiff.simulate.cluster import median_concentration
from hpcdiff.simulate.nbody.coarse import PILOT_ACCURACY, PILOT_START, PILOT_STEP
from hpcdiff.simulate.nbody.evolve import evolve
from hpcdiff.simulate.nbody.excursion import COLLAPSE, Excursion, top_hat
from hpcdiff.simulate.nbody.gravity import gravity_of
from hpcdiff.simulate.nbody.halos import Matter, wrapped
from hpcdiff.simulate.nbody.initial import Waves, power, white, with_peak
from hpcdiff.simulate.nbody.peak import start
from hpcdiff.simulate.nbody.plan import Plan
from hpcdiff.simulate.nbody.zoom import levels

WIDER = (1.5, 2.0, 3.0)
"""Spheres about a halo's own in which the overdensity is compared, over its radius."""
RINGS = np.array([1.0, 1.5, 2.0, 3.0, 4.0])
"""Of the density around halos today, over R200m."""
HEADER = [
    "M200m",
    "halos",
    "barrier",
    "of peaks",
    "curvature",
    "of peaks",
    f"overdensity in {', '.join(format(w, 'g') for w in WIDER)} R",
    "about peaks",
    "rings today: mean",
    "median",
]


@dataclass(frozen=True)
class Found:
    """Numbers of the halos of one box, and of the peaks that are drawn for the same masses.

    Attributes:
        mass: M200m, Msun, (n,).
        barrier: linear overdensity of each halo's own sphere, about where its particles began, less 1.686, over its standard deviation, (n,).
        curvature: minus the Laplacian there in standard deviations, (n,). slope: gradient likewise, root mean square of the three, (n,).
        around: overdensity in `WIDER` spheres, (n, 3). own: part of the halo's particles that began in its sphere, (n,).
        drawn_barrier, drawn_curvature, drawn_around: the same of a peak of this mass, its surroundings in the mean.
        rings: density in `RINGS` today over one- and two-halo terms, mean of three lines of sight, (n, 4).
    """

    mass: np.ndarray
    barrier: np.ndarray
    curvature: np.ndarray
    slope: np.ndarray
    around: np.ndarray
    own: np.ndarray
    drawn_barrier: np.ndarray
    drawn_curvature: np.ndarray
    drawn_around: np.ndarray
    rings: np.ndarray


def measured(plan: Plan, threads: int = 1) -> Found:
    """Evolve the one box of a plan as coarsely as coarse boxes are, and look where its halos of `simulate.mass_range[0]` or more began."""
    b, n = plan.background, plan.lattice
    softening, of = plan.period / n / 16, levels(plan, 0.0, n)
    gravity = gravity_of(plan.period, 2 * n, softening, b.Om0, threads, plan.device)
    mass = of.masses(plan)
    begin = start(plan, 0, 0.0, n, a=PILOT_START)
    x = evolve(begin, mass, gravity, b.Om0, softening, PILOT_ACCURACY, longest=PILOT_STEP, fine=of.is_fine()).x
    matter = Matter(x, mass, gravity.potential(x, mass), plan.period, b, threads)
    waves, excursion = Waves(plan.period, n), Excursion(b)
    spectrum = power(b, waves)
    modes = white(waves, plan.seed_of(0)) * np.sqrt(spectrum)
    least = plan.config.simulate.mass_range[0]
    grid, median = median_concentration(b, least, 1e16, "200m")
    rng, rows = np.random.default_rng(plan.seed), []
    slopes = waves.twice() * waves.k2 * spectrum / 3
    for halo in (found for found in matter.halos(least, of.is_fine()) if found.mass_200m >= least):
        members, _ = matter.about(halo.centre, halo.radius_200m)
        points = np.stack(np.unravel_index(members[members < n**3], (n,) * 3), axis=1) * plan.period / n
        radius, here = float(b.radius(halo.mass_200m, 1.0)), middle(points, plan.period)
        scale = excursion.moments(radius)
        height, *around, curvature, slope = about(waves, modes, here, radius, scale.narrow)
        peak = excursion.peak(radius, *rng.random(2))
        centred = with_peak(waves, np.zeros_like(modes), spectrum, peak)  # what a peak has about it in the mean
        _, *drawn, _, _ = about(waves, centred, np.full(3, 0.5 * plan.period), radius, scale.narrow)
        sigma1 = np.sqrt(np.sum(slopes * np.exp(-waves.k2 * scale.narrow**2)))
        edges = RINGS * halo.radius_200m
        near, _ = matter.about(halo.centre, float(np.hypot(HALF_DEPTH, edges[-1])))
        near = near[near < n**3]  # dark matter
        density = projected.rings(wrapped(x[near] - halo.centre, plan.period), mass[near], edges, HALF_DEPTH).mean(axis=0)
        c = float(np.exp(np.interp(np.log(halo.mass_200m), grid, median)))
        rows.append(
            (
                halo.mass_200m,
                (height - COLLAPSE) / scale.sigma0,
                curvature / scale.sigma2,
                slope / sigma1,
                around,
                (np.linalg.norm(wrapped(points - here, plan.period), axis=1) < radius).mean(),
                (peak.height - COLLAPSE) / scale.sigma0,
                peak.curvature / scale.sigma2,
                drawn,
                density / (1 - b.Ob0 / b.Om0) / projected.expected(halo.mass_200m, c, edges, HALF_DEPTH, b),
            )
        )
    return Found(*(np.array(column) for column in zip(*rows, strict=True)))


def middle(points: np.ndarray, period: float) -> np.ndarray:
    """Centre of mass of points (n, 3) of a periodic box that lie within half of it of each other, (3,)."""
    return (points[0] + wrapped(points - points[0], period).mean(axis=0)) % period


def about(waves: Waves, modes: np.ndarray, point: np.ndarray, radius: float, narrow: float) -> tuple[float, ...]:
    """Of a field at a point: mean in spheres of this radius (Mpc) and of those in `WIDER`, minus the Laplacian (1/Mpc^2) and the root mean square of the gradient's three components (1/Mpc) when smoothed by a Gaussian of the width `narrow`."""
    here = waves.twice() * modes * np.exp(1j * sum(k * x for k, x in zip(waves.k, point, strict=True)))
    k, gauss = np.sqrt(waves.k2), here * np.exp(-0.5 * waves.k2 * narrow**2)
    means = [float(np.sum(top_hat(k * radius * s) * here).real) for s in (1.0, *WIDER)]
    slope = [float(np.sum(1j * one * gauss).real) for one in waves.k]
    return (*means, float(np.sum(waves.k2 * gauss).real), float(np.sqrt(np.mean(np.square(slope)))))


def cells(content: dict) -> list[list[str]]:
    """Each bin of mass of the JSON file as text."""

    def several(values: list[float]) -> str:
        return ", ".join(f"{v:.2f}" for v in values)

    def spread(values: list[float]) -> str:
        return "{:.2f} ± {:.2f}".format(*values)

    out = []
    for row, after in zip(content["rows"], [*content["rows"][1:], None], strict=True):
        mass = f"{row['from']:.2g}-{after['from']:.2g}" if after else f"above {row['from']:.2g}"
        numbers = [spread(row[name]) for name in ("barrier", "drawn_barrier", "curvature", "drawn_curvature")]
        rings = [several(row["rings"][name]) for name in ("mean", "median")]
        out.append([mass, str(row["halos"]), *numbers, several(row["around"]), several(row["drawn_around"]), *rings])
    return out


def markdown(content: dict) -> str:
    """The table of the JSON file as it stands in docs/simulation.md."""
    return lines(HEADER, cells(content))
