"""What validation looks at: the loss of the averaged weights with fixed noise, and pictures of samples, or of a regression's mean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.figure import Figure

from hpcdiff.config import Config
from hpcdiff.model import Model, sample_keys
from hpcdiff.stop import StopVote
from hpcdiff.train.data import TrainingData
from hpcdiff.train.engines import Engine
from hpcdiff.train.pictures import sample_pictures
from hpcdiff.world import World

SHOWN, SAMPLES, STEPS = 4, 2, 18
"""Validation views in the pictures, samples of each, noise levels."""


def validate(engine: Engine, data: TrainingData, batch_size: int, world: World, vote: StopVote, alive: Callable) -> float | None:
    """Mean loss of the averaged weights over the validation views; the same on every rank, None where a stop came. Collective.

    Args:
        batch_size: views on all ranks at once.
        vote: polled after each batch.
        alive: called after each batch.
    """
    size, losses = batch_size // world.size, []
    with torch.no_grad(), engine.averaged() as denoiser:
        for begin in range(0, data.n_validation, batch_size):
            numbers = np.arange(begin, min(begin + batch_size, data.n_validation))[world.rank * size : (world.rank + 1) * size]
            if len(numbers):
                losses.append(engine.losses(denoiser, data.validation(numbers)))
            alive()
            if vote.poll():
                return None
    by_rank = world.allgather(torch.cat(losses).tolist() if losses else [])
    return float(np.mean([x for part in by_rank for x in part]))


def draw(
    engine: Engine, data: TrainingData, config: Config, model: Model, h: float | None, world: World, alive: Callable
) -> dict[str, Figure]:
    """Pictures of posterior samples of a few validation views, or of the mean that a regression gives, by the averaged weights.

    Drawn on rank 0; empty elsewhere. Collective.

    Args:
        model: holds transforms and units; its weights are not looked at.
        h: Hubble constant over 100 km/s/Mpc, if the map file says it.
        alive: called after each step of the sampler.
    """
    with engine.averaged() as denoiser:
        if not world.main:
            return {}
        views = np.linspace(0, data.n_validation - 1, min(SHOWN, data.n_validation)).astype(int)
        batch = data.validation(views)
        width = data.pixel_mpc * data.npix if data.pixel_mpc else None
        truth = batch.condition.cpu().numpy(), batch.target.cpu().numpy()
        model.denoiser, model.device, model.precision = denoiser, engine.device, config.train.precision
        samples, word = (1, "mean") if config.task.method == "regression" else (SAMPLES, "sample")
        keys = sample_keys(config.run.seed, views, samples).reshape(-1)
        which = torch.arange(len(views)).repeat_interleave(samples)
        drawn = model.draw(batch.condition.cpu()[which], keys, "dpmpp_2m_sde", STEPS, "matched", lambda _step: alive())
    drawn = drawn.reshape(len(views), samples, *drawn.shape[1:])
    return sample_pictures(model, *truth, drawn.numpy(), width, h, word)
