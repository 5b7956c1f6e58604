"""Reference points of TARP that depend on the data: a baseline's prediction of each view plus the scatter it had in training.

Compared are three summaries of a map: its sum, its profile in a few rings, and its power in a few bands.
"""

from __future__ import annotations

import numpy as np

from hpcdiff.evaluate.baselines import Baselines
from hpcdiff.evaluate.blocks import in_blocks
from hpcdiff.evaluate.calibration import tarp_rank
from hpcdiff.evaluate.spectra import HalfModes
from hpcdiff.measures import Rings
from hpcdiff.world import World

NAMES = ("mass", "profile", "band_powers")
GUIDES = ("wiener", "stacked_profile")
"""Baselines that may predict the reference, best first."""
RINGS, BANDS = 6, 5
"""Rings of the profile and bands of the power, at most, spaced evenly in the logarithm."""
VIEWS, FEWEST = 128, 8
"""Training views, one a halo, whose scatter is taken; and how many are too few."""
FLOOR = 1e-3
"""Of the training maps' mean: predictions are not taken for smaller than that, where they are divided by."""


class Summaries:
    """Mass, profile and band powers from what is measured of maps anyway.

    Args:
        pixels, modes: rings of pixels and of modes.
    """

    def __init__(self, pixels: Rings, modes: HalfModes) -> None:
        self.pixels, self.modes = pixels, modes
        self._rings, self._bands = _log_groups(pixels.n, RINGS), _log_groups(modes.n, BANDS)

    def __call__(self, totals: np.ndarray, profiles: np.ndarray, powers: np.ndarray) -> dict[str, np.ndarray]:
        """{name: (n, D)} of n maps: sums (n,), profiles (n, rings), powers (n, rings of modes), whose logarithm is taken."""
        power = np.log(np.maximum(_group(powers, self.modes.counts, self._bands), 1e-300))
        return {"mass": totals[:, None], "profile": _group(profiles, self.pixels.counts, self._rings), "band_powers": power}

    def of_maps(self, maps: np.ndarray) -> dict[str, np.ndarray]:
        """The same of maps (n, npix, npix)."""
        modes = self.modes.transform(maps)
        return self(maps.sum((-1, -2)), self.pixels.mean(maps), self.modes.power(modes, modes))


class Reference:
    """References for the views of one evaluation.

    Args:
        world, maps: the fit on the training split is collective, with the same bits for any number of ranks.
        baselines: fitted ones. summaries: of maps.

    Attributes:
        guide: the baseline that predicts; None = there is none, and `reason` says why.
    """

    def __init__(self, world: World, maps, baselines: Baselines, summaries: Summaries) -> None:
        self.summaries, self.reason = summaries, baselines.reason
        self.guide = next((name for name in GUIDES if name in baselines.names), None)
        rows = maps.rows("train")
        rows = rows[np.unique(maps.catalog["halo_id"][rows], return_index=True)[1]]
        if self.guide is None:
            return
        if len(rows) < FEWEST:
            self.guide, self.reason = None, f"the training split holds {len(rows)} halos, too few for the scatter of a baseline"
            return
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, VIEWS).astype(int))]

        def work(block: np.ndarray) -> dict[str, np.ndarray]:
            x = np.stack([maps.read(f, block) for f in baselines.inputs], 1).astype(np.float64)
            y = np.stack([maps.read(f, block) for f in baselines.outputs], 1).astype(np.float64)
            guess = np.stack([baselines.predict(x[n], int(row), (self.guide,))[self.guide] for n, row in enumerate(block)])
            out = {}
            for kind, of in (("truth", y), ("guess", guess)):
                for o in range(len(baselines.outputs)):
                    out |= {f"{kind}/{o}/{name}": v for name, v in summaries.of_maps(of[:, o]).items()}
            return out

        parts = list(in_blocks(world, rows, work, " training views, scatter"))
        of = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        self.floor, self.mean, self.spread = {}, {}, {}
        for o in range(len(baselines.outputs)):
            for name in NAMES:
                key, truth, guess = (o, name), of[f"truth/{o}/{name}"], of[f"guess/{o}/{name}"]
                self.floor[key] = FLOOR * np.abs(truth).mean(0)
                error = self._away(key, truth, guess)
                spread = error.std(0, ddof=1)
                self.mean[key], self.spread[key] = error.mean(0), np.where(spread > 0, spread, 1.0)

    def _away(self, key: tuple[int, str], values: np.ndarray, guess: np.ndarray) -> np.ndarray:
        """From the prediction: relative to it, or of logarithms the difference."""
        away = values - guess
        return away if key[1] == "band_powers" else away / np.maximum(np.abs(guess), np.maximum(self.floor[key], 1e-300))

    def ranks(
        self, o: int, truth: dict[str, np.ndarray], guess: dict[str, np.ndarray], samples: dict[str, np.ndarray], rng: np.random.Generator
    ) -> dict[str, float]:
        """TARP rank of the truth in each summary of one view; all the same reference, of the data alone.

        Args:
            o: number of the output. truth, guess: {name: (D,)}, of the truth and the guide's prediction. samples: {name: (S, D)}.
        """
        out = {}
        for name in NAMES:
            key = (o, name)
            reference = rng.standard_normal(len(self.mean[key]))
            a, b = ((self._away(key, v, guess[name]) - self.mean[key]) / self.spread[key] for v in (samples[name], truth[name]))
            out[name] = tarp_rank(a, b, reference, rng)
        return out


def _log_groups(n: int, most: int) -> np.ndarray:
    """First entries of at most `most` groups of n neighbouring entries, growing with their distance from the first."""
    return np.unique(np.concatenate([[0], np.floor(np.geomspace(1, n, most + 1)[1:-1])]).astype(int))


def _group(values: np.ndarray, counts: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Means over groups of rings, (..., n) -> (..., groups), weighted by how many cells each ring has."""
    return np.add.reduceat(values * counts, starts, axis=-1) / np.add.reduceat(counts, starts)
