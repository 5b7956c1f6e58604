"""The denoiser that a config describes: network and preconditioning, or the network as a regression."""

from __future__ import annotations

import torch

from hpcdiff.diffusion import EDMDenoiser, VEDenoiser
from hpcdiff.errors import UserError
from hpcdiff.network import NCSNpp
from hpcdiff.regression import RegressionDenoiser


def memory_layout(device: torch.device, precision: str) -> torch.memory_format:
    """The faster layout of images: channels last, but PyTorch's own order for bf16 on CPUs (7 % faster there)."""
    return torch.contiguous_format if device.type == "cpu" and precision == "bf16" else torch.channels_last


def build_denoiser(config: dict, statistics: dict[str, torch.Tensor] | None = None) -> torch.nn.Module:
    """The preconditioned network D(x, sigma, condition) -> E[x0]; with `task.method: regression` x and sigma are not looked at.

    Args:
        config: resolved sections `task`, `network`, `diffusion` (which a regression does not use).
        statistics: of the training split, in [0, 1] units: `mean` (C, npix, npix) and `sigma_data` (C,), the deviation about
            it, of the outputs; `condition_mean` (K, npix, npix) and `condition_std` (K,) of the inputs. `edm` and
            regression need them; they are kept with the weights, so a denoiser that is to be loaded may be built without their values.
    Raises:
        UserError: a network that is not built yet, or a shape that the network cannot have.
    """
    task, network, noise = config["task"], config["network"], config["diffusion"]
    if network["name"] != "ncsnpp":
        raise UserError(f"network.name {network['name']!r} is not built yet", "config", "take ncsnpp")
    try:
        net = NCSNpp(
            channels_in=len(task["outputs"]),
            channels_out=len(task["outputs"]),
            channels_condition=len(task["inputs"]),
            channels=network["channels"],
            multipliers=tuple(network["multipliers"]),
            blocks=network["blocks"],
            dropout=network["dropout"],
            attention=network.get("attention", "coarsest"),  # models from before the key have the paper's
        )
    except ValueError as error:
        raise UserError(str(error), "config, section network", "see docs/config.md") from None
    regression = task["method"] == "regression"
    if noise["precondition"] == "ve" and not regression:
        return VEDenoiser(net, noise["sigma_min"], noise["sigma_max"])
    if statistics is None:
        statistics = {"sigma_data": torch.ones(len(task["outputs"]))}
    measured = {k: v for k, v in statistics.items() if k != "std"}
    try:
        if regression:
            return RegressionDenoiser(net, **measured)
        return EDMDenoiser(net, **measured, shift=noise["noise_shift"], width=noise["noise_width"])
    except ValueError as error:
        raise UserError(f"the training maps do not vary enough ({error})", "map file", "give more training views") from None
