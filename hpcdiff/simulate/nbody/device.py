"""On what the forces are calculated: compiled loops on the CPU, or torch on this rank's GPU, and the same on all ranks and after a restart."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path

import yaml

from hpcdiff import maps
from hpcdiff.config import Config
from hpcdiff.errors import UserError
from hpcdiff.simulate.chunks import Folder
from hpcdiff.world import World

KINDS = ("cpu", "cuda")


def settled(config: Config, folder: Folder, world: World) -> Config:
    """The config with `simulate.device` as one of `KINDS`, and this rank's GPU made torch's current one. Collective.

    `auto` goes on with what an earlier run began with, so that no run is made by both; else it is cuda if each rank has a GPU. Ranks of a node
    share its GPUs in turn.

    Raises:
        UserError: a rank has no GPU that works, and something is left to do.
    """
    kind, begun, done = config.simulate.device, None, False
    if kind == "cpu":
        return config
    with world.together():
        if world.main:
            begun, done = _earlier(folder)
    begun, done = world.broadcast([begun, done])
    if kind == "auto":
        kind = begun or ("cuda" if all(world.allgather(gpus() > 0)) else "cpu")
    nodes = world.allgather(platform.node())
    with world.together():
        if kind == "cuda" and not done:
            _take(nodes[: world.rank].count(nodes[world.rank]))
    return dataclasses.replace(config, simulate=dataclasses.replace(config.simulate, device=kind))


def _earlier(folder: Folder) -> tuple[str | None, bool]:
    """The kind of device that an earlier run has written into its config, and whether that run is done."""
    done, text = folder.halos.exists(), ""
    if done:
        with maps.open_hdf5(folder.halos, "halo catalogue") as f:
            text = f.attrs.get("config", "")
    elif folder.config.exists():
        text = Path(folder.config).read_bytes().decode(errors="replace")
    try:
        kind = yaml.safe_load(text)["simulate"]["device"]
    except (yaml.YAMLError, TypeError, KeyError):  # `work.opened` says what is wrong with it
        return None, done
    return (kind if kind in KINDS else None), done


def gpus() -> int:
    """How many GPUs this process sees."""
    import torch  # takes seconds, and runs on the CPU alone never need it

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _take(place: int) -> None:
    """Make the GPU of the rank at this place on its node the current one.

    Raises:
        UserError: there is none, or it does not work.
    """
    where, how = "simulate.device", "take cpu, or auto"
    if not gpus():
        raise UserError(f"PyTorch finds no GPU on {platform.node()}", where, how)
    import torch

    try:
        torch.cuda.set_device(place % torch.cuda.device_count())
        torch.zeros(1, device="cuda")
    except RuntimeError as error:
        said = str(error).splitlines()[0][:200]
        raise UserError(f"GPU {place % torch.cuda.device_count()} of {platform.node()} does not work ({said})", where, how) from None
