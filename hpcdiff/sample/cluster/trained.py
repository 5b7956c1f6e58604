"""What the maps that a model was trained on were: cosmology, redshift, depth; and the factor to surface density."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError
from hpcdiff.maps import MEAN_OF, MapFile
from hpcdiff.model import Model

NUMBERS = ("Om0", "Ob0", "h", "sigma8", "ns", "Tcmb0")


@dataclass
class Trained:
    """The maps that a model was trained on.

    Attributes:
        background: their cosmology. redshift: (lowest, highest). depth_mpc: {output field: physical Mpc, None if it differs from view to view}.
        pixel_mpc: side of a pixel, physical Mpc; None if it differs from view to view.
    """

    background: Background
    redshift: tuple[float, float]
    depth_mpc: dict[str, float | None]
    pixel_mpc: float | None

    def nearest(self, redshift: float | None) -> float:
        """The redshift of the training maps that is nearest to a cluster's (None = unknown): that of the maps' mean density."""
        return float(np.clip(self.redshift[0] if redshift is None else redshift, *self.redshift))

    def msun_per_mpc2(self, field: str, redshift: float | None) -> float | None:
        """What one unit of a mass field's map is, Msun/Mpc^2: mean density times depth (Eq. 3 of Hsu et al. 2025); None for other fields."""
        depth = self.depth_mpc.get("dm" if field == "total" and field not in self.depth_mpc else field)
        if field not in MEAN_OF or depth is None:
            return None
        return self.background.rho_mean(self.nearest(redshift), MEAN_OF[field]) * depth


def trained_on(model: Model, maps: list[Path]) -> Trained:
    """What the model's folder says of its training maps, or else the map file that it was trained on.

    Args:
        model: `info` may hold `Om0`, `Ob0`, `h`, `Tcmb0`, `redshift` [lowest, highest] and `depth_mpc` {output: Mpc or None}.
        maps: the run's map files (they need not be there if the model says it all).
    Raises:
        UserError: neither says it, or the map file is not the model's.
    """
    info, pixel = model.info, model.info.get("pixel_mpc")
    if all(info.get(k) is not None for k in ("Om0", "Ob0", "h", "redshift", "depth_mpc")):
        low, high = info["redshift"]
        return Trained(_background(info), (float(low), float(high)), info["depth_mpc"], pixel)
    how = "name the map file that it was trained on in run.maps"
    if not maps or not maps[0].exists():
        where = maps[0] if maps else "run.maps"
        raise UserError("the model does not say the cosmology, redshift and depth of its maps, and the map file is not there", where, how)
    file = MapFile(maps[0])
    if file.fingerprint not in str(info.get("inputs", {}).get("maps", file.fingerprint)).split("+"):
        raise UserError("the model was trained on other maps", maps[0], how)
    a, z = file.attributes, file.catalog["redshift"]
    depth = {f: file.field_attributes.get(f, {}).get("depth_mpc", a.get("depth_mpc")) for f in model.outputs}
    depth = {f: None if d is None else float(d) for f, d in depth.items()}
    return Trained(_background(a), (float(z.min()), float(z.max())), depth, pixel)


def _background(numbers: dict) -> Background:
    return Background(**{k: float(numbers[k]) for k in NUMBERS if numbers.get(k) is not None})
