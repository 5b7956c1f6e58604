"""The training loop, read from top to bottom. Its clock is the number of images seen."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import time
from collections.abc import Iterator

import numpy as np
import torch

from hpcdiff import diffusion
from hpcdiff.config import Config
from hpcdiff.denoiser import build_denoiser
from hpcdiff.errors import Stopped, UserError
from hpcdiff.launch import provenance
from hpcdiff.model import Model, save_model
from hpcdiff.plain import infinite
from hpcdiff.scout import go_ahead
from hpcdiff.sections import Train
from hpcdiff.stop import StopVote
from hpcdiff.strict import to_yaml
from hpcdiff.train import agreement
from hpcdiff.train.agreement import SECTIONS
from hpcdiff.train.card import model_card
from hpcdiff.train.checkpoint import Checkpoints
from hpcdiff.train.data import Prefetcher, TrainingData
from hpcdiff.train.data.universe import universe
from hpcdiff.train.engines import Engine, build_engine
from hpcdiff.train.flops import STEP, forward_flops, peak_flops
from hpcdiff.train.meter import Meter, noise_edges
from hpcdiff.train.monitor import Monitor, line
from hpcdiff.train.validation import draw, validate
from hpcdiff.watchdog import Watchdog
from hpcdiff.world import World

NARROW = 0.5
"""A sigma_max below this part of what the maps suggest is said to be too small."""


def train(config: Config, world: World) -> str:
    """Train, or go on training, until `train.images`; returns one line about it.

    Raises:
        UserError: the user's config or files are at fault.
        Stopped: a signal came; a checkpoint has been written.
    """
    done = None
    go_ahead(world, config.map_paths(), "map file")
    with world.together():
        if world.main:  # what a shared disk shows may differ from node to node for a while
            done = agreement.finished(config)
        agreement.check(config, world)
    agreement.check_devices(world)
    if done := world.broadcast(done):
        return done
    try:
        with contextlib.ExitStack() as closing:
            return _train(config, world, closing)
    except torch.OutOfMemoryError:
        size = config.train.batch_size // world.size
        how = "lower train.batch_size, take more ranks, or set train.stage=shared"
        raise UserError(f"the memory of {world.device} is too small for {size} maps a rank", "train.batch_size", how) from None


def _train(config: Config, world: World, closing: contextlib.ExitStack) -> str:
    settings, batch_size = config.train, config.train.batch_size
    watchdog = Watchdog(world, "train", config.dir, settings.first_timeout, settings.timeout)
    data = TrainingData(config, world, watchdog.beat)
    closing.callback(data.close)

    torch.manual_seed(config.run.seed)
    denoiser = build_denoiser(config.resolved(), data.statistics)
    parameters = sum(p.numel() for p in denoiser.parameters())
    step_flops = STEP * forward_flops(denoiser, len(config.task.outputs), data.npix, len(config.task.inputs))
    diffusing = config.task.method == "diffusion"
    edges = noise_edges(denoiser) if diffusing else []
    engine = build_engine(settings, denoiser, world)
    model = Model(config.resolved(*SECTIONS), _info(config, world, data, parameters), data.transforms, denoiser, data.statistics)

    checkpoints, images = Checkpoints(config.dir / "checkpoints", settings.keep, world), 0
    watchdog.beat("reading the checkpoint")
    if manifest := checkpoints.newest():
        with world.together():
            agreement.agree(config, manifest["config"], manifest["state"]["inputs"], checkpoints.folder)
        pieces = engine.wanted()
        checkpoints.load(manifest, pieces)
        images = manifest["images"]
        engine.take(pieces, manifest["state"]["updates"], manifest["state"]["skipped"])
    _announce(config, world, data, engine, parameters, images)

    def save() -> None:
        watchdog.beat("save", images)
        began = time.perf_counter()
        checkpoints.settle()  # the pieces' memory is used again
        world.sign.save_seconds = checkpoints.seconds
        counters = engine.counters()
        state = {"updates": counters["updates"], "skipped": counters["skipped"], "inputs": model.info["inputs"]}
        checkpoints.save(images, engine.pieces(), state, model.config, engine.name)
        meter.saved(time.perf_counter() - began)

    with world.together():
        monitor = Monitor(config.dir, images, edges) if world.main else None
        if monitor:
            closing.callback(monitor.close)
            monitor.text("config", to_yaml(model.config))
    peak = functools.partial(peak_flops, world.device, settings.precision)
    meter = Meter(world, world.device, step_flops, peak(), diffusing, peak)
    batches = Prefetcher(data, _numbers(images, settings, world))
    closing.callback(batches.close)
    vote, h = StopVote(world), data.files[0].attributes.get("h")
    vote.cast()
    while images < settings.images:
        watchdog.beat("step", images)
        with meter.waiting():
            batch = batches.next()
        if config.network.dropout:  # everything else draws from counters
            torch.manual_seed(diffusion.derive_key(config.run.seed, 2, images, world.rank))
        rate = learning_rate(settings, images)
        losses = engine.step(batch, rate, settings.ema)
        meter.step(losses, batch.u)
        images += batch_size
        if (skipped := engine.poll()) >= settings.max_skipped:
            checkpoints.settle()
            raise UserError(
                f"{skipped} steps in a row gave a gradient that is not finite",
                f"image {images}",
                "lower train.lr; the last checkpoint is kept",
            )

        numbers = {}
        if crossed(images, settings.log_every, settings):
            numbers = meter.numbers(rate, settings.ema, engine.counters())
        if crossed(images, settings.validate_every, settings) and data.n_validation:
            with meter.paused():
                watchdog.beat("validate", images)
                loss = validate(engine, data, batch_size, world, vote, functools.partial(watchdog.beat, "validate", images))
                if loss is not None:
                    numbers["validation_loss"] = loss
                    watchdog.beat("picture", images)
                    with world.together():
                        figures = draw(engine, data, config, model, h, world, functools.partial(watchdog.beat, "picture", images))
                        if monitor:
                            monitor.picture(images, figures)
        stop = vote.agreed()
        if crossed(images, settings.checkpoint_every, settings) or stop:
            with meter.paused():
                save()
        if numbers:
            with world.together():
                if monitor:
                    monitor.write(images, numbers)
            world.print(line(images, settings.images, numbers))
        if stop and images < settings.images:
            checkpoints.settle()
            raise Stopped(f"saved at image {images} of {settings.images}; the same command goes on from there")
        vote.cast()

    watchdog.beat("save", images)
    checkpoints.settle()
    with world.together(), engine.averaged() as averaged:
        if world.main:
            model.denoiser = averaged
            counters = engine.counters()
            model.info |= {"images": images, "updates": counters["updates"], "skipped": counters["skipped"]}
            save_model(config.dir / "model", model, model_card(model))
    return f"{images} images seen; the model is in {config.dir / 'model'}"


def _numbers(images: int, settings: Train, world: World) -> Iterator[np.ndarray]:
    """Image numbers of this rank's part of each batch, from `images` on."""
    local = settings.batch_size // world.size
    while images < settings.images:
        yield np.arange(images + world.rank * local, images + (world.rank + 1) * local)
        images += settings.batch_size


