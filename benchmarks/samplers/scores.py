"""What is measured of each view's samples, one number a view and field."""

from __future__ import annotations

import numpy as np

from hpcdiff import measures
from hpcdiff.evaluate import calibration

K_SPLIT = 2.0
"""Between large and small scales, h/Mpc."""
NAMES = (
    *("b_small", "b_large", "r_small", "r_large"),
    *("sample_b_small", "sample_b_large", "sample_r_small", "sample_r_large"),
    *("profile_error", "pixel_crps", "total_crps", "pixel_coverage", "total_coverage"),
    *("pixel_variance", "pixel_square", "total_variance", "total_square"),
)


def nominal(samples: int) -> float:
    """Coverage of the interval between the lowest and the highest sample, if the posterior is calibrated."""
    return (samples - 1) / (samples + 1)


def score(samples: np.ndarray, truth: np.ndarray, width_mpc: float, h: float) -> dict[str, float]:
    """Scores of one view and field.

    CRPS, variance and squared error are over the mean of the true map (of pixels) or its sum (of the total), and that squared,
    so that each cluster counts about as much as another.

    Args:
        samples: (S, npix, npix). truth: (npix, npix). width_mpc: of the map. h: Hubble constant over 100 km/s/Mpc.
    Returns:
        {name: value} for `NAMES`.
    """
    x, y = np.asarray(samples, np.float64), np.asarray(truth, np.float64)
    mean, modes, pixels = x.mean(0), measures.mode_rings(len(y)), measures.pixel_rings(len(y))
    k, seen = measures.wavenumbers(modes, width_mpc, h), np.fft.fft2(y)
    out = {}
    for prefix, maps in (("", mean[None]), ("sample_", x)):
        guess = np.fft.fft2(maps)
        p_gen, p_sim = measures.power(guess, guess, modes), measures.power(seen, seen, modes)
        curves = {"b": measures.bias(p_gen, p_sim), "r": measures.correlation(measures.power(guess, seen, modes), p_sim, p_gen)}
        for name, curve in curves.items():
            out[f"{prefix}{name}_small"], out[f"{prefix}{name}_large"] = (v.mean() for v in measures.bands(curve, k, K_SPLIT))
    out["profile_error"] = np.abs(pixels.mean(mean) / pixels.mean(y) - 1).mean()
    total, scale = x.sum((-1, -2))[:, None], y.sum()
    for name, a, b, unit in (("pixel", x.reshape(len(x), -1), y.ravel(), scale / y.size), ("total", total, np.array([scale]), scale)):
        out[f"{name}_crps"] = calibration.fair_crps(a, b).mean() / unit
        out[f"{name}_coverage"] = ((b > a.min(0)) & (b < a.max(0))).mean()
        out[f"{name}_variance"] = a.var(0, ddof=1).mean() / unit**2
        out[f"{name}_square"] = ((a.mean(0) - b) ** 2).mean() / unit**2
    return out


def score_views(samples: np.ndarray, truth: np.ndarray, width_mpc: np.ndarray, h: float) -> dict[str, np.ndarray]:
    """Scores of samples (n, C, S, npix, npix) against the first n of truth (m, C, npix, npix): {name: (n, C)}."""
    n = len(samples)
    views = zip(samples, truth[:n], width_mpc[:n], strict=True)
    every = [[score(x, y, width, h) for x, y in zip(xs, ys, strict=True)] for xs, ys, width in views]
    return {name: np.array([[one[name] for one in view] for view in every]) for name in NAMES}
