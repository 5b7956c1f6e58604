"""Training, validation and test halos in different blocks of the box, with a gap; and how far apart the parts are."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree

from hpcdiff.errors import UserError
from hpcdiff.maps import PARTS, split_ids
from hpcdiff.project.window import jit
from hpcdiff.sections import Split, Views

SEEDS = 100
"""Most seeds that are tried for one that fills every part."""
SEARCH = 2e7
"""Blocks, and ten times halos, that are dealt in that search at most, about: it takes seconds."""
NARROWEST = 2.0
"""Gaps are at most as wide as this many blocks."""


def gap(views: Views, width: np.ndarray, depth: np.ndarray) -> float:
    """Least distance between halos of different parts, along one of the box's axes, so that no two of their maps overlap.

    It is the largest map's extent along an axis: its longer side where no view is rotated, else the diagonal of its cuboid.

    Args:
        views: whether views are rotated.
        width, depth: (n,), of each halo's maps, any length.
    """
    if views.mode == "fixed" and views.sightlines == 1:
        return float(max(width.max(), depth.max()))
    return float(np.sqrt(2 * width**2 + depth**2).max())


def _cell_of(position: np.ndarray, box: float, blocks: int) -> np.ndarray:
    return np.minimum((position / box * blocks).astype(np.int64), blocks - 1)


def block_of(position: np.ndarray, box: float, blocks: int) -> np.ndarray:
    """Number of the block in which each position (n, 3) lies, int64 (n,), of `blocks` along each side of the box."""
    cell = _cell_of(position, box, blocks)
    return (cell[:, 0] * blocks + cell[:, 1]) * blocks + cell[:, 2]


def near_later_part(position: np.ndarray, box: float, part: np.ndarray, distance: float) -> np.ndarray:
    """Which positions lie nearer than `distance` (along every axis) to a block of a later part than their own, bool (n,).

    Args:
        position: (n, 3) in the periodic box.
        box: side, same unit.
        part: int8 (blocks, blocks, blocks), 0, 1, 2 = train, val, test of each block.
        distance: same unit.
    """
    side = box / len(part)
    cell = _cell_of(position, box, len(part))
    at = tuple(cell.T)
    own = part[at]
    reach = int(np.ceil(distance / side))  # blocks that may be nearer; those one step less far away are
    near = _latest(part, reach - 1)[at] > own
    left = np.flatnonzero(~near & (_latest(part, reach)[at] > own))
    near[left] = _near_rim(np.ascontiguousarray(position[left]), cell[left], part, box, distance, reach)
    return near


@jit
def _near_rim(position, cell, part, box, distance, reach):
    """Which positions (n, 3) are nearer than `distance` to a later part's block that is `reach` steps away along some axis."""
    blocks, found = len(part), np.zeros(len(position), np.bool_)
    side = box / blocks
    for n in range(len(position)):
        own = part[cell[n, 0], cell[n, 1], cell[n, 2]]
        for i in range(-reach, reach + 1):
            for j in range(-reach, reach + 1):
                for k in range(-reach, reach + 1):
                    close = not found[n] and max(abs(i), abs(j), abs(k)) == reach
                    if close and part[(cell[n, 0] + i) % blocks, (cell[n, 1] + j) % blocks, (cell[n, 2] + k) % blocks] > own:
                        for axis, step in enumerate((i, j, k)):
                            inside = position[n, axis] - cell[n, axis] * side
                            away = step * side - inside if step > 0 else inside - (step + 1) * side
                            close = close and (step == 0 or away < distance)
                        found[n] = close
    return found


def _latest(part: np.ndarray, reach: int) -> np.ndarray:
    """The latest part among the blocks up to `reach` steps from each one, along every axis of the periodic box."""
    return maximum_filter(part, size=min(2 * reach + 1, 2 * len(part) - 1), mode="wrap")


