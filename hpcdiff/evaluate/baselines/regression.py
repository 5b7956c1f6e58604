"""The same network trained as a mean-square regression: what the mean of a posterior's samples has to beat."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpcdiff.errors import UserError
from hpcdiff.evaluate.inputs import Samples
from hpcdiff.maps import MapFile


class Regression:
    """Maps of a finished run with `task.method: regression`.

    Args:
        path: its samples file. maps: the map file. outputs: fields.
    Raises:
        UserError: no such file, of another map file, of other fields, a control, or of more than one sample a view.
    """

    def __init__(self, path: Path, maps: MapFile, outputs: list[str]) -> None:
        self.samples, self.outputs = Samples(path), outputs
        self.samples.against(maps)
        if missing := [f for f in outputs if f not in self.samples.fields]:
            raise UserError(f"the regression has no maps of {missing[0]}", path, f"it holds {', '.join(self.samples.fields)}")
        if self.samples.control:
            raise UserError(f"evaluate.regression is a control ({self.samples.control}), no rival", path, "name a run that is none")
        if self.samples.count != 1:
            raise UserError(
                f"evaluate.regression holds {self.samples.count} samples a view, a regression one",
                path,
                "name the samples.h5 of a run with task.method=regression",
            )
        self.position = {int(view): n for n, view in enumerate(self.samples.views)}

    def lacks(self, views: np.ndarray) -> str | None:
        """Why it cannot be held against the samples of `views`, or None."""
        missing = np.setdiff1d(views, self.samples.views)
        return f"{len(missing)} views have no maps (first {missing[0]})" if len(missing) else None

    def predict(self, row: int) -> np.ndarray:
        """Maps (O, npix, npix) of one view; NaN where it has none."""
        npix = self.samples.npix
        if row not in self.position:
            return np.full((len(self.outputs), npix, npix), np.nan)
        at = np.array([self.position[row]])
        return np.stack([self.samples.read(field, at)[0, 0] for field in self.outputs]).astype(np.float64)
