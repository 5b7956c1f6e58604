"""The short-range part of gravity in torch: pairs of tiles of 64 particles that lie together, found from the boxes about them.

All shapes of the arithmetic are constant, sums have a fixed order and no atomic race, so the same device gives the same bits.
"""

from __future__ import annotations

import functools
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import fft
from torch import Tensor

from hpcdiff.simulate.nbody.split import BALL, REACH, force_polynomial, own_depth, potential_polynomial

TILE = 64
"""Particles of a tile."""
AT_ONCE = {"cpu": 2**18, "cuda": 2**26}
"""Pairs of particles whose forces are calculated at once: arrays of so many float32 fit into a core's cache, and on a GPU, not fused, into 3 GB."""


@dataclass
class Tiles:
    """Particles in tiles, padded with copies that have no mass.

    Attributes:
        order: which particles a tile has, int64 (T, 64); from n on they are copies.
        x: float32 (T, 3, 64). mass, ball2: float32 (T, 64); ball2: R^2 of the softening's ball, Mpc^2.
        boxes: of each level of the tree its parts' lower and upper corners (parts, 3) and into how many each part was cut; the last are the tiles.
    """

    order: Tensor
    x: Tensor
    mass: Tensor
    ball2: Tensor
    boxes: list[tuple[Tensor, Tensor, int]]


def factors(n: int) -> list[int]:
    """Factors 5, 3 and 2 of the least number from n on that has no others, the largest first."""
    n, found = fft.next_fast_len(n, real=True), []
    for f in (5, 3, 2):
        while n % f == 0:
            n, found = n // f, [*found, f]
    return found


