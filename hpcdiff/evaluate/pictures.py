"""Maps as pictures, as Hsu et al. (2025) figures 2 and 5, and one posterior; their sheets hold every pixel."""

from __future__ import annotations

import matplotlib
import numpy as np

from hpcdiff.evaluate.export import Drawn, Sheet
from hpcdiff.evaluate.look import BLACK, BLUE, FIELD_MAP, FIELD_UNIT, RED, SIGNED_MAP, field_name, new, power_of_ten
from hpcdiff.maps import MapFile


def limits(image: np.ndarray, field: str, log: bool) -> tuple[float, float]:
    """Ends of the colour scale of a map, from the map itself; of densities, the logarithmic one begins at the mean density."""
    top = float(image.max())
    top = top if top > 0 else 1.0
    if not log:
        return min(float(image.min()), 0.0), top
    positive = image[image > 0]
    lowest = float(positive.min()) if len(positive) else 0.0
    low = 1.0 if FIELD_UNIT.get(field) == FIELD_UNIT["gas"] and top > 10 else max(top * 1e-4, lowest)
    return min(low, top / 10), top


def _show(axis, image: np.ndarray, field: str, width: float, ends: tuple[float, float], log: bool = False):
    """One map; `[i, j]`: i to the right, j upwards."""
    norm = matplotlib.colors.LogNorm(*ends, clip=True) if log else matplotlib.colors.Normalize(*ends)
    half = width / 2
    picture = axis.imshow(
        np.clip(image, *ends).T,
        origin="lower",
        extent=(-half, half, -half, half),
        cmap=FIELD_MAP.get(field, "viridis"),
        norm=norm,
        interpolation="nearest",
    )
    axis.tick_params(color="white", which="both")
    return picture


def _pixels(columns: dict[str, np.ndarray], row: int, sheet: Sheet | None = None) -> Sheet:
    """A row for each pixel: the view, i, j, and the value in each map of `columns`, to six digits."""
    sheet = sheet or Sheet("view", "i", "j", *columns)
    npix = len(next(iter(columns.values())))
    i, j = np.divmod(np.arange(npix**2), npix)
    sheet.curve((row,), i, j, *([float(f"{v:.6g}") for v in image.ravel().tolist()] for image in columns.values()))
    return sheet


