"""The training loop, read from top to bottom. Its clock is the number of images seen."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import torch

from hpcdiff import diffusion
from hpcdiff.config import Config
from hpcdiff.errors import Stopped, UserError
from hpcdiff.launch import provenance
from hpcdiff.maps import MapFile
from hpcdiff.model import Model, build_denoiser, read_model_config, sample_keys, save_model
from hpcdiff.sections import Train
from hpcdiff.strict import refuse_difference
from hpcdiff.train import checkpoint
from hpcdiff.train.card import model_card
from hpcdiff.train.data import Part, fit_transforms, load_part, make_batch
from hpcdiff.train.engine import DDPEngine
from hpcdiff.train.monitor import Monitor
from hpcdiff.world import World

SECTIONS = ("run", "task", "network", "diffusion", "train")
EXEMPT = ("run.dir", "run.maps", "run.model", "train.images", "train.checkpoint_every", "train.keep")
MAX_SKIPPED = 10
"""Steps in a row with a loss or gradient that is not finite, after which training gives up."""
VALIDATION_VIEWS = 256
"""Most validation views that the validation loss looks at."""


def finished(config: Config, maps: MapFile) -> str | None:
    """What to say if `model/` is there already and was trained far enough on these maps; None if there is work to do.

    Raises:
        UserError: it was made with another config or from other maps.
    """
    path = config.dir / "model"
    if not path.exists():
        return None
    content = read_model_config(path)
    _agree(config, content["config"], content["info"]["inputs"], maps, path)
    return f"{path} is already trained on {content['info']['images']} images" if content["info"]["images"] >= config.train.images else None


def _agree(config: Config, old: dict, inputs: dict, maps: MapFile, where: object) -> None:
    refuse_difference(old, config.resolved(*SECTIONS), where, "train", EXEMPT)
    if config.train.images < old["train"]["images"]:
        raise UserError(
            f"train.images was {old['train']['images']} and is now {config.train.images}", where, "set it back, or train --overwrite"
        )
    if inputs["maps"] != maps.fingerprint:
        raise UserError(f"it was trained on maps {inputs['maps']}, and {maps.path} is {maps.fingerprint}", where, "train --overwrite")


def train(config: Config, world: World) -> str:
    """Train, or go on training, until `train.images`; returns one line about it.

    Raises:
        UserError: the user's config or files are at fault.
        Stopped: a signal came; a checkpoint has been written.
    """
    with world.together():
        refuse_unbuilt(config)
        maps = MapFile(config.map_paths()[0])
        done = finished(config, maps)
        _check(config, maps, world)
    if done:
        return done
    with world.together():
        transforms = fit_transforms(maps, config.task)
        part = load_part(maps, maps.rows("train"), config.task, transforms)
        validation = load_part(maps, maps.rows("val")[:VALIDATION_VIEWS], config.task, transforms)
    measured = statistics(part, config.train.augment)
    sigma_data = measured["sigma_data"].tolist()

    torch.manual_seed(config.run.seed)
    denoiser = build_denoiser(config.resolved(), measured)
    parameters = sum(p.numel() for p in denoiser.parameters())
    engine = DDPEngine(denoiser, world, config.train.lr, config.train.precision)
    info = {
        "npix": maps.npix,
        "pixel_mpc": maps.attributes.get("pixel_mpc"),
        "units": {f: maps.units[f] for f in (*config.task.inputs, *config.task.outputs)},
        "sigma_data": sigma_data,
        "parameters": parameters,
        "training_views": len(part),
        "inputs": {"maps": maps.fingerprint},
        "engine": json.loads(maps.attributes.get("provenance", "{}")).get("simulation_engine"),
        "provenance": json.loads(provenance(world)),
    }

    folder, images, skipped = config.dir / "checkpoints", 0, 0
    found = checkpoint.load_newest(folder, world)
    if found:
        manifest, tensors = found
        _agree(config, manifest["config"], manifest["state"]["inputs"], maps, folder)
        images, skipped = manifest["images"], manifest["state"]["skipped"]
        engine.load(tensors, manifest["state"]["updates"])
    world.print(
        f"hpcdiff train: {parameters} parameters, {len(part)} training views, {len(validation)} validation views, sigma_data "
        f"{', '.join(f'{s:.3g}' for s in sigma_data)}; from image {images} to {config.train.images} on {world.size} rank(s), {world.device}"
    )

    def save() -> float:
        began = time.perf_counter()
        state = {"updates": engine.updates, "skipped": skipped, "inputs": info["inputs"]}
        checkpoint.save(folder, images, engine.tensors(), state, config.resolved(*SECTIONS), config.train.keep, world)
        return time.perf_counter() - began

    settings, batch_size = config.train, config.train.batch_size
    local = batch_size // world.size
    with world.together():
        monitor = Monitor(config.dir, images) if world.main else None
    bar = world.progress(settings.images, "maps", images)
    in_a_row, losses, data_s, since, logged = 0, [], 0.0, time.perf_counter(), images
    while images < settings.images:
        began = time.perf_counter()
        numbers = np.arange(images + world.rank * local, images + (world.rank + 1) * local)
        if config.network.dropout:  # everything else draws from counters
            torch.manual_seed(diffusion.derive_key(config.run.seed, 2, images, world.rank))
        batch = make_batch(part, numbers, config.run.seed, settings.augment, world.device)
        data_s += time.perf_counter() - began
        loss, gradient_norm = engine.step(batch, learning_rate(config, images), settings.ema)
        images += batch_size
        if math.isfinite(gradient_norm):
            in_a_row = 0
            losses.append(loss)
        else:
            in_a_row, skipped = in_a_row + 1, skipped + 1
            if in_a_row >= MAX_SKIPPED:
                raise UserError(
                    f"{in_a_row} steps in a row gave a gradient that is not finite",
                    f"image {images}",
                    "lower train.lr; the last checkpoint is kept",
                )
        bar.update(batch_size)

        numbers_now = {}
        if crossed(images, settings.log_every, settings) and losses:
            mean_loss = float(np.mean(world.allgather(float(torch.cat(losses).mean()))))
            seconds = time.perf_counter() - since
            numbers_now = {
                "loss": mean_loss,
                "lr": learning_rate(config, images),
                "gradient_norm": gradient_norm,
                "maps_per_s": (images - logged) / seconds,
                "data_percent": 100 * data_s / seconds,
                "skipped": skipped,
            }
            bar.set_postfix_str(f"loss {mean_loss:.4g}", refresh=False)
            losses, data_s, since, logged = [], 0.0, time.perf_counter(), images
        if crossed(images, settings.validate_every, settings) and len(validation):
            paused = time.perf_counter()
            numbers_now["validation_loss"] = validate(engine, validation, config, world)
            with world.together():
                if monitor:
                    picture(engine, validation, config, info, transforms, monitor, images)
            since += time.perf_counter() - paused  # neither this nor saving counts in maps/s
        stop = world.stop_agreed()
        if crossed(images, settings.checkpoint_every, settings) or stop:
            numbers_now["checkpoint_s"] = save()
            since += numbers_now["checkpoint_s"]
        if numbers_now:
            with world.together():
                if monitor:
                    monitor.write(images, numbers_now)
        if stop and images < settings.images:
            bar.close()
            if monitor:
                monitor.close()
            raise Stopped(f"saved at image {images} of {settings.images}; the same command goes on from there")

    bar.close()
    if monitor:
        monitor.close()
    with world.together():
        if world.main:
            info |= {"images": images, "updates": engine.updates, "skipped": skipped}
            model = Model(config.resolved(*SECTIONS), info, transforms, engine.averaged(), measured)
            save_model(config.dir / "model", model, model_card(model))
    return f"{images} images seen; the model is in {config.dir / 'model'}"


def refuse_unbuilt(config: Config) -> None:
    """Raise a UserError for what the config can say and training cannot do yet."""
    if len(config.map_paths()) > 1:
        raise UserError("training on several map files is not built yet", "run.maps", "name one")
    if config.train.engine != "ddp":
        raise UserError(f"train.engine {config.train.engine!r} is not built yet", "config", "take ddp")


def _check(config: Config, maps: MapFile, world: World) -> None:
    if config.train.batch_size % world.size:
        raise UserError(f"train.batch_size {config.train.batch_size} does not divide by {world.size} ranks", "config", "take a multiple")
    for part in ("train", "val"):
        if not len(maps.rows(part)):
            raise UserError(f"the {part} part of the split is empty", maps.path, "project again with another project.split")
    levels = len(config.network.multipliers)
    if maps.npix % 2 ** (levels - 1):
        raise UserError(f"maps of {maps.npix} pixels cannot be halved {levels - 1} times", "network.multipliers", "take fewer")


def crossed(images: int, every: int, settings: Train) -> bool:
    """Has the step that ended at `images` passed a multiple of `every`, or the end?"""
    return images // every > (images - settings.batch_size) // every or images >= settings.images


def learning_rate(config: Config, images: int) -> float:
    """Learning rate after `images` images: linear warm-up, then constant or a cosine to zero."""
    t = config.train
    rate = t.lr * min(1.0, (images + t.batch_size) / t.warmup) if t.warmup else t.lr
    if t.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, images / t.images)))
    return rate


def statistics(part: Part, augmented: bool) -> dict[str, torch.Tensor]:
    """Means and deviations over the training split, in [0, 1] units: see `Model.statistics`.

    With augmentation, over all 8 symmetries of the square, as the network sees them.
    """
    (mean, std), (condition_mean, condition_std) = (_moments(x, augmented) for x in (part.target, part.condition))
    return {
        "mean": mean,
        "std": std,
        "sigma_data": (std.double() ** 2).mean((1, 2)).sqrt().float(),
        "condition_mean": condition_mean,
        "condition_std": (condition_std.double() ** 2).mean((1, 2)).sqrt().float(),
    }


def _moments(maps: torch.Tensor, augmented: bool) -> tuple[torch.Tensor, torch.Tensor]:
    mean = square = torch.zeros(maps.shape[1:], dtype=torch.float64)
    for block in maps.split(1024):
        mean = mean + block.double().sum(0) / len(maps)
        square = square + (block.double() ** 2).sum(0) / len(maps)
    if augmented:
        symmetries = [(turns, flip) for turns in range(4) for flip in (False, True)]
        mean, square = (
            torch.stack([torch.rot90(m.flip(2) if flip else m, turns, (1, 2)) for turns, flip in symmetries]).mean(0)
            for m in (mean, square)
        )
    return mean.float(), (square - mean**2).clamp_min(0).sqrt().float()


def validate(engine: DDPEngine, validation: Part, config: Config, world: World) -> float:
    """Mean loss of the averaged weights over the validation views, with fixed noise; the same on every rank. Collective."""
    numbers = np.arange(len(validation))[world.rank :: world.size]
    losses = []
    with torch.no_grad():
        denoiser = engine.averaged()
        for i in range(0, len(numbers), config.train.batch_size):
            chosen = numbers[i : i + config.train.batch_size]
            batch = make_batch(validation, chosen, config.run.seed, False, engine.device)
            losses += engine.losses(denoiser, batch).tolist()
        engine.restore()
    gathered = [x for part in world.allgather(losses) for x in part]
    return float(np.mean(gathered))


def picture(engine: DDPEngine, validation: Part, config: Config, info: dict, transforms: dict, monitor: Monitor, images: int) -> None:
    """Inputs, truths and one posterior sample each of three validation views, to TensorBoard; on rank 0."""
    rows = np.linspace(0, len(validation) - 1, min(3, len(validation))).astype(int)
    model = Model(config.resolved(), info, transforms, engine.averaged(), {})
    model.device, model.precision = engine.device, config.train.precision
    drawn = model.draw(validation.condition[rows], sample_keys(config.run.seed, rows, 1)[:, 0], "dpmpp_2m_sde", 18)
    engine.restore()
    grid, titles = [], [*config.task.inputs]
    for name in config.task.outputs:
        titles += [f"{name}, truth", f"sample of {name}"]
    for k, row in enumerate(rows):
        line = [c.numpy() for c in validation.condition[row]]
        for c in range(len(config.task.outputs)):
            line += [validation.target[row, c].numpy(), drawn[k, c].numpy()]
        grid.append(line)
    monitor.picture(images, grid, titles)
