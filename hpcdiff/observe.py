"""What a telescope makes of a map: a Gaussian beam, then white noise (microwave) or counts (X-ray).

The beam is convolved with the map continued by reflection at its edges. The sky goes on beyond the map: zeros there would darken
the rim by up to a half, a periodic map would bring in light from the opposite side. Under reflection what the beam carries out
comes back in, so that the sum of the map is conserved.

Every draw is a function of a key: the same for any batch, and on any device up to the rounding of float32.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

from hpcdiff import diffusion
from hpcdiff.errors import UserError
from hpcdiff.maps import MapFile
from hpcdiff.sections import Microwave, Observe, XRay
from hpcdiff.strict import Places, build

FWHM = math.sqrt(8 * math.log(2))
"""Full width at half maximum of a Gaussian over its standard deviation."""
COUNTERS = {"sz": 16, "compton_y": 17, "xray": 18}
"""Counter of each field's draws; 0 is the noise of diffusion, 2 the symmetry, 2^31 - 1 the start of sampling."""
SMALL = 10.0
"""Mean counts up to which the distribution is inverted term by term; its largest draw is then below `TERMS`."""
TERMS = 36


class Observation:
    """The observation model of one field.

    Args:
        field: its name. settings: its section of the config. pixel_mpc: side of a pixel, physical Mpc; None = not known, or not the same for all.
    Raises:
        UserError: a beam is given, and pixels have no common size.
    """

    def __init__(self, field: str, settings: Microwave | XRay, pixel_mpc: float | None) -> None:
        self.field, self.settings, self.fwhm = field, settings, 0.0
        width = settings.psf if isinstance(settings, XRay) else settings.beam
        if width is not None:
            if not pixel_mpc:
                key = f"observe.{field}.{'psf' if isinstance(settings, XRay) else 'beam'}"
                raise UserError(
                    f"{key} is a width in Mpc, and the maps' pixels have no common size", "map file", "project with a width in Mpc"
                )
            self.fwhm = width / float(pixel_mpc)

    def __call__(self, x: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Maps in the field's units (B, n, n) and keys int64 (B,) -> the observed maps, same units, float32 (B, n, n), on x's device."""
        x = smooth(x.double(), self.fwhm)
        keys, counter = keys.to(x.device), COUNTERS[self.field]
        if isinstance(self.settings, XRay):
            if self.settings.exposure is not None:
                mean = (self.settings.exposure * x + self.settings.background).clamp_min(0.0)
                counts = poisson(mean, diffusion.uniform(keys, counter, x.shape[1:]))
                x = (counts - self.settings.background) / self.settings.exposure
        elif self.settings.noise is not None:
            x = x + self.settings.noise * diffusion.normal(keys, counter, x.shape[1:])
        return x.float()


def observations(observe: Observe, inputs: list[str], pixel_mpc: float | None) -> dict[str, Observation]:
    """The inputs that the config observes, by name; those whose every key is null are left out.

    Raises:
        UserError: see `Observation`.
    """
    of = {"sz": observe.sz, "compton_y": observe.compton_y, "xray": observe.xray}
    return {name: Observation(name, of[name], pixel_mpc) for name in inputs if name in of and _acts(of[name])}


class ObservedMaps:
    """A map file read through the telescopes: each view always with the same noise, in validation, sampling and evaluation.

    Args:
        maps: the map file. settings: section `observe`, resolved; {} = nothing is observed.
        inputs: the fields that are observed, all others are read as they are. seed: of the run.
    Raises:
        UserError: see `Observation`; the section is no such one.
    """

    def __init__(self, maps: MapFile, settings: dict, inputs: list[str], seed: int) -> None:
        self._maps, self._seed = maps, seed
        observe = build(Observe, settings, set(), Places("section observe of the model or the samples"))
        self._seen = observations(observe, inputs, maps.attributes.get("pixel_mpc"))

    def __getattr__(self, name: str):
        return getattr(self._maps, name)

    def read(self, field: str, rows: np.ndarray) -> np.ndarray:
        """Maps of a field, as `MapFile.read`."""
        x = self._maps.read(field, rows)
        if field not in self._seen:
            return x
        return self._seen[field](torch.from_numpy(x), observation_keys(self._seed, rows)).numpy()


def _acts(settings: Microwave | XRay) -> bool:
    if isinstance(settings, XRay):
        return settings.psf is not None or settings.exposure is not None
    return settings.beam is not None or settings.noise is not None


OBSERVATION_STREAM = 5
"""Separates the observation of a view that is looked at (validated, sampled) from every other use of the seed."""


def observation_keys(seed: int, views: np.ndarray) -> torch.Tensor:
    """Keys of the one observation of each view, by its row in the map file: int64 (len(views),)."""
    return diffusion.derive_key(seed, OBSERVATION_STREAM, torch.as_tensor(np.asarray(views, np.int64)))


def smooth(x: torch.Tensor, fwhm: float) -> torch.Tensor:
    """Convolve maps (B, n, n) with a Gaussian of `fwhm` pixels, continued by reflection at the edges; 0 = none.

    Equals a multiplication by exp(-k^2 s^2 / 2), s = fwhm / 2.355, in the Fourier space of the reflected map, which is exact for
    beams of any width. The Gaussian is a product of one factor a side, so that it is done by one matrix a side, in the precision of x.
    """
    if not fwhm:
        return x
    a = _matrix(x.shape[-1], fwhm, x.device, x.dtype).expand(len(x), -1, -1)
    return torch.bmm(torch.bmm(a, x), a.mT)  # image by image: the same bits for any batch


@lru_cache(maxsize=8)
def _matrix(n: int, fwhm: float, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """(n, n): reflect a line of n pixels to 2n, multiply its Fourier modes by those of the Gaussian, keep the n."""
    k = 2 * np.pi * np.fft.rfftfreq(2 * n)
    gauss = np.exp(-0.5 * (k * fwhm / FWHM) ** 2)
    lines = np.concatenate([np.eye(n), np.eye(n)[::-1]])  # (2n, n): unit line j, and its mirror image
    smoothed = np.fft.irfft(gauss[:, None] * np.fft.rfft(lines, axis=0), 2 * n, axis=0)[:n]
    return torch.from_numpy(smoothed).to(device, dtype)


def poisson(mean: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Poisson counts, as the distribution inverted at uniform numbers.

    Up to a mean of `SMALL` term by term; beyond, rounded down from the expansion of the inverse in 1 / sqrt(mean) to third order
    (Giles 2016, ACM TOMS 42, 6, section 3), whose distribution is within 5e-5 of the exact one there.

    Args:
        mean: float64, any shape, 0 or more. u: the same shape, in (0, 1).
    Returns:
        float64, whole numbers.
    """
    u = u.double()
    few = mean.clamp_max(SMALL)
    term = torch.exp(-few)
    below, small = term.clone(), torch.zeros_like(mean)
    for k in range(1, TERMS):
        small += u > below
        term = term * few / k
        below += term
    w, many = torch.special.ndtri(u), mean.clamp_min(SMALL)
    root = many.sqrt()
    large = many + root * w + (2 + w**2) / 6 - (2 * w + w**3) / (72 * root) + (-8 / 405 + 7 / 810 * w**2 + w**4 / 270) / many
    return torch.where(mean <= SMALL, small, large.floor().clamp_min(0.0))
