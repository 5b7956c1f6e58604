"""The farm: boxes dealt over the ranks, each evolved by one rank alone, then the catalogue.

A box depends on the config alone, so files do not depend on who makes them. A killed run finds the boxes that are there, and the state of
those that were being evolved.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import h5py
import numpy as np

from hpcdiff import checked, files, maps
from hpcdiff.config import Config
from hpcdiff.errors import Stopped, UserError
from hpcdiff.simulate import chunks
from hpcdiff.simulate.chunks import Folder
from hpcdiff.simulate.nbody.box import WRITTEN, run_box, write_rows
from hpcdiff.simulate.nbody.claims import Claims
from hpcdiff.simulate.nbody.device import settled
from hpcdiff.simulate.nbody.evolve import State
from hpcdiff.simulate.nbody.peak import START
from hpcdiff.simulate.nbody.plan import Plan
from hpcdiff.simulate.work import already, opened
from hpcdiff.world import World, threads_per_rank

MIXED = 0.01
"""A halo with more of its mass than this in particles from outside of the fine region is said."""


def simulate_boxes(config: Config, world: World) -> str:
    """Write `snapshot/` and `halos.hdf5` below `run.dir`; returns one line about what was done.

    Raises:
        UserError: a config that cannot be, too little disk or memory, no GPU where one is asked for, or a rerun with another config.
        Stopped: a signal came; what is finished is kept, and what was reached of the unfinished boxes.
    """
    folder = Folder(config.dir)
    config = settled(config, folder, world)
    plan = Plan(config)
    threads = threads_per_rank(world)
    told = opened(config, plan, folder, world, None if plan.single else lambda folder: _put_back_rows(plan, folder))
    if told is None:
        return already(folder)
    with world.together():  # what an earlier run has left is taken up only if it is whole
        bad = [str(path) for box in plan.blocks[world.rank :: world.size] for path in _damaged(folder, box)]
    for path in sorted(path for part in world.allgather(bad) for path in part):
        world.print(f"hpcdiff simulate: {path} is damaged, or of another version of hpcdiff, and is made again")
    missing = [b for b in plan.blocks if not folder.chunk(b).exists()] if world.main else None
    missing = sorted(world.broadcast(missing), key=lambda b: (-plan.cost(b), b))
    there, begun = (sum(of(box).exists() for box in plan.blocks) for of in (folder.chunk, folder.draw)) if world.main else (0, 0)
    if there or begun:
        world.print(f"hpcdiff simulate: goes on: {there} of {plan.boxes} boxes are done, {begun} have been begun")
    _farm(plan, folder, world, missing, chunks.timeless(told), threads)
    said = None
    with world.together():
        if world.main:
            said = _finish(plan, folder, told)
    return world.broadcast(said)


def _damaged(folder: Folder, box: int) -> list[Path]:
    """Files of a box that are not as they were written; what is left of a finished one is removed, so that it is made again, and an unfinished one begins anew."""
    chunk, rows, state, found = folder.chunk(box), folder.rows(box), folder.draw(box), []
    if chunk.exists():
        found = [path for path, whole in ((chunk, chunks.whole(chunk)), (rows, _read_rows(rows) is not None)) if not whole]
        if found:
            files.remove(chunk)
            files.remove(rows)
    if not chunk.exists() and state.exists() and State.load(state) is None:
        files.remove(state)
        found.append(state)
    return found


def _read_rows(path: Path) -> dict[str, np.ndarray] | None:
    """A box's rows of the catalogue; None if they are gone, damaged or of another version of the program."""
    try:
        with np.load(path) as f:
            return {name: f[name] for name in f if name != "format"} if int(f["format"]) == WRITTEN else None
    except checked.DAMAGED:
        return None


def _put_back_rows(plan: Plan, folder: Folder) -> None:
    """The rows of all boxes, from the catalogue: the cluster of each.

    Raises:
        UserError: another version of hpcdiff wrote it, whose masses may be measured otherwise.
    """
    with maps.open_hdf5(folder.halos, "halo catalogue") as f:
        if f.attrs.get("rows") != WRITTEN:
            how = "simulate --overwrite, or put the chunk that is gone back"
            raise UserError("of another version of hpcdiff: no box can be made again alone", folder.halos, how)
        columns = {name: f[name][:] for name in f if name != "halo_id"}
    for box in plan.blocks:
        write_rows(folder, box, {name: column[box : box + 1] for name, column in columns.items()})


