"""The short-range part of gravity: pairs of particles, found through columns of flat cells."""

from __future__ import annotations

import numpy as np
from numba import prange

from hpcdiff.simulate.nbody.compiled import compiled
from hpcdiff.simulate.nbody.split import BALL, REACH, force_polynomial, own_depth, potential_polynomial

COLUMNS, LAYERS = 1, 8
"""Columns along x and y, and cells of a column along z, along the reach of a pair: the more columns the fewer pairs are tested in vain, and the shorter the slices."""
MOST = 2 * (2 * COLUMNS + 1) ** 2
"""Slices at most that one particle meets: each column is cut by a wall once."""
PIECES, BLOCK = 64, 32
"""The loops are dealt to the threads in so many pieces, of blocks of so many particles in turn, as half of all pairs may be in one cluster."""


class Pairs:
    """Sums over near pairs in a periodic box.

    Args:
        side: of the box, comoving Mpc.
        split: r_s of the force split, Mpc; `REACH` of it at most a third of the box.
        softening: eps, Mpc, of all particles or of each (n,): three of it are the radius of the ball that stands for a particle (`split`), at most the reach of a pair.
    """

    def __init__(self, side: float, split: float, softening: float | np.ndarray) -> None:
        self.side, self.split, self.softening = side, split, softening
        self.reach = REACH * split
        self.n, self.deep = (int(side / self.reach * cells) for cells in (COLUMNS, LAYERS))
        assert self.n > 2 * COLUMNS, "the box is too small for the mesh"
        assert BALL * np.max(softening) <= self.reach, "beyond the reach of the pairs nothing is softened"

    def _sorted(self, x: np.ndarray, mass: np.ndarray):
        i, j, k = (np.minimum((x[:, a] * (n / self.side)).astype(np.int64), n - 1) for a, n in enumerate((self.n, self.n, self.deep)))
        cell = (i * self.n + j) * self.deep + k
        order = np.argsort(cell, kind="stable")
        first = np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=self.n**2 * self.deep))])
        columns = [np.ascontiguousarray(x[order, a], np.float32) for a in range(3)]
        ball2 = np.broadcast_to((BALL * np.asarray(self.softening)) ** 2, len(x))[order].astype(np.float32)
        return order, first, *columns, mass[order].astype(np.float32), ball2

    def sums(
        self, over, x: np.ndarray, mass: np.ndarray, coefficients: np.ndarray, columns: int, on: np.ndarray | None = None
    ) -> np.ndarray:
        """What `over` (of `over_slices`) sums for each particle, or for those that `on` (bool, (n,)) has, float64 (n or fewer, columns)."""
        order, *rest = self._sorted(x, mass)
        wanted = np.arange(len(x)) if on is None else np.flatnonzero(on[order])
        out, back = np.empty((len(wanted), columns)), np.empty((len(x), columns))
        over(*rest, self.n, self.deep, self.side, self.reach, tuple(coefficients), wanted, out)
        back[order[wanted]] = out
        return back if on is None else back[on]

    def forces(self, x: np.ndarray, mass: np.ndarray, on: np.ndarray | None = None) -> np.ndarray:
        """Sum over j of m_j times the short-range pull towards j, on all particles or those that `on` (bool, (n,)) has, float64 (n or fewer, 3); x (n, 3) within the box, Mpc."""
        return self.sums(_forces, x, mass, force_polynomial(self.split), 3, on)

    def potential(self, x: np.ndarray, mass: np.ndarray) -> np.ndarray:
        """Sum over j, not i itself, of m_j times the short-range potential, float64 (n,)."""
        both = self.sums(_potential, x, mass, potential_polynomial(self.split), 1)[:, 0]
        return both + own_depth(self.split, self.softening) * mass.astype(np.float32)


@compiled
def _slices(first, n, deep, side, reach, px, py, pz, starts, ends, shifts):
    """The slices of sorted particles that may be within reach of a point, and by how much each image is shifted; returns their number."""
    wide, thick = side / n, side / deep
    cx, cy = min(int(px / wide), n - 1), min(int(py / wide), n - 1)
    found = 0
    for i in range(cx - COLUMNS, cx + COLUMNS + 1):
        off_x = max(i * wide - px, px - (i + 1) * wide, 0.0)
        for j in range(cy - COLUMNS, cy + COLUMNS + 1):
            off_y = max(j * wide - py, py - (j + 1) * wide, 0.0)
            left = reach * reach - off_x * off_x - off_y * off_y
            if left <= 0:
                continue
            far = np.sqrt(left) + 1e-3 * thick  # cells are by positions that were not yet rounded
            low, high = int(np.floor((pz - far) / thick)), int(np.floor((pz + far) / thick))
            row = ((i % n) * n + j % n) * deep
            for image in range(-1 if low < 0 else 0, 2 if high >= deep else 1):  # cut at the walls
                a = first[row + max(low - image * deep, 0)]
                b = first[row + min(high - image * deep, deep - 1) + 1]
                if a < b:
                    starts[found], ends[found] = a, b
                    shifts[found, 0] = np.floor(i / n) * side
                    shifts[found, 1] = np.floor(j / n) * side
                    shifts[found, 2] = image * side
                    found += 1
    return found


