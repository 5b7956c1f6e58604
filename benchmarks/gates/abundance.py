"""Halos of one periodic box against the mass function of Tinker et al. 2008."""

from __future__ import annotations

import numpy as np

from hpcdiff.cosmology import Background
from hpcdiff.simulate.nbody.abundance import expected


def counts(mass: np.ndarray, background: Background, edges: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray]:
    """Halos found between the edges, and how many there should be, (len(edges) - 1,) each."""
    return np.histogram(mass, edges)[0], expected(background, edges, side**3)
