"""One picture of one cluster: inputs, mean, spread, a few samples, and profiles with their band."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from hpcdiff.look import BLACK, FIELD_COLOUR, FIELD_MAP, FIELD_NAME, FIELD_UNIT, GREY, RED, STYLE
from hpcdiff.measures import pixel_rings
from hpcdiff.sample.cluster.posterior import Posterior

SHOWN = 2
"""Samples shown of each output."""


def draw(posterior: Posterior) -> Figure:
    """The figure, ready to be saved: a row of inputs, then a row for each output."""
    observed, outputs = posterior.observed, list(posterior.samples)
    drawn = 1 if posterior.regression else 2 + min(SHOWN, min(len(x) for x in posterior.samples.values()))
    columns = max(drawn + 1, len(observed.maps) + 2)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.2 * columns, 2.85 * (1 + len(outputs)) + 0.5), layout="constrained")
        axes = figure.subplots(1 + len(outputs), columns, squeeze=False)
        inputs = len(observed.maps)
        for axis, (field, x) in zip(axes[0], observed.maps.items(), strict=False):
            name = f"{FIELD_NAME.get(field, field)}, as the model sees it"
            _show(figure, axis, x, FIELD_MAP.get(field, "viridis"), FIELD_UNIT.get(field, ""), name, _limits(x), posterior)
        for axis in axes[0, inputs:-1]:
            axis.set_axis_off()
        _say(axes[0, inputs], posterior)
        _bands(axes[0, -1], posterior)
        for row, field in zip(axes[1:], outputs, strict=True):
            _row(figure, row, field, posterior)
        for axis in axes[:, 0]:
            axis.set_ylabel(f"Mpc{' to the north' if observed.grid.celestial else ''}")
        for axis in (*axes[-1, :drawn], *axes[0, :inputs]):
            axis.set_xlabel(f"Mpc{' to the west' if observed.grid.celestial else ''}")
    return figure


def _row(figure: Figure, axes: np.ndarray, field: str, posterior: Posterior) -> None:
    """Mean, spread, samples and profile of one output."""
    o = posterior.observed
    factor = o.trained.msun_per_mpc2(field, o.redshift)
    unit = FIELD_UNIT.get(field, "") if factor is None else r"$M_\odot$ Mpc$^{-2}$"
    maps = posterior.samples[field].astype(np.float64) * (1.0 if factor is None else factor)
    mean, name = maps.mean(0), FIELD_NAME.get(field, field)
    limits = _limits(mean)
    panels = [(mean, f"{name}, {'mean' if posterior.regression else f'mean of {len(maps)}'}", limits)]
    if not posterior.regression:
        spread = maps.std(0, ddof=1)
        panels += [(spread, "spread of the samples", _limits(spread))]
        panels += [(x, f"sample {k}", limits) for k, x in enumerate(maps[:SHOWN])]
    for axis, (image, title, bounds) in zip(axes, panels, strict=False):
        _show(figure, axis, image, FIELD_MAP.get(field, "viridis"), unit, title, bounds, posterior)
        for radius, style in (("R500c", "-"), ("R200c", "--")):
            r = posterior.masses[radius]["radius_mpc"]["p50"]
            if r is not None:
                axis.add_patch(Circle((0, 0), r, fill=False, color="white", lw=0.8, ls=style))
    for axis in axes[len(panels) : -1]:
        axis.set_axis_off()
    _profile(axes[-1], maps, field, unit, posterior)


def _profile(axis, maps: np.ndarray, field: str, unit: str, posterior: Posterior) -> None:
    """Median over the samples of the mean in rings, with the 68 % band."""
    rings = pixel_rings(maps.shape[-1])
    profile, r = rings.mean(maps), rings.radius * posterior.observed.grid.pixel_mpc
    colour = FIELD_COLOUR.get(field, BLACK)
    axis.plot(r, np.median(profile, axis=0), color=colour, label="mean" if posterior.regression else "median of the samples")
    if len(maps) > 1:
        low, high = np.percentile(profile, [16, 84], axis=0, method="weibull")
        axis.fill_between(r, low, high, color=colour, alpha=0.3, lw=0, label="68 % of the posterior")
    if (profile > 0).all():
        axis.set_yscale("log")
    axis.set(title=f"{FIELD_NAME.get(field, field)}: profile", ylabel=unit)
    axis.legend(loc="lower left")
    _radii(axis, r, posterior)


def _bands(axis, posterior: Posterior) -> None:
    """The 68 % bands of the profiles over their medians, per cent."""
    if posterior.regression:
        axis.set_axis_off()
        return
    for k, (field, maps) in enumerate(posterior.samples.items()):
        rings = pixel_rings(maps.shape[-1])
        profile, r = rings.mean(maps.astype(np.float64)), rings.radius * posterior.observed.grid.pixel_mpc
        middle = np.median(profile, axis=0)
        low, high = 100 * (np.percentile(profile, [16, 84], axis=0, method="weibull") / np.where(middle > 0, middle, np.nan) - 1)
        colour = FIELD_COLOUR.get(field, BLACK)
        axis.fill_between(r, low, high, color=colour, alpha=0.3, lw=0, label=FIELD_NAME.get(field, field))
        axis.plot(r, low, color=colour, lw=0.8, ls=("-", "--", ":")[k % 3])
        axis.plot(r, high, color=colour, lw=0.8, ls=("-", "--", ":")[k % 3])
    axis.axhline(0, color=GREY, lw=0.8)
    bottom, top = axis.get_ylim()
    axis.set_ylim(bottom, top + 0.3 * (top - bottom))  # room for the legend
    axis.set(title="68 % bands of the profiles", ylabel="per cent of the median")
    axis.legend(loc="upper left")
    _radii(axis, r, posterior)


def _radii(axis, r: np.ndarray, posterior: Posterior) -> None:
    """A logarithmic axis of radii, with R500c and R200c marked."""
    axis.set(xscale="log", xlabel="radius, Mpc", xlim=(r[0], r[-1]))
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    for name, style, side in (("R500c", "-", "right"), ("R200c", "--", "left")):
        middle = posterior.masses[name]["radius_mpc"]["p50"]
        if middle is not None and r[0] < middle < r[-1]:
            axis.axvline(middle, color=GREY, lw=0.8, ls=style)
            words = f" $R_{{{name[1:]}}}$ "
            axis.text(middle, 0.98, words, transform=axis.get_xaxis_transform(), va="top", ha=side, color=GREY, fontsize=8)
    axis.set_box_aspect(1)


def _say(axis, posterior: Posterior) -> None:
    """The masses, and what the reader is to be warned of, in words."""
    o = posterior.observed
    lines = [("cluster" if o.redshift is None else f"z = {o.redshift:g}", BLACK)]
    for radius in ("R500c", "R200c"):
        part = posterior.masses[radius]
        for field, m in part["mass_msun"].items():
            if m["p50"] is None:
                continue
            e = int(np.floor(np.log10(abs(m["p50"]) or 1.0)))
            value = f"{m['p50'] / 10**e:.3g}"
            if m["p16"] is not None:
                up, down = (m["p84"] - m["p50"]) / 10**e, (m["p50"] - m["p16"]) / 10**e
                value += rf"^{{+{up:.2g}}}_{{-{down:.2g}}}"
            lines.append((rf"$M_\mathrm{{{field}}}(<R_{{{radius[1:]}}}) = {value}\times10^{{{e}}}\,M_\odot$", BLACK))
    lines.append(("cylinders along the line of sight", GREY))
    if o.unlike:
        lines.append((f"outside the training range in {len(o.unlike)} quantities:", RED))
        lines += [(line.split(" (")[0], RED) for line in o.unlike[:4]]
    for k, (line, colour) in enumerate(lines):
        axis.text(0.0, 0.98 - 0.09 * k, line, color=colour, transform=axis.transAxes, va="top", fontsize=9)


def _limits(image: np.ndarray) -> tuple[float, float]:
    """Bounds of a logarithmic scale: three decades at most."""
    positive = image[image > 0]  # NaN, where a guide has no datum, is none
    top = float(positive.max()) if len(positive) else 1.0
    low = float(np.percentile(positive, 2)) if len(positive) else top / 10
    return min(max(low, top / 1e3), top / 2), top


def _show(
    figure: Figure, axis, image: np.ndarray, colours: str, unit: str, title: str, limits: tuple[float, float], posterior: Posterior
) -> None:
    """One map; `[i, j]`: i to the right, j upwards."""
    half = posterior.observed.grid.npix * posterior.observed.grid.pixel_mpc / 2
    picture = axis.imshow(
        np.clip(image, *limits).T,
        origin="lower",
        extent=(-half, half, -half, half),
        cmap=colours,
        norm=LogNorm(*limits, clip=True),
        interpolation="nearest",
    )
    axis.tick_params(color="white", which="both")
    axis.set_title(title)
    figure.colorbar(picture, ax=axis, label=unit, pad=0.02, shrink=0.9)
