"""Engines: what a training step does to the weights, one copy on each rank (`ddp`) or shared out over them (`deepspeed`)."""

from __future__ import annotations

import torch

from hpcdiff.sections import Train
from hpcdiff.train.engines.base import Engine


def build_engine(train: Train, denoiser: torch.nn.Module, world) -> Engine:
    """The engine that `train.engine` names. Collective.

    Args:
        train: section `train` of the config.
        denoiser: the preconditioned network, with the same weights on every rank; the engine takes it over.
        world: the ranks (`world.TorchWorld`).
    Raises:
        UserError: DeepSpeed is not installed, or the device lacks the precision.
    """
    if train.engine == "ddp":
        from hpcdiff.train.engines.ddp import DDPEngine

        return DDPEngine(train, denoiser, world)
    from hpcdiff.train.engines.zero import ZeroEngine

    return ZeroEngine(train, denoiser, world)
