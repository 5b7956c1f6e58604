"""The best linear prediction of the outputs from the inputs that knows no direction: a multi-input Wiener filter.

The mean training map (round) plus a filter W(|k|) of the inputs' deviations from theirs, W = C_oi C_ii^-1 in each ring of modes;
|k| = 0, the maps' means, is a ring of its own.
"""

from __future__ import annotations

import numpy as np
from scipy import fft

from hpcdiff.evaluate.baselines.training import solve
from hpcdiff.measures import Rings, mode_rings


class Wiener:
    """The Wiener filter.

    Args:
        pixels: rings of the whole map. mean_in, mean_out: ring means of the mean training maps, (I, rings) and (O, rings).
    Attributes:
        filters: float64 (I, O, rings of modes).
    """

    def __init__(self, pixels: Rings, mean_in: np.ndarray, mean_out: np.ndarray) -> None:
        self.modes = mode_rings(pixels.npix, whole=True)
        column = np.arange(pixels.npix)
        self.column = np.minimum(column, pixels.npix - column)  # rings don't tell a mode of a real map from its mirror images
        self.mean_in, self.mean_out = pixels.spread(mean_in), pixels.spread(mean_out)

    def sums(self, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        """The sums over some views that the fit needs; x: inputs (n, I, npix, npix), y: outputs (n, O, npix, npix)."""
        a = fft.rfft2(x - self.mean_in)
        both = np.concatenate([a, fft.rfft2(y - self.mean_out)], 1)
        cross = np.empty((both.shape[1], a.shape[1], *a.shape[2:]))
        for j, p in enumerate(np.moveaxis(both, 1, 0)):
            for i, q in enumerate(np.moveaxis(a, 1, 0)):
                cross[j, i] = np.einsum("nuv,nuv->uv", p.real, q.real) + np.einsum("nuv,nuv->uv", p.imag, q.imag)
        return {"cross": self.modes.mean(cross[..., self.column])}

    def fit(self, total: dict[str, np.ndarray]) -> None:
        """Set the filters from the sums over all views."""
        n_in = len(self.mean_in)
        cross = np.moveaxis(total["cross"], -1, 0)  # (rings, I + O, I)
        self.filters = np.moveaxis(np.array([solve(c[:n_in], c[n_in:].T) for c in cross]), 0, -1)  # (I, O, rings)
        self.spread = self.modes.spread(self.filters)[..., : self.modes.npix // 2 + 1]  # of the half plane of real maps

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Maps (O, npix, npix) from one view's inputs (I, npix, npix)."""
        modes = (self.spread * fft.rfft2(x - self.mean_in)[:, None]).sum(0)
        return self.mean_out + fft.irfft2(modes, s=x.shape[1:])
