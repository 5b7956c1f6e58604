"""All that is measured of one view: its posterior samples, and the baselines, against the truth.

One view at a time, always in arrays of the same shape, so that a view's numbers have the same bits whoever computes them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpcdiff import measures
from hpcdiff.evaluate import calibration, morphology
from hpcdiff.evaluate.baselines import Baselines
from hpcdiff.evaluate.observables import Observables
from hpcdiff.evaluate.reference import Reference, Summaries
from hpcdiff.structure import Structure

ERROR_EDGES = np.linspace(-1.0, 1.0, 81)
"""Edges of the histogram of fractional pixel errors; what lies beyond is counted in its first and last bin."""


@dataclass
class Place:
    """Where a view is: its row of the map file, width of the map, depth of each field's and the halo's R200m in Mpc, and the redshift."""

    row: int
    width_mpc: float
    depth_mpc: dict[str, float]
    r200_mpc: float
    redshift: float


class Ruler:
    """Measures views of one map file.

    Args:
        h: Hubble constant over 100 km/s/Mpc. k_split: between large and small scales, h/Mpc.
        baselines: fitted ones. summaries, reference: of TARP. structure: of halos.
    """

    def __init__(
        self, h: float, k_split: float, baselines: Baselines, summaries: Summaries, reference: Reference, structure: Structure
    ) -> None:
        self.h, self.k_split, self.baselines, self.structure = h, k_split, baselines, structure
        self.summaries, self.reference = summaries, reference
        self.modes, self.pixels = summaries.modes, summaries.pixels
        self.observables = Observables(self.modes.npix, baselines.inputs, structure)

    def view(self, place: Place, inputs: np.ndarray, truth: np.ndarray, samples: np.ndarray) -> dict[str, np.ndarray]:
        """Numbers of one view: {"<field>/<quantity>": array}, and of the view itself without a field.

        Args:
            place: where it is; its row seeds the order of ties.
            inputs: (I, npix, npix). truth: (O, npix, npix). samples: (O, S, npix, npix). All float64.
        """
        width, npix = place.width_mpc, self.modes.npix
        k = measures.wavenumbers(self.modes, width, self.h)
        out = {"k": k, "radius": self.pixels.radius * width / npix, "r200": place.r200_mpc}
        observed = self.observables(inputs, width, place.depth_mpc[self.observables.signal], place.redshift)
        out |= {f"observable/{name}": value for name, value in observed.items()}
        inside = self.observables.distance * width / npix < place.r200_mpc
        predicted = self.baselines.predict(inputs, place.row)
        seen = self.modes.transform(inputs)
        p_in = self.modes.power(seen, seen)
        for o, field in enumerate(self.baselines.outputs):
            rng = np.random.default_rng([place.row, o])
            guesses = {name: maps[o] for name, maps in predicted.items()}
            numbers, modes, p_sim = self._maps(truth[o], samples[o], guesses, k, o, rng)
            r = measures.correlation(self.modes.power(seen, modes), p_sim, p_in)
            small, large = measures.bands(r, k, self.k_split)
            for i, name in enumerate(self.baselines.inputs):
                numbers |= {f"{name}/r": r[i], f"{name}/r_small": small[i], f"{name}/r_large": large[i]}
            mean = samples[o].mean(0)
            where = (width, place.depth_mpc[field], place.redshift, place.r200_mpc)
            numbers |= _pixel_errors(mean, truth[o], inside)
            numbers |= morphology.measure(self.structure, field, truth[o], mean, samples[o], where, rng)
            out |= {f"{field}/{key}": value for key, value in numbers.items()}
        return {name: np.asarray(value, np.float64) for name, value in out.items()}

    def _maps(
        self, y: np.ndarray, x: np.ndarray, guesses: dict[str, np.ndarray], k: np.ndarray, o: int, rng: np.random.Generator
    ) -> tuple[dict, np.ndarray, np.ndarray]:
        """Spectra, profiles, sums and their calibration: the truth (npix, npix), samples (S, npix, npix) and guesses in one stack.

        Returns:
            the numbers, and the truth's modes and power.
        """
        s, names = len(x), list(guesses)
        maps = np.stack([y, x.mean(0), *x, *guesses.values()])  # truth, mean, samples, baselines
        modes = self.modes.transform(maps)
        power = self.modes.power(modes, modes)
        b = measures.bias(power, power[0])
        r = measures.correlation(self.modes.power(modes, modes[0]), power[0], power)
        bands = {
            f"{q}_{scale}": v for q, of in (("b", b), ("r", r)) for scale, v in zip(("small", "large"), self._bands(of, k), strict=True)
        }
        totals, profiles = maps.sum((-1, -2)), self.pixels.mean(maps)
        out = {
            "truth_total": totals[0],
            "truth_square": (y * y).mean(),
            "profile_truth": profiles[0],
            "profile": profiles[1],
            "sample_b": b[2 : 2 + s].mean(0),
            "sample_r": r[2 : 2 + s].mean(0),
            **{f"sample_{q}": v[2 : 2 + s].mean() for q, v in bands.items()},
        }
        for n, prefix in ((1, ""), *((2 + s + i, f"{name}/") for i, name in enumerate(names))):
            error = maps[n] - y
            out |= {f"{prefix}b": b[n], f"{prefix}r": r[n], **{f"{prefix}{q}": v[n] for q, v in bands.items()}}
            out[f"{prefix}squared_error"] = (error * error).mean()
            out[f"{prefix}mass_error"] = measures.ratio(error.sum(), totals[0])
            out[f"{prefix}absolute_error"] = np.abs(error).mean()
        if s > 1:
            out |= _calibration(x, y, totals[2 : 2 + s], totals[0], rng)
            if self.reference.guide is not None:
                of = self.summaries(totals, profiles, power)
                guide = 2 + s + names.index(self.reference.guide)
                at = [{q: v[n] for q, v in of.items()} for n in (0, guide, slice(2, 2 + s))]
                out |= {f"tarp/{name}": rank for name, rank in self.reference.ranks(o, *at, rng).items()}
        return out, modes[0], power[0]

    def _bands(self, values: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return measures.bands(values, k, self.k_split)


def _pixel_errors(mean: np.ndarray, y: np.ndarray, inside: np.ndarray) -> dict:
    """Fractional error of the pixels inside and outside R200m: median, half of the 16-84 range, histogram."""
    error, known = measures.ratio(mean - y, y), y > 0
    out = {}
    for name, part in (("inside", inside), ("outside", ~inside)):
        e = error[part & known]
        p16, median, p84 = np.percentile(e, [16, 50, 84]) if len(e) else [np.nan] * 3
        bins = len(ERROR_EDGES) - 1
        cell = np.clip((e - ERROR_EDGES[0]) / (ERROR_EDGES[-1] - ERROR_EDGES[0]) * bins, 0, bins - 1).astype(np.int64)
        out |= {
            f"{name}_median": median,
            f"{name}_spread": (p84 - p16) / 2,
            f"{name}_histogram": np.bincount(cell, minlength=bins),
        }
    return out


def _calibration(x: np.ndarray, y: np.ndarray, totals: np.ndarray, total: float, rng: np.random.Generator) -> dict:
    """Of the pixels of the map and of its sum, from at least two samples (S, npix, npix)."""
    s = len(x)
    out = {"variance_of_mean": calibration.variance_of_mean(x), "total_mean": totals.mean()}
    for name, a, b in (("pixel", x.reshape(s, -1), y.ravel()), ("total", totals[:, None], np.array([total]))):
        mean, variance = a.mean(0), a.var(0, ddof=1)
        if name == "pixel":
            a, b = a.astype(np.float32), b.astype(np.float32)  # as they are stored: comparisons are half the work
        known = variance > 0
        rank = calibration.ranks(a, b, rng)
        out |= {
            f"{name}_ranks": np.bincount(rank, minlength=s + 1),
            f"{name}_crps": calibration.fair_crps(a, b).mean(dtype=np.float64),
            f"{name}_variance": variance.mean(),
            f"{name}_square": ((mean - b) ** 2).mean(),
            f"{name}_within": ((mean - b) ** 2 < variance)[known].mean() if known.any() else np.nan,
        }
    return {**out, "total_rank": float(rank[0])}
