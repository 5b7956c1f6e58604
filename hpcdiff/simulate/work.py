"""The stage's work: draw every block, then find neighbours and write chunks, then the catalogue.

A block is drawn from the config alone, and a chunk from the draws of its block and the blocks around it, so neither
knows who writes it. A killed run finds the files that are there and makes the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import yaml

from hpcdiff import files, maps, memory
from hpcdiff.config import Config
from hpcdiff.errors import Stopped, UserError
from hpcdiff.launch import provenance
from hpcdiff.simulate import chunks
from hpcdiff.simulate.chunks import Folder
from hpcdiff.simulate.plan import Plan
from hpcdiff.strict import refuse_difference
from hpcdiff.world import World, ranks_per_node, threads_per_rank


def simulate(config: Config, world: World) -> str:
    """Write `snapshot/` and `halos.hdf5` below `run.dir`; returns one line about what was done.

    Raises:
        UserError: a config that cannot be, too little disk or memory, or a rerun with another config.
        Stopped: a signal came; what is finished is kept.
    """
    plan, folder = Plan(config), Folder(config.dir)
    threads = threads_per_rank(world)
    told = opened(config, plan, folder, world)
    if told is None:
        return already(folder)
    blocks = range(len(plan.blocks))
    with world.together():  # what an earlier run has left is taken up only if it is whole
        bad = [str(path) for block in blocks[world.rank :: world.size] for path in chunks.damaged(folder, block)]
        for path in bad:
            files.remove(path)
    for path in sorted(path for part in world.allgather(bad) for path in part):
        world.print(f"hpcdiff simulate: {path} is damaged and is made again")
    missing = [b for b in blocks if not folder.chunk(b).exists()] if world.main else None
    missing = world.broadcast(missing)

    def size(block: int) -> int:
        return int(plan.n_cell[plan.blocks[block]].sum())

    if missing:
        undrawn = [b for b in blocks if not folder.draw(b).exists()] if world.main else None
        _deal(world, world.broadcast(undrawn), lambda b: chunks.write_draw(plan, folder, b), size, "draw")
        told_chunk = chunks.timeless(told)
        _deal(world, missing, lambda b: chunks.write_chunk(plan, folder, b, told_chunk, threads), size, "chunk")
    with world.together():
        if world.main:
            _finish(plan, folder, told)
    n = int((plan.halo_id >= 0).sum())
    return f"{n} clusters, {plan.n_total} particles of each type in {len(plan.blocks)} chunks: {folder.snapshot}, {folder.halos}"


def opened(config: Config, plan: Plan, folder: Folder, world: World, keep: Callable[[Folder], None] | None = None) -> str | None:
    """Make or take up the run and say its plan, on all ranks together; the provenance as JSON, or None if all is done.

    A finished run that lacks a chunk becomes an unfinished one, so that this chunk alone is made again.

    Args:
        plan: of any engine. keep: puts back, beside an unfinished run's chunks, what the finished run's catalogue alone has.
    """
    done, here = False, ranks_per_node(world)
    with world.together():
        if world.main:
            done = finished(config, plan, folder)
            places = [folder.snapshot / folder.chunk(block).name for block in range(len(plan.blocks))]
            if done and (lost := [path for path in places if chunks.cut_short(path)]):
                _refuse_foreign(folder, lost)
                for path in lost:
                    world.print(f"hpcdiff simulate: {path} is gone or not a whole file, and is made again")
                _reopen(config, folder, lost, keep)
                done = False
            if not done:
                prepare(config, plan, folder, here, world.size)
    if world.broadcast(done):
        return None
    told = world.broadcast(provenance(world, engine=plan.engine))
    for line in plan.lines():
        world.print(f"hpcdiff simulate: {line}")
    folder.chunks = Path(world.broadcast(str(folder.chunks)))
    return told


def already(folder: Folder) -> str:
    """The one line of a run that is done."""
    return f"done already: {folder.snapshot} and {folder.halos}"


def finished(config: Config, plan: Plan, folder: Folder) -> bool:
    """Is all there, of this config?"""
    if not folder.halos.exists():
        return False
    with maps.open_hdf5(folder.halos, "halo catalogue") as f:
        if f.attrs.get("format") != "hpcdiff-halos":
            raise UserError("a file that this stage did not write stands there", folder.halos, "move it, or take another run.dir")
        old = yaml.safe_load(f.attrs.get("config", "{}"))
    refuse_difference(old, yaml.safe_load(chunks.stored(config)), folder.halos, "simulate")
    files.remove(folder.partial)
    return True


def _refuse_foreign(folder: Folder, lost: list[Path]) -> None:
    """Refuse to make these chunks again where this stage did not write what stands in their place, or beside them."""
    odd = folder.foreign() or next((path for path in lost if path.exists() and not chunks.ours(path)), None)
    if odd is not None:
        raise UserError("a file that this stage did not write stands in its snapshot", odd, "move it")


def _reopen(config: Config, folder: Folder, lost: list[Path], keep: Callable[[Folder], None] | None) -> None:
    """Make a finished run an unfinished one without these chunks; killed at any point it is the one or the other."""
    folder.draws.mkdir(parents=True)
    folder.snapshot.mkdir(exist_ok=True)
    if keep is not None:
        keep(folder)
    files.write_atomic(folder.config, chunks.stored(config))
    for path in lost:
        files.remove(path)
    files.remove(folder.halos)


def prepare(config: Config, plan: Plan, folder: Folder, here: int, ranks: int) -> None:
    """Make or take up the unfinished run, and see that it fits on the disk, with all ranks at work, and into the memory of so many ranks `here`."""
    ours = folder.config.exists()
    if ours:
        try:
            old = yaml.safe_load(folder.config.read_text())
        except (UnicodeDecodeError, yaml.YAMLError):
            old = None
        if not isinstance(old, dict):
            raise UserError("the unfinished run's config is damaged", folder.config, "simulate --overwrite")
        refuse_difference(old, yaml.safe_load(chunks.stored(config)), folder.partial, "simulate")
    elif folder.snapshot.exists():
        if folder.foreign() is not None:
            raise UserError("a snapshot that this stage did not write stands there", folder.snapshot, "move it, or take another run.dir")
        raise UserError("the catalogue of the snapshot that stands there is gone", folder.halos, "simulate --overwrite makes both again")
    there = sum(p.stat().st_size for top in (folder.partial, folder.snapshot) for p in top.rglob("*") if p.is_file()) if ours else 0
    need, free = plan.disk_bytes(ranks) - there, files.free_bytes(folder.partial)
    whole = all((folder.snapshot / folder.chunk(block).name).exists() for block in range(len(plan.blocks)))
    if need > free and not whole:
        raise UserError(
            f"the simulation needs {need / 1e9:.3g} GB more and {free / 1e9:.3g} GB are free", folder.partial, "free some space"
        )
    need, free = plan.memory_bytes() * here, memory.free_bytes()
    if need > free:
        raise UserError(
            f"{here} rank{'s need' if here > 1 else ' needs'} {need / 1e9:.3g} GB of memory and {free / 1e9:.3g} GB are free",
            "this node",
            plan.fitting(free, here),
        )
    folder.draws.mkdir(parents=True, exist_ok=True)
    files.write_atomic(folder.config, chunks.stored(config))
    if folder.snapshot.exists():  # killed between the two last renames, or reopened
        folder.chunks = folder.snapshot
    else:
        folder.chunks.mkdir(exist_ok=True)


def _deal(world: World, todo: list[int], do: Callable[[int], None], size: Callable[[int], int], unit: str) -> None:
    """Deal blocks over the ranks in rounds; after each, look whether somebody asked us to stop."""
    bar = world.progress(len(todo), unit)
    todo = sorted(todo, key=size, reverse=True)  # those of one round are alike, so that no rank waits long
    for start in range(0, len(todo), world.size):
        with world.together():
            if start + world.rank < len(todo):
                do(todo[start + world.rank])
        bar.update(min(world.size, len(todo) - start))
        if world.stop_agreed():
            raise Stopped(f"{min(start + world.size, len(todo))} of {len(todo)} {unit}s done; the same command goes on from there")
    bar.close()


def _finish(plan: Plan, folder: Folder, told: str) -> None:
    """Give the snapshot its name, and last the catalogue: it is the sign that all is there."""
    for left in folder.chunks.glob("*.tmp"):
        files.remove(left)
    files.remove(folder.draws)
    if folder.chunks != folder.snapshot:
        files.sync(folder.chunks)
        os.replace(folder.chunks, folder.snapshot)
    temporary = folder.partial / "halos.hdf5"
    chunks.write_halos(plan, temporary, told)
    os.replace(temporary, folder.halos)
    files.sync(folder.halos.parent)
    files.remove(folder.partial)
