"""Does this run fit its config, its ranks, and what earlier runs left?"""

from __future__ import annotations

import platform
from pathlib import Path

from hpcdiff.config import Config
from hpcdiff.denoiser import build_denoiser
from hpcdiff.errors import UserError
from hpcdiff.launch import refuse_precision
from hpcdiff.maps import MapFile
from hpcdiff.model import read_model_config
from hpcdiff.network import cannot_compile
from hpcdiff.strict import refuse_difference
from hpcdiff.world import World

SECTIONS = ("run", "task", "observe", "network", "diffusion", "train")
"""Sections of the config that the weights depend on."""
EXEMPT = (
    *("run.dir", "run.maps", "run.model", "run.patience", "train.images", "train.checkpoint_every", "train.keep"),
    # how, not what: the same training up to rounding
    *("train.engine", "train.zero_stage", "train.stage", "train.compile", "train.max_skipped", "train.first_timeout", "train.timeout"),
)


def fingerprint(config: Config) -> str:
    """Of the map files together: the one file's, or those of several, joined by `+`."""
    return "+".join(MapFile(path).fingerprint for path in config.map_paths())


def finished(config: Config) -> str | None:
    """What to say if `model/` is there already and was trained far enough on these maps; None if there is work to do.

    Raises:
        UserError: it was made with another config or from other maps.
    """
    path = config.dir / "model"
    if not path.exists():
        return None
    content = read_model_config(path)
    agree(config, content["config"], content["info"]["inputs"], path)
    return f"{path} is already trained on {content['info']['images']} images" if content["info"]["images"] >= config.train.images else None


def agree(config: Config, old: dict, inputs: dict, where: Path) -> None:
    """Raise a UserError if an earlier run's config or map files are not this one's."""
    unused = ("diffusion",) if config.task.method == "regression" else ()
    refuse_difference(old, config.resolved(*SECTIONS), where, "train", (*EXEMPT, *unused))
    if config.train.images < old["train"]["images"]:
        raise UserError(
            f"train.images was {old['train']['images']} and is now {config.train.images}", where, "set it back, or train --overwrite"
        )
    if inputs["maps"] != (now := fingerprint(config)):
        files = ", ".join(str(p) for p in config.map_paths())
        raise UserError(f"it was trained on maps {inputs['maps']}, and {files} is {now}", where, "train --overwrite")


def check_devices(world: World) -> None:
    """Refuse ranks that cannot send each other gradients. Collective.

    Raises:
        UserError: some have a GPU and others none, or two have the same one, which NCCL refuses with pages of its own.
    """
    gpu = None
    if world.device.type == "cuda":
        import torch

        gpu = str(getattr(torch.cuda.get_device_properties(world.device), "uuid", f"rank {world.rank}"))
    ranks = world.allgather([platform.node(), gpu])
    if lacking := [f"{rank} ({node})" for rank, (node, gpu) in enumerate(ranks) if gpu is None]:
        if len(lacking) < len(ranks):
            what = f"rank {lacking[0]} sees no GPU, and others do"
            raise UserError(what, "the launch", "leave its node out, or set CUDA_VISIBLE_DEVICES= to train on CPUs")
        return
    gpus = [gpu for _, gpu in ranks]
    for rank, (node, gpu) in enumerate(ranks):
        if (first := gpus.index(gpu)) < rank:
            raise UserError(f"ranks {first} and {rank} have the same GPU of {node}", "the launch", "start one rank a GPU")


def check(config: Config, world: World) -> None:
    """Refuse, before any work, what cannot be trained.

    Raises:
        UserError: a batch that does not divide by the ranks, a network that is not built yet or cannot be, maps that it cannot halve, a
            precision that the device lacks, or a compiler that is not there.
    """
    if config.train.batch_size % world.size:
        raise UserError(f"train.batch_size {config.train.batch_size} does not divide by {world.size} ranks", "config", "take a multiple")
    build_denoiser(config.resolved())
    levels, npix = len(config.network.multipliers), MapFile(config.map_paths()[0]).npix
    if npix % 2 ** (levels - 1):
        raise UserError(f"maps of {npix} pixels cannot be halved {levels - 1} times", "network.multipliers", "take fewer")
    refuse_precision(config.train.precision, world.device)
    if config.train.compile and (why := cannot_compile(world.device)):
        raise UserError(f"the network cannot be compiled: {why}", "train.compile", "install it, or set train.compile=false")
