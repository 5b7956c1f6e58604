"""Making the views that are not there yet, in passes: particles come, maps are made, maps are written."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator

import numpy as np

from hpcdiff.config import Config
from hpcdiff.errors import Stopped, UserError
from hpcdiff.maps import MapWriter
from hpcdiff.project import fields
from hpcdiff.project.balance import RATES, Budget, Load, Plan, make_plan, size_text, time_text
from hpcdiff.project.cutout import Reach, ranges
from hpcdiff.project.exchange import Destinations, exchange, windows
from hpcdiff.project.members import Cutout, members_of
from hpcdiff.project.render import HaloMaps
from hpcdiff.project.sanity import ASTRAY, mass_ratios, refuse_strangers, shells, verdict
from hpcdiff.project.source import FOUND_BYTES, Ledger, Source
from hpcdiff.snapshot import Halos, Snapshot, support_radii
from hpcdiff.world import World

SMOOTHING = "smoothing.h5"
"""Smoothing lengths that the snapshot lacks are kept for the next run, a file a kind."""
END = np.iinfo(np.int64).max


class Arrived:
    """Particles of one kind that came to this rank, and which of its halos see them.

    Args:
        tables: one a round, as `exchange` gives them.
        cutout: of this rank's halos, numbered from 0.
        n: how many they are.
    """

    def __init__(self, tables: list[np.ndarray], kind: str, cutout: Cutout, n: int, threads: int) -> None:
        pairs = [cutout.pairs(kind, table, threads) for table in tables]
        halo = np.concatenate([np.empty(0, np.int32), *(h for h, _ in pairs)])
        order = np.argsort(halo, kind="stable")
        self.tables, self.columns = tables, tables[0].shape[1] - cutout.extra if tables else 0
        self.start = np.searchsorted(halo[order], np.arange(n + 1))
        self.row = np.concatenate([np.empty(0, np.int32), *(r for _, r in pairs)])[order]
        self.round = np.repeat(np.arange(len(pairs), dtype=np.int32), [len(h) for h, _ in pairs])[order]

    def pieces(self, halo: int, most: int) -> Iterator[np.ndarray]:
        """The halo's rows, ordered by index, in tables (at most `most`, 5 + k)."""
        mine = slice(self.start[halo], self.start[halo + 1])
        turn, row = self.round[mine], self.row[mine]
        if len(self.tables) > 1:
            index = np.empty(len(row))
            for r in np.unique(turn):
                index[turn == r] = self.tables[r][row[turn == r], 0]
            order = np.argsort(index, kind="stable")
            turn, row = turn[order], row[order]
        for a in range(0, len(row), most):
            if len(self.tables) == 1:
                yield self.tables[0][row[a : a + most], : self.columns]
                continue
            piece = np.empty((min(most, len(row) - a), self.columns))
            for r in np.unique(turn[a : a + most]):
                here = turn[a : a + most] == r
                piece[here] = self.tables[r][row[a : a + most][here], : self.columns]
            yield piece


