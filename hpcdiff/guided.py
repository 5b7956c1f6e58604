"""A further measured map whose likelihood is known (a weak-lensing map of `total`, say), on which samples are conditioned too.

The data are y = B (sum over outputs of w_f m_f) + n: m_f the output maps in their own units, w_f = 1 for an output that is measured
itself and Omega_f / Omega_m for `total`, B a Gaussian beam, n white noise. m = T^-1(x) of what the network sees; where the transform
T is no straight line, y is linearised about the denoiser's mean at each evaluation (`diffusion.guide`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hpcdiff import diffusion
from hpcdiff.errors import nearest
from hpcdiff.maps import MapFile
from hpcdiff.observe import observation_keys, smooth
from hpcdiff.transform import Transform

if TYPE_CHECKING:
    from hpcdiff.model import Model

MEASURED_COUNTER = 19
"""Counter of the noise of a mock measurement, beside `observe.COUNTERS` in the stream of observations."""


@dataclass(frozen=True)
class Measured:
    """A measured map with Gaussian noise, for `Model.sample(guide=...)`.

    Attributes:
        field: an output of the model, or `total` where `gas` and `dm` are outputs.
        map: (npix, npix) or (N, npix, npix) in the field's units; anything where `noise` is inf.
        noise: standard deviation of the noise, a number or an array that broadcasts to `map`; inf where there is no datum.
        beam: FWHM of the Gaussian that smoothed it, physical Mpc; None = none.
        om0, ob0: density parameters that weigh `total`; None = those that the model says.
    """

    field: str
    map: np.ndarray
    noise: float | np.ndarray
    beam: float | None = None
    om0: float | None = None
    ob0: float | None = None


class Telescope:
    """The linear operator A from the outputs' maps to what is measured, and its transpose.

    Args:
        field, beam, om0, ob0: as in `Measured`.
        outputs: fields of the channels. pixel_mpc: side of a pixel, physical Mpc, None = not known.
    Raises:
        ValueError: a field that the outputs do not make, a beam without a pixel size, `total` without density parameters.
    """

    def __init__(
        self, field: str, beam: float | None, outputs: Sequence[str], pixel_mpc: float | None, om0: float | None, ob0: float | None
    ) -> None:
        if field in outputs:
            weights = [float(name == field) for name in outputs]
        elif field == "total" and {"gas", "dm"} <= set(outputs):
            if not om0 or ob0 is None:
                raise ValueError("`total` is a sum by the density parameters, which are not known: give om0 and ob0")
            part = {"gas": ob0 / om0, "star": ob0 / om0, "dm": 1 - ob0 / om0}  # each map is over its component's mean density
            weights = [part.get(name, 0.0) for name in outputs]
        else:
            able = [*outputs, *(["total"] if {"gas", "dm"} <= set(outputs) else [])]
            raise ValueError(f"{field!r} cannot be made of the outputs{nearest(field, able)}; a guide is one of {', '.join(able)}")
        if beam and not pixel_mpc:
            raise ValueError("the guide's beam is a width in Mpc, and the maps' pixels have no common size")
        self.field, self.weights, self.fwhm = field, dict(zip(outputs, weights, strict=True)), beam / pixel_mpc if beam else 0.0
        self._sum, self._spread = diffusion.channel_sum(weights)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, n, n) in the outputs' units -> (B, 1, n, n) in the field's."""
        return smooth(self._sum(maps)[:, 0], self.fwhm)[:, None]

    def adjoint(self, measured: Tensor) -> Tensor:
        """The transpose, (B, 1, n, n) -> (B, C, n, n); the beam with its reflection at the edges is its own."""
        return self._spread(smooth(measured[:, 0], self.fwhm)[:, None])


@dataclass(frozen=True)
class Guide:
    """Data of some rows, and what they measure: (N, 1, n, n) each, in the field's units."""

    telescope: Telescope
    transforms: list[Transform]
    y: Tensor
    variance: Tensor

    def rows(self, which: Tensor) -> Guide:
        """The data of the rows `which` int64 (B,) of a batch."""
        return Guide(self.telescope, self.transforms, self.y[which], self.variance[which] if len(self.variance) > 1 else self.variance)

    def of(self, denoise, device: torch.device):
        """The denoiser that knows these data too."""
        t = self.telescope
        return diffusion.guide(
            denoise, self.y.to(device), t.forward, t.adjoint, self.variance.to(device), decode=lambda x: decode(self.transforms, x)
        )


def guide_of(model: Model, measured: Measured, n: int) -> Guide:
    """The data of `n` views, from arrays.

    Raises:
        ValueError: see `Telescope`; shapes, values or noise that cannot be.
    """
    known = [model.info.get(name.capitalize()) if v is None else v for name, v in (("om0", measured.om0), ("ob0", measured.ob0))]
    telescope = Telescope(measured.field, measured.beam, model.outputs, model.info.get("pixel_mpc"), *known)
    y = np.asarray(measured.map, np.float32)
    y = y[None] if y.ndim == 2 else y
    if y.shape != (n, model.npix, model.npix):
        raise ValueError(f"the guide's map has shape {y.shape}; it should be ({n}, {model.npix}, {model.npix})")
    try:
        noise = np.broadcast_to(np.asarray(measured.noise, np.float32), y.shape)
    except ValueError:
        raise ValueError(f"the guide's noise of shape {np.shape(measured.noise)} does not go with a map of {y.shape}") from None
    if not (noise > 0).all():
        raise ValueError("the guide's noise must be above 0, and inf where there is no datum")
    if not np.isfinite(y[np.isfinite(noise)]).all():
        raise ValueError("the guide's map has values that are not finite; where there is no datum, give it the noise inf")
    transforms = [model.transforms[name] for name in model.outputs]
    return Guide(telescope, transforms, torch.from_numpy(y)[:, None], torch.from_numpy(noise.astype(np.float32) ** 2)[:, None])


def mock(telescope: Telescope, maps: MapFile, noise: float, seed: int, views: np.ndarray) -> torch.Tensor:
    """What the telescope would measure of views of a map file, float32 (n, npix, npix): each view always with the same noise.

    The file's own field is taken where it is there, else the sum of the outputs.
    Raises:
        UserError: the file has neither.
    """
    if telescope.field in maps.fields:
        truth = maps.read(telescope.field, views).astype(np.float64)
    else:
        parts = {name: weight for name, weight in telescope.weights.items() if weight}
        maps.require(parts, "sample.guide")
        truth = sum(weight * maps.read(name, views).astype(np.float64) for name, weight in parts.items())
    clean = smooth(torch.from_numpy(truth), telescope.fwhm)
    return (clean + noise * diffusion.normal(observation_keys(seed, views), MEASURED_COUNTER, clean.shape[1:])).float()


def decode(transforms: Sequence[Transform], x: Tensor) -> tuple[Tensor, Tensor]:
    """Maps in the fields' units m = T^-1(x), and dm / dx; x, m (B, C, n, n)."""
    maps, slopes = [], []
    for channel, t in zip(x.unbind(1), transforms, strict=True):
        g = channel * (t.high - t.low) + t.low
        if t.curve == "asinh":
            m, slope = g.sinh() * t.scale, g.cosh() * t.scale
        elif t.curve == "log10":
            m = torch.pow(10.0, g)
            slope = m * float(np.log(10.0))
        else:
            m, slope = g, torch.ones_like(g)
        maps.append(m)
        slopes.append(slope * (t.high - t.low))
    return torch.stack(maps, 1), torch.stack(slopes, 1)