def _info(config: Config, world: World, data: TrainingData, parameters: int) -> dict:
    """What the model's folder says of its training, beside the config."""
    info = {
        "npix": data.npix,
        "pixel_mpc": data.pixel_mpc,
        "units": data.units,
        "seen": data.seen,
        **universe(data.files, config.task.outputs),
        "sigma_data": data.statistics["sigma_data"].tolist(),
        **({"noise_range": list(data.noise_range)} if config.task.method == "diffusion" else {}),
        "parameters": parameters,
        "training_views": data.n_train,
        "inputs": {"maps": agreement.fingerprint(config)},
        "engine": data.files[0].provenance.get("simulation_engine"),
        "provenance": json.loads(provenance(world)) if world.main else {},  # it starts processes, and rank 0 alone writes it
    }
    if odd := next(infinite(info), None):
        raise UserError(
            f"the model would have to say that {odd}",
            config.map_paths()[0],
            "the map file is damaged, or its numbers are beyond all measure",
        )
    return info


def _announce(config: Config, world: World, data: TrainingData, engine: Engine, parameters: int, images: int) -> None:
    """What rank 0 says before the first step."""
    low, high = data.noise_range
    sigma_data = ", ".join(f"{s:.3g}" for s in data.statistics["sigma_data"].tolist())
    method = "" if config.task.method == "diffusion" else "regression, "
    world.print(
        f"hpcdiff train: {method}{parameters} parameters, engine {engine.name}, {config.train.precision}; {data.n_train} training views {data.where}, "
        f"{data.n_validation} validation views; from image {images} to {config.train.images} on {world.size} rank(s), {world.device}"
    )
    if engine.uncompiled:
        world.print(f"hpcdiff train: the network is not compiled, which makes it slower: {engine.uncompiled}")
    if method:
        world.print(f"hpcdiff train: sigma_data {sigma_data}; the mean of the training maps has loss 1")
        return
    world.print(
        f"hpcdiff train: sigma_data {sigma_data}; noise from {config.diffusion.sigma_min:.3g} to {config.diffusion.sigma_max:.3g}, "
        f"these maps suggest {low:.2g} to {high:.2g}"
    )
    if config.diffusion.sigma_max < NARROW * high:
        world.print(
            f"hpcdiff train: diffusion.sigma_max={config.diffusion.sigma_max:.3g} is small beside the {high:.2g} that these maps suggest: samples that start there may miss "
            "total masses and be too sure of them, an ODE's above all (docs/samplers.md)"
        )


def crossed(images: int, every: int, settings: Train) -> bool:
    """Has the step that ended at `images` passed a multiple of `every`, or the end?"""
    return images // every > (images - settings.batch_size) // every or images >= settings.images


def learning_rate(settings: Train, images: int) -> float:
    """Learning rate after `images` images: linear warm-up, then constant or a cosine to zero."""
    rate = settings.lr * min(1.0, (images + settings.batch_size) / settings.warmup) if settings.warmup else settings.lr
    if settings.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, images / settings.images)))
    return rate