class Projection:
    """The views that are still to be made, and this rank's part in making them.

    Args:
        config, world, snapshot, halos, catalog, threads: of the run.
        writer: the map file; `writer.done` says which views are there.
    """

    def __init__(
        self, config: Config, world: World, snapshot: Snapshot, halos: Halos, catalog: dict, writer: MapWriter, threads: int
    ) -> None:
        self.config, self.project, self.world, self.snapshot = config, config.project, world, snapshot
        self.catalog, self.writer, self.threads = catalog, writer, threads
        self.kinds = fields.kinds_for(self.project.fields, snapshot)
        self.budget, self.ledger = Budget.of(self.project.memory_gb), Ledger()
        self.rows = np.flatnonzero(~writer.done)  # of the catalogue, halo by halo
        self.ids, self.first, self.views = np.unique(catalog["halo_id"][self.rows], return_index=True, return_counts=True)
        self.halos = np.searchsorted(halos.halo_id, self.ids)
        self.whole = np.searchsorted(catalog["halo_id"], self.ids), np.searchsorted(catalog["halo_id"], self.ids, side="right")
        self.cutout = self._cutout(halos)
        self.halo_source = halos.source
        self.busy: list[float] = []  # seconds of work between two meetings of the ranks

    def _cutout(self, halos: Halos) -> Cutout:
        """Who sees what, from all views of a halo, made or not: a halo's particles must not depend on what is left to do."""
        if self.project.particles == "members":
            return members_of(halos, self.halos, self.kinds, self.snapshot, self.config)
        return self._reach()

    def _reach(self) -> Reach:
        first, last = self.whole
        rows, comoving = ranges(first, last), 1 / self.snapshot.scale_factor
        every = {name: self.catalog[name][rows] for name in self.catalog if name.endswith("_mpc") or name == "frame"}
        starts = np.concatenate([[0], np.cumsum(last - first)[:-1]])
        wide = fields.padded_width(every, self.project) * comoving / 2
        deep = every["depth_mpc"] * comoving / 2
        return Reach.of_views(self.catalog["position"][first], every["frame"], wide, deep, starts, self.snapshot.box)

    def run(self) -> str:
        """Make and write all of them; returns a line about how it went, or nothing. Collective.

        Raises:
            UserError: on every rank: the snapshot is damaged, the catalogue is not of this snapshot, the memory too small.
            Stopped: a signal came; what is written is kept.
        """
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.source, load = self._scan()
        plan = None
        with self.world.together():
            if self.world.main:
                plan = make_plan(load, self.world.size, self.budget)
        plan = self.world.broadcast(plan)
        self.world.close_bar()
        if self.world.main:  # of 10^5 ranks it takes some memory
            self.world.print(f"hpcdiff project: plan: {plan.describe()}")
        with self.world.progress(len(self.rows), "views") as bar:
            for turn in range(plan.turns):
                (self._stream if plan.streamed[turn] else self._pass)(plan, turn, bar)
        return self._report(plan, before)

    def _scan(self) -> tuple[Source, Load]:
        project, world, snapshot = self.project, self.world, self.snapshot
        support = {
            kind: support_radii(snapshot, kind, world, self.config.dir / SMOOTHING, project.memory_gb, self.threads)
            for kind in self.kinds
            if not snapshot.has_h[kind]
        }
        one = self.whole[0]
        pixel = self.catalog["width_mpc"][one] / (project.npix * project.oversample) / snapshot.scale_factor
        widest = int(np.argmax(fields.padded_width(self.catalog, project) / self.catalog["width_mpc"]))
        view = {name: column[widest : widest + 1] for name, column in self.catalog.items()}
        side = project.npix * project.oversample + 2 * int(fields.margins(view, project)[0])
        spheres = self._spheres()
        members = not isinstance(self.cutout, Reach)
        around = ASTRAY * self.catalog["radius_200m"][one] / snapshot.scale_factor if members else None
        source = Source(
            snapshot, self.cutout, project, world, self.threads, support, pixel, side, *spheres, self.budget, self.ledger, around
        )
        total = sum(int(np.diff(self.cutout.runs(snapshot, kind)).sum()) for kind in self.kinds) // world.size
        with world.progress(total, "particles") as bar:
            census = source.scan(self.kinds, bar)
        self._judge(spheres[1], census.enclosed)
        rows = sum(census.rows.values())
        self._say_empty(rows)
        if members:
            refuse_strangers(census.near, rows, self.halo_source, self.project.halos or self.config.dir / "halos.hdf5")
        seconds = RATES.deposit * census.cost + RATES.seen * rows + RATES.pixel * side**2 * len(project.fields)
        step = np.where(self.views == self.whole[1] - self.whole[0], len(project.views.axes), 1)
        size = sum(n * (source.columns(kind) * 8 + FOUND_BYTES) for kind, n in census.rows.items())
        self._canvas = HaloMaps.view_bytes(project, {name: column[one] for name, column in self.catalog.items()}, census.rows).astype(
            np.int64
        )
        return source, Load(self.views, step, rows, size, seconds, self._canvas, 4 * project.npix**2 * len(project.fields), census.place)

    def _say_empty(self, rows: np.ndarray) -> None:
        """Name the halos that see no particle; all of them is an error, the same on every rank."""
        if not rows.any():
            where = self.project.halos or self.config.dir / "halos.hdf5"
            raise UserError(
                "not one particle lies in the maps of any halo", where, "check it with --check: another snapshot, or other units"
            )
        if (empty := rows == 0).any():
            self.world.close_bar()
            self.world.print(f"hpcdiff project: {empty.sum()} halos see no particle at all (first: halo {self.ids[np.argmax(empty)]})")

    def _pass(self, plan: Plan, turn: int, bar) -> None:
        """All particles of this pass' halos come at once; each halo is then projected by itself."""
        to, mine, halos = self._deal(plan, turn)
        arrived = self._arrive(to, halos, self.kinds, 0, END, final=turn == plan.turns - 1)

        def maps_of(unit: int) -> dict[str, np.ndarray]:
            maps = self._open(plan, unit)
            for kind in self.kinds:
                self._add(maps, kind, arrived, halos, plan.halo[unit])
            return self._finish(maps, plan, unit)

        self._write(plan, turn, mine, maps_of, bar)
        self.ledger.set("received", 0)

    def _stream(self, plan: Plan, turn: int, bar) -> None:
        """Particles come in windows of ascending index, each added to the maps of all of this rank's units before the next."""
        to, mine, halos = self._deal(plan, turn)
        maps = {unit: self._open(plan, unit) for unit in mine.tolist()}
        for kind in self.kinds:
            for low, high in windows(self.source, kind, to, self.world, self.budget.received):
                arrived = self._arrive(to, halos, [kind], low, high, final=False)
                started = time.perf_counter()
                for unit, one in maps.items():
                    self._add(one, kind, arrived, halos, plan.halo[unit])
                self.busy.append(time.perf_counter() - started)
                del arrived
                self.ledger.set("received", 0)
        self._write(plan, turn, mine, lambda unit: self._finish(maps.pop(unit), plan, unit), bar)

    def _deal(self, plan: Plan, turn: int) -> tuple[Destinations, np.ndarray, np.ndarray]:
        """Who wants which halo in this pass, this rank's units, and their halos."""
        now = plan.turn == turn
        to = Destinations.of(plan.halo[now], plan.rank[now], len(self.ids), self.world.size)
        mine = plan.units(self.world.rank, turn)
        return to, mine, np.unique(plan.halo[mine])

    def _arrive(self, to: Destinations, halos: np.ndarray, kinds: list[str], low: int, high: int, final: bool) -> dict[str, Arrived]:
        arrived, local, before = {}, self.cutout.subset(halos), self.source.seconds
        for kind in kinds:
            parts = self.source.parts(kind, to.wanted, low, high, final)
            tables = exchange(parts, to, self.source.columns(kind), self.world, self.budget, self.ledger)
            arrived[kind] = Arrived(tables, kind, local, len(halos), self.threads)
            self.ledger.add("received", len(arrived[kind].row) * FOUND_BYTES)
        self.busy.append(self.source.seconds - before)  # reading again, while which the others may wait
        return arrived

    def _open(self, plan: Plan, unit: int) -> HaloMaps:
        begin = self.first[plan.halo[unit]]
        rows = self.rows[begin + plan.first[unit] : begin + plan.last[unit]]
        self.ledger.add("canvas", self._canvas[plan.halo[unit]] * len(rows))
        view = {name: column[rows] for name, column in self.catalog.items()}
        return HaloMaps(self.project, self.snapshot.background, self.snapshot.redshift, self.snapshot.box, view, self.threads)

    def _add(self, maps: HaloMaps, kind: str, arrived: dict[str, Arrived], halos: np.ndarray, halo: int) -> None:
        most = max(1, self.budget.sent // (8 * self.source.columns(kind)))
        for piece in arrived[kind].pieces(int(np.searchsorted(halos, halo)), most):
            maps.add(kind, piece)

    def _finish(self, maps: HaloMaps, plan: Plan, unit: int) -> dict[str, np.ndarray]:
        made = maps.finish()
        self.ledger.add("canvas", -self._canvas[plan.halo[unit]] * int(plan.last[unit] - plan.first[unit]))
        self.ledger.add("maps", sum(m.nbytes for m in made.values()))
        return made

    def _write(self, plan: Plan, turn: int, mine: np.ndarray, maps_of, bar) -> None:
        """The pass' collective writes; between them the ranks ask whether to stop."""
        now = plan.turn == turn
        for flush in range(plan.flushes[turn]):
            blocks, left, started = [], False, time.perf_counter()
            for unit in mine[plan.flush[mine] == flush].tolist():
                left = left or self.world.stop
                if not left:
                    begin = self.first[plan.halo[unit]]
                    rows = self.rows[begin + plan.first[unit] : begin + plan.last[unit]]
                    blocks += _runs(rows, maps_of(unit))
            self.busy.append(time.perf_counter() - started)
            self.writer.write_many(blocks)
            del blocks
            self.ledger.set("maps", 0)
            written = now & (plan.flush == flush)
            bar.update(int((plan.last - plan.first)[written].sum()))
            left = left or flush + 1 < plan.flushes[turn] or turn + 1 < plan.turns
            if self.world.stop_agreed() and self.world.any(left):
                raise Stopped("maps so far are kept; run the same command again")

    def _spheres(self) -> tuple[np.ndarray, np.ndarray]:
        """Where mass is added up to be held against the catalogue: centres and radii, which are none where that would say nothing."""
        project = self.project
        position, kinds = self.catalog["position"][self.whole[0]], [k for k in self.kinds if "mass" in fields.carried(project.fields, k)]
        if not isinstance(self.cutout, Reach) or "gas" in project.gas_cut.fields or kinds != self.kinds or not {"gas", "dm"} <= set(kinds):
            return position, np.zeros((len(position), 0))
        return position, shells(np.minimum(self.cutout.half_width, self.cutout.half_depth))

    def _judge(self, radius: np.ndarray, enclosed: np.ndarray) -> None:
        """Hold the particles against the catalogue's masses, before anything is written. Collective.

        Raises:
            UserError: the catalogue cannot be of this snapshot or is in other units.
        """
        if not radius.shape[1]:
            return
        background, where = self.snapshot.background, self.project.halos or self.config.dir / "halos.hdf5"
        with self.world.together():
            if self.world.main:
                ratios = mass_ratios(radius, enclosed, self.catalog["mass_200m"][self.whole[0]], background)
                if line := verdict(ratios, background.h, self.kinds, where):
                    self.world.close_bar()
                    self.world.print(f"hpcdiff project: {line}")

    def _report(self, plan: Plan, before: int) -> str:
        """How long the ranks worked and waited, and what memory it took, over all ranks."""
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        busy = np.array(self.busy)  # a number a meeting, as many on every rank
        mean, longest = self.world.total(busy) / self.world.size, self.world.largest(busy)
        peak, tables = self.world.largest(np.array([peak, self.ledger.peak]))
        if not self.world.main:
            return ""
        wall = longest.sum()
        idle = 1 - mean.sum() / wall if wall else 0.0
        return (
            f"ranks idle {100 * idle:.1f} % of {time_text(wall)} (predicted {100 * (1 - 1 / plan.balance):.1f} % of {time_text(plan.wall)}), "
            f"peak memory {size_text(peak)} a rank, {size_text(tables)} of it particles and maps"
        )


def _runs(rows: np.ndarray, maps: dict[str, np.ndarray]) -> list[tuple[int, dict[str, np.ndarray]]]:
    """The maps of ascending `rows` in runs of neighbours, each with its first row."""
    edges = [0, *(np.flatnonzero(np.diff(rows) > 1) + 1).tolist(), len(rows)]
    return [(int(rows[a]), {name: m[a:b] for name, m in maps.items()}) for a, b in zip(edges[:-1], edges[1:], strict=True)]
