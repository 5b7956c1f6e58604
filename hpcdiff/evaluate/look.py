"""How the figures look: colours (Okabe & Ito), names and units of the fields, style."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

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


def power_of_ten(value: float) -> str:
    """As 6\\times10^{14}, for mathematical text."""
    exponent = int(np.floor(np.log10(value) + 1e-9))
    return rf"{value / 10**exponent:.3g}\times10^{{{exponent}}}"
