"""Where the particles that clusters ask for stand in a snapshot, and what a plan makes of it: messages, reads, bytes."""

from __future__ import annotations

import numpy as np

from hpcdiff.project.balance import RATES, Budget, Load, Plan
from hpcdiff.project.cutout import Reach, ranges
from hpcdiff.project.fields import carried
from hpcdiff.project.source import BLOCK, PAIR_BYTES, STRIPES
from hpcdiff.sections import Project
from scaling.sky import Sky

CELLS = 256
"""Along a side of the box, in whose order the rows stand."""
DATASETS = {"gas": 6, "dm": 3}
"""That are read of a block: positions, mass, support radius; density, energy, electrons."""


class Layout:
    """Where the particles that each cluster sees stand in the snapshot; one kind stands for both, which have as many rows.

    Attributes:
        rows: of one kind.
        halo, block: int64 (pairs,), every cluster and the blocks of `BLOCK` rows that it needs.
        share: float64 (pairs,), part of the cluster's particles that is in the block.
    """

    def __init__(self, where: Sky, reach: Reach, rows: int) -> None:
        fine = CELLS // len(where.density)
        density = where.density.repeat(fine, 0).repeat(fine, 1).repeat(fine, 2)
        spread = _spread(np.arange(CELLS))
        morton = (spread[:, None, None] << 2 | spread[None, :, None] << 1 | spread).ravel()
        order = np.argsort(morton)
        ends = np.empty(CELLS**3, np.int64)
        ends[order] = np.rint(np.cumsum(density.ravel()[order]) / density.sum() * rows).astype(np.int64)
        starts = ends - np.rint(density.ravel() / density.sum() * rows).astype(np.int64)
        self.rows = rows
        side = where.box / CELLS
        low = np.floor((reach.position - reach.near) / side).astype(np.int64)
        n = np.floor((reach.position + reach.near) / side).astype(np.int64) - low + 1
        halo = np.repeat(np.arange(len(n)), n.prod(axis=1))
        k = ranges(np.zeros(len(n), np.int64), n.prod(axis=1))
        at = [(low[halo, a] + k // n[halo, a + 1 :].prod(axis=1) % n[halo, a]) % CELLS for a in range(3)]
        cell = (at[0] * CELLS + at[1]) * CELLS + at[2]
        first, last = starts[cell] // BLOCK, np.maximum(ends[cell] - 1, starts[cell]) // BLOCK + 1
        block = ranges(first, last)
        pairs, place = np.unique(np.repeat(halo, last - first) * (rows // BLOCK + 1) + block, return_inverse=True)
        inside = np.minimum(ends[cell].repeat(last - first), (block + 1) * BLOCK) - np.maximum(
            starts[cell].repeat(last - first), block * BLOCK
        )
        weight = np.bincount(place, np.maximum(inside, 0))
        self.halo, self.block = np.divmod(pairs, rows // BLOCK + 1)
        self.share = weight / np.maximum(np.bincount(self.halo, weight), 1)[self.halo]
        self.place = np.bincount(self.halo, self.block * weight) / np.bincount(self.halo, weight) * BLOCK / rows


def _spread(x: np.ndarray) -> np.ndarray:
    """Bits of x three apart."""
    return sum(((x >> b) & 1) << (3 * b) for b in range(8))


def traffic(plan: Plan, layout: Layout, load: Load, project: Project, budget: Budget) -> dict:
    """Messages, rounds, read requests, and bytes of a plan: gas and dark matter, each halo's particles half and half."""
    ranks, turns, n_halos = plan.ranks, plan.turns, len(load.views)
    sent = np.zeros((turns, ranks))  # bytes, of gas and dark matter one after the other
    messages = reads = again = 0
    slowest = even = 0.0
    n_blocks = layout.rows // BLOCK + 1
    parts = ranks * max(1, min(STRIPES, layout.rows // (ranks * BLOCK)))  # as cutout.share_of_runs deals them
    source = np.minimum(np.arange(n_blocks) * BLOCK * parts // layout.rows, parts - 1) % ranks
    by_source = np.argsort(source, kind="stable")
    begins = np.searchsorted(source[by_source], source[by_source])
    unit = np.unique((plan.halo * turns + plan.turn) * ranks + plan.rank)  # (halo, pass, rank)
    wanting, turn, rank = unit // (turns * ranks), unit // ranks % turns, unit % ranks
    first = np.searchsorted(wanting, np.arange(n_halos + 1))
    number = np.diff(first)[layout.halo]
    u = ranges(first[:-1][layout.halo], first[1:][layout.halo])  # of every (halo, block): the units
    pair = np.repeat(np.arange(len(layout.halo)), number)
    for kind, datasets in DATASETS.items():
        row = 8 * (5 + len(carried(project.fields, kind)))
        rows = load.rows[layout.halo] / 2 * layout.share
        seen = np.minimum(np.bincount(layout.block, rows, minlength=n_blocks), BLOCK)
        table_bytes = seen * row + PAIR_BYTES * np.bincount(layout.block, rows, minlength=n_blocks)
        held = np.concatenate([[0], np.cumsum(table_bytes[by_source])])
        kept = np.empty(n_blocks, bool)
        kept[by_source] = held[1:] - held[begins] <= budget.kept / 2  # both kinds share the room
        links = np.unique(((turn[u] * ranks) + source[layout.block[pair]]) * ranks + rank[u])
        links = links[links // ranks % ranks != links % ranks]
        messages += len(links)
        bytes_ = np.bincount(turn[u] * ranks + source[layout.block[pair]], rows[pair] * row, minlength=turns * ranks)
        sent += bytes_.reshape(turns, ranks)
        once_more = np.unique(turn[u] * n_blocks + layout.block[pair])
        once_more = once_more[~kept[once_more % n_blocks]]
        again += len(once_more) * datasets
        by_rank = np.bincount(once_more // n_blocks * ranks + source[once_more % n_blocks], minlength=turns * ranks).reshape(turns, ranks)
        slowest += float(by_rank.max(axis=1).sum()) * BLOCK * RATES.read
        even += float(by_rank.mean(axis=1).sum()) * BLOCK * RATES.read
        reads += n_blocks * datasets
    received = plan.received()[~plan.streamed]
    return {
        "messages": messages,
        "rounds": int(np.ceil(sent.max(axis=1) / (budget.sent / 3)).sum()),
        "read_requests": reads,
        "read_again": again,
        "seconds_again": slowest,
        "seconds_again_if_even": even,
        "sent_bytes_rank_mean": float(sent.sum() / ranks),
        "sent_bytes_rank_max": float(sent.sum(axis=0).max()),
        "received_bytes_rank_pass_max": int(received.max(initial=0)),
        "received_bytes_rank_max": int(received.sum(axis=0).max(initial=0)),
    }
