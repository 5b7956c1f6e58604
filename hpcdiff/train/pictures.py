"""What samples of validation views look like beside the truth, and their spectra: figures of maps, and of b(k) and r(k)."""

from __future__ import annotations

import warnings

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from hpcdiff import measures
from hpcdiff.look import BLUE, FIELD_MAP, FIELD_NAME, FIELD_UNIT, GREY, ORANGE
from hpcdiff.model import Model

ROWS = 3
"""Most views in the figure of maps; spectra take all that are given."""
STYLE = {
    "figure.dpi": 130, "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8, "legend.frameon": False,
    "xtick.direction": "in", "ytick.direction": "in", "axes.linewidth": 0.8,
}  # fmt: skip
FAINT = 1e-3
"""Lowest brightness of a logarithmic colour scale, over the brightest of the truth."""


def sample_pictures(
    model: Model,
    condition: np.ndarray,
    target: np.ndarray,
    drawn: np.ndarray,
    width_mpc: float | None = None,
    h: float | None = None,
    word: str = "sample",
) -> dict[str, Figure]:
    """Figures of a few validation views, by their TensorBoard names.

    Args:
        model: its inputs, outputs, transforms and units.
        condition: (n, K, npix, npix) what the network saw. target: (n, C, npix, npix) the truth.
        drawn: (n, S, C, npix, npix) posterior samples; these three in the network's numbers, arrays or tensors on the CPU.
        width_mpc: side of the maps, Mpc; None: lengths are in pixels, where maps differ in width.
        h: Hubble constant over 100 km/s/Mpc, for wavenumbers in h/Mpc; None: in 1/Mpc.
        word: what `drawn` is: `sample`, or `mean` of the posterior, one a view.
    """
    condition, target, drawn = (np.asarray(x) for x in (condition, target, drawn))
    # samples of an early network may overflow or not be finite: their curves have gaps, and training goes on
    with matplotlib.rc_context(STYLE), np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
        seen = {f: model.transforms[f].inverse(condition[:, c]) for c, f in enumerate(model.inputs)}
        truth = {f: model.transforms[f].inverse(target[:, c]) for c, f in enumerate(model.outputs)}
        samples = {f: model.transforms[f].inverse(drawn[:, :, c]) for c, f in enumerate(model.outputs)}
        return {
            "validation/maps": maps_figure(seen, truth, samples, model.info["units"], width_mpc, word),
            "validation/b(k) and r(k)": spectra_figure(seen, truth, samples, width_mpc, h, word),
        }


def maps_figure(seen: dict, truth: dict, samples: dict, units: dict[str, str], width_mpc: float | None, word: str = "sample") -> Figure:
    """Inputs, truth and one sample (or what `word` says) of the first views, logarithmic, each field on one colour scale: that of its truth.

    Args:
        seen, truth: {field: (n, npix, npix)}. samples: {field: (n, S, npix, npix)}; in the fields' units, named by `units`.
    """
    groups = [(f, {"input": x}) for f, x in seen.items()] + [(f, {"truth": x, word: samples[f][:, 0]}) for f, x in truth.items()]
    some = next(iter(truth.values()))
    rows, columns, npix = min(ROWS, len(some)), sum(len(kinds) for _, kinds in groups), some.shape[-1]
    figure = Figure(figsize=(1.75 * columns + 0.5, 1.72 * rows + 1.4), layout="compressed")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    half, unit = (npix / 2, "pixels") if width_mpc is None else (width_mpc / 2, "Mpc")
    c = 0
    for field, kinds in groups:
        first, norm = c, _norm(next(iter(kinds.values()))[:rows])  # what is too faint or too bright in a sample must show
        for kind, images in kinds.items():
            for r, axis in enumerate(axes[:, c]):
                shown = axis.imshow(
                    images[r].T, origin="lower", extent=(-half, half, -half, half), cmap=_colours(field), norm=norm, interpolation="nearest"
                )  # fmt: skip
                axis.tick_params(color="white")
                axis.locator_params(nbins=4)
                if r == 0:
                    axis.set_title(f"{FIELD_NAME.get(field, field)}\n{kind}")
            axes[-1, c].set_xlabel(unit)
            c += 1
        bar = figure.colorbar(shown, ax=axes[:, first:c], location="bottom", pad=0.02, aspect=16 * (c - first), shrink=0.95)
        bar.set_label(f"{FIELD_NAME.get(field, field)} ({FIELD_UNIT.get(field, units[field])})")
    for axis in axes[:, 0]:
        axis.set_ylabel(unit)
    return figure