def _farm(plan: Plan, folder: Folder, world: World, todo: list[int], told: str, threads: int) -> None:
    """Evolve these boxes, costly ones first, each on the rank that is free."""
    bar = world.progress(100 * len(todo), "% of a box")
    world.sign.path = world.sign.path or plan.config.dir / "stop"  # each rank looks for itself: a box takes long
    while todo:
        claims = Claims(folder.draws, world)
        look, made = _Look(world, bar, claims, folder, todo), []
        with world.together():
            try:
                for box in claims.take(todo):
                    look.now = 0
                    run_box(plan, folder, box, told, threads, look, look.stop_if_told)
                    made.append(box)
            except (UserError, Stopped, OSError, RuntimeError):
                claims.end()
                raise
        done = {box for part in world.allgather(made) for box in part}
        if not done:
            raise UserError("no rank could take a box", claims.folder, "run simulate again; if it says so again, look at the file system")
        todo = [box for box in todo if box not in done]  # a file system may have denied a claim that it had granted
        look.show(100 * len(done))
    bar.close()


class _Look:
    """What is done after each step of a box: show how far all are, and stop if this rank was told to, or another one has ended."""

    def __init__(self, world: World, bar, claims: Claims, folder: Folder, todo: list[int]) -> None:
        self.world, self.bar, self.claims, self.folder, self.todo = world, bar, claims, folder, todo
        self.now, self.shown = 0, 0

    def __call__(self, state: State) -> None:
        self.now = int(100 * (1 - math.log(state.a) / math.log(START)))
        self.stop_if_told(state)

    def stop_if_told(self, _: State) -> None:
        """Show how far all are; stop if this rank was told to, or another one has ended."""
        taken, ended = self.claims.others()
        active = min(self.world.size, taken)
        self.show(100 * (taken - active) + active * self.now)  # this rank's box stands for those of the others
        if self.world.sign.look(True) or ended:
            done = sum(self.folder.chunk(box).exists() for box in self.todo)
            said = f"{done} of {len(self.todo)} boxes done, and what was reached of the unfinished ones"
            raise Stopped(f"{said}; the same command goes on from there")

    def show(self, reached: int) -> None:
        """So many per cent of a box, in all boxes of this look; the bar never goes back."""
        self.bar.update(max(reached - self.shown, 0))
        self.shown = max(reached, self.shown)


def _counted(paths: list[Path]) -> np.ndarray:
    """Write into each chunk how many particles all of them have, unless it says so; returns the numbers of gas and dark matter."""
    total = np.zeros(2, np.int64)
    for path in paths:
        with h5py.File(path) as f:
            total += f["Header"].attrs["NumPart_ThisFile"][:2]
    for path in paths:
        with h5py.File(path) as f:
            known = all(np.array_equal(f["Header"].attrs[name], value) for name, value in chunks.totals(*total).items())
        if not known:
            with checked.changing(path) as f:
                f["Header"].attrs.update(chunks.totals(*total))
    return total


def _finish(plan: Plan, folder: Folder, told: str) -> str:
    """Write the catalogue, give the snapshot its name, and the catalogue last: it is the sign that all is there."""
    halos = folder.partial / "halos.hdf5"
    rows = [_read_rows(folder.rows(box)) for box in plan.blocks]
    if None in rows:
        raise UserError("a box's halos are gone or damaged", folder.rows(rows.index(None)), "run simulate again, which makes the box again")
    columns = {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}
    n = len(columns["mass_200m"])
    mixed = int(np.sum(columns.get("coarse_fraction", np.zeros(1)) > MIXED))
    temporary = halos.with_name("halos.tmp")
    with checked.create(temporary) as f:
        f.attrs.update({"format": "hpcdiff-halos", "version": 1, "config": chunks.stored(plan.config), "provenance": told, "inputs": "{}"})
        f.attrs["rows"] = WRITTEN
        checked.put(f, "halo_id", np.arange(n, dtype="<i8"))
        for name, value in columns.items():
            checked.put(f, name, value)
    os.replace(temporary, halos)
    for left in folder.chunks.glob("*.tmp"):
        files.remove(left)
    particles = f"{plan.n_total} particles of each type"
    if plan.zoomed:
        particles = "{} gas and {} dark-matter particles".format(*_counted([folder.chunk(box) for box in plan.blocks]))
    if folder.chunks != folder.snapshot:
        files.sync(folder.chunks)
        os.replace(folder.chunks, folder.snapshot)
    os.replace(halos, folder.halos)
    files.sync(folder.halos.parent)
    files.remove(folder.partial)
    masses = columns["mass_200m"]
    rough = f" ({mixed} of them have more than {MIXED:.0%} of their mass in heavy particles: coarse_fraction)" if mixed else ""
    return (
        f"{n} halos{rough} of {masses.min():.3g} to {masses.max():.3g} Msun, {particles} in "
        f"{plan.boxes} chunks, engine {plan.engine}: {folder.snapshot}, {folder.halos}"
    )
