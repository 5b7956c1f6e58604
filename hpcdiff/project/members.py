"""Halos that see their members alone, as the halo finder names them; and what is common to all ways of choosing particles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpcdiff.config import Config
from hpcdiff.errors import UserError
from hpcdiff.project.cutout import Reach, merge_runs, ranges
from hpcdiff.snapshot import Halos, Snapshot


@dataclass
class Members:
    """Halos that see their members alone, which are runs of rows of the snapshot.

    Attributes:
        start, length: {kind: int64 (n,)}, rows within the kind.
    """

    start: dict[str, np.ndarray]
    length: dict[str, np.ndarray]

    extra = 0

    def subset(self, halos: np.ndarray) -> Members:
        """The same for some halos, which are numbered from 0 again."""
        return Members(*({kind: values[halos] for kind, values in part.items()} for part in (self.start, self.length)))

    def pairs(self, kind: str, table: np.ndarray, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """(halo, row) of every pair, int32; `table` is ordered by index."""
        index = table[:, 0]
        if not len(index):
            return np.empty(0, np.int32), np.empty(0, np.int32)
        start, stop = self.start[kind], self.start[kind] + self.length[kind]
        halo = np.flatnonzero((start <= index[-1]) & (stop > index[0]) & (stop > start))
        first, last = np.searchsorted(index, start[halo]), np.searchsorted(index, stop[halo])
        return np.repeat(halo, last - first).astype(np.int32), ranges(first, last).astype(np.int32)

    def runs(self, snapshot: Snapshot, kind: str) -> np.ndarray:
        """The rows that are some halo's, int64 (m, 2), ascending and apart."""
        return merge_runs(np.stack([self.start[kind], self.start[kind] + self.length[kind]], axis=-1))


@dataclass
class Groups:
    """Halos that see their members alone, where each particle says which group it belongs to.

    Attributes:
        number: int64 (n,), the halos' numbers in the group catalogue.
    """

    number: np.ndarray

    extra = 1
    """The group's number is the last column of a table."""

    def subset(self, halos: np.ndarray) -> Groups:
        """The same for some halos, which are numbered from 0 again."""
        return Groups(self.number[halos])

    def pairs(self, kind: str, table: np.ndarray, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """(halo, row) of every pair, int32, ordered by row."""
        order = np.argsort(self.number, kind="stable")
        wanted, own = self.number[order], table[:, -1].astype(np.int64)
        first, last = np.searchsorted(wanted, own), np.searchsorted(wanted, own, side="right")
        row = np.repeat(np.arange(len(own)), last - first)
        return order[ranges(first, last)].astype(np.int32), row.astype(np.int32)

    def runs(self, snapshot: Snapshot, kind: str) -> np.ndarray:
        """All rows, int64 (1, 2)."""
        return np.array([[0, snapshot.count(kind)]], np.int64)


Cutout = Reach | Members | Groups
"""Who sees what: `pairs` finds it in a table, `runs` says which rows have to be read, `subset` is the same for some halos."""


def members_of(halos: Halos, which: np.ndarray, kinds: list[str], snapshot: Snapshot, config: Config) -> Members | Groups:
    """Who is whose member, for halos number `which`.

    Raises:
        UserError: neither the catalogue nor the particles say it, or not of every kind.
    """
    if halos.members is not None:
        missing = [kind for kind in kinds if kind not in halos.members]
        if not missing:
            start, length = ({kind: halos.members[kind][k][which] for kind in kinds} for k in (0, 1))
            return Members(start, length)
    if getattr(snapshot, "groups", None) and "group_number" in halos.extra:
        for kind in kinds:
            snapshot.require(kind, "group")
        return Groups(halos.extra["group_number"][which].astype(np.int64))
    raise UserError(
        f"project.particles = members, and this catalogue ({halos.source}) does not say which particles are whose",
        config.project.halos or config.dir / "halos.hdf5",
        "subfind (TNG, GADGET-4) catalogues do, and soap with SWIFT's or EAGLE's group numbers; or project.particles=all",
    )
