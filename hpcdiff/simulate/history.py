"""One hidden history per halo: its formation time, and the properties that hang on it.

A property is x = a t + sqrt(1 - a^2) e, with t the formation time and e the property's own part, both standard normal: so x is
standard normal too, and two properties are correlated by the product of their a's. t > 0 is a halo that formed early. Early
halos are more concentrated (Wechsler et al. 2002), rounder (Allgood et al. 2006), poorer in subhalos (Gao et al. 2004), better
centred, less turbulent (Nelson et al. 2014), have less matter around them, and more often have a cool core; how strongly is ours.
"""

from __future__ import annotations

import numpy as np

LOADINGS = {
    "concentration": 0.7,
    "roundness": 0.45,
    "subhalos": -0.6,
    "offset": -0.5,
    "turbulence": -0.6,
    "cool_core": 0.5,
    "surroundings": -0.6,
    "gas_fraction": 0.0,
    "compton_y": 0.0,
    "xray": 0.0,
}
"""a of each property; those of 0 scatter by themselves."""
COOL_CORES = 0.4
"""Part of the halos with a cool core."""
DISTURBED = -0.9
"""Halos with t below are disturbed: a large subhalo is falling in (18 %)."""
CLIP = 3.0
"""Beyond this many standard deviations nothing is drawn."""


def draw_history(rng: np.random.Generator) -> tuple[float, dict[str, float]]:
    """Formation time t and the properties, each standard normal and clipped."""
    t = float(np.clip(rng.normal(), -CLIP, CLIP))
    own = rng.normal(size=len(LOADINGS))
    return t, {
        name: float(np.clip(a * t + np.sqrt(1 - a * a) * e, -CLIP, CLIP)) for (name, a), e in zip(LOADINGS.items(), own, strict=True)
    }


def correlations() -> tuple[list[str], np.ndarray]:
    """Names (the formation time first) and the correlation matrix of what is drawn, before clipping."""
    a = np.array([1.0, *LOADINGS.values()])
    matrix = np.outer(a, a)
    np.fill_diagonal(matrix, 1.0)
    return ["formation", *LOADINGS], matrix


def formation_scale_factor(t: float) -> float:
    """Scale factor at which the halo had half of its mass: 0.64, with a scatter of 0.09 dex (ours)."""
    return float(np.clip(0.64 * 10 ** (-0.09 * t), 0.3, 0.98))
