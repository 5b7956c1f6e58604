"""A round cluster that follows the total SZ signal.

Ring by ring a parabola in u = (total signal)^alpha, where alpha is the slope of log(total output) against log(total signal) over
the training views; the rings' values minimise the squared error.
"""

from __future__ import annotations

import numpy as np

from hpcdiff.evaluate.baselines.training import solve
from hpcdiff.measures import Rings

DEGREE = 2


class StackedProfile:
    """The stacked profile.

    Args:
        pixels: rings of the whole map. signal: (n,), total signal of each training view. totals: (n, O), sums of the outputs.
    Attributes:
        alpha: float64 (O,).
    """

    def __init__(self, pixels: Rings, signal: np.ndarray, totals: np.ndarray) -> None:
        self.pixels = pixels
        self.least = signal[signal > 0].min(initial=np.inf)  # a noisy map may hold less than nothing
        self.least = float(self.least) if np.isfinite(self.least) else 1.0
        log_s, log_t = np.log(np.maximum(signal, self.least)), np.log(np.maximum(totals, totals.max(0) * 1e-12 + 1e-300))
        d = log_s - log_s.mean()
        spread = (d * d).sum()
        self.alpha = (d[:, None] * log_t).sum(0) / spread if spread > 0 else np.zeros(totals.shape[1])
        self.pivot = float(np.exp(log_s.mean()))

    def _basis(self, signal: np.ndarray) -> np.ndarray:
        """1, u, u^2 of each view and output, (n, O, DEGREE + 1)."""
        u = (np.maximum(signal, self.least)[:, None] / self.pivot) ** self.alpha
        return u[..., None] ** np.arange(DEGREE + 1)

    def sums(self, signal: np.ndarray, profile: np.ndarray) -> dict[str, np.ndarray]:
        """The sums over some views that the fit needs; profile: ring means of the outputs, (n, O, rings)."""
        basis = self._basis(signal)
        return {"basis": np.einsum("noa,nob->oab", basis, basis), "profile": np.einsum("noa,nor->oar", basis, profile)}

    def fit(self, total: dict[str, np.ndarray]) -> None:
        """Set the rings from the sums over all views."""
        self.profiles = np.stack([solve(m, p) for m, p in zip(total["basis"], total["profile"], strict=True)])  # (O, 3, rings)

    def predict(self, signal: float) -> np.ndarray:
        """Maps (O, npix, npix)."""
        return self.pixels.spread(np.einsum("oa,oar->or", self._basis(np.array([signal]))[0], self.profiles))