def cluster(maps: MapFile, row: int, fields: list[str]) -> Drawn:
    """Figure 2: all maps of one massive cluster, logarithmic."""
    columns = -(-len(fields) // 2) if len(fields) > 1 else 1
    rows = -(-len(fields) // columns)
    figure, axes = new(rows, columns, (4.6 * columns, 3.9 * rows), sharex=True, sharey=True)
    width, images = float(maps.catalog["width_mpc"][row]), {}
    for axis, field in zip(axes.ravel(), fields, strict=False):
        image = images[field] = maps.read(field, [row])[0].astype(float)
        picture = _show(axis, image, field, width, limits(image, field, True), True)
        axis.set_title(field_name(field))
        figure.colorbar(picture, ax=axis, label=FIELD_UNIT.get(field, maps.units[field]), pad=0.02)
    for axis in axes.ravel()[len(fields) :]:
        axis.set_axis_off()
    figure.supxlabel("Mpc", fontsize=10)
    figure.supylabel("Mpc", fontsize=10)
    return Drawn(figure, _pixels(images, row), lines=False)


def gallery(maps: MapFile, rows: list[int], inputs: list[str], outputs: list[str], drawn: dict[str, np.ndarray]) -> Drawn:
    """Figure 5: clusters from heavy to light, linear above logarithmic: inputs, truth, mean and one sample of the posterior.

    Args:
        rows: views. drawn: {output: samples (len(rows), S, npix, npix)}.
    """
    columns = [(f, "input") for f in inputs] + [(f, kind) for f in outputs for kind in ("truth", "mean", "sample")]
    size = (1.75 * len(columns) + 0.85, 3.56 * len(rows) + 0.9)
    figure, axes = new(2 * len(rows), len(columns), size, sharex=True, sharey=True, layout="none")
    # placed by hand: so many panels take the layout engine many seconds
    left, bottom, right, top = 0.8 / size[0], 0.45 / size[1], 1 - 0.05 / size[0], 1 - 0.45 / size[1]
    figure.subplots_adjust(left, bottom, right, top, wspace=0.03, hspace=0.03)
    count, sheet = len(drawn[outputs[0]][0]), None
    heading = {"input": ("input", BLUE), "truth": ("truth", BLACK), "mean": (f"mean of {count}", RED), "sample": ("one sample", RED)}
    for n, row in enumerate(rows):
        width, images = float(maps.catalog["width_mpc"][row]), {}
        for c, (field, kind) in enumerate(columns):
            truth = maps.read(field, [row])[0].astype(float)
            image = {"input": truth, "truth": truth}.get(kind)
            if image is None:
                image = drawn[field][n].mean(0, dtype=float) if kind == "mean" else drawn[field][n][0].astype(float)
            images[f"{field}_{kind}"] = image
            for log in (False, True):
                axis = axes[2 * n + log, c]
                ends = limits(truth, field, log)
                _show(axis, image, field, width, ends, log)
                axis.locator_params(nbins=3)
                if kind in ("input", "truth"):
                    words = f"{ends[0]:.2g} … {ends[1]:.3g}"
                    axis.text(0.04, 0.04, words, color="white", fontsize=7, transform=axis.transAxes)
                if n == 0 and not log:
                    words, colour = heading[kind]
                    axis.set_title(f"{field_name(field)}\n{words}", color=colour)
                if c == 0:
                    mass = f"$M_{{200m}}={power_of_ten(maps.catalog['mass_200m'][row])}\\,M_\\odot$\n" if not log else ""
                    axis.set_ylabel(f"{mass}{'logarithmic' if log else 'linear'}", fontsize=8.5)
        sheet = _pixels(images, row, sheet)
    figure.supxlabel("Mpc", fontsize=10, y=0.04 / size[1])
    return Drawn(figure, sheet, lines=False)


def posterior(maps: MapFile, row: int, outputs: list[str], drawn: dict[str, np.ndarray]) -> Drawn | None:
    """One cluster: truth, mean, two samples, their spread, and the error of the mean in units of the spread."""
    if drawn[outputs[0]].shape[1] < 2:
        return None
    figure, axes = new(len(outputs), 6, (15.5, 2.3 * len(outputs) + 0.5), sharex=True, sharey=True, layout="compressed")
    width, images = float(maps.catalog["width_mpc"][row]), {}
    for r, field in enumerate(outputs):
        truth, x = maps.read(field, [row])[0].astype(float), drawn[field][0].astype(float)
        spread, mean = x.std(0, ddof=1), x.mean(0)
        shared = limits(truth, field, True)
        unit = FIELD_UNIT.get(field, maps.units[field])
        shown = {"truth": truth, f"mean of {len(x)}": mean, "sample 1": x[0], "sample 2": x[1]}
        for axis, (title, image) in zip(axes[r], shown.items(), strict=False):
            picture = _show(axis, image, field, width, shared, True)
            axis.set_title(f"{field_name(field)}: {title}")
        figure.colorbar(picture, ax=axes[r, 3], label=unit, pad=0.02)
        picture = _show(axes[r, 4], spread, field, width, limits(spread, "", True), True)
        axes[r, 4].set_title("spread of the samples")
        figure.colorbar(picture, ax=axes[r, 4], label=unit, pad=0.02)
        pull = np.divide(mean - truth, spread, out=np.zeros_like(mean), where=spread > 0)
        half = width / 2
        picture = axes[r, 5].imshow(pull.T, origin="lower", extent=(-half, half, -half, half), cmap=SIGNED_MAP, vmin=-4, vmax=4)
        axes[r, 5].set_title("(mean − truth) / spread")
        figure.colorbar(picture, ax=axes[r, 5], label="standard deviations", pad=0.02)
        axes[r, 0].set_ylabel("Mpc")
        kinds = {"truth": truth, "mean": mean, "sample_1": x[0], "sample_2": x[1], "spread": spread, "pull": pull}
        images |= {f"{field}_{kind}": image for kind, image in kinds.items()}
    for axis in axes[-1]:
        axis.set_xlabel("Mpc")
    return Drawn(figure, _pixels(images, row), lines=False)