@compiled(fastmath=True)
def _smooth(t, p):
    """The polynomial at t; p: its coefficients, a tuple."""
    p0, p1, p2, p3, p4, p5, p6, p7, p8, p9 = p
    return p0 + t * (p1 + t * (p2 + t * (p3 + t * (p4 + t * (p5 + t * (p6 + t * (p7 + t * (p8 + t * p9))))))))


@compiled(fastmath=True)
def _ball_pull(v2):
    """Pull of the softening's ball over r and times its radius cubed, at v2 = (r/R)^2 <= 1; at 1 a point's."""
    w = np.float32(1) - np.sqrt(v2)
    outer = np.float32(6) + w * (np.float32(10) + w * (np.float32(15) + w * np.float32(-21)))
    return np.float32(1) + w * (np.float32(3) + w * outer)


@compiled(fastmath=True)
def _ball_depth(v2):
    """Potential of the softening's ball, positive, times its radius."""
    one, w = np.float32(1), np.float32(1) - np.sqrt(v2)
    return one + w * (one + w * (one + w * (one + w * (one + w * (one + w * (np.float32(-6) + w * np.float32(3)))))))


@compiled(fastmath=True)
def _pull(x, y, z, m, b, px, py, pz, ball2, reach2, p):
    """Pull of the particles of one slice, with balls of radii^2 b, on the point (px, py, pz) with one of radius^2 ball2."""
    ax = ay = az = np.float32(0)
    one, two = np.float32(1), np.float32(2) / reach2
    for j in range(len(x)):
        dx, dy, dz = x[j] - px, y[j] - py, z[j] - pz
        r2 = dx * dx + dy * dy + dz * dz
        s = one / np.sqrt(max(r2, max(ball2, b[j])))
        f = m[j] * (s * s * s * _ball_pull(r2 * s * s) - _smooth(r2 * two - one, p))
        f = f if r2 < reach2 else np.float32(0)
        ax += f * dx
        ay += f * dy
        az += f * dz
    return ax, ay, az


@compiled(fastmath=True)
def _depth(x, y, z, m, b, px, py, pz, ball2, reach2, p):
    """Potential of the particles of one slice at the point (px, py, pz), negative; as `_pull`."""
    out = np.float32(0)
    one, two = np.float32(1), np.float32(2) / reach2
    for j in range(len(x)):
        dx, dy, dz = x[j] - px, y[j] - py, z[j] - pz
        r2 = dx * dx + dy * dy + dz * dz
        s = one / np.sqrt(max(r2, max(ball2, b[j])))
        f = m[j] * (s * _ball_depth(r2 * s * s) - _smooth(r2 * two - one, p))
        out -= f if r2 < reach2 else np.float32(0)
    return (out,)


def over_slices(of_slice):
    """The compiled sum of what `of_slice` gives for each slice within reach of each of the particles `wanted`, into the columns of `out`."""

    @compiled(parallel=True)
    def sums(first, x, y, z, m, b, n, deep, side, reach, p, wanted, out):
        reach2 = np.float32(reach**2)
        for piece in prange(PIECES):
            starts, ends, shifts = np.empty(MOST, np.int64), np.empty(MOST, np.int64), np.empty((MOST, 3), np.float32)
            for block in range(piece * BLOCK, len(wanted), PIECES * BLOCK):
                for row in range(block, min(block + BLOCK, len(wanted))):
                    i = wanted[row]
                    out[row] = 0.0
                    for s in range(_slices(first, n, deep, side, reach, x[i], y[i], z[i], starts, ends, shifts)):
                        at = slice(starts[s], ends[s])
                        px, py, pz = x[i] - shifts[s, 0], y[i] - shifts[s, 1], z[i] - shifts[s, 2]
                        one = of_slice(x[at], y[at], z[at], m[at], b[at], px, py, pz, b[i], reach2, p)
                        for k in range(len(one)):
                            out[row, k] += one[k]

    return sums


_forces, _potential = over_slices(_pull), over_slices(_depth)