def deal_regions(position: np.ndarray, box: float, distance: float, split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deal blocks of the box to train, val and test by a hash of (split.seed, block), and clear a gap between the parts.

    A halo that lies nearer than the gap to a block of a later part (val after train, test after val) is left out, so the
    gap is taken from the larger part and test keeps all its halos. The answer for one halo depends on no other.

    Args:
        position: (n, 3) comoving Mpc.
        box: comoving Mpc.
        distance: the gap, comoving Mpc.
        split: fractions, seed, blocks.
    Returns:
        part int8 (n,), block int64 (n,), and whether the halo is kept, bool (n,).
    Raises:
        UserError: the blocks are much smaller than the gap; a part is empty; another seed is named, if one fills it.
    """
    if distance * split.blocks > NARROWEST * box and split.blocks > 1:
        most = max(1, int(NARROWEST * box / distance))
        sizes = f"project.split.blocks={split.blocks} makes blocks of {box / split.blocks:.4g} comoving Mpc, the gap between parts is {distance:.4g}"
        raise UserError(f"{sizes}: hardly a halo lies further than that from another part", "project.split.by = region", f"at most {most}")
    block = block_of(position, box, split.blocks)

    def dealt(seed: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
        part = split_ids(np.arange(split.blocks**3), Split(**{**vars(split), "seed": seed}))
        kept = ~near_later_part(position, box, part.reshape((split.blocks,) * 3), distance)
        empty = [k for k, name in enumerate(PARTS) if getattr(split, name) > 0 and not (part[block[kept]] == k).any()]
        return part[block], kept, empty

    part, kept, empty = dealt(split.seed)
    if empty:
        wanted = sum(getattr(split, name) > 0 for name in PARTS)
        everywhere = 2 * np.ceil(distance * split.blocks / box) - 1 >= split.blocks  # each block is within the gap of all others
        helps = wanted == 1 or (not everywhere and len(np.unique(block)) >= wanted)
        seeds = range(int(np.clip(SEARCH / (split.blocks**3 + 10 * len(position)), 1, SEEDS))) if helps else ()
        seed = next((s for s in seeds if not dealt(s)[2]), None)
        how = (
            "a smaller project.width or depth, other project.split.blocks, or other fractions"
            if seed is None
            else f"project.split.seed={seed}"
        )
        lost = f"{len(kept) - kept.sum()} of {len(kept)} halos are in the gap of {distance:.4g} comoving Mpc"
        raise UserError(f"no halo falls into the {PARTS[empty[0]]} part ({lost})", "project.split.by = region", f"try {how}")
    return part, block, kept


def report(catalog: dict[str, np.ndarray], box: float) -> list[str]:
    """Lines for the plan and the run: the masses in each part, and how many test halos lie inside a training halo's cube.

    Args:
        catalog: the columns of `/catalog`.
        box: side, comoving Mpc.
    """
    first = np.unique(catalog["halo_id"], return_index=True)[1]
    halos = {name: catalog[name][first] for name in ("mass_200m", "split", "position", "width_mpc", "redshift")}
    lines = []
    for k, name in enumerate(PARTS):
        log_mass = np.log10(halos["mass_200m"][halos["split"] == k])
        views = int((catalog["split"] == k).sum())
        if len(log_mass):
            low, median, high = log_mass.min(), np.median(log_mass), log_mass.max()
            masses = f"log M200m/Msun {low:.2f} to {high:.2f}, median {median:.2f}"
            lines.append(f"{name}: {len(log_mass)} halos, {views} views, {masses}")
    leaked, tests = leaks(halos, box)
    if tests:
        mend = "; split.by: region keeps them apart" if leaked else ""
        lines.append(f"{leaked} of {tests} test halos ({leaked / tests:.0%}) lie inside a training halo's cube{mend}")
    return lines


def leaks(halos: dict[str, np.ndarray], box: float) -> tuple[int, int]:
    """Test halos inside the cube (side: the map's width, along the box's axes) of a training halo, and all test halos."""
    train, test = (halos["split"] == k for k in (0, 2))
    if not train.any() or not test.any():
        return 0, int(test.sum())
    half = halos["width_mpc"][train] / 2 * (1 + halos["redshift"][train])
    tree = cKDTree(halos["position"][test] % box, boxsize=box)
    found = tree.query_ball_point(halos["position"][train] % box, np.minimum(half, box / 2), p=np.inf)
    return len(set().union(*found)), int(test.sum())
