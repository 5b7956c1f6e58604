"""What a network has to beat: two predictions fitted on the training split, in map units.

- `stacked_profile`: a round cluster. Ring by ring a parabola in u = (total SZ signal)^alpha, where alpha is the slope of
  log(total output) against log(total SZ) over the training views; the rings' values minimise the squared error.
- `linear_map`: mean training map (round) plus the best filter W(|k|) of the inputs' deviations from theirs, a
  multi-input Wiener filter W = C_oi C_ii^-1 in each ring of modes; |k| = 0, the maps' means, is a ring of its own.
"""

from __future__ import annotations

import numpy as np

from hpcdiff.evaluate.blocks import in_blocks
from hpcdiff.maps import MapFile
from hpcdiff.measures import mode_rings, pixel_rings
from hpcdiff.world import World

NAMES = ("stacked_profile", "linear_map")
DEGREE = 2


class Baselines:
    """Fitted baselines; `predict` gives their maps.

    Args:
        world: the ranks; the fit is collective and has the same bits for any number of ranks.
        maps: the map file; its training split is read twice.
        inputs, outputs: fields.

    Attributes:
        names: those that could be fitted; `reason` says why none could.
        totals: float64 (training views, outputs), sums of the maps.
    """

    def __init__(self, world: World, maps: MapFile, inputs: list[str], outputs: list[str]) -> None:
        self.inputs, self.outputs = list(inputs), list(outputs)
        self.signal = next((f for f in ("sz", "compton_y") if f in inputs), inputs[0])
        self.pixels, self.modes = pixel_rings(maps.npix, whole=True), mode_rings(maps.npix, whole=True)
        rows = maps.rows("train")
        halos = len(np.unique(maps.catalog["halo_id"][rows]))
        self.names, self.reason, self.totals = (), None, np.empty((0, len(outputs)))
        if halos < 3:
            self.reason = f"the training split holds {halos} halos, too few to fit"
            return
        self.names = NAMES
        self._fit_means(world, maps, rows)
        self._fit_rings(world, maps, rows)

    def _read(self, maps: MapFile, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs (n, I, npix, npix) and outputs (n, O, npix, npix), float64."""
        return tuple(np.stack([maps.read(f, rows) for f in fields], 1).astype(np.float64) for fields in (self.inputs, self.outputs))

    def _fit_means(self, world: World, maps: MapFile, rows: np.ndarray) -> None:
        def work(block: np.ndarray) -> dict[str, np.ndarray]:
            x, y = self._read(maps, block)
            both = np.concatenate([x, y], 1)
            return {"rings": self.pixels.mean(both).sum(0), "signal": self._signal(x), "totals": y.sum((-1, -2))}

        parts = list(in_blocks(world, rows, work, " training views, pass 1"))
        mean = sum(p["rings"] for p in parts) / len(rows)
        self.mean_in, self.mean_out = np.split(mean, [len(self.inputs)])
        signal, self.totals = (np.concatenate([p[k] for p in parts]) for k in ("signal", "totals"))
        log_s, log_t = np.log(signal), np.log(np.maximum(self.totals, self.totals.max(0) * 1e-12 + 1e-300))
        d = log_s - log_s.mean()
        spread = (d * d).sum()
        self.alpha = (d[:, None] * log_t).sum(0) / spread if spread > 0 else np.zeros(len(self.outputs))
        self.pivot = float(np.exp(log_s.mean()))

    def _signal(self, x: np.ndarray) -> np.ndarray:
        """Total signal of each view, (n,), kept above zero."""
        return np.maximum(x[:, self.inputs.index(self.signal)].sum((-1, -2)), 1e-300)

    def _basis(self, x: np.ndarray) -> np.ndarray:
        """1, u, u^2 of each view and output, (n, O, DEGREE + 1)."""
        u = (self._signal(x)[:, None] / self.pivot) ** self.alpha
        return u[..., None] ** np.arange(DEGREE + 1)

    def _deviations(self, x: np.ndarray) -> np.ndarray:
        return np.fft.fft2(x - self.pixels.spread(self.mean_in))

    def _fit_rings(self, world: World, maps: MapFile, rows: np.ndarray) -> None:
        n_in = len(self.inputs)

        def work(block: np.ndarray) -> dict[str, np.ndarray]:
            x, y = self._read(maps, block)
            basis, profile = self._basis(x), self.pixels.mean(y)  # (n, O, 3), (n, O, rings)
            a = self._deviations(x)
            b = np.fft.fft2(y - self.pixels.spread(self.mean_out))
            both = np.concatenate([a, b], 1)
            cross = [[(both[:, j] * a[:, i].conj()).real.sum(0) for i in range(n_in)] for j in range(both.shape[1])]
            return {
                "basis": np.einsum("noa,nob->oab", basis, basis),
                "profile": np.einsum("noa,nor->oar", basis, profile),
                "cross": self.modes.mean(np.array(cross)),
            }

        total = None
        for part in in_blocks(world, rows, work, " training views, pass 2"):
            total = part if total is None else {k: total[k] + part[k] for k in total}
        self.profiles = np.stack([_solve(m, p) for m, p in zip(total["basis"], total["profile"], strict=True)])  # (O, 3, rings)
        cross = np.moveaxis(total["cross"], -1, 0)  # (rings, I + O, I)
        filters = [_solve(c[:n_in], c[n_in:].T) for c in cross]  # each (I, O)
        self.filters = np.moveaxis(np.array(filters), 0, -1)  # (I, O, rings)

    def predict(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Predicted maps {name: (O, npix, npix)} from one view's inputs (I, npix, npix)."""
        if not self.names:
            return {}
        rings = np.einsum("oa,oar->or", self._basis(x[None])[0], self.profiles)
        deviations = self._deviations(x)
        modes = sum(self.modes.spread(self.filters[i]) * deviations[i] for i in range(len(self.inputs)))
        return {
            "stacked_profile": self.pixels.spread(rings),
            "linear_map": self.pixels.spread(self.mean_out) + np.fft.ifft2(modes).real,
        }


def _solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The least-squares solution of symmetric equations of any scale; directions without signal get nothing."""
    scale = np.sqrt(np.diag(matrix))
    scale = np.where(scale > 0, scale, 1.0)
    inverse = np.linalg.pinv(matrix / scale[:, None] / scale, rcond=1e-10, hermitian=True)
    return np.einsum("ab,bc->ac", inverse, right / scale[:, None]) / scale[:, None]
