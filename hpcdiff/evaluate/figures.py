"""Figures of the evaluation, as Hsu et al. (2025) figures 1, 2, 4-9, and two of ours: one posterior, and its calibration.

Each function draws one figure from the metrics, or from a few maps; all are for Agg at 150 dpi. Colours: Okabe & Ito.
"""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from hpcdiff.maps import PARTS, MapFile

BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE, GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#999999",
)  # fmt: skip
FIELD_COLOUR = {"gas": PURPLE, "dm": ORANGE, "star": GREEN, "total": BLUE, "temperature": RED}
FIELD_NAME = {
    "gas": "gas", "dm": "dark matter", "star": "stars", "total": "total matter",
    "sz": "SZ", "compton_y": "Compton y", "xray": "X-ray", "temperature": "temperature",
}  # fmt: skip
FIELD_UNIT = {
    "gas": r"$\Sigma/\bar\Sigma$", "dm": r"$\Sigma/\bar\Sigma$", "star": r"$\Sigma/\bar\Sigma$", "total": r"$\Sigma/\bar\Sigma$",
    "sz": r"$\mu$K", "compton_y": r"$y$", "xray": r"erg s$^{-1}$ cm$^{-2}$", "temperature": "keV",
}  # fmt: skip
FIELD_MAP = {"gas": "viridis", "dm": "magma", "sz": "cividis", "xray": "inferno"}
STYLE = {
    "figure.dpi": 150, "savefig.dpi": 150, "font.size": 10, "axes.titlesize": 10, "axes.labelsize": 10, "legend.fontsize": 8.5,
    "xtick.direction": "in", "ytick.direction": "in", "xtick.top": True, "ytick.right": True, "legend.frameon": False,
    "axes.linewidth": 0.8, "lines.linewidth": 1.6, "figure.constrained_layout.use": True,
}  # fmt: skip


def new(rows: int, columns: int, size: tuple[float, float], **options) -> tuple[Figure, np.ndarray]:
    """A figure and its axes (rows, columns)."""
    return plt.subplots(rows, columns, figsize=size, squeeze=False, **options)


def bin_names(metrics: dict, quantity: str) -> list[str]:
    """Bins that hold views, from heavy to light; `all` where none of the others does."""
    edges = metrics["config"]["evaluate"]["mass_bins"]
    names = [n for n in sorted(edges, key=lambda n: -edges[n][0]) if metrics[quantity].get(n)]
    return names or ["all"]


def bin_title(metrics: dict, name: str) -> str:
    """The bin in words."""
    if name == "all":
        return "all test views"
    low, high = (_power_of_ten(v) for v in metrics["config"]["evaluate"]["mass_bins"][name])
    top = max(edges[1] for edges in metrics["config"]["evaluate"]["mass_bins"].values())
    below = r"\leq" if metrics["config"]["evaluate"]["mass_bins"][name][1] == top else "<"
    return rf"${low} \leq M_{{200m}}/M_\odot {below} {high}$"


def _power_of_ten(value: float) -> str:
    exponent = int(np.floor(np.log10(value) + 1e-9))
    return rf"{value / 10**exponent:.3g}\times10^{{{exponent}}}"


def _plain_ticks(axis) -> None:
    """Numbers as 0.5, 1, 2, 5 along a logarithmic x axis."""
    axis.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axis.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def _band(axis, x: np.ndarray, curve: dict, colour: str, label: str | None, style: str = "-") -> None:
    median, p16, p84 = (np.array([np.nan if v is None else v for v in curve[k]]) for k in ("median", "p16", "p84"))
    axis.fill_between(x, p16, p84, color=colour, alpha=0.2, lw=0)
    axis.plot(x, median, color=colour, label=label, ls=style)


