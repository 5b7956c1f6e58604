"""Deal the views of one part of the split over the ranks, draw their posterior samples, join the shards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from hpcdiff import diffusion
from hpcdiff.config import Config
from hpcdiff.errors import Stopped, UserError
from hpcdiff.launch import provenance
from hpcdiff.maps import MapFile
from hpcdiff.model import Model, load_model, read_model_config, sample_keys
from hpcdiff.observe import ObservedMaps
from hpcdiff.sample.shards import Shards, stored_header
from hpcdiff.sections import AUTO_SAMPLER
from hpcdiff.strict import refuse_difference, to_yaml
from hpcdiff.world import World

EXEMPT = ("run.dir", "run.maps", "run.model", "sample.batch_size")


def sample(config: Config, world: World) -> str:
    """Draw `sample.samples` posterior maps of every view in `sample.split`; returns one line about it.

    Raises:
        UserError: model and map file do not belong together, or an earlier run differs.
        Stopped: a signal came; the finished shards stay.
    """
    path = config.dir / "samples.h5"
    with world.together():
        refuse_unbuilt(config)
        maps = MapFile(config.map_paths()[0])
        weights = read_model_config(config.model_path())["weights_sha256"]
        header = {"config": config.resolved("run", "observe", "sample"), "inputs": {"maps": maps.fingerprint, "model": weights}}
        done = path.exists()
        if done:
            old = stored_header(path)
            if old is not None:
                refuse_difference(old["config"], header["config"], path, "sample", EXEMPT)
                refuse_difference({"inputs": old["inputs"]}, {"inputs": header["inputs"]}, path, "sample")
    if done:
        return f"{path} is already finished" + ("" if old else " (another program made it, so it is not compared)")
    with world.together():
        model = load_model(config.model_path())
        observed = {"observe": model.config.get("observe", Config().resolved("observe")["observe"])}
        refuse_difference(observed, config.resolved("observe"), config.model_path(), "train")
        maps = ObservedMaps(maps, observed["observe"], model.inputs, config.run.seed)
        views, inputs_from = _views(config, maps, model)
    settings = config.sample
    shards = Shards(config.dir / "samples.partial", header, model.outputs, (settings.samples, maps.npix, maps.npix))
    with world.together():
        if world.main:
            shards.open(EXEMPT)
    have = world.broadcast(sorted(shards.finished()) if world.main else None)
    left = np.setdiff1d(views, np.array(have, np.int64))
    mine = left[world.rank :: world.size]

    model.to(world.device)
    model.precision = "bf16" if world.device.type == "cuda" and model.config["train"]["precision"] == "bf16" else "fp32"
    sampler = AUTO_SAMPLER if settings.sampler == "auto" else settings.sampler
    nfe = diffusion.nfe(sampler, settings.steps)
    world.print(
        f"hpcdiff sample: {len(left)} of {len(views)} views left, {settings.samples} samples each, {sampler}, {nfe} network "
        f"evaluations a sample, on {world.size} rank(s), {world.device}"
    )
    bar = world.progress(len(views) * settings.samples * nfe, "NFE", len(have) * settings.samples * nfe)
    group = max(1, settings.batch_size // settings.samples)  # views in a shard
    rounds = max(-(-len(left[r :: world.size]) // group) for r in range(world.size))
    for k in range(rounds):
        chosen = mine[k * group : (k + 1) * group]
        with world.together():
            if len(chosen):
                maps_of = draw_views(model, maps, chosen, inputs_from, config, lambda _step: _leave(world))
                shards.write(chosen, maps_of)
        bar.update(sum(len(left[r :: world.size][k * group : (k + 1) * group]) for r in range(world.size)) * settings.samples * nfe)
        if world.stop_agreed() and k + 1 < rounds:
            bar.close()
            raise Stopped("the finished views are kept; the same command goes on from there")
    bar.close()
    world.barrier()
    with world.together():
        if world.main:
            attributes = {
                "config": to_yaml(header["config"]),
                "provenance": provenance(world, device=str(world.device), precision=model.precision),
                "inputs": json.dumps(header["inputs"], sort_keys=True),
                "sampler": sampler,
                "steps": settings.steps,
                "nfe": nfe,
                "seed": config.run.seed,
                "model": weights,
                **({"control": "shuffled inputs"} if settings.shuffle_inputs else {}),
            }
            shards.join(path, views, attributes)
    return f"{len(views)} views x {settings.samples} samples in {path}"


def refuse_unbuilt(config: Config) -> None:
    """Raise a UserError for what the config can say and sampling cannot do yet."""
    if len(config.map_paths()) > 1:
        raise UserError("sampling from several map files is not built yet", "run.maps", "name one")


def _leave(world: World) -> None:
    if world.stop:  # the others learn of it at the end of `together`
        raise Stopped("the finished views are kept; the same command goes on from there")


def _views(config: Config, maps: MapFile, model: Model) -> tuple[np.ndarray, dict[int, int]]:
    """Rows to sample, and {row: row whose inputs it gets} (another halo's under `shuffle_inputs`, else its own)."""
    maps.require(model.inputs, "the model")
    if maps.npix != model.npix:
        raise UserError(f"the model was trained on {model.npix} pixels and the maps have {maps.npix}", maps.path, "project or train again")
    ours, theirs = model.info.get("pixel_mpc"), maps.attributes.get("pixel_mpc")
    if ours and theirs and abs(ours / theirs - 1) > 1e-6:
        raise UserError(
            f"the model was trained on pixels of {ours:.6g} Mpc and the maps have {theirs:.6g}", maps.path, "project or train again"
        )
    for field in model.inputs:
        if maps.units[field] != model.info["units"][field]:
            raise UserError(
                f"{field} is in {maps.units[field]!r}; the model takes {model.info['units'][field]!r}", maps.path, "mend the units"
            )
    views = maps.rows(config.sample.split)
    if not len(views):
        raise UserError(f"the {config.sample.split} part of the split is empty", maps.path, "project again with another project.split")
    if not config.sample.shuffle_inputs:
        return views, {int(v): int(v) for v in views}
    halo = maps.catalog["halo_id"][views]
    ids = np.unique(halo)
    if len(ids) < 2:
        raise UserError("shuffling inputs needs two halos at least", maps.path, "sample another split")
    order = np.random.Generator(np.random.Philox(key=[config.run.seed, 3])).permutation(ids)
    other = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    rows_of = {int(h): views[halo == h] for h in ids}
    source = {}
    for h, rows in rows_of.items():
        theirs = rows_of[other[h]]
        source |= {int(row): int(theirs[i % len(theirs)]) for i, row in enumerate(rows)}
    return views, source


def draw_views(
    model: Model, maps: MapFile, views: np.ndarray, inputs_from: dict[int, int], config: Config, on_step
) -> dict[str, np.ndarray]:
    """Samples of a few views: {output: float32 (len(views), S, npix, npix)} in the map file's units.

    The network is always called with the same batch shape, the last rows repeated where the views run out, so that
    neither the number of ranks nor a restart changes a bit.
    """
    s, size = config.sample.samples, config.sample.batch_size
    source = np.array([inputs_from[int(v)] for v in views])
    order = np.argsort(source)
    condition = model.condition({f: _in_order(maps.read(f, source[order]), order) for f in model.inputs})
    keys = sample_keys(config.run.seed, views, s).reshape(-1)
    which = torch.arange(len(views)).repeat_interleave(s)
    drawn = []
    for i in range(0, len(keys), size):
        rows = torch.arange(i, i + size).clamp_max(len(keys) - 1)
        x = model.draw(condition[which[rows]], keys[rows], config.sample.sampler, config.sample.steps, config.sample.init, on_step)
        drawn.append(x[: len(keys) - i])
    shape = (len(views), s, len(model.outputs), model.npix, model.npix)
    out = model.to_units(torch.cat(drawn).reshape(shape))
    for name, x in out.items():
        if not np.isfinite(x).all():
            raise UserError(f"samples of {name} are not finite", f"view {views[0]}", "train longer, or take smaller steps")
    return out


def _in_order(x: np.ndarray, order: np.ndarray) -> np.ndarray:
    out = np.empty_like(x)
    out[order] = x
    return out


def output_paths(config: Config) -> list[Path]:
    """What `--overwrite` removes."""
    return [config.dir / "samples.h5", config.dir / "samples.h5.partial", config.dir / "samples.partial"]
