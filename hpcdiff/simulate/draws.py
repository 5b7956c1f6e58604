"""Random draws that clusters and what is around them share: masses, directions, clumps, smooth fields."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hpcdiff.simulate import profiles

_X = np.geomspace(1e-3, 1.0, 200)
CONCENTRATIONS = np.array([5.0, 7.0, 10.0, 14.0, 20.0])
"""Those that subhalos and groups may have."""
_CLUMPS = [profiles.Radial(_X, profiles.nfw_density(c * _X)) for c in CONCENTRATIONS]
_GAS_CLUMP = profiles.Radial(_X, (1 + (_X / 0.2) ** 2) ** -1.2)


def directions(rng: np.random.Generator, n: int) -> np.ndarray:
    """Unit vectors in all directions, (n, 3)."""
    x = rng.normal(size=(n, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def toward(rng: np.random.Generator, n: int, axes: np.ndarray, part: float) -> np.ndarray:
    """Unit vectors, `part` of them gathered about the axes and the others in all directions, (n, 3)."""
    near = axes[rng.integers(0, len(axes), n)] + 0.3 * rng.normal(size=(n, 3))
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    return np.where(rng.random(n)[:, None] < part, near, directions(rng, n))


def masses(
    rng: np.random.Generator, least: float, most: float, per_ln_mass: Callable[[np.ndarray], np.ndarray], total: float
) -> np.ndarray:
    """Masses between least and most that are distributed so; a Poisson number of them, of which the mean mass is `total`."""
    m = np.geomspace(least, most, 200)
    weight = per_ln_mass(m)
    cumulative = np.concatenate([[0], np.cumsum(0.5 * (weight[1:] + weight[:-1]))])
    n = rng.poisson(total * np.trapezoid(weight) / np.trapezoid(weight * m))
    return np.interp(rng.random(n), cumulative / cumulative[-1], m)


def concentrations(rng: np.random.Generator, mass: np.ndarray) -> np.ndarray:
    """Which of `CONCENTRATIONS` small halos of these masses (Msun) have: about 10 (m/1e13)^-0.1, scatter 0.16 dex (Diemer & Joyce 2019)."""
    c = 10 * (mass / 1e13) ** -0.1 * 10 ** (0.16 * rng.normal(size=len(mass)))
    edges = np.sqrt(CONCENTRATIONS[1:] * CONCENTRATIONS[:-1])
    return np.searchsorted(edges, c)


def clumps(
    rng: np.random.Generator, counts: np.ndarray, centre: np.ndarray, size: np.ndarray, kinds: np.ndarray | None = None
) -> np.ndarray:
    """Clumps truncated at their size: NFW of `kinds`, numbers of `CONCENTRATIONS`, or cored as gas is, (counts.sum(), 3)."""
    n = int(counts.sum())
    if kinds is None:
        r = _GAS_CLUMP.draw(rng, n)
    else:
        kind, u = np.repeat(kinds, counts), rng.random(n)
        r = np.empty(n)
        for number, profile in enumerate(_CLUMPS):
            chosen = kind == number
            r[chosen] = np.interp(u[chosen], profile.cumulative, profile.r)
    return np.repeat(centre, counts, axis=0) + (r * np.repeat(size, counts))[:, None] * directions(rng, n)


class Ripples:
    """A smooth random field of plane waves, of wavelengths 0.2 to 1 `scale`.

    Args:
        rng: the draws.
        scale: Mpc.
        strength: standard deviation of the field.
    """

    def __init__(self, rng: np.random.Generator, scale: float, strength: float, n: int = 12) -> None:
        self.k = 2 * np.pi / (scale * np.exp(rng.uniform(np.log(0.2), 0, n)))[:, None] * directions(rng, n)
        self.phase = rng.uniform(0, 2 * np.pi, n)
        self.amplitude = strength * np.sqrt(2 / n)

    def field(self, x: np.ndarray) -> np.ndarray:
        """The field at x (n, 3), (n,)."""
        return self.amplitude * np.cos(x @ self.k.T + self.phase).sum(axis=1)

    def stirring(self, x: np.ndarray) -> np.ndarray:
        """The displacement (Mpc) whose convergence is the field, density fluctuations of that strength, (n, 3); the centre stays in its place."""
        wave = np.sin(x @ self.k.T + self.phase) - np.sin(self.phase)
        return -self.amplitude * wave @ (self.k / np.sum(self.k**2, axis=1, keepdims=True))
