"""Structure and substructure of the truth against the posterior samples: rows of one view, and the metrics of a bin."""

from __future__ import annotations

import numpy as np

from hpcdiff.evaluate.bins import Bin
from hpcdiff.evaluate.calibration import coverage, ranks
from hpcdiff.measures import ratio
from hpcdiff.structure import Structure

QUANTITIES = ("m500c", "concentration", "ellipticity", "offset_mpc")
RELATIVE = ("m500c",)
"""Quantities whose error is relative to the truth."""
MATCHED_PIXELS = 3.0
"""Largest distance of a peak from the true one that it shows."""


def measure(
    structure: Structure,
    field: str,
    truth: np.ndarray,
    mean: np.ndarray,
    samples: np.ndarray,
    place: tuple[float, float, float, float],
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Rows of one view.

    Args:
        structure: the measure. field: of the maps. truth, mean (npix, npix), samples (S, npix, npix): maps.
        place: width, depth (Mpc), redshift, and R200m (Mpc), within which peaks are counted.
        rng: order of ties.
    """
    width, depth, redshift, r200 = place
    of = structure.measure(field, np.concatenate([truth[None], samples]), width, depth, redshift)
    out = {}
    for name in QUANTITIES:
        y, x = of[name][0], of[name][1:]
        good = np.isfinite(x)
        known = np.isfinite(y) and good.all()
        out[f"structure/{name}/truth"] = y
        out[f"structure/{name}/samples"] = x[good].mean() if good.any() else np.nan
        out[f"structure/{name}/rank"] = float(ranks(x, y, rng)) if known else np.nan
    real = structure.clumps(truth, width, r200)
    scores = [structure.match(real, structure.clumps(m, width, r200), MATCHED_PIXELS * width / len(truth)) for m in (mean, *samples)]
    for n, name in enumerate(("completeness", "purity")):
        each = np.array([s[n] for s in scores])
        good = each[1:][np.isfinite(each[1:])]
        out |= {f"peaks/{name}": each[0], f"peaks/{name}_per_sample": good.mean() if len(good) else np.nan}
    return {**out, "peaks/truth": len(real)}


def structure_of(c, b: Bin, samples: int) -> dict:
    """`structure.<bin>.<field>`, from columns c(name) of the bin's views."""
    out = {}
    for name in QUANTITIES:
        truth, made, rank = (c(f"structure/{name}/{kind}") for kind in ("truth", "samples", "rank"))
        error = ratio(made - truth, truth) if name in RELATIVE else made - truth
        out[name] = {"truth": b.summary(truth), "samples": b.summary(made), "error": b.summary(error), "coverage": None}
        if samples > 1 and np.isfinite(rank).any():
            counts = (rank[:, None] == np.arange(samples + 1)).astype(float)
            nominal, observed = coverage(counts[np.isfinite(rank)])
            inside = np.full(len(rank), np.nan)
            inside[np.isfinite(rank)] = observed[:, 0]
            out[name]["coverage"] = {"nominal": float(nominal[0]), **b.summary(inside)}
    return out


def substructure_of(c, b: Bin) -> dict:
    """`substructure.<bin>.<field>`: of the mean map, and of each sample by itself."""
    names = ("completeness", "purity")
    return {
        **{name: b.summary(c(f"peaks/{name}")) for name in names},
        "per_sample": {name: b.summary(c(f"peaks/{name}_per_sample")) for name in names},
        "n_truth": int(c("peaks/truth").sum()),
    }
