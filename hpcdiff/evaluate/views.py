"""All that is measured of one view: its posterior samples, and the baselines, against the truth.

One view at a time, always in arrays of the same shape, so that a view's numbers have the same bits whoever computes them.
"""

from __future__ import annotations

import numpy as np

from hpcdiff import measures
from hpcdiff.evaluate import calibration
from hpcdiff.evaluate.baselines import Baselines

ERROR_EDGES = np.linspace(-1.0, 1.0, 81)
"""Edges of the histogram of fractional pixel errors; what lies beyond is counted in its first and last bin."""


class Ruler:
    """Measures views of one map file.

    Args:
        npix: pixels a side. h: Hubble constant over 100 km/s/Mpc. k_split: between large and small scales, h/Mpc.
        baselines: fitted ones.
    """

    def __init__(self, npix: int, h: float, k_split: float, baselines: Baselines) -> None:
        self.h, self.k_split, self.baselines = h, k_split, baselines
        self.modes, self.pixels = measures.mode_rings(npix), measures.pixel_rings(npix)
        x = np.arange(npix) - (npix - 1) / 2
        self.distance = np.hypot(x[:, None], x[None, :])

    def view(
        self, row: int, width_mpc: float, r200_mpc: float, inputs: np.ndarray, truth: np.ndarray, samples: list[np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Numbers of one view: {"<field>/<quantity>": array}.

        Args:
            row: the view, which seeds the order of ties.
            width_mpc, r200_mpc: of the map, and the halo's R200m, Mpc.
            inputs: (I, npix, npix). truth: (O, npix, npix). samples: O arrays (S, npix, npix). All float64.
        """
        k = measures.wavenumbers(self.modes, width_mpc, self.h)
        out = {"k": k, "radius": self.pixels.radius * width_mpc / self.modes.npix}
        inside = self.distance * width_mpc / self.modes.npix < r200_mpc
        seen = np.fft.fft2(inputs)
        predicted = self.baselines.predict(inputs)
        for o, field in enumerate(self.baselines.outputs):
            y, x = truth[o], samples[o]
            mean = x.mean(0)
            modes = np.fft.fft2(y)
            p_sim = measures.power(modes, modes, self.modes)
            numbers = {
                **self._prediction(mean, y, modes, p_sim, k),
                **self._each_sample(x, modes, p_sim, k),
                "truth_total": y.sum(),
                "truth_square": (y * y).mean(),
                "profile_truth": self.pixels.mean(y),
                "profile": self.pixels.mean(mean),
                **_pixel_errors(mean, y, inside),
                **_calibration(x, y, np.random.default_rng([row, o])),
            }
            for name, maps in predicted.items():
                base = self._prediction(maps[o], y, modes, p_sim, k)
                numbers |= {f"{name}/{key}": value for key, value in base.items()}
                numbers[f"{name}/absolute_error"] = np.abs(maps[o] - y).mean()
            for i, name in enumerate(self.baselines.inputs):
                p_in, p_cross = measures.power(seen[i], seen[i], self.modes), measures.power(modes, seen[i], self.modes)
                r = measures.correlation(p_cross, p_sim, p_in)
                numbers[f"{name}/r"] = r
                numbers[f"{name}/r_small"], numbers[f"{name}/r_large"] = measures.bands(r, k, self.k_split)
            out |= {f"{field}/{key}": value for key, value in numbers.items()}
        return out

    def _prediction(self, x: np.ndarray, y: np.ndarray, modes: np.ndarray, p_sim: np.ndarray, k: np.ndarray) -> dict:
        """Of one predicted map (npix, npix) against the truth."""
        guess = np.fft.fft2(x)
        p_gen = measures.power(guess, guess, self.modes)
        b = measures.bias(p_gen, p_sim)
        r = measures.correlation(measures.power(modes, guess, self.modes), p_sim, p_gen)
        out = {"b": b, "r": r, "squared_error": ((x - y) ** 2).mean(), "mass_error": measures.ratio((x - y).sum(), y.sum())}
        for name, values in (("b", b), ("r", r)):
            out[f"{name}_small"], out[f"{name}_large"] = measures.bands(values, k, self.k_split)
        return out

    def _each_sample(self, x: np.ndarray, modes: np.ndarray, p_sim: np.ndarray, k: np.ndarray) -> dict:
        """Of each sample (S, npix, npix) by itself, mean over the samples."""
        guess = np.fft.fft2(x)
        p_gen = measures.power(guess, guess, self.modes)
        b = measures.bias(p_gen, p_sim).mean(0)
        r = measures.correlation(measures.power(guess, modes, self.modes), p_sim, p_gen).mean(0)
        out = {"sample_b": b, "sample_r": r}
        for name, values in (("sample_b", b), ("sample_r", r)):
            out[f"{name}_small"], out[f"{name}_large"] = measures.bands(values, k, self.k_split)
        return out


def _pixel_errors(mean: np.ndarray, y: np.ndarray, inside: np.ndarray) -> dict:
    """Fractional error of the pixels inside and outside R200m: median, half of the 16-84 range, histogram."""
    error, known = measures.ratio(mean - y, y), y > 0
    out = {}
    for name, part in (("inside", inside), ("outside", ~inside)):
        e = error[part & known]
        p16, median, p84 = np.percentile(e, [16, 50, 84]) if len(e) else [np.nan] * 3
        clipped = np.clip(e, ERROR_EDGES[0], ERROR_EDGES[-1])
        out |= {
            f"{name}_median": median,
            f"{name}_spread": (p84 - p16) / 2,
            f"{name}_histogram": np.histogram(clipped, ERROR_EDGES)[0],
        }
    return out


def _calibration(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> dict:
    """Of the total of the map (over the true total) and of its pixels; empty for a single sample."""
    s = len(x)
    if s < 2:
        return {}
    out = {"variance_of_mean": calibration.variance_of_mean(x)}
    total, scale = x.sum((-1, -2)), y.sum()
    for name, a, b in (("pixel", x.reshape(s, -1), y.ravel()), ("total", total[:, None], np.array([scale]))):
        e = calibration.standardised_error(a, b)
        known = np.isfinite(e)
        out |= {
            f"{name}_ranks": np.bincount(calibration.ranks(a, b, rng), minlength=s + 1),
            f"{name}_crps": calibration.fair_crps(a, b).mean(),
            f"{name}_variance": a.var(0, ddof=1).mean(),
            f"{name}_square": ((a.mean(0) - b) ** 2).mean(),
            f"{name}_within": (np.abs(e[known]) < 1).mean() if known.any() else np.nan,
        }
    return out
