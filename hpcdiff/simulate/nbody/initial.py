"""Initial conditions: a Gaussian random field, a peak put into it, and the displacements of second-order perturbation theory.

Fields are modes of a periodic box on a mesh of n^3 points, in the layout of `rfftn`, such that the variance in space is the sum of
their squares. Random numbers belong to a mode's integer wave vector, so a finer mesh keeps the waves of a coarser one.
"""

from __future__ import annotations

import numpy as np
from scipy import fft

from hpcdiff.cosmology import Background, colossus_cosmology
from hpcdiff.simulate.nbody import growth
from hpcdiff.simulate.nbody.excursion import Peak, top_hat


class Waves:
    """Wave vectors of a mesh.

    Args:
        side: of the box, comoving Mpc.
        n: mesh points a side, even.
    Attributes:
        number: integer wave numbers along x, y, z, arrays that broadcast to (n, n, n/2+1). k: the same in 1/Mpc.
        k2: their squared length, 1 at k = 0.
    """

    def __init__(self, side: float, n: int) -> None:
        self.side, self.n = side, n
        full = np.rint(fft.fftfreq(n, 1 / n)).astype(np.int64)
        self.number = full[:, None, None], full[:, None], np.arange(n // 2 + 1)
        self.k = tuple(2 * np.pi / side * m for m in self.number)
        self.k2 = self.k[0] ** 2 + self.k[1] ** 2 + self.k[2] ** 2
        self.k2[0, 0, 0] = 1

    def known(self) -> np.ndarray:
        """False for k = 0 and for waves at the Nyquist frequency, which have no sign."""
        kept = np.ones((self.n, self.n, self.n // 2 + 1), bool)
        half = self.n // 2
        kept[half], kept[:, half], kept[:, :, half] = False, False, False
        kept[0, 0, 0] = False
        return kept

    def twice(self) -> np.ndarray:
        """2 for waves that stand for their opposite too, else 1, (n/2+1,): a sum over all waves is one of these times the real parts."""
        count = np.full(self.n // 2 + 1, 2.0)
        count[0] = count[-1] = 1
        return count

    def mesh(self, modes: np.ndarray) -> np.ndarray:
        """The field in space, (n, n, n)."""
        return fft.irfftn(modes, (self.n,) * 3) * self.n**3


def white(waves: Waves, seed: int) -> np.ndarray:
    """Complex normal numbers of unit mean square, one per wave, those of opposite waves conjugate."""
    i, j, k = np.broadcast_arrays(*waves.number)
    flip = (k == 0) & ((j < 0) | ((j == 0) & (i < 0)))  # one of each pair of opposite waves speaks for both
    sign = np.where(flip, -1, 1)
    name = ((sign * i + 2**15) * 2**16 + (sign * j + 2**15)) * 2**16 + k
    with np.errstate(over="ignore"):
        state = _mixed(name.astype(np.uint64) + _mixed(np.array(seed, np.uint64)))
        a, b = ((_mixed(state + np.uint64(s)) >> np.uint64(11)).astype(float) + 0.5 for s in (1, 2))
    modulus = np.sqrt(-np.log(a / 2.0**53))
    angle = 2 * np.pi * b / 2.0**53
    return np.where(waves.known(), modulus * (np.cos(angle) + 1j * sign * np.sin(angle)), 0)


def _mixed(x: np.ndarray) -> np.ndarray:
    """A well-mixed 64-bit number of each counter: the finaliser of splitmix64 (Steele et al. 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def power(background: Background, waves: Waves) -> np.ndarray:
    """Mean square of the modes of the linear density contrast today: P(k) of colossus (Eisenstein & Hu 1998) over the volume."""

    h, known = background.h, waves.known()
    k = np.sqrt(waves.k2[known])
    grid = np.geomspace(k.min(), k.max() * (1 + 1e-9), 400)
    spectrum = colossus_cosmology(background).matterPowerSpectrum(grid / h) / h**3
    out = np.zeros(known.shape)
    out[known] = np.exp(np.interp(np.log(k), np.log(grid), np.log(spectrum))) / waves.side**3
    return out


def with_peak(waves: Waves, modes: np.ndarray, spectrum: np.ndarray, peak: Peak) -> np.ndarray:
    """The field nearest to this one with a peak at the box's centre (Hoffman & Ribak 1991); the residual keeps the field's own waves."""
    centre, k = 0.5 * waves.side, np.sqrt(waves.k2)
    phase = np.exp(1j * centre * (waves.k[0] + waves.k[1] + waves.k[2]))
    gauss = phase * np.exp(-0.5 * waves.k2 * peak.narrow**2)
    twice = waves.twice()
    # each constraint is the real part of the sum of functional x mode
    functionals = [top_hat(k * peak.radius) * phase, waves.k2 * gauss, *(1j * one * gauss for one in waves.k)]
    had = np.array([np.sum(twice * (f * modes).real) for f in functionals])
    answer = [spectrum * f.conj() for f in functionals]
    covariance = np.array([[np.sum(twice * (f * a).real) for a in answer] for f in functionals])
    weights = np.linalg.solve(covariance, np.array([peak.height, peak.curvature, 0, 0, 0]) - had)
    return modes + sum(w * a for w, a in zip(weights, answer, strict=True))


def coarser(modes: np.ndarray, n: int) -> np.ndarray:
    """The same waves on a mesh of n^3 points, of which those beyond its Nyquist frequency are left out."""
    whole = modes.shape[0]
    rows = np.rint(fft.fftfreq(n, 1 / n)).astype(int) % whole
    kept = modes[np.ix_(rows, rows, np.arange(n // 2 + 1))].copy()
    kept[n // 2], kept[:, n // 2], kept[:, :, n // 2] = 0, 0, 0
    return kept


def displaced(waves: Waves, modes: np.ndarray, Om0: float, a: float, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Particles of a lattice, moved by second-order perturbation theory (Bouchet et al. 1995).

    Args:
        modes: of the linear density contrast today.
        a: scale factor of the start.
        offset: of the lattice along each side, in its spacing.
    Returns:
        positions within the box, comoving Mpc, and a^2 dx/dt, Mpc H0, float64 (n^3, 3) each.
    """
    n, spacing = waves.n, waves.side / waves.n
    first = growth.growth(a, Om0)
    ratio, rate2 = growth.second_order(a, Om0)
    phi = -modes / waves.k2
    phi2 = -_source(waves, phi) / waves.k2
    shifted = np.exp(1j * offset * spacing * (waves.k[0] + waves.k[1] + waves.k[2]))
    lattice = spacing * (np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), -1).reshape(-1, 3) + offset)
    speed = a**2 * float(growth.efunc(a, Om0))
    x, p = lattice, np.empty((n**3, 3))
    for axis, k in enumerate(waves.k):
        one = -first * waves.mesh(1j * k * phi * shifted).ravel()
        two = ratio * first**2 * waves.mesh(1j * k * phi2 * shifted).ravel()
        x[:, axis] += one + two
        p[:, axis] = speed * (growth.rate(a, Om0) * one + rate2 * two)
    return x % waves.side, p


def _source(waves: Waves, phi: np.ndarray) -> np.ndarray:
    """Modes of the sum over i > j of phi,ii phi,jj - phi,ij^2."""
    second = {(i, j): waves.mesh(-waves.k[i] * waves.k[j] * phi) for i in range(3) for j in range(i, 3)}
    total = second[0, 0] * (second[1, 1] + second[2, 2]) + second[1, 1] * second[2, 2]
    total -= second[0, 1] ** 2 + second[0, 2] ** 2 + second[1, 2] ** 2
    return np.where(waves.known(), fft.rfftn(total) / waves.n**3, 0)
