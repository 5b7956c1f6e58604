"""How fields are drawn and named, wherever they are drawn: plain data, no plotting library is imported here.

Colours of Okabe & Ito (2008), which stay apart for the colour-blind; maps of colours that rise evenly in lightness.
"""

from __future__ import annotations

BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE, GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#767676",
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
FIELD_MAP = {"gas": "viridis", "dm": "magma", "star": "bone", "total": "magma", "sz": "cividis", "compton_y": "cividis", "xray": "inferno"}
SIGNED_MAP = "RdBu_r"
STYLE = {
    "figure.dpi": 200, "savefig.dpi": 200, "font.size": 10, "axes.titlesize": 10, "axes.labelsize": 10, "legend.fontsize": 8.5,
    "xtick.direction": "in", "ytick.direction": "in", "xtick.top": True, "ytick.right": True, "legend.frameon": False,
    "axes.linewidth": 0.8, "lines.linewidth": 1.6, "figure.constrained_layout.use": True, "pdf.fonttype": 42, "svg.hashsalt": "hpcdiff",
}  # fmt: skip
"""Settings of matplotlib; letters in a PDF stay letters."""
