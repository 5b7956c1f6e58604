"""What can be observed of a view, to bin by and to hold calibration against: bins in an observable don't bias a right posterior."""

from __future__ import annotations

import numpy as np

from hpcdiff.structure import Structure

APERTURE_MPC = 1.0
"""Radius of the aperture about the map's centre, physical Mpc; one pixel at least."""


def signal_field(inputs: list[str]) -> str:
    """The input whose aperture signal names the bins: `sz`, else `compton_y`, else the first."""
    return next((f for f in ("sz", "compton_y") if f in inputs), inputs[0])


class Observables:
    """Aperture signals and the offset of the peak.

    Args:
        npix: pixels a side. inputs: fields. structure: the measure of the offset.
    """

    def __init__(self, npix: int, inputs: list[str], structure: Structure) -> None:
        self.npix, self.inputs, self.structure = npix, list(inputs), structure
        self.signal = signal_field(self.inputs)
        x = np.arange(npix) - (npix - 1) / 2
        self.distance = np.hypot(x[:, None], x[None, :])

    def __call__(self, x: np.ndarray, width_mpc: float, depth_mpc: float, redshift: float) -> dict[str, float]:
        """Of one view's inputs (I, npix, npix): {input: its integral within the aperture, map unit x Mpc^2, "offset_mpc": ...}.

        The offset is that of the signal's peak from the map's centre, as in `Structure.measure`.
        """
        pixel = width_mpc / self.npix
        inside = self.distance * pixel <= max(APERTURE_MPC, pixel)
        out = {name: float(m[inside].sum() * pixel**2) for name, m in zip(self.inputs, x, strict=True)}
        peak = self.structure.measure(self.signal, x[self.inputs.index(self.signal)][None], width_mpc, depth_mpc, redshift)
        return {**out, "offset_mpc": float(peak["offset_mpc"][0])}
