"""The folder `model/`: weights, normalisation and card; what `hpcdiff.load` returns; posterior samples from arrays."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch

from hpcdiff import diffusion, files
from hpcdiff.denoiser import build_denoiser, memory_layout
from hpcdiff.diffusion import VESDE
from hpcdiff.errors import UserError, nearest
from hpcdiff.sections import AUTO_SAMPLER
from hpcdiff.transform import Transform

FORMAT, VERSION = "hpcdiff-model", 1


class Model:
    """A trained conditional score model with its normalisation.

    Attributes:
        config: resolved sections of the training run.
        info: npix, pixel_mpc, units, images seen, fingerprint of the maps, provenance.
        transforms: {field: Transform}.
        denoiser: torch module, D(x, sigma, condition) -> E[x0], in [0, 1] units.
        statistics: `mean`, `std` (C, npix, npix), `sigma_data` (C,) of the outputs over the training split, `condition_mean`
            (K, npix, npix), `condition_std` (K,) of the inputs, in [0, 1] units.
    """

    def __init__(
        self,
        config: dict,
        info: dict,
        transforms: dict[str, Transform],
        denoiser: torch.nn.Module,
        statistics: dict[str, torch.Tensor],
    ) -> None:
        self.config, self.info, self.transforms, self.denoiser = config, info, transforms, denoiser
        self.statistics = statistics
        self.inputs, self.outputs = config["task"]["inputs"], config["task"]["outputs"]
        self.npix = int(info["npix"])
        self.precision = "fp32"
        self.device = torch.device("cpu")

    @property
    def sde(self) -> VESDE:
        """The noise levels that the network was trained on."""
        return VESDE(self.config["diffusion"]["sigma_min"], self.config["diffusion"]["sigma_max"])

    def to(self, device: str | torch.device) -> Model:
        """Move the network; returns self."""
        self.device = torch.device(device)
        self.denoiser.to(self.device)
        return self

    def condition(self, inputs: dict[str, np.ndarray]) -> torch.Tensor:
        """Input maps in the map file's units, each (N, npix, npix) -> the network's condition (N, K, npix, npix).

        Raises:
            ValueError: a field is missing or not asked for, shapes differ, or values are not finite.
        """
        for name in inputs:
            if name not in self.inputs:
                raise ValueError(f"unknown input {name!r}{nearest(name, self.inputs)}; this model takes {', '.join(self.inputs)}")
        maps = []
        for name in self.inputs:
            if name not in inputs:
                raise ValueError(f"the input {name!r} is missing; this model takes {', '.join(self.inputs)}")
            x = np.asarray(inputs[name])
            if x.ndim != 3 or x.shape[1:] != (self.npix, self.npix) or len(x) != len(np.asarray(inputs[self.inputs[0]])):
                raise ValueError(f"the input {name!r} has shape {x.shape}; this model takes (N, {self.npix}, {self.npix})")
            if not np.isfinite(x).all():
                raise ValueError(f"the input {name!r} has values that are not finite")
            maps.append(self.transforms[name].forward(x))
        return torch.from_numpy(np.stack(maps, 1))

    def draw(
        self,
        condition: torch.Tensor,
        keys: torch.Tensor,
        sampler: str,
        steps: int,
        init: str = "prior",
        on_step=None,
    ) -> torch.Tensor:
        """Posterior samples of one batch, one a row.

        Args:
            condition: (B, K, npix, npix) from `condition`.
            keys: int64 (B,), one a sample; they alone name its noise.
            sampler, steps, init: as in the contract; `auto` = dpmpp_2m_sde.
            on_step: called after each step, to poll for a stop.
        Returns:
            (B, C, npix, npix) float32 on the CPU, in [0, 1] units.
        """
        layout = memory_layout(self.device, self.precision)
        self.denoiser.to(memory_format=layout)
        condition, keys = condition.to(self.device, memory_format=layout), keys.to(self.device)
        if init not in ("prior", "matched"):
            raise ValueError(f"unknown init {init!r}: prior or matched")
        shape = (len(keys), len(self.outputs), self.npix, self.npix)
        sde, start = self.sde, None
        if init == "matched":
            std = torch.sqrt(self.statistics["std"] ** 2 + sde.sigma_max**2).to(self.device)
            z = diffusion.normal(keys, START_COUNTER, shape[1:])
            start = self.statistics["mean"].to(self.device) + std * z
        bf16 = self.precision == "bf16"

        def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                return self.denoiser(x.contiguous(memory_format=layout), sigma, condition).float()

        with torch.inference_mode():
            self.denoiser.eval()
            name = AUTO_SAMPLER if sampler == "auto" else sampler
            x = diffusion.sample(denoise, shape, sde=sde, sampler=name, steps=steps, seed=keys, init=start, on_step=on_step)
        return x.cpu()

    def to_units(self, x: torch.Tensor) -> dict[str, np.ndarray]:
        """[0, 1] units (..., C, npix, npix) -> {output: float32 (..., npix, npix)} in the map file's units."""
        return {name: self.transforms[name].inverse(x[..., i, :, :].numpy()) for i, name in enumerate(self.outputs)}

    def sample(
        self,
        inputs: dict[str, np.ndarray],
        samples: int = 10,
        sampler: str = "auto",
        steps: int = 50,
        seed: int = 0,
        view: np.ndarray | None = None,
        init: str = "prior",
        batch_size: int = 64,
    ) -> dict[str, np.ndarray]:
        """Draw posterior maps given observed ones.

        Args:
            inputs: {field: (npix, npix) or (N, npix, npix)} in the map file's units.
            samples: S, posterior samples of each view.
            sampler: euler_maruyama | predictor_corrector | heun | dpmpp_2m | dpmpp_2m_sde | auto.
            steps: number of noise levels.
            seed, view: they name the noise with the sample number; view is int (N,), default 0..N-1.
            init: `prior` = N(0, sigma_max^2); `matched` = N(E[x], Var[x] + sigma_max^2) of the training split.
            batch_size: maps in one network call.
        Returns:
            {output field: float32 (N, S, npix, npix)}.
        Raises:
            ValueError: shapes, names or values of the inputs, or an unknown sampler.
        """
        condition = self.condition({k: np.asarray(v)[None] if np.ndim(v) == 2 else np.asarray(v) for k, v in inputs.items()})
        n = len(condition)
        view = np.arange(n) if view is None else np.atleast_1d(np.asarray(view, np.int64))
        if len(view) != n:
            raise ValueError(f"view has {len(view)} numbers for {n} maps")
        keys = sample_keys(seed, view, samples)  # (N, S)
        flat = torch.arange(n).repeat_interleave(samples)
        drawn = [
            self.draw(condition[flat[i : i + batch_size]], keys.reshape(-1)[i : i + batch_size], sampler, steps, init)
            for i in range(0, n * samples, batch_size)
        ]
        return self.to_units(torch.cat(drawn).reshape(n, samples, len(self.outputs), self.npix, self.npix))


START_COUNTER = 2**31 - 1
"""Counter of the starting noise of `init: matched`, beyond every sampler's steps."""


SAMPLING_STREAM = 4
"""Separates sampling noise from every other use of the seed."""


def sample_keys(seed: int, views: np.ndarray, samples: int) -> torch.Tensor:
    """One key for each (seed, view, sample number): int64 (len(views), samples)."""
    views = torch.as_tensor(np.asarray(views, np.int64))
    return diffusion.derive_key(seed, SAMPLING_STREAM, views[:, None], torch.arange(samples)[None, :])


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
