"""What a model is shown of one observed cluster: FITS images on its grid, and what is to be said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcdiff import files, seen
from hpcdiff.errors import UserError
from hpcdiff.guided import Measured
from hpcdiff.model import Model
from hpcdiff.sample.cluster.grid import Grid, make_grid
from hpcdiff.sample.cluster.resample import resample
from hpcdiff.sample.cluster.sky import FITS, Sky, read_sky
from hpcdiff.sample.cluster.trained import Trained, trained_on
from hpcdiff.sections import Guide

WHOLE = 1e-3
"""Part of a pixel that may lie outside the image: rounding."""
ALIKE = {"sz": "compton_y", "compton_y": "sz"}
"""Fields that are one and the same but for a unit."""


@dataclass
class Observed:
    """What a model is shown of one cluster.

    Attributes:
        inputs: {field: float32 (npix, npix)} on the model's grid, in the map file's units. grid: that grid on the sky.
        redshift: of the cluster, None = unknown. trained: what the model's own maps were.
        sources: {field: {"file", "sha256", "bunit"}}. fill_nan: as asked. notes: what the user should know, a line each.
        guide: a further map on the grid whose noise is known, or None.
        unlike: what lies outside the range of the training maps, a line each; None = the model does not say what they were like.
    """

    inputs: dict[str, np.ndarray]
    grid: Grid
    redshift: float | None
    trained: Trained
    sources: dict[str, dict[str, str]]
    fill_nan: bool
    notes: list[str]
    guide: Measured | None
    unlike: list[str] | None

    @property
    def maps(self) -> dict[str, np.ndarray]:
        """The inputs and the guide's map, {field: (npix, npix)}."""
        return self.inputs | ({} if self.guide is None else {self.guide.field: self.guide.map})


def observe(
    model: Model,
    images: dict[str, str | Path],
    maps: Sequence[str | Path] = (),
    ra: float | None = None,
    dec: float | None = None,
    redshift: float | None = None,
    width_mpc: float | None = None,
    fill_nan: bool = False,
    guide: Guide | None = None,
) -> Observed:
    """Read FITS images of one cluster and bring them to the model's grid.

    Args:
        model: from `hpcdiff.load`.
        images: {input field: FILE.fits or FILE.fits[EXTENSION]}; units from BUNIT, places from the WCS, on the sky or in Mpc.
        maps: the map files of the model's training, asked where the model does not say cosmology, redshift and depth.
        ra, dec: centre, degrees ICRS; None = the middle of the first image.
        redshift: of the cluster; None = the header key REDSHIFT.
        width_mpc: side of the grid, physical Mpc, for a model whose own maps had no common one.
        fill_nan: pixels without a value take the nearest one's, instead of being refused.
        guide: the config's section `sample.guide`: field, noise and beam of one more image, on which the samples are conditioned too.
    Raises:
        UserError: whatever is wrong with the images, in one line.
    """
    if (ra is None) != (dec is None):
        raise UserError("a centre has both --ra and --dec", "command line", "give both or neither")
    further = guide.field if guide is not None else None
    images = _by_input(model, images, further)
    trained = trained_on(model, [Path(p) for p in maps])
    pixel = _pixel(model, trained, width_mpc)
    skies = [read_sky(field, text, trained, redshift) for field, text in images.items()]
    redshift = _redshift(skies, redshift)
    grid = make_grid(model.npix, pixel, skies, ra, dec, redshift, trained.background)
    notes, inputs, sources, lacking = [], {}, {}, {}
    for sky in skies:
        x, lacking[sky.field] = _on_grid(sky, grid, fill_nan, notes, sky.field == further)
        inputs[sky.field] = x.astype(np.float32)
        sha, unit = files.sha256_file(sky.where), str(sky.header.get("BUNIT")).strip()
        sources[sky.field] = {"file": str(sky.where), "sha256": sha, "bunit": unit}
    measured = None
    if further is not None:
        b = trained.background
        y, noise = inputs.pop(further), np.where(lacking[further], np.inf, guide.noise)
        measured = Measured(further, np.where(lacking[further], np.float32("nan"), y), noise, guide.beam, b.Om0, b.Ob0)
    low, high = trained.redshift
    if redshift is None:
        notes.append(f"the redshift is not known: {trained.nearest(None):g}, of the training maps, is taken")
    elif not low - 0.005 <= redshift <= high + 0.005:
        was = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        notes.append(
            f"the cluster is at redshift {redshift:g}, the training maps at {was}: clusters of another time are not what the model has learned"
        )
    known = model.info.get("seen")
    unlike = None if known is None else seen.unlike({f: x[None] for f, x in inputs.items()}, known)
    return Observed(inputs, grid, redshift, trained, sources, fill_nan, notes, measured, unlike)


