"""Draw posterior samples of the views of one part of the split: (view, sample) pairs dealt over the ranks, a shard a batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hpcdiff import diffusion
from hpcdiff.config import Config
from hpcdiff.errors import Stopped, UserError
from hpcdiff.launch import provenance
from hpcdiff.maps import MapFile
from hpcdiff.model import load_model, read_model_config
from hpcdiff.sample.deal import batch_rows, batches_left
from hpcdiff.sample.draw import Job, Unlike, prepare
from hpcdiff.sample.shards import Shards, refuse_change, stored_header
from hpcdiff.samples import find_shards
from hpcdiff.scout import go_ahead
from hpcdiff.sections import AUTO_SAMPLER
from hpcdiff.stop import StopVote
from hpcdiff.strict import to_yaml
from hpcdiff.world import World

EXEMPT = ("run.dir", "run.maps", "run.model", "run.patience", "sample.batch_size", "sample.compile")
KEPT = "the finished samples are kept; the same command goes on from there"


def effort(config: Config) -> tuple[str, int, int, int]:
    """What a run does: sampler, noise levels, network evaluations a sample, samples a view; a regression evaluates once, for one."""
    s = config.sample
    if config.task.method == "regression":
        return "regression", 1, 1, 1
    sampler = AUTO_SAMPLER if s.sampler == "auto" else s.sampler
    return sampler, s.steps, diffusion.nfe(sampler, s.steps), s.samples


def sample(config: Config, world: World) -> str:
    """Draw `sample.samples` posterior maps of every view in `sample.split`; returns one line about it.

    Raises:
        UserError: model and map file do not belong together, an earlier run differs, or a shard of it is missing.
        Stopped: a signal came; the finished shards stay.
    """
    path, done = config.dir / "samples.h5", None
    go_ahead(world, config.map_paths(), "map file")
    with world.together():
        refuse_unbuilt(config)
        maps = MapFile(config.map_paths()[0])
        weights = read_model_config(config.model_path())["weights_sha256"]
        header = {"config": config.resolved("run", "observe", "sample"), "inputs": {"maps": maps.fingerprint, "model": weights}}
        if world.main and path.exists():  # for all: over a network, others may still see what --overwrite has just removed
            done, old = f"{path} is already finished", stored_header(path)
            find_shards(path)
            if old is None:
                done += " (another program made it, so it is not compared)"
            else:
                refuse_change(old, header, path, EXEMPT)
    if done := world.broadcast(done):
        return done

    sampler, steps, nfe, samples = effort(config)
    with world.together():
        model = load_model(config.model_path()).to(world.device)
        job = prepare(config, maps, model, samples)
        maps.refuse_damaged(np.array_split(np.unique(job.source), world.size)[world.rank])
    shards = Shards(config.dir, header, EXEMPT, model.outputs, job.views, (samples, maps.npix, maps.npix))
    have = None
    with world.together():
        if world.main:
            shards.open()
            have = np.packbits(shards.finished()).tobytes().hex()
    total = len(job.views) * samples
    have = np.unpackbits(np.frombuffer(bytes.fromhex(world.broadcast(have)), np.uint8), count=total).astype(bool)
    size = batch_rows(total, config.sample.batch_size, maps.npix)
    batches = batches_left(have.reshape(-1, samples), size)
    if config.task.method == "regression" and config.sample.samples > 1 and "sample.samples" in config.given:
        world.print(f"hpcdiff sample: a regression has one answer, so 1 sample a view is written, not {config.sample.samples}")
    world.print(
        f"hpcdiff sample: {total - have.sum()} of {total} samples left, of {len(job.views)} views, {sampler}, {nfe} network evaluations a "
        f"sample, {size} in a call, on {world.size} rank(s), {world.device}, {job.manner}"
    )
    with world.together():
        if batches:
            job.warm_up(batches[0], size)
    unlike = _draw_all(world, job, shards, batches, size, nfe, 0 if sampler == "regression" else steps - 1)
    unlike.tell(world, len(job.views))
    with world.together():
        if world.main:
            attributes = {
                "config": to_yaml(header["config"]),
                "provenance": provenance(world, device=str(world.device), precision=model.precision),
                "inputs": json.dumps(header["inputs"], sort_keys=True),
                "sampler": sampler,
                "steps": steps,
                "nfe": nfe,
                "seed": config.run.seed,
                "model": weights,
                **({"control": "shuffled inputs"} if config.sample.shuffle_inputs else {}),
            }
            shards.publish(attributes)
    return f"{len(job.views)} views x {samples} samples in {path}"


def _draw_all(world: World, job: Job, shards: Shards, batches: list[np.ndarray], size: int, nfe: int, steps: int) -> Unlike:
    """Draw the batches by turns; `steps` times in each batch every rank votes on whether to stop. Collective.

    Raises:
        Stopped: a rank was asked to stop; all leave after the same step.
    """
    total = len(job.views) * job.samples
    left = sum(map(len, batches))
    bar, vote, unlike = world.progress(total * nfe, "NFE", (total - left) * nfe), StopVote(world), Unlike()
    try:
        for first in range(0, len(batches), world.size):
            turn = batches[first : first + world.size]
            rows = turn[world.rank] if world.rank < len(turn) else None
            with world.together():  # what may fail on one rank alone stands apart from the votes
                ready = None if rows is None else job.read(rows, unlike)
            on_step = _voting(world, vote, bar, sum(map(len, turn)) * nfe, steps)
            with world.together():
                if rows is None:
                    for step in range(steps):
                        on_step(step)
                else:
                    shards.write(*job.names(rows), job.draw(ready, rows, size, on_step))
            on_step(None)
            if world.stop_agreed() and first + world.size < len(batches):
                raise Stopped(KEPT)
        vote.agreed()
    finally:
        bar.close()
    return unlike


def _voting(world: World, vote: StopVote, bar, evaluations: int, steps: int) -> Callable[[int | None], None]:
    """What is called after each step of a turn, and with None at its end: the bar moves on, and who is asked to stop leaves."""
    shown = 0

    def on_step(step: int | None) -> None:
        nonlocal shown
        done = evaluations if step is None else evaluations * (step + 1) // (steps + 1)
        bar.update(done - shown)
        shown = done
        if step is not None and (vote.poll() or (world.size == 1 and world.stop)):
            raise Stopped(KEPT)

    return on_step


def refuse_unbuilt(config: Config) -> None:
    """Raise a UserError for what the config can say and sampling cannot do."""
    if len(config.map_paths()) > 1:
        raise UserError("sampling from several map files is not built yet", "run.maps", "name one")
    if config.task.method == "regression" and config.sample.guide.field:
        raise UserError("a regression has one answer and cannot be guided", "sample.guide", "leave it out")


def output_paths(config: Config) -> list[Path]:
    """What `--overwrite` removes."""
    return [config.dir / name for name in ("samples.h5", "samples.h5.partial", "samples.partial", "samples.shards")]