def masses(maps: MapFile) -> Figure:
    """Figure 1: halos and views against mass, and views of each part of the split."""
    catalog = maps.catalog
    log_m = np.log10(catalog["mass_200m"])
    _, first = np.unique(catalog["halo_id"], return_index=True)
    low, high = np.floor(log_m.min() * 10) / 10, np.ceil(log_m.max() * 10 + 1e-9) / 10
    edges = np.linspace(low, high, max(int(round((high - low) * 10)), 1) + 1)
    figure, axes = new(1, 2, (9, 3.6))
    for axis, parts in zip(axes[0], (False, True), strict=True):
        if parts:
            for k, colour in enumerate((BLUE, GREEN, RED)):
                axis.hist(
                    log_m[catalog["split"] == k],
                    edges,
                    histtype="step",
                    color=colour,
                    lw=1.8,
                    ls=("-", "--", "-.")[k],
                    label=f"views, {PARTS[k]}",
                )
        else:
            axis.hist(log_m, edges, color=PURPLE, alpha=0.55, label="views (maps)")
            axis.hist(log_m[first], edges, histtype="step", color=ORANGE, lw=2, label="halos")
        axis.set_yscale("log")
        axis.set_ylim(0.5, axis.get_ylim()[1] * 4)
        axis.set_xlabel(r"$\log_{10}(M_{200m}/M_\odot)$")
        axis.set_ylabel(f"number per {edges[1] - edges[0]:.2g} dex")
        axis.legend(ncols=3 if parts else 2, loc="upper center")
    return figure


def _show(axis, image: np.ndarray, field: str, width: float, limits: tuple[float, float], log: bool = False):
    """One map; `[i, j]`: i to the right, j upwards."""
    norm = matplotlib.colors.LogNorm(*limits, clip=True) if log else matplotlib.colors.Normalize(*limits)
    half = width / 2
    picture = axis.imshow(
        np.clip(image, *limits).T,
        origin="lower",
        extent=(-half, half, -half, half),
        cmap=FIELD_MAP.get(field, "viridis"),
        norm=norm,
        interpolation="nearest",
    )
    axis.tick_params(color="white", which="both")
    return picture


def _limits(image: np.ndarray, field: str, log: bool) -> tuple[float, float]:
    top = float(image.max())
    top = top if top > 0 else 1.0
    if not log:
        return min(float(image.min()), 0.0), top
    positive = image[image > 0]
    low = (
        1.0 if FIELD_UNIT.get(field) == FIELD_UNIT["gas"] and top > 10 else max(top * 1e-4, float(positive.min()) if len(positive) else 0.0)
    )
    return min(low, top / 10), top