def _by_input(model: Model, images: dict[str, str | Path], further: str | None) -> dict[str, str | Path]:
    """{input of the model, in its order, and then the further field: file}; `compton_y` stands for `sz`, and the other way round."""
    out, wanted = {}, [*model.inputs, *([further] if further is not None else [])]
    for name, text in images.items():
        field = name if name in wanted else ALIKE.get(name)
        if field not in wanted:
            raise UserError(f"the model has no input {name}", f"--{name}", f"it takes {', '.join(wanted)}")
        if field in out:
            raise UserError(f"{field} is given twice", f"--{name}", "give one map for each input")
        out[field] = text
    for field in wanted:
        if field not in out:
            raise UserError(f"the map of {field} is missing", "command line", f"give --{field} FILE.fits: {FITS[field]}")
    return {field: out[field] for field in wanted}


def _pixel(model: Model, trained: Trained, width_mpc: float | None) -> float:
    """Side of the grid's pixels, physical Mpc."""
    if trained.pixel_mpc is None and width_mpc is None:
        raise UserError("the model's maps had no common width", "command line", "give --width, physical Mpc")
    if width_mpc is None:
        return float(trained.pixel_mpc)
    if trained.pixel_mpc is not None and abs(width_mpc / model.npix / trained.pixel_mpc - 1) > 1e-6:
        was = trained.pixel_mpc * model.npix
        raise UserError(f"the model's maps are {was:.6g} Mpc wide", f"--width {width_mpc:g}", "leave it out")
    return width_mpc / model.npix


def _redshift(skies: list[Sky], given: float | None) -> float | None:
    """The cluster's redshift: given, or of the headers, which must agree."""
    if given is not None:
        return given
    said = {str(sky.where): sky.redshift for sky in skies if sky.redshift is not None}
    if len(set(said.values())) > 1:
        raise UserError(f"the headers' REDSHIFT differ ({', '.join(f'{z:g}' for z in said.values())})", ", ".join(said), "give --redshift")
    return next(iter(said.values()), None)


def _on_grid(sky: Sky, grid: Grid, fill_nan: bool, notes: list[str], guides: bool) -> tuple[np.ndarray, np.ndarray]:
    """One image on the grid, float64 (npix, npix), and where it has nothing to say, bool; what should be known is added to `notes`.

    Of a guide what lies outside or has no value is no datum, nothing stands in for it.
    Raises:
        UserError: it does not cover the grid, has NaNs there, or the wrong sign.
    """
    corners = grid.corners_in(sky)
    maps, covered, blank = resample(sky.data, corners)
    missing = np.clip(1 - covered, 0, 1)
    lacking = (missing > WHOLE) | (blank > 0)
    if guides and lacking.any() and not lacking.all():
        notes.append(f"{sky.field}: {100 * lacking.mean():.2g} % of the model's grid has no value or lies outside, and is not guided there")
        missing, blank = np.zeros_like(missing), np.zeros_like(blank)
    if (missing > WHOLE).any():
        width = grid.npix * grid.pixel_mpc
        side = f"{width:g} Mpc" + (f" ({np.degrees(width / grid.distance_mpc) * 60:.3g} arcmin at this redshift)" if grid.celestial else "")
        part = (
            f"{100 * missing.mean():.2g} % of the model's grid, {side} a side, "
            if missing.mean() < 1
            else f"all of the model's grid, {side} a side, "
        )
        raise UserError(f"{part}lies outside the {sky.field} map", sky.where, "give a larger map, or another centre or redshift")
    if blank.any():
        part = f"{100 * blank.mean():.2g} % of the model's grid"
        if guides or not fill_nan:
            i, j = np.unravel_index(blank.argmax(), blank.shape)
            nans = np.argwhere(np.isnan(sky.data))[:, ::-1]  # (column, row)
            column, row = nans[np.abs(nans + 0.5 - corners[i : i + 2, j : j + 2].mean((0, 1))).sum(1).argmin()] + 1
            where = f"for one at pixel ({column}, {row})"
            raise UserError(f"the {sky.field} map has no value (NaN) on {part}, {where}", sky.where, "mend it, or say --fill-nan")
        notes.append(f"{sky.field}: {part} had no value (NaN) and took the nearest pixel's")
    middle = slice(grid.npix * 3 // 8, -(-grid.npix * 5 // 8))
    if maps.sum() <= 0 and maps[middle, middle].sum() <= 0:
        why = "sz is T_cmb y, positive, not the decrement at one frequency" if sky.field == "sz" else "give it with the other sign"
        raise UserError(f"the {sky.field} map is negative or empty about the centre", sky.where, why)
    coarse = 1 / np.median(np.linalg.norm(np.diff(corners, axis=0), axis=-1))
    if coarse > 1.5:
        notes.append(f"{sky.field}: its pixels are {coarse:.2g} times as wide as the model's, which has learned from finer maps")
    return maps, lacking
