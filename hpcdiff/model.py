"""The folder `model/`: weights, normalisation and card, written and read; what it holds is a `Model`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import safetensors
import safetensors.torch

from hpcdiff import files
from hpcdiff.denoiser import build_denoiser
from hpcdiff.drawing import sample_keys
from hpcdiff.errors import UserError
from hpcdiff.posterior import Model
from hpcdiff.transform import Transform

__all__ = ["Model", "load_model", "read_model_config", "sample_keys", "save_model"]

FORMAT, VERSION = "hpcdiff-model", 1


def save_model(path: str | Path, model: Model, card: str) -> None:
    """Write the folder `model/`: config.json, model.safetensors, README.md; it gets its name when it is whole.

    Args:
        path: the final folder; one that stands there is replaced.
        model: its denoiser holds the averaged (EMA) weights.
        card: the model card, Markdown.
    Raises:
        UserError: the disk is full.
    """
    path = Path(path)
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
    files.write_json(partial / "config.json", {**header, "config": model.config, "info": model.info, "transforms": transforms})
    files.sync(partial)
    files.remove(path)
    os.replace(partial, path)


def read_model_config(path: str | Path) -> dict:
    """`config.json` of a model folder, checked for its format.

    Raises:
        UserError: there is none, or it is another program's.
    """
    path = Path(path)
    try:
        content = json.loads((path / "config.json").read_text())
    except FileNotFoundError:
        raise UserError("the model is not there", path, "run train, or set run.model") from None
    except (OSError, ValueError) as error:
        raise UserError(f"the model's config.json cannot be read ({error})", path, "train again with --overwrite") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError("not a model folder", path, f"its config.json should say format {FORMAT!r}")
    return content


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
        statistics = {k.removeprefix("statistics."): v for k, v in weights.items() if k.startswith("statistics.")}
        denoiser = build_denoiser(content["config"], statistics)
        denoiser.load_state_dict({k.removeprefix("denoiser."): v for k, v in weights.items() if k.startswith("denoiser.")})
        info["weights_sha256"] = content["weights_sha256"]
        model = Model(content["config"], info, transforms, denoiser, statistics)
    except (OSError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(f"the model is damaged ({text})", path, "train again with --overwrite") from None
    model.denoiser.eval()
    return model
