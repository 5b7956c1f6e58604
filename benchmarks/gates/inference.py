"""How much of the dark matter the gas tells: the Wiener map of the evaluation's baselines, on maps of the simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpcdiff.evaluate.baselines import Baselines
from hpcdiff.maps import MapFile
from hpcdiff.measures import bands, correlation, mode_rings, pixel_rings, power, wavenumbers
from hpcdiff.transform import fit
from hpcdiff.world import World

INPUTS, OUTPUTS = ["sz", "xray"], ["gas", "dm"]


class Logarithmic:
    """A map file whose inputs are read as logarithms, scaled to [0, 1]: their filter sees the faint outskirts as well as the core."""

    def __init__(self, path: Path) -> None:
        self._maps = MapFile(path)
        train = self._maps.rows("train")
        self._transforms = {f: fit("log10", f, [self._maps.read(f, train)]) for f in INPUTS}

    def __getattr__(self, name: str):
        return getattr(self._maps, name)

    def read(self, field: str, rows: np.ndarray) -> np.ndarray:
        """As `MapFile.read`."""
        x = self._maps.read(field, rows)
        return self._transforms[field].forward(x) if field in self._transforms else x


def coherence(path: Path, shuffled: bool = False, k_split: float = 2.0) -> dict[str, tuple[float, float]]:
    """Of the Wiener map of each output from the logarithms of the inputs, median over test views of r on small scales, k > k_split h/Mpc: (whole map, what is not round).

    What is not round: a map less its mean in rings about the centre. With another halo's inputs if shuffled.
    """
    maps = Logarithmic(path)
    baselines = Baselines(World(), maps, INPUTS, OUTPUTS)
    modes, rings = mode_rings(maps.npix), pixel_rings(maps.npix, whole=True)
    rows = maps.rows("test")
    k = wavenumbers(modes, float(maps.catalog["width_mpc"][rows[0]]), float(maps.attributes["h"]))
    halo = maps.catalog["halo_id"][rows]
    sources = np.roll(rows, int((halo == halo[0]).sum())) if shuffled else rows
    found = {name: [] for name in OUTPUTS}
    for row, source in zip(rows, sources, strict=True):
        x = np.stack([maps.read(f, np.array([source]))[0] for f in INPUTS]).astype(np.float64)
        predicted = baselines.predict(x, int(source), ("wiener",))["wiener"]
        for o, name in enumerate(OUTPUTS):
            truth = maps.read(name, np.array([row]))[0].astype(np.float64)
            pairs = [(truth, predicted[o]), tuple(m - rings.spread(rings.mean(m)) for m in (truth, predicted[o]))]
            found[name].append([_small(*(np.fft.fft2(m) for m in pair), modes, k, k_split) for pair in pairs])
    return {name: tuple(float(m) for m in np.median(v, axis=0)) for name, v in found.items()}


def _small(a: np.ndarray, b: np.ndarray, modes, k: np.ndarray, k_split: float) -> float:
    return bands(correlation(power(a, b, modes), power(a, a, modes), power(b, b, modes)), k, k_split)[0]