def spectra_figure(seen: dict, truth: dict, samples: dict, width_mpc: float | None, h: float | None, word: str = "sample") -> Figure:
    """b(k) of one sample and r(k) of one sample and of the samples' mean with the truth: every view, their median and 16-84 band.

    Beside them r(k) of each input with the truth, which a network that learned anything beats. Arguments as in `maps_figure`.
    """
    figure = Figure(figsize=(3.7 * len(truth) + 0.5, 5.2), layout="constrained")
    axes = figure.subplots(2, len(truth), squeeze=False, sharex=True, sharey="row")
    some = next(iter(truth.values()))
    rings = measures.mode_rings(some.shape[-1])
    if width_mpc is None:
        k, label = rings.radius, "modes across the map"
    else:
        k = measures.wavenumbers(rings, width_mpc, h or 1.0)
        label = r"$k$ ($h$/Mpc)" if h else "$k$ (1/Mpc)"
    observed = {f: np.fft.fft2(x.astype(np.float64)) for f, x in seen.items()}
    many = samples[next(iter(truth))].shape[1] > 1
    one_of_them = "one sample" if word == "sample" else f"posterior {word}"
    for c, field in enumerate(truth):
        true = np.fft.fft2(truth[field].astype(np.float64))
        one = np.fft.fft2(samples[field][:, 0].astype(np.float64))
        _curves(axes[0, c], k, measures.bias(measures.power(one, one, rings), measures.power(true, true, rings)), BLUE, one_of_them, "-")
        _curves(axes[1, c], k, _correlation(one, true, rings), BLUE, one_of_them, "-")
        if many:
            mean = np.fft.fft2(samples[field].mean(1, dtype=np.float64))
            _median(axes[1, c], k, _correlation(mean, true, rings), ORANGE, f"mean of {samples[field].shape[1]} samples", "--")
        for style, (name, x) in zip((":", "-."), observed.items(), strict=False):
            _median(axes[1, c], k, _correlation(x, true, rings), GREY, f"{FIELD_NAME.get(name, name)} itself", style)
        axes[0, c].set_title(f"{FIELD_NAME.get(field, field)}, {len(true)} validation views")
        axes[1, c].set_xlabel(label)
        for axis in axes[:, c]:
            axis.axhline(1, color="black", lw=0.8)
            axis.set_xscale("log")
            axis.tick_params(which="both", top=True, right=True)
            axis.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
            axis.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axes[0, 0].set_ylabel(r"$b(k) = \sqrt{P_{\rm " + word + r"}/P_{\rm truth}}$")
    axes[1, 0].set_ylabel(r"$r(k)$ with the truth")
    low, high = axes[0, 0].get_ylim()
    axes[0, 0].set_ylim(max(low, 0.0), min(max(high, 1.1), 3.0))  # early samples are noise: their excess leaves the frame
    low, _ = axes[1, 0].get_ylim()
    axes[1, 0].set_ylim(max(low, -0.3), 1.05)
    axes[1, 0].legend()
    return figure


def _correlation(a: np.ndarray, b: np.ndarray, rings: measures.Rings) -> np.ndarray:
    return measures.correlation(measures.power(a, b, rings), measures.power(b, b, rings), measures.power(a, a, rings))


def _curves(axis, k: np.ndarray, values: np.ndarray, colour: str, label: str, style: str) -> None:
    """Every view thin, and the 16-84 band, (n, len(k)); a band of fewer than four views would say nothing."""
    axis.plot(k, values.T, color=colour, lw=0.6, alpha=0.35)
    if len(values) >= 4:
        low, high = np.nanpercentile(values, [16, 84], axis=0)
        axis.fill_between(k, low, high, color=colour, alpha=0.15, lw=0)
    _median(axis, k, values, colour, label, style)


def _median(axis, k: np.ndarray, values: np.ndarray, colour: str, label: str, style: str) -> None:
    axis.plot(k, np.nanmedian(values, axis=0), color=colour, lw=1.8, ls=style, label=label)


def _norm(images: np.ndarray) -> matplotlib.colors.Normalize:
    """Three decades below the brightest pixel, or less where the maps have less range; linear where nothing is above 0."""
    positive = images[images > 0]
    top = float(images.max())
    low = max(top * FAINT, float(positive.min())) if len(positive) else top
    if low < top:
        return matplotlib.colors.LogNorm(low, top, clip=True)
    return matplotlib.colors.Normalize(float(images.min()), top)


def _colours(field: str) -> matplotlib.colors.Colormap:
    """The field's colours; what a logarithm cannot show (zero or below) has the darkest."""
    colours = matplotlib.colormaps[FIELD_MAP.get(field, "viridis")].copy()
    colours.set_bad(colours(0.0))
    return colours
