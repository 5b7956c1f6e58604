"""The folder `model/`: weights, normalisation and card, written and read; what it holds is a `Model`."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from hpcdiff import files
from hpcdiff.config import Config
from hpcdiff.denoiser import build_denoiser
from hpcdiff.drawing import sample_keys
from hpcdiff.errors import UserError
from hpcdiff.plain import read_json
from hpcdiff.posterior import Model
from hpcdiff.sections import TRANSFORMS
from hpcdiff.strict import Places, build, check_bounds
from hpcdiff.transform import Transform
from hpcdiff.versions import refuse_version

__all__ = ["Model", "load_model", "read_model_config", "sample_keys", "save_model"]

FORMAT, VERSION = "hpcdiff-model", 1
NONSENSE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError, RuntimeError, MemoryError)
DAMAGED = (OSError, safetensors.SafetensorError, *NONSENSE)
"""What reading a damaged model gives, and what building a network gives from a description that is none."""


def save_model(path: str | Path, model: Model, card: str) -> None:
    """Write the folder `model/`: config.json, model.safetensors, README.md; it gets its name when it is whole.

    Args:
        path: the final folder; one that stands there is replaced.
        model: its denoiser holds the averaged (EMA) weights.
        card: the model card, Markdown.
    Raises:
        UserError: the disk is full; weights that are not finite.
    """
    path = Path(path)
    if odd := [name for name, tensor in model.denoiser.state_dict().items() if not tensor.isfinite().all()]:
        what = f"the trained weights are not finite ({odd[0]}), so no model is written"
        raise UserError(what, path.parent, "remove the newest of checkpoints/ and run the same command again")
    partial = path.with_name(path.name + ".partial")
    files.remove(partial)
    partial.mkdir(parents=True)
    weights = {f"denoiser.{k}": v.detach().cpu().contiguous() for k, v in model.denoiser.state_dict().items()}
    weights |= {f"statistics.{k}": v.contiguous() for k, v in model.statistics.items()}
    try:
        safetensors.torch.save_file(weights, partial / "model.safetensors", {"format": "pt"})
    except safetensors.SafetensorError as error:
        raise UserError(f"cannot write the model ({error})", partial, "free some space and run the same command again") from None
    files.sync(partial / "model.safetensors")
    header = {"format": FORMAT, "version": VERSION, "weights_sha256": files.sha256_file(partial / "model.safetensors")}
    transforms = {k: t.to_dict() for k, t in model.transforms.items()}
    files.write_atomic(partial / "README.md", card)
    content = {**header, "config": model.config, "info": model.info, "transforms": transforms}
    files.write_json(partial / "config.json", {**content, "sha256": _own_hash(content)})
    files.sync(partial)
    files.remove(path)
    os.replace(partial, path)


def _own_hash(content: dict) -> str:
    """SHA-256 of what config.json says, but for this hash itself."""
    return files.sha256_text(json.dumps({k: v for k, v in content.items() if k != "sha256"}, sort_keys=True))


def read_model_config(path: str | Path) -> dict:
    """`config.json` of a model folder, checked for its format.

    Raises:
        UserError: there is none, it is damaged, or it is another program's.
    """
    path = Path(path)
    try:
        content = read_json((path / "config.json").read_text())
    except FileNotFoundError:
        raise UserError("the model is not there", path, "run train, or set run.model") from None
    except (OSError, ValueError) as error:
        raise UserError(f"the model's config.json cannot be read ({error})", path, "train again with --overwrite") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError("not a model folder", path, f"its config.json should say format {FORMAT!r}")
    refuse_version("model", content.get("version"), VERSION, path, "train again with --overwrite")
    if content.get("sha256", own := _own_hash(content)) != own:  # another program's has none
        raise UserError("the model's config.json is not as it was written", path / "config.json", "train again with --overwrite")
    if not isinstance(content.get("weights_sha256"), str):
        raise UserError("the model's config.json lacks the checksum of its weights", path / "config.json", "train again with --overwrite")
    return content


def _refuse_nonsense(config: dict, info: dict, transforms: dict[str, Transform], weights: dict[str, torch.Tensor]) -> None:
    """Raise a ValueError for numbers that would only show much later, as maps that are not finite or a run that does not end."""
    places = Places("config.json")
    checked = build(Config, {name: config[name] for name in ("task", "network", "diffusion")}, set(), places)
    check_bounds(checked, places)
    if not isinstance(info["npix"], int) or info["npix"] < 1:
        raise ValueError(f"npix is {info['npix']!r}")
    for ranges in (info.get("seen") or {}).values():
        for low, high in ranges.values():
            if not float(low) <= float(high):
                raise ValueError(f"the range of the training maps is {low} to {high}")
    for name in (*checked.task.inputs, *checked.task.outputs):
        t = transforms[name]
        fine = t.name in TRANSFORMS and all(isinstance(x, (int, float)) and math.isfinite(x) for x in (t.low, t.high, t.scale))
        if not fine or t.low == t.high or not t.scale > 0:
            raise ValueError(f"the transform of {name} is {t.to_dict()}")
    if odd := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{odd[0]} has values that are not finite")
    held = sum(tensor.numel() for name, tensor in weights.items() if name.startswith("denoiser."))
    net = checked.network
    if min(net.channels, net.blocks) < 1 or max(net.channels * max(net.multipliers), net.blocks * len(net.multipliers)) > held:
        raise ValueError(f"a network of {net.channels} channels and {net.blocks} blocks does not fit {held} weights")


def load_model(path: str | Path) -> Model:
    """Read the folder `model/`; safetensors and JSON only.

    Raises:
        UserError: it is missing, damaged, or not a model of this package.
    """
    path = Path(path)
    content = read_model_config(path)
    try:
        if files.sha256_file(path / "model.safetensors") != content["weights_sha256"]:
            raise UserError("the weights differ from their checksum", path / "model.safetensors", "train again with --overwrite")
        weights = safetensors.torch.load_file(path / "model.safetensors")
        info, transforms = content["info"], {k: Transform(**v) for k, v in content["transforms"].items()}
        _refuse_nonsense(content["config"], info, transforms, weights)
        statistics = {k.removeprefix("statistics."): v for k, v in weights.items() if k.startswith("statistics.")}
        denoiser = build_denoiser(content["config"], statistics)
        denoiser.load_state_dict({k.removeprefix("denoiser."): v for k, v in weights.items() if k.startswith("denoiser.")})
        info["weights_sha256"] = content["weights_sha256"]
        model = Model(content["config"], info, transforms, denoiser, statistics)
    except DAMAGED as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(f"the model is damaged ({text})", path, "train again with --overwrite") from None
    model.denoiser.eval()
    return model