def tiled(x: Tensor, mass: Tensor, ball2: Tensor) -> Tiles:
    """Cut particles, x (n, 3), mass and ball2 (n,), again and again across the longest side of what they fill, into parts of equal numbers."""
    n, cuts = len(x), factors(-(-len(x) // TILE))
    size = TILE * int(np.prod(cuts, dtype=int))
    repeated = torch.arange(size, device=x.device) % n
    x, ball2 = x.float()[repeated], ball2.float()[repeated]
    mass = torch.cat([mass.float(), mass.new_zeros(size - n, dtype=torch.float32)])
    order, boxes = torch.arange(size, device=x.device)[None], []
    for cut in [*cuts, 1]:
        part = x[order]  # (parts, m, 3)
        low, high = part.amin(1), part.amax(1)
        boxes.append((low, high, cut))
        if cut > 1:
            axis = (high - low).argmax(1)[:, None, None].expand(-1, part.shape[1], 1)
            order = order.gather(1, part.gather(2, axis)[..., 0].argsort(dim=1, stable=True)).view(len(order) * cut, -1)
    return Tiles(order, part.mT.contiguous(), mass[order], ball2[order], boxes)


def near(boxes: list[tuple[Tensor, Tensor, int]], images: Tensor, reach: float) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of tiles with particles that may be within reach: i, j and the image of j, int64 (pairs,), sorted by i.

    Args:
        images: by how much each periodic image is moved, (27, 3).
    """
    image = torch.arange(len(images), device=images.device)
    i = j = torch.zeros_like(image)
    for low, high, cut in boxes:
        gap2 = torch.zeros(len(i), device=images.device)
        for axis in range(3):
            moved = images[image, axis]
            gap = torch.maximum(low[j, axis] + moved - high[i, axis], low[i, axis] - moved - high[j, axis]).clamp_(min=0)
            gap2 += gap * gap
        kept = gap2 < (1.0001 * reach) ** 2  # rounding leaves out none
        i, j, image = i[kept], j[kept], image[kept]
        if cut > 1:
            part = torch.arange(cut, device=i.device)
            i, j, image = (
                one.expand(-1, cut, cut).flatten()
                for one in (i[:, None, None] * cut + part[:, None], j[:, None, None] * cut + part, image[:, None, None])
            )
    i, order = i.sort(stable=True)
    return i, j[order], image[order]


def _kernel(xi: Tensor, xj: Tensor, bi: Tensor, bj: Tensor, p: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """1/r, or 1/R within the softening's ball; 1 - r/R there, 0 outside; the polynomial, whether a pair is beyond reach, and its distance along each
    axis; (P, 64, 64) each."""
    d = [xj[:, axis, None, :] - xi[:, axis, :, None] for axis in range(3)]
    r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    ball2, reach2, t = torch.maximum(bi[:, :, None], bj[:, None, :]), p[0], r2 * (2 / p[0]) - 1
    smooth = p[-1]
    for n in range(len(p) - 2, 0, -1):
        smooth = torch.addcmul(p[n], smooth, t)
    s = torch.rsqrt(torch.maximum(r2, ball2))
    return s, 1 - torch.sqrt(r2) * s, smooth, r2 >= reach2, d


def pull(xi: Tensor, xj: Tensor, bi: Tensor, bj: Tensor, mass: Tensor, p: Tensor) -> Tensor:
    """Pull of the particles of tiles j on those of tiles i, (P, 3, 64) float32.

    Args:
        xi, xj: positions, float32 (P, 3, 64). bi, bj: R^2 of the softenings' balls, of which the larger counts; mass: of j, (P, 64) each. p: reach^2,
            coefficients from the constant up.
    """
    s, w, smooth, beyond, d = _kernel(xi, xj, bi, bj, p)
    ball = 1 + w * (3 + w * (6 + w * (10 + w * (15 + w * -21))))
    f = (mass[:, None, :] * (s * s * s * ball - smooth)).masked_fill(beyond, 0.0)
    return torch.stack([(f * one).sum(2) for one in d], 1)


def depth(xi: Tensor, xj: Tensor, bi: Tensor, bj: Tensor, mass: Tensor, p: Tensor) -> Tensor:
    """Potential of the particles of tiles j at those of tiles i, negative, (P, 1, 64) float32; as `pull`."""
    s, w, smooth, beyond, _ = _kernel(xi, xj, bi, bj, p)
    ball = 1 + w * (1 + w * (1 + w * (1 + w * (1 + w * (1 + w * (-6 + w * 3))))))
    return -(mass[:, None, :] * (s * ball - smooth)).masked_fill(beyond, 0.0).sum(2)[:, None]


@functools.cache
def fused(of_pairs: Callable) -> Callable:
    """One kernel in place of one for each operation; compiled once a process, as all boxes have the same shapes."""
    return torch.compile(of_pairs, fullgraph=True, dynamic=False)


class TorchPairs:
    """Sums over near pairs in a periodic box.

    Args:
        side, split, softening: as of `pairs.Pairs`.
        device: of all tensors.
        compiled: see `torch_gravity.TorchGravity`.
    """

    def __init__(
        self, side: float, split: float, softening: float | np.ndarray, device: torch.device, compiled: bool | None = None
    ) -> None:
        self.split, self.reach, self.softening = split, REACH * split, torch.as_tensor(softening, dtype=torch.float64).to(device)
        assert self.reach < side / 2, "the box is too small for the mesh"
        assert BALL * np.max(softening) <= self.reach, "beyond the reach of the pairs nothing is softened"
        moves = torch.tensor([-side, 0.0, side], device=device)
        self.images = torch.cartesian_prod(moves, moves, moves)
        self.chunk = AT_ONCE[device.type] // TILE**2
        if compiled is None and device.type != "cpu":
            from hpcdiff.network import cannot_compile

            compiled = cannot_compile(device) is None
        self.compiled = bool(compiled)

    def _sum(self, of_pairs: Callable, x: Tensor, mass: Tensor, coefficients: np.ndarray, columns: int, on: Tensor | None = None) -> Tensor:
        """What `of_pairs` gives, added up over all tiles j of each tile i, float64 (n, columns); where no particle of a tile i is `on`, 0."""
        of_pairs = fused(of_pairs) if self.compiled else of_pairs
        p = torch.tensor([self.reach**2, *coefficients.tolist()], device=x.device)
        tiles = tiled(x, mass, ((BALL * self.softening) ** 2).expand(len(x)))
        i, j, image = near(tiles.boxes, self.images, self.reach)
        if on is not None:
            padded = torch.nn.functional.pad(on, (0, tiles.order.numel() - len(on)))
            wanted = padded[tiles.order].any(1)[i]
            i, j, image = i[wanted], j[wanted], image[wanted]
        first = torch.searchsorted(i, torch.arange(len(tiles.x) + 1, device=x.device))
        begins, count = first.tolist(), len(i)  # the host waits here, and not again
        i, j, image = (torch.nn.functional.pad(one, (0, -count % self.chunk)) for one in (i, j, image))
        out = torch.zeros(len(tiles.x), columns, TILE, dtype=torch.float64, device=x.device)
        for a in range(0, count, self.chunk):
            b, chunk = min(a + self.chunk, count), slice(a, a + self.chunk)
            xi = tiles.x[i[chunk]] - self.images[image[chunk], :, None]
            ti, tj = i[chunk], j[chunk]
            part = of_pairs(xi, tiles.x[tj], tiles.ball2[ti], tiles.ball2[tj], tiles.mass[tj], p)[: b - a].double()
            t, u = bisect_right(begins, a) - 1, bisect_left(begins, b)  # tiles i of this chunk, of which the ends may be in others too
            out[t:u] += torch.segment_reduce(part, "sum", lengths=first[t : u + 1].clamp(a, b).diff(), unsafe=True)
        n, back = len(x), torch.empty(tiles.order.numel(), columns, dtype=torch.float64, device=x.device)
        back[tiles.order.flatten()] = out.mT.reshape(-1, columns)
        return back[:n]

    def forces(self, x: Tensor, mass: Tensor, on: Tensor | None = None) -> Tensor:
        """Sum over j of m_j times the short-range pull towards j, on all particles or those that `on` (bool, (n,)) has, float64 (n or fewer, 3); x (n, 3) within the box, Mpc, mass (n,)."""
        found = self._sum(pull, x, mass, force_polynomial(self.split), 3, on)
        return found if on is None else found[on]

    def potential(self, x: Tensor, mass: Tensor) -> Tensor:
        """Sum over j, not i itself, of m_j times the short-range potential, float64 (n,)."""
        both = self._sum(depth, x, mass, potential_polynomial(self.split), 1)[:, 0]
        return both + own_depth(self.split, self.softening) * mass.float()
