"""Sharded checkpoints: `checkpoints/<images, 12 digits>/` with one safetensors file a rank and a manifest, written last.

A checkpoint is written in `<name>.partial` and renamed when whole. On start the newest whole one is taken; a damaged
one is named and set aside as `<name>.damaged`. Tensors are shared out over the ranks, and any number of ranks reads them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from hpcdiff import files
from hpcdiff.errors import UserError
from hpcdiff.world import World

FORMAT, VERSION = "hpcdiff-checkpoint", 1


def share(tensors: dict[str, torch.Tensor], rank: int, size: int) -> dict[str, torch.Tensor]:
    """This rank's share of the tensors: dealt by falling size to the rank that has least so far; the same on every rank."""
    load, mine = [0] * size, {}
    for name in sorted(tensors, key=lambda n: (-tensors[n].numel(), n)):
        to = load.index(min(load))
        load[to] += tensors[name].numel()
        if to == rank:
            mine[name] = tensors[name].detach().cpu().contiguous()
    return mine


def save(folder: Path, images: int, tensors: dict[str, torch.Tensor], state: dict, config: dict, keep: int, world: World) -> None:
    """Write one checkpoint from all ranks and drop the oldest beyond `keep`. Collective.

    Args:
        folder: `checkpoints/`.
        images: images seen; names the checkpoint.
        tensors: everything to keep, the same on every rank.
        state: numbers to keep, JSON.
        config: resolved config, JSON.
        keep: number of checkpoints that stay.
    Raises:
        UserError: the disk is full or not writable; the earlier checkpoints stay.
    """
    final, partial = folder / f"{images:012d}", folder / f"{images:012d}.partial"
    with world.together():
        if world.main:
            need, free = sum(t.numel() * t.element_size() for t in tensors.values()), files.free_bytes(folder)
            if need > free:
                raise UserError(f"a checkpoint needs {need / 1e9:.3g} GB and {free / 1e9:.3g} GB are free", folder, "free some space")
            for old in folder.glob("*.partial"):
                files.remove(old)
            partial.mkdir(parents=True)
    name = f"shard-{world.rank:05d}-of-{world.size:05d}.safetensors"
    entry = None
    with world.together():
        try:
            safetensors.torch.save_file(share(tensors, world.rank, world.size), partial / name)
            files.sync(partial / name)
        except safetensors.SafetensorError as error:
            raise UserError(f"cannot write a checkpoint ({error})", partial, "free some space") from None
        entry = {"name": name, "bytes": (partial / name).stat().st_size, "sha256": files.sha256_file(partial / name)}
    entries = world.allgather(entry)
    with world.together():
        if world.main:
            head = {"format": FORMAT, "version": VERSION, "images": images, "world_size": world.size}
            files.write_json(partial / "manifest.json", {**head, "engine": "ddp", "config": config, "state": state, "files": entries})
            files.sync(partial)
            files.remove(final)
            os.replace(partial, final)
            for old in whole_names(folder)[:-keep]:
                files.remove(folder / old)


def whole_names(folder: Path) -> list[str]:
    """Names of the checkpoints that have their final name, oldest first."""
    return sorted(p.name for p in folder.glob("[0-9]" * 12) if p.is_dir()) if folder.is_dir() else []


def check(path: Path) -> dict:
    """The manifest of a checkpoint whose files all have their promised size and SHA-256.

    Raises:
        ValueError: what is wrong with it.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if manifest["format"] != FORMAT:
            raise ValueError(f"its format is {manifest['format']!r}")
        if f"{manifest['images']:012d}" != path.name:
            raise ValueError(f"its manifest is that of image {manifest['images']}")
        for entry in manifest["files"]:
            file = path / Path(entry["name"]).name
            if file.stat().st_size != entry["bytes"] or files.sha256_file(file) != entry["sha256"]:
                raise ValueError(f"{entry['name']} is not what its manifest says")
        return manifest
    except (OSError, KeyError, TypeError) as error:
        raise ValueError(" ".join(str(error).split()) or "no manifest") from None


def load_newest(folder: Path, world: World) -> tuple[dict, dict[str, torch.Tensor]] | None:
    """The newest whole checkpoint (manifest, tensors) on every rank, or None; damaged ones are named and set aside. Collective."""
    manifest = None
    with world.together():
        if world.main:
            for name in reversed(whole_names(folder)):
                try:
                    manifest = check(folder / name)
                    break
                except ValueError as error:
                    world.print(f"hpcdiff train: checkpoint {folder / name} is damaged ({error}); set aside as {name}.damaged")
                    files.remove(folder / f"{name}.damaged")
                    os.replace(folder / name, folder / f"{name}.damaged")
    manifest = world.broadcast(manifest)
    if manifest is None:
        return None
    tensors = {}
    with world.together():
        for entry in manifest["files"]:
            path = folder / f"{manifest['images']:012d}" / Path(entry["name"]).name
            try:
                tensors |= safetensors.torch.load_file(path)
            except safetensors.SafetensorError as error:
                raise UserError(f"the checkpoint cannot be read ({error})", path, "remove it, an older one is taken then") from None
    return manifest, tensors
