"""How much of the dark matter the gas tells: the Wiener map of the evaluation's baselines, on maps of the simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gates.table import Table
from hpcdiff.evaluate.baselines import Baselines
from hpcdiff.maps import MapFile
from hpcdiff.measures import bands, correlation, mode_rings, pixel_rings, power, wavenumbers
from hpcdiff.transform import fit
from hpcdiff.world import World

INPUTS, OUTPUTS = ["sz", "xray"], ["gas", "dm"]
FOLDS = 7
"""A halo's maps are inferred with a filter of the halos of the other folds."""


class Logarithmic:
    """A map file whose inputs are read as logarithms, scaled to [0, 1]: their filter sees the faint outskirts as well as the core.

    Args:
        path: of the map file.
        fold: None for the file's own split; (i, n): every n-th halo from the i-th on is for testing, the others are for training.
    """

    def __init__(self, path: Path, fold: tuple[int, int] | None = None) -> None:
        self._file, self._fold = MapFile(path), fold
        train = self.rows("train")
        self._transforms = {}
        self._transforms = {f: fit("log10", f, [self.read(f, train)]) for f in INPUTS}

    def __getattr__(self, name: str):
        return getattr(self._file, name)

    def rows(self, part: str) -> np.ndarray:
        """As `MapFile.rows`."""
        if self._fold is None:
            return self._file.rows(part)
        held = self.catalog["halo_id"] % self._fold[1] == self._fold[0]
        return np.flatnonzero(held if part == "test" else ~held)

    def read(self, field: str, rows: np.ndarray) -> np.ndarray:
        """As `MapFile.read`."""
        x = self._file.read(field, np.asarray(rows))
        return self._transforms[field].forward(x) if field in self._transforms else x


def coherence(path: Path, shuffled: bool = False, k_split: float = 2.0, folds: int = 0) -> dict[str, tuple[float, float, float]]:
    """Of the Wiener map of each output from the logarithms of the inputs, median over test views of r on small scales, k > k_split h/Mpc: (whole map, what is not round), and of the mean training map.

    What is not round: a map less its mean in rings about the centre. With another halo's inputs if shuffled. Each halo is tested with a filter of the
    others if there are `folds`, else those of the test split with a filter of the training split.
    """
    found = {name: [] for name in OUTPUTS}
    for fold in [(i, folds) for i in range(folds)] or [None]:
        for name, values in _views(Logarithmic(path, fold), shuffled, k_split).items():
            found[name].extend(values)
    return {name: tuple(float(m) for m in np.median(v, axis=0)) for name, v in found.items()}


def gates(table: Table, as_it_is: dict, shuffled: dict, bare: dict) -> None:
    """The rows of the table.

    Args:
        as_it_is: `coherence` of the maps. shuffled: with other halos' inputs. bare: of maps whose subhalos have no gas.
    """
    r, other, less = (found["dm"] for found in (as_it_is, shuffled, bare))
    table.gate("inference", "Wiener map of the dark matter: r(k > 2 h/Mpc)", r[0], 0.6, 0.9)
    table.gate("inference", "what is not round: r less that with other halos' inputs", r[1] - other[1], 0.05, 0.9)
    whole, angular = "Wiener map of the dark matter", "what is not round"
    table.gate("shuffled inputs", f"{whole}: r with other halos' inputs less that of the mean training map", other[0] - other[2], -1, 0.05)
    table.gate("shuffled inputs", f"{angular}: r with other halos' inputs", other[1], -0.1, 0.1)
    for k, name in enumerate((whole, angular)):
        table.gate("inference", f"{name}: by how much the gas of subhalos raises r", r[k] - less[k], 0.0, 0.9)


def _views(maps: Logarithmic, shuffled: bool, k_split: float) -> dict[str, list]:
    """The three r of every test view."""
    baselines = Baselines(World(), maps, INPUTS, OUTPUTS)
    modes, rings = mode_rings(maps.npix), pixel_rings(maps.npix, whole=True)
    rows = maps.rows("test")
    k = wavenumbers(modes, float(maps.catalog["width_mpc"][rows[0]]), float(maps.attributes["h"]))
    halo = maps.catalog["halo_id"][rows]
    sources = np.roll(rows, int((halo == halo[0]).sum())) if shuffled else rows
    found, mean = {name: [] for name in OUTPUTS}, {name: maps.read(name, maps.rows("train")).mean(axis=0, dtype=float) for name in OUTPUTS}
    for row, source in zip(rows, sources, strict=True):
        x = np.stack([maps.read(f, np.array([source]))[0] for f in INPUTS]).astype(np.float64)
        predicted = baselines.predict(x, int(source), ("wiener",))["wiener"]
        for o, name in enumerate(OUTPUTS):
            truth = maps.read(name, np.array([row]))[0].astype(np.float64)
            pairs = [(truth, predicted[o]), tuple(m - rings.spread(rings.mean(m)) for m in (truth, predicted[o])), (truth, mean[name])]
            found[name].append([_small(*(np.fft.fft2(m) for m in pair), modes, k, k_split) for pair in pairs])
    return found


def _small(a: np.ndarray, b: np.ndarray, modes, k: np.ndarray, k_split: float) -> float:
    return bands(correlation(power(a, b, modes), power(a, a, modes), power(b, b, modes)), k, k_split)[0]
