"""All baselines of a map file, fitted in two passes over its training views."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpcdiff.cosmology import Background
from hpcdiff.evaluate.baselines.nearest import Nearest, coarse
from hpcdiff.evaluate.baselines.nfw import NFW
from hpcdiff.evaluate.baselines.profile import StackedProfile
from hpcdiff.evaluate.baselines.regression import Regression
from hpcdiff.evaluate.baselines.training import chosen, read
from hpcdiff.evaluate.baselines.wiener import Wiener
from hpcdiff.evaluate.blocks import in_blocks
from hpcdiff.evaluate.observables import APERTURE_MPC, signal_field
from hpcdiff.maps import MapFile
from hpcdiff.measures import pixel_rings
from hpcdiff.world import World

NAMES = ("stacked_profile", "nfw", "wiener", "nearest", "regression")
"""Every baseline that there can be."""


class Baselines:
    """Fitted baselines; `predict` gives their maps.

    Args:
        world: the ranks; the fit is collective and has the same bits for any number of ranks.
        maps: the map file; at most `training.LIMIT` views of its training split are read, twice.
        inputs, outputs: fields.
        config: its `evaluate.regression` names a regression's samples, its `cosmology` fills what the map file does not say.
        views: rows that will be asked for; a regression that lacks one is left out.

    Attributes:
        names: those that there are, in the order of `NAMES`; `reasons` {name: why not} of the others that were asked for.
        reason: why none could be fitted, or None.
        totals: float64 (training views that were read, outputs), sums of the maps.
    Raises:
        UserError: the regression's file does not fit.
    """

    def __init__(
        self, world: World, maps: MapFile, inputs: list[str], outputs: list[str], config=None, views: np.ndarray | None = None
    ) -> None:
        self.inputs, self.outputs, self.maps = list(inputs), list(outputs), maps
        self.signal = self.inputs.index(signal_field(inputs))
        self.pixels = pixel_rings(maps.npix, whole=True)
        at = np.arange(maps.npix) - (maps.npix - 1) / 2
        self.distance = np.hypot(at[:, None], at[None, :])
        self.reason, self.reasons, self.totals = None, {}, np.empty((0, len(outputs)))
        self.models: dict[str, object] = {}
        self._open_regression(world, config, views)
        rows = maps.rows("train")
        halos = len(np.unique(maps.catalog["halo_id"][rows]))
        if halos < 3:
            self.reason = f"the training split holds {halos} halos, too few to fit"
            self.reasons |= {name: self.reason for name in NAMES[:-1]}
        else:
            rows = chosen(maps.catalog["halo_id"][rows], rows)
            self._prepare(world, rows, _background(maps, config))
            self._fit(world, rows)
        self.names = tuple(name for name in NAMES if name in self.models)

    def _open_regression(self, world: World, config, views: np.ndarray | None) -> None:
        path = config.evaluate.regression if config is not None else None
        if not path:
            return
        with world.together():
            regression = Regression(Path(path), self.maps, self.outputs)
        why = regression.lacks(views) if views is not None else None
        if why:
            self.reasons["regression"] = why
        else:
            self.models["regression"] = regression

    def _seen(self, x: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Total and aperture signal of each view, (n,), from inputs (n, I, npix, npix)."""
        signal, pixel = x[:, self.signal], self.maps.catalog["width_mpc"][rows] / self.maps.npix
        inside = [self.distance * p <= max(APERTURE_MPC, p) for p in pixel]
        aperture = [each[part].sum() * p**2 for each, part, p in zip(signal, inside, pixel, strict=True)]
        return {"signal": signal.sum((-1, -2)), "aperture": np.array(aperture)}

    def _prepare(self, world: World, rows: np.ndarray, background: Background) -> None:
        """First pass: means, signals, and what the nearest view is found by."""

        def work(block: np.ndarray) -> dict[str, np.ndarray]:
            x, y = read(self.maps, self.inputs, block), read(self.maps, self.outputs, block)
            rings = np.concatenate([self.pixels.mean(x), self.pixels.mean(y)], 1).sum(0)
            return {"rings": rings, "totals": y.sum((-1, -2)), "coarse": coarse(x), **self._seen(x, block)}

        parts = list(in_blocks(world, rows, work, " training views, pass 1"))
        mean_in, mean_out = np.split(sum(p["rings"] for p in parts) / len(rows), [len(self.inputs)])
        signal, aperture, self.totals, features = (
            np.concatenate([p[k] for p in parts]) for k in ("signal", "aperture", "totals", "coarse")
        )
        catalog = self.maps.catalog
        self.models["stacked_profile"] = StackedProfile(self.pixels, signal, self.totals)
        self.models["wiener"] = Wiener(self.pixels, mean_in, mean_out)
        self.models["nearest"] = Nearest(features, rows, catalog["halo_id"][rows])
        if why := NFW.refused(self.outputs, catalog, rows, aperture):
            self.reasons["nfw"] = why
        else:
            self.models["nfw"] = NFW(self.pixels, background, self.outputs, catalog, rows, aperture)

    def _fit(self, world: World, rows: np.ndarray) -> None:
        """Second pass: the sums of the least-squares fits."""
        stacked, wiener, nfw = (self.models.get(name) for name in ("stacked_profile", "wiener", "nfw"))

        def work(block: np.ndarray) -> dict[str, np.ndarray]:
            x, y = read(self.maps, self.inputs, block), read(self.maps, self.outputs, block)
            profile, seen = self.pixels.mean(y), self._seen(x, block)
            more = nfw.sums(block, seen["aperture"], profile) if nfw else {}
            return {**stacked.sums(seen["signal"], profile), **wiener.sums(x, y), **more}

        total: dict[str, np.ndarray] = {}
        for part in in_blocks(world, rows, work, " training views, pass 2"):
            total = {k: total[k] + v for k, v in part.items()} if total else part
        for model in (stacked, wiener, nfw):
            if model:
                model.fit(total)

    def predict(self, x: np.ndarray, row: int, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
        """Predicted maps {name: (O, npix, npix)} of one view.

        Args:
            x: its inputs (I, npix, npix). row: of the map file; `nearest` looks among other halos, so a training view is no twin of its own.
            names: those that are wanted; None = all.
        """
        seen = {k: float(v[0]) for k, v in self._seen(x[None], np.array([row])).items()}
        make = {
            "stacked_profile": lambda m: m.predict(seen["signal"]),
            "nfw": lambda m: m.predict(row, seen["aperture"]),
            "wiener": lambda m: m.predict(x),
            "nearest": lambda m: read(self.maps, self.outputs, np.array([m.row(x, int(self.maps.catalog["halo_id"][row]))]))[0],
            "regression": lambda m: m.predict(row),
        }
        return {name: make[name](self.models[name]) for name in self.names if names is None or name in names}


def _background(maps: MapFile, config) -> Background:
    """Cosmology of the maps: the file's own, else the config's."""
    given = vars(config.cosmology) if config is not None else {}
    default = Background()
    names = ("Om0", "Ob0", "h", "sigma8", "ns", "Tcmb0")
    return Background(*(float(maps.attributes.get(n, given.get(n, getattr(default, n)))) for n in names))
