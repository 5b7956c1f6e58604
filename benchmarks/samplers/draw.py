"""Posterior samples of the same views by every sampler, kept in pieces so that a run that is stopped goes on where it was."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcdiff import diffusion
from hpcdiff.config import Config
from hpcdiff.maps import PARTS, MapFile
from hpcdiff.model import load_model
from hpcdiff.observe import ObservedMaps

PIECE = 4
"""Views in a piece."""


@dataclass(frozen=True)
class Setting:
    """One way to draw: sampler, number of noise levels, start, and of `heun` how much fresh noise on the way."""

    sampler: str
    steps: int
    init: str = "matched"
    churn: float = 0.0

    @property
    def nfe(self) -> int:
        """Network evaluations for one sample."""
        return diffusion.nfe(self.sampler, self.steps)

    @property
    def name(self) -> str:
        """Text that names it, also as a folder."""
        return f"{self.sampler}-{self.steps}-{self.init}" + (f"-churn-{self.churn:g}" if self.churn else "")

    @property
    def curve(self) -> str:
        """Name of the sampler in tables and figures; with churn it is another one."""
        return f"{self.sampler}, churn" if self.churn else self.sampler


class Views:
    """One view of each test halo of a finished run, and its model.

    Args:
        run: the folder with `maps.h5` and `model/`.
        samples: of each view. seed: names their noise. limit: of the halos, for a try.
    Attributes:
        rows (n,) int64 of the map file; halos (n,); fields; truth (n, C, npix, npix) float32; width_mpc, r200_mpc (n,); h; model.
    """

    def __init__(self, run: Path, samples: int, seed: int = 0, limit: int | None = None) -> None:
        self.model, maps = load_model(run / "model"), MapFile(run / "maps.h5")
        self.samples, self.seed, self.fields = samples, seed, self.model.outputs
        test = maps.catalog["split"][:] == PARTS.index("test")
        halo = np.asarray(maps.catalog["halo_id"])
        every = [np.flatnonzero(test & (halo == i)) for i in np.unique(halo[test])][:limit]
        self.rows = np.array([rows[k % len(rows)] for k, rows in enumerate(every)])  # the axes by turns
        self.halos = halo[self.rows]
        observe = self.model.config.get("observe", Config().resolved("observe")["observe"])
        seen = ObservedMaps(maps, observe, self.model.inputs, seed)
        self.inputs = {field: seen.read(field, self.rows) for field in self.model.inputs}
        self.truth = np.stack([maps.read(field, self.rows) for field in self.fields], 1)
        self.width_mpc, self.r200_mpc = (np.asarray(maps.catalog[c])[self.rows] for c in ("width_mpc", "radius_200m"))
        self.h, self.npix = float(maps.attributes["h"]), maps.npix
        about = f"{self.model.info['weights_sha256']} {maps.fingerprint} {self.rows.tolist()} {samples} {seed}"
        self.name = hashlib.sha256(about.encode()).hexdigest()[:12]

    def draw(self, setting: Setting, folder: Path, upto: int | None = None) -> np.ndarray:
        """Samples (n, C, S, npix, npix) float32 in the map file's units; pieces that are in `folder` are not drawn again.

        Several processes may share the work: a piece that another is drawing is left to it. The samples end before the first piece that
        is not there.

        upto: draw what is missing of the first so many views; default: of all.
        """
        place = folder / self.name / setting.name
        place.mkdir(parents=True, exist_ok=True)
        pieces = {first: place / f"{first:04d}.npy" for first in range(0, len(self.rows), PIECE)}
        for first, path in pieces.items():
            if first < (len(self.rows) if upto is None else upto) and not path.exists():
                with open(path.with_suffix(".lock"), "w") as lock:
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        continue
                    if not path.exists():
                        self._draw_piece(setting, slice(first, first + PIECE), path)
        there = [np.load(path) for path in itertools.takewhile(Path.exists, pieces.values())]
        return np.concatenate(there) if there else np.empty((0, len(self.fields), self.samples, self.npix, self.npix), np.float32)

    def _draw_piece(self, setting: Setting, part: slice, path: Path) -> None:
        """Draw the samples of a few views; the file gets its name when it is whole."""
        began = time.perf_counter()
        found = self.model.sample(
            {field: x[part] for field, x in self.inputs.items()},
            samples=self.samples,
            sampler=setting.sampler,
            steps=setting.steps,
            seed=self.seed,
            view=self.rows[part],
            init=setting.init,
            churn=setting.churn,
            batch_size=PIECE * self.samples,
        )
        whole = path.with_suffix(".partial")
        with open(whole, "wb") as f:
            np.save(f, np.stack([found[field] for field in self.fields], 1))
        whole.rename(path)
        rate = len(self.rows[part]) * self.samples * setting.nfe / (time.perf_counter() - began)
        print(f"{setting.name}, views {part.start} to {part.start + len(self.rows[part]) - 1}: {rate:.0f} NFE/s", flush=True)
