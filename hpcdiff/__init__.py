"""hpcdiff: posterior mass maps of galaxy clusters, from simulation particles to calibrated samples, on any number of ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcdiff.model import Model

__version__ = "0.1.0"


def load(path: str) -> Model:
    """Load a trained model from its folder (`model/` of a run).

    Args:
        path: folder with `config.json` and `model.safetensors`.
    Returns:
        A `hpcdiff.model.Model` on the CPU; `.to("cuda")` moves it, `.sample(...)` draws posterior maps.
    Raises:
        hpcdiff.errors.UserError: the folder is not a whole hpcdiff model.
    """
    from hpcdiff.model import load_model

    return load_model(path)
