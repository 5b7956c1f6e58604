"""The particles of a few halos, read for `--check`: those of one are kept, of the others the masses about their centres."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from hpcdiff.config import Config
from hpcdiff.project import fields
from hpcdiff.project.cutout import Reach, merge_runs, share_of_runs
from hpcdiff.project.members import Members, members_of
from hpcdiff.project.periodic import nearest_image
from hpcdiff.project.sanity import ASTRAY, add_mass, mass_ratios, refuse_strangers, shells, within
from hpcdiff.snapshot import KINDS, Halos, Particles, Snapshot
from hpcdiff.snapshot.nearest import NEIGHBOURS
from hpcdiff.snapshot.particles import joined, refuse_twice
from hpcdiff.world import World

SLAB = 500_000
"""Particles that are held at once."""
OTHERS = 12
"""Halos, besides the one, whose masses are compared."""
MANY = 100_000_000
"""Rows from which on a catalogue's members, or a sample, are read in place of a whole snapshot that has no index of its own."""
SAMPLED = 16_384
"""Rows of a block of a sample."""
CHEAP = 20_000_000
"""Rows up to which kinds are read that no field wants: M200m is of all matter."""


class Look:
    """What the particles about some halos are; one of them, the most massive that has views, is looked at closely.

    Attributes:
        kinds: of particles that are read: those that the fields want, and others of which few rows must be read.
        halo: int64 (n,), places in the halo catalogue; number 0 is the one.
        first, last: int64 (n,), their views in the map file's catalogue.
        counts: {kind: particles in the box}.
        within: {kind: particles inside R200m of each halo, int64 (n,)}.
        mass_within: {kind: float64 (n,)}, Msun inside R200m.
        mass_of_box: {kind: Msun of all particles}, NaN where neither all nor a sample was read.
        particles: {kind: Particles of the one that its views may show}.
        members_only: whether only the catalogue's members were read.
        sampled: {kind: part of the rows that was read, in evenly spread blocks}; a halo's masses cannot be told from these.
        own_h: {kind: whether the support radii come from the snapshot}.
        ratios: float64 (n,), M200m of the particles over the catalogue's.
    """

    def __init__(self, config: Config, snapshot: Snapshot, halos: Halos, catalog: dict[str, np.ndarray], threads: int) -> None:
        self.config, self.snapshot, self.halos, self.catalog, self.threads = config, snapshot, halos, catalog, threads
        self.wanted = fields.kinds_for(config.project.fields, snapshot)
        ids, first, views = np.unique(catalog["halo_id"], return_index=True, return_counts=True)
        by_mass = np.argsort(-catalog["mass_200m"][first], kind="stable")
        some = by_mass[np.unique(np.linspace(0, len(ids) - 1, min(OTHERS + 1, len(ids))).astype(np.int64))]
        self.first, self.last = first[some], first[some] + views[some]
        self.halo = np.searchsorted(halos.halo_id, ids[some])
        rows = np.concatenate([np.arange(a, b) for a, b in zip(self.first, self.last, strict=True)])
        view = {name: column[rows] for name, column in catalog.items()}
        comoving = 1 / snapshot.scale_factor
        wide, deep = fields.padded_width(view, config.project) * comoving / 2, view["depth_mpc"] * comoving / 2
        starts = np.cumsum(self.last - self.first) - (self.last - self.first)
        self.reach = Reach.of_views(catalog["position"][self.first], view["frame"], wide, deep, starts, snapshot.box)
        self.position, self.radius = halos.position[self.halo], halos.radius_200m[self.halo]
        self.shells = shells(np.minimum(self.reach.half_width, self.reach.half_depth))
        self.members_only = False
        self.sampled: dict[str, float] = {}
        self.member = None
        if config.project.particles == "members":
            self.member = members_of(halos, self.halo, self.wanted, snapshot, config)
        self.runs = {kind: self._runs(kind) for kind in KINDS if snapshot.count(kind)}
        self.kinds = [kind for kind, runs in self.runs.items() if kind in self.wanted or np.diff(runs).sum() <= CHEAP]

    def read(self, world: World) -> None:
        """Read what is needed, in slabs with a progress bar.

        Raises:
            UserError: the snapshot is damaged or its numbers make no sense; an id twice; members that are not where the halos are.
        """
        n = len(self.halo)
        self.counts = {kind: self.snapshot.count(kind) for kind in self.kinds}
        self.within = {kind: np.zeros(n, np.int64) for kind in self.kinds}
        self.mass_within = {kind: np.zeros(n) for kind in self.kinds}
        self.mass_of_box: dict[str, float] = {}
        self.particles: dict[str, Particles] = {}
        self.own_h: dict[str, bool] = {}
        self.enclosed = np.zeros(self.shells.shape)
        self.members, self.near = np.zeros(n, np.int64), np.zeros(n, np.int64)
        total = int(sum(np.diff(self.runs[kind]).sum() for kind in self.kinds))
        with world.progress(total, "particles") as bar:
            for kind in self.kinds:
                self._read_kind(kind, self.runs[kind], bar)
        if self.member is not None:
            where = self.config.project.halos or self.config.dir / "halos.hdf5"
            refuse_strangers(self.near, self.members, self.halos.source, where)
        ratios = mass_ratios(self.shells, self.enclosed.cumsum(axis=1), self.halos.mass_200m[self.halo], self.snapshot.background)
        self.ratios = np.full(n, np.nan) if self.sampled else ratios

    def _runs(self, kind: str) -> np.ndarray:
        """Rows to read: those of the snapshot's own cells about the halos, else all; of a large one, members, or a sample."""
        members, count = self.halos.members or {}, self.snapshot.count(kind)
        if self.snapshot.cells(kind) is None and kind in members and count > MANY:
            start, length = (part[self.halo] for part in members[kind])
            self.members_only = True
            return merge_runs(np.stack([start, start + length], axis=-1))
        runs = self.reach.runs(self.snapshot, kind)
        if isinstance(self.member, Members) and kind in self.wanted:  # wherever they are
            runs = merge_runs(np.concatenate([runs, self.member.runs(self.snapshot, kind)]))
        if kind not in self.wanted or np.diff(runs).sum() <= MANY:
            return runs
        start = np.linspace(0, count - SAMPLED, max(MANY // SAMPLED, 2)).astype(np.int64)
        runs = merge_runs(np.stack([np.maximum(start, 0), start + SAMPLED], axis=-1))
        self.sampled[kind] = float(np.diff(runs).sum() / count)
        return runs

    def _read_kind(self, kind: str, runs: np.ndarray, bar) -> None:
        project, snapshot = self.config.project, self.snapshot
        wanted = kind in self.wanted
        options = {"gas": wanted and fields.reads_gas(project, kind), "ids": "ids" in snapshot.columns[kind]}
        member = self.member if wanted else None
        if member is not None:
            options["groups"] = member.extra > 0
        parts, mass, read = [snapshot.read(kind, 0, 0, project.mu_e, **options)], 0.0, 0
        for start, stop in share_of_runs(runs, 0, 1, SLAB):
            p = snapshot.read(kind, start, stop, project.mu_e, **options)
            mass, read = mass + p.mass.sum(), read + stop - start
            table = np.column_stack([p.index, p.position, np.zeros(len(p.index)) if p.h is None else p.h, p.mass])
            halo, row = self.reach.pairs(kind, table, self.threads)
            self.within[kind] += within(table[row, 1:4], halo, self.position, self.radius, snapshot.box)
            add_mass(table, halo, row, self.position, self.radius[:, None], snapshot.box, self.mass_within[kind][:, None])
            add_mass(table, halo, row, self.position, self.shells, snapshot.box, self.enclosed)
            if member is not None:
                halo, row = member.pairs(kind, np.column_stack([table, p.group]) if member.extra else table, self.threads)
                self.members += np.bincount(halo, minlength=len(self.halo))
                self.near += within(table[row, 1:4], halo, self.position, ASTRAY * self.radius, snapshot.box)
            mine = np.zeros(len(table), bool)
            mine[row[halo == 0]] = True
            p.keep(mine)
            parts.append(p)
            bar.update(stop - start)
        part = self.sampled.get(kind, 1.0)
        self.mass_of_box[kind] = mass / part if kind in self.sampled or read == snapshot.count(kind) else np.nan
        p = self.particles[kind] = joined(parts)
        if p.ids is not None:
            refuse_twice(p.ids, p.index, kind, snapshot.paths[0])
        self.own_h[kind] = p.h is not None
        if p.h is None:
            p.h = self._distances(p.position)

    def _distances(self, position: np.ndarray) -> np.ndarray:
        """To the 64th neighbour among these particles alone, at most half the box; too far near the edge of what is seen."""
        if not len(position):
            return np.empty(0)
        k = min(NEIGHBOURS + 1, len(position))
        distance = cKDTree(position, boxsize=self.snapshot.box).query(position, k=[k], workers=self.threads)[0][:, 0]
        return np.clip(distance, 1e-6 * self.snapshot.box, self.snapshot.box / 2)

    def in_view(self, kind: str) -> np.ndarray:
        """Which of the one's particles its first view shows, bool (n,)."""
        p, row, a = self.particles[kind], self.first[0], self.snapshot.scale_factor
        seen = np.abs(nearest_image(p.position - self.position[0], self.snapshot.box) @ self.catalog["frame"][row].T) * a
        wide = self.catalog["width_mpc"][row] / 2 + p.h * a
        return (seen[:, 2] < self.catalog["depth_mpc"][row] / 2) & (seen[:, :2].max(axis=1, initial=0) < wide)

    def table(self, kind: str) -> np.ndarray | None:
        """The one's particles as `HaloMaps.add` takes them; None where no field wants this kind.

        Raises:
            UserError: a field or cut needs what the snapshot does not give.
        """
        names, p = fields.carried(self.config.project.fields, kind), self.particles[kind]
        if not names:
            return None
        return np.column_stack([p.index, p.position, p.h, fields.weights(p, names, self.config.project)])