def cluster(maps: MapFile, row: int, fields: list[str]) -> Figure:
    """Figure 2: all maps of one massive cluster, logarithmic."""
    columns = -(-len(fields) // 2) if len(fields) > 1 else 1
    rows = -(-len(fields) // columns)
    figure, axes = new(rows, columns, (4.6 * columns, 3.9 * rows), sharex=True, sharey=True)
    width = float(maps.catalog["width_mpc"][row])
    for axis, field in zip(axes.ravel(), fields, strict=False):
        image = maps.read(field, [row])[0].astype(float)
        picture = _show(axis, image, field, width, _limits(image, field, True), True)
        axis.set_title(FIELD_NAME.get(field, field))
        figure.colorbar(picture, ax=axis, label=FIELD_UNIT.get(field, maps.units[field]), pad=0.02)
    for axis in axes.ravel()[len(fields) :]:
        axis.set_axis_off()
    figure.supxlabel("Mpc", fontsize=10)
    figure.supylabel("Mpc", fontsize=10)
    return figure


def convergence(metrics: dict) -> Figure | None:
    """Figure 4: sample variance of the mean map against the number of samples, and one e-fold of two samples' variance."""
    of = metrics["convergence"]["all"]
    if not any(of.values()):
        return None
    figure, axes = new(1, 1, (5, 3.8))
    axis = axes[0, 0]
    for marker, (field, c) in zip("osD^v", of.items(), strict=False):
        colour, n = FIELD_COLOUR.get(field, BLUE), np.array(c["samples"])
        v = np.array(c["variance"])
        e = np.array([np.nan if x is None else x for x in c["error_of_mean"]])
        axis.errorbar(n, v, e, marker=marker, ms=4, color=colour, capsize=2, label=FIELD_NAME.get(field, field))
        axis.axhline(v[0] / np.e, color=colour, ls=":", lw=1.2)
        axis.plot(n, v[0] * 2 / n, color=colour, ls="--", lw=1, alpha=0.6)
    axis.plot([], [], color=GREY, ls=":", label="two samples / e")
    axis.plot([], [], color=GREY, ls="--", lw=1, label=r"$\propto 1/N$")
    axis.set_yscale("log")
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axis.set_xlabel("number of samples N")
    axis.set_ylabel(
        r"variance of the mean map, $(\Sigma/\bar\Sigma)^2$" if set(of) <= {"gas", "dm", "star", "total"} else "variance of the mean map"
    )
    axis.legend()
    return figure


def gallery(maps: MapFile, rows: list[int], inputs: list[str], outputs: list[str], drawn: dict[str, np.ndarray]) -> Figure:
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
    for n, row in enumerate(rows):
        width = float(maps.catalog["width_mpc"][row])
        for c, (field, kind) in enumerate(columns):
            truth = maps.read(field, [row])[0].astype(float)
            image = {"input": truth, "truth": truth}.get(kind)
            if image is None:
                image = drawn[field][n].mean(0, dtype=float) if kind == "mean" else drawn[field][n][0].astype(float)
            for log in (False, True):
                axis = axes[2 * n + log, c]
                limits = _limits(truth, field, log)
                _show(axis, image, field, width, limits, log)
                axis.locator_params(nbins=3)
                if kind in ("input", "truth"):
                    words = f"{limits[0]:.2g} … {limits[1]:.3g}"
                    axis.text(0.04, 0.04, words, color="white", fontsize=7, transform=axis.transAxes)
                if n == 0 and not log:
                    count = len(drawn[outputs[0]][n])
                    words = {"input": "input", "truth": "truth", "mean": f"mean of {count}", "sample": "one sample"}[kind]
                    axis.set_title(
                        f"{FIELD_NAME.get(field, field)}\n{words}", color=BLUE if kind == "input" else BLACK if kind == "truth" else RED
                    )
                if c == 0:
                    mass = f"$M_{{200m}}={_power_of_ten(maps.catalog['mass_200m'][row])}\\,M_\\odot$\n" if not log else ""
                    axis.set_ylabel(f"{mass}{'logarithmic' if log else 'linear'}", fontsize=8.5)
    figure.supxlabel("Mpc", fontsize=10, y=0.04 / size[1])
    return figure


def posterior(maps: MapFile, row: int, outputs: list[str], drawn: dict[str, np.ndarray]) -> Figure | None:
    """One cluster: truth, mean, two samples, their spread, and the error of the mean in units of the spread."""
    if drawn[outputs[0]].shape[1] < 2:
        return None
    figure, axes = new(len(outputs), 6, (15.5, 2.75 * len(outputs) + 0.4), sharex=True, sharey=True, layout="compressed")
    width = float(maps.catalog["width_mpc"][row])
    for r, field in enumerate(outputs):
        truth, x = maps.read(field, [row])[0].astype(float), drawn[field][0].astype(float)
        spread, mean = x.std(0, ddof=1), x.mean(0)
        shared = _limits(truth, field, True)
        unit = FIELD_UNIT.get(field, maps.units[field])
        for axis, image, title in zip(
            axes[r], (truth, mean, x[0], x[1]), ("truth", f"mean of {len(x)}", "sample 1", "sample 2"), strict=False
        ):
            picture = _show(axis, image, field, width, shared, True)
            axis.set_title(f"{FIELD_NAME.get(field, field)}: {title}")
        figure.colorbar(picture, ax=axes[r, 3], label=unit, pad=0.02)
        picture = _show(axes[r, 4], spread, field, width, _limits(spread, "", True), True)
        axes[r, 4].set_title("spread of the samples")
        figure.colorbar(picture, ax=axes[r, 4], label=unit, pad=0.02)
        pull = np.divide(mean - truth, spread, out=np.zeros_like(mean), where=spread > 0)
        half = width / 2
        picture = axes[r, 5].imshow(pull.T, origin="lower", extent=(-half, half, -half, half), cmap="RdBu_r", vmin=-4, vmax=4)
        axes[r, 5].set_title("(mean - truth) / spread")
        figure.colorbar(picture, ax=axes[r, 5], label="standard deviations", pad=0.02)
        axes[r, 0].set_ylabel("Mpc")
    for axis in axes[-1]:
        axis.set_xlabel("Mpc")
    return figure


def profiles(metrics: dict, maps: MapFile, rows: np.ndarray) -> Figure:
    """Figure 6: radial profiles and their fractional error."""
    names, fields = bin_names(metrics, "profile"), metrics["config"]["task"]["outputs"]
    figure, axes = new(2 * len(names), len(fields), (4.6 * len(fields), 4.3 * len(names)), sharex=True, height_ratios=[2.4, 1] * len(names))
    mass, radius = maps.catalog["mass_200m"][rows], maps.catalog["radius_200m"][rows]
    edges = metrics["config"]["evaluate"]["mass_bins"]
    for n, name in enumerate(names):
        low, high = edges.get(name, (mass.min(), mass.max()))
        r200 = radius[(mass >= low) & (mass <= high)]
        for c, field in enumerate(fields):
            p, (top, bottom) = metrics["profile"][name][field], axes[2 * n : 2 * n + 2, c]
            r = np.array(p["radius_mpc"])
            _band(top, r, p["truth"], SKY, "simulated")
            _band(top, r, p["generated"], RED, "generated", "--")
            _band(bottom, r, p["fractional_error"], RED, None)
            bottom.axhline(0, color=BLACK, lw=0.8)
            worst = max((abs(v) for k in ("p16", "p84") for v in p["fractional_error"][k] if v is not None), default=0.1)
            limit = next((v for v in (0.02, 0.05, 0.1, 0.2, 0.4, 0.8) if worst <= v * 0.95), 1.0)
            bottom.set_ylim(-limit, limit)
            for axis in (top, bottom):
                axis.axvspan(r200.min(), r200.max(), color=GREY, alpha=0.25, lw=0, label=r"range of $R_{200m}$" if axis is top else None)
                axis.set_xscale("log")
                _plain_ticks(axis)
            top.set_yscale("log")
            top.set_title(f"{FIELD_NAME.get(field, field)}, {bin_title(metrics, name)}")
            if c == 0:
                top.set_ylabel(FIELD_UNIT.get(field, maps.units[field]))
                bottom.set_ylabel("fractional error")
            if n == 0 and c == 0:
                top.legend()
    for axis in axes[-1]:
        axis.set_xlabel("projected radius (Mpc)")
    return figure


def pixels(metrics: dict) -> Figure:
    """Figure 7: fractional error of the mean map's pixels inside and outside R200m."""
    names = bin_names(metrics, "pixel_error")
    figure, axes = new(1, len(names), (4.8 * len(names), 3.8), sharey=True)
    for axis, name in zip(axes[0], names, strict=True):
        for field, e in metrics["pixel_error"][name].items():
            edges = np.array(e["edges"])
            for where, style in (("inside", "-"), ("outside", "--")):
                if e[where]:
                    counts = np.array(e[where]["histogram"], float)
                    label = f"{FIELD_NAME.get(field, field)}, {where} $R_{{200m}}$"
                    axis.stairs(
                        counts / counts.sum() / np.diff(edges), edges, color=FIELD_COLOUR.get(field, BLUE), ls=style, lw=1.6, label=label
                    )
        axis.axvline(0, color=BLACK, lw=0.8)
        axis.set(xlim=(-1, 1), xticks=(-1, -0.5, 0, 0.5, 1))
        axis.set_xlabel("(generated - simulated) / simulated")
        axis.set_title(bin_title(metrics, name))
    axes[0, 0].set_ylabel("probability density")
    axes[0, 0].set_yscale("log")
    axes[0, 0].set_ylim(bottom=1e-3)
    axes[0, 0].legend(loc="upper left", fontsize=7.5)
    return figure


def _spectra(metrics: dict, draw) -> Figure:
    names, fields = bin_names(metrics, "spectra"), metrics["config"]["task"]["outputs"]
    figure, axes = new(len(names), len(fields), (4.6 * len(fields), 3.4 * len(names)), sharex=True, sharey=True)
    for n, name in enumerate(names):
        for c, field in enumerate(fields):
            axis, s = axes[n, c], metrics["spectra"][name][field]
            draw(axis, np.array(s["k"]), s)
            axis.axhline(1, color=BLACK, lw=0.8)
            axis.axvline(metrics["config"]["evaluate"]["k_split"], color=GREY, lw=1, ls=":")
            axis.set_xscale("log")
            _plain_ticks(axis)
            axis.set_title(f"{FIELD_NAME.get(field, field)}, {bin_title(metrics, name)}")
    for axis in axes[-1]:
        axis.set_xlabel(r"$k$ ($h$/Mpc)")
    axes[0, 0].legend(loc="lower left")
    return figure


def bias(metrics: dict) -> Figure:
    """Figure 8: b(k) of the mean map, and of single samples."""

    def draw(axis, k: np.ndarray, s: dict) -> None:
        _band(axis, k, s["b"], BLUE, "mean of the samples")
        _band(axis, k, s["b_per_sample"], ORANGE, "each sample", "--")

    figure = _spectra(metrics, draw)
    axes = figure.axes
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(max(low, 0.0), min(max(high, 1.1), 2.0))
    for axis in axes:
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel(r"$b(k)$")
    return figure


def correlation(metrics: dict) -> Figure:
    """Figure 9: r(k) of the mean map with the truth, beside the inputs' own and the baselines'."""
    look = {"sz": (ORANGE, "--"), "xray": (PURPLE, "-."), "linear_map": (GREEN, "-"), "stacked_profile": (GREY, ":")}

    def draw(axis, k: np.ndarray, s: dict) -> None:
        _band(axis, k, s["r"], BLUE, "mean of the samples")
        for name, curve in s["r_baseline"].items():
            colour, style = look.get(name, (BLACK, "--"))
            median = np.array([np.nan if v is None else v for v in curve["median"]])
            label = FIELD_NAME.get(name, name.replace("_", " "))
            axis.plot(k, median, color=colour, ls=style, label=f"{label} itself" if name in FIELD_NAME else label)

    figure = _spectra(metrics, draw)
    low = min(axis.get_ylim()[0] for axis in figure.axes)
    figure.axes[0].set_ylim(max(low, -0.2), 1.03)
    for axis in figure.axes:
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel(r"$r(k)$")
    return figure


def calibration(metrics: dict) -> Figure | None:
    """Rank histograms, and coverage against its nominal value, of total masses and of pixels."""
    of = metrics["calibration"]["all"]
    if not any(of.values()):
        return None
    figure, axes = new(2, 2, (9, 6.6))
    for row, (what, title) in enumerate((("total", "total of the map"), ("pixel", "pixels"))):
        for field, marker, style in zip(of, "osD^v", ("-", "--", "-.", ":", "-"), strict=False):
            c, colour, label = of[field][what], FIELD_COLOUR.get(field, BLUE), FIELD_NAME.get(field, field)
            counts = np.array(c["ranks"], float)
            bins = np.arange(len(counts) + 1) - 0.5
            axes[row, 0].stairs(counts / counts.mean(), bins, color=colour, lw=1.8, ls=style, label=label)
            x = [p["nominal"] for p in c["coverage"]]
            axes[row, 1].errorbar(
                x, [p["mean"] for p in c["coverage"]], [p["error_of_mean"] or 0.0 for p in c["coverage"]],
                marker=marker, ms=5, mfc="none" if marker != "o" else colour, ls=style, capsize=2, color=colour, label=label,
            )  # fmt: skip
        axes[row, 0].axhline(1, color=BLACK, lw=0.8)
        axes[row, 0].set(title=f"{title}: rank of the truth", xlabel="samples below the truth", ylabel="frequency over expected")
        axes[row, 0].set_ylim(0, max(2.0, axes[row, 0].get_ylim()[1]))
        axes[row, 1].plot([0, 1], [0, 1], color=BLACK, lw=0.8)
        axes[row, 1].set(title=f"{title}: coverage", xlabel="nominal", ylabel="observed", xlim=(0, 1), ylim=(0, 1))
    axes[0, 0].legend()
    return figure
