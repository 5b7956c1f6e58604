"""Masses in cylinders along the line of sight, sample by sample, and their intervals."""

from __future__ import annotations

import numpy as np

from hpcdiff.maps import MEAN_OF
from hpcdiff.sample.cluster.trained import Trained
from hpcdiff.structure import Structure

CUTS = 64
"""Strips that a pixel is cut into, in each of which its part within a circle is exact."""
OVERDENSITY = {"R500c": 500, "R200c": 200}
"""Radii, and the mean density within them over the critical one at the cluster's redshift."""
MEANING = (
    "p16 to p84 is the 68 % interval of the posterior given these maps: by order statistics at 0.16 (S+1) and 0.84 (S+1) of the S samples, "
    "so that it holds the truth in {covered:.0f} of 100 clusters if the posterior is calibrated. It knows the simulation that the model "
    "has learned from, and nothing else: no error of the maps' calibration, distance or centre, and no mass outside the depth."
)


def interval(values: np.ndarray) -> dict[str, float | int | None]:
    """Median and 68 % interval of samples (S,), those that are not finite left out.

    Percentiles are order statistics at q (S + 1) (Weibull), so that the interval covers 68 % of a calibrated posterior from 6 samples on.

    Returns:
        `p16`, `p50`, `p84`, `mean`, None where there are too few samples; `samples`, how many counted.
    """
    x = np.asarray(values, np.float64)
    x = x[np.isfinite(x)]
    out = dict.fromkeys(("p16", "p50", "p84", "mean"))
    if len(x):
        out |= {"p50": float(np.median(x)), "mean": float(x.mean())}
    if len(x) > 1:
        out |= {f"p{q}": float(np.percentile(x, q, method="weibull")) for q in (16, 84)}
    return out | {"samples": len(x)}


def covered(samples: int) -> float:
    """How often the interval of `interval` holds the truth of a calibrated posterior: 0.68, and less under 6 samples."""
    return (max(min(0.84 * (samples + 1), samples), 1) - min(max(0.16 * (samples + 1), 1), samples)) / (samples + 1)


def circle(npix: int, radius: float) -> np.ndarray:
    """Which part of each pixel lies within a circle about the map's centre, (npix, npix); radius in pixels."""
    x = np.arange(npix) - (npix - 1) / 2
    strips = (x[:, None] + (np.arange(CUTS) + 0.5) / CUTS - 0.5).ravel()
    half = np.sqrt(np.maximum(radius**2 - strips**2, 0.0))[:, None]  # of the chord through each strip
    chord = np.clip(np.minimum(half, x + 0.5) - np.maximum(-half, x - 0.5), 0.0, 1.0)
    return chord.reshape(npix, CUTS, npix).mean(1)


def cylinder_masses(sigma: np.ndarray, radius_mpc: np.ndarray, pixel_mpc: float) -> np.ndarray:
    """Mass within a projected radius of the map's centre, Msun (S,); NaN where the circle is not within the map.

    Args:
        sigma: surface density (S, npix, npix), Msun/Mpc^2. radius_mpc: (S,), physical.
    """
    npix, out = sigma.shape[-1], np.full(len(sigma), np.nan)
    for s, radius in enumerate(radius_mpc / pixel_mpc):
        if 0 < radius <= npix / 2:
            out[s] = (sigma[s] * circle(npix, radius)).sum(dtype=np.float64) * pixel_mpc**2
    return out


def surface_densities(samples: dict[str, np.ndarray], trained: Trained, redshift: float | None) -> dict[str, np.ndarray]:
    """Msun/Mpc^2 of each output that is a mass (S, npix, npix), and `total` = their sum where gas and dm are among them."""
    out = {}
    for field, maps in samples.items():
        factor = trained.msun_per_mpc2(field, redshift)
        if factor is not None:
            out[field] = maps.astype(np.float64) * factor
    if {"gas", "dm"} <= set(out) and "total" not in out:
        out["total"] = sum(out[f] for f in ("gas", "dm", "star") if f in out)
    return out


def halo_radii(
    sigma: dict[str, np.ndarray], trained: Trained, redshift: float | None, pixel_mpc: float
) -> tuple[dict[str, np.ndarray], str]:
    """R500c and R200c of each sample, physical Mpc {"R500c": (S,), ...}, NaN where the fit fails, and from what they are.

    The fit is that of `structure.Structure.measure`: a projected halo on the mean density, to `total`, else `dm`, else `gas`.
    """
    field = next((f for f in ("total", "dm", "gas") if f in sigma), None)
    if field is None:
        return {}, "no output is a mass"
    b, z = trained.background, trained.nearest(None) if redshift is None else redshift
    depth = next(d for f, d in trained.depth_mpc.items() if f in sigma and d is not None)
    npix = sigma[field].shape[-1]
    maps = sigma[field] / (b.rho_mean(z, MEAN_OF[field]) * depth)  # over the mean density at the cluster's own redshift
    measured = Structure(npix, b.h, b.Om0, b.Ob0).measure(field, maps, npix * pixel_mpc, depth, z)
    own = b.Ob0 / b.Om0 if field == "gas" else 1.0
    radii = {name: b.radius(measured[key] / own, OVERDENSITY[name], "crit", z) for name, key in (("R500c", "m500c"), ("R200c", "m200c"))}
    return radii, f"fit of a projected halo to each sample's {field}"


def weigh(
    samples: dict[str, np.ndarray], trained: Trained, redshift: float | None, pixel_mpc: float, given_mpc: dict[str, float | None]
) -> dict:
    """The cylindrical masses of every mass field within R500c and R200c.

    Args:
        samples: {output: (S, npix, npix)} in the map file's units. given_mpc: {"R500c": physical Mpc or None = fitted, "R200c": ...}.
    Returns:
        {"R500c": {"radius_mpc": interval, "radius_from": text, "mass_msun": {field: interval}, "mass_samples_msun": {field: list},
        "radius_samples_mpc": list, "reason": text or None}, ..., "interval": what it means}, ready for JSON.
    """
    sigma = surface_densities(samples, trained, redshift)
    n = len(next(iter(samples.values())))
    fitted, source = halo_radii(sigma, trained, redshift, pixel_mpc) if None in given_mpc.values() else ({}, "")
    out = {"interval": MEANING.format(covered=100 * covered(n)) if n > 1 else "one map, the answer of a regression: no interval"}
    for name, given in given_mpc.items():
        radius = fitted.get(name, np.full(n, np.nan)) if given is None else np.full(n, given)
        masses = {field: cylinder_masses(maps, radius, pixel_mpc) for field, maps in sigma.items()}
        lost = int((~np.isfinite(next(iter(masses.values()), np.full(n, np.nan)))).sum())
        reason = None
        if not sigma:
            reason = "no output is a mass, or the depth of the training maps differs from view to view"
        elif lost:
            reason = f"{lost} of {n} samples are left out: no radius could be fitted, or the circle is larger than the map"
        out[name] = {
            "radius_mpc": interval(radius),
            "radius_from": "given" if given is not None else source,
            "radius_samples_mpc": _plain(radius),
            "mass_msun": {field: interval(values) for field, values in masses.items()},
            "mass_samples_msun": {field: _plain(values) for field, values in masses.items()},
            "reason": reason,
        }
    return out


def _plain(values: np.ndarray) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]
