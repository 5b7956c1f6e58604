"""Gravity in torch: that of `gravity.Gravity` on a GPU, or by the very same code on the CPU, where it is tested."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

import numpy as np
import torch

from hpcdiff.errors import UserError
from hpcdiff.simulate.nbody.gravity import Gravity
from hpcdiff.simulate.nbody.split import SPLIT
from hpcdiff.simulate.nbody.torch_mesh import TorchMesh
from hpcdiff.simulate.nbody.torch_pairs import TorchPairs

TOO_LITTLE = "out of memory|ALLOC_FAILED|can't allocate memory"
"""What CUDA, its Fourier transforms and the CPU say when memory is short."""


@contextlib.contextmanager
def enough_memory(device: torch.device) -> Iterator[None]:
    """Turn a device's lack of memory into one line.

    Raises:
        UserError: there is too little.
    """
    try:
        yield
    except RuntimeError as error:
        if not re.search(TOO_LITTLE, str(error)):
            raise
        how = "take fewer ranks a GPU, a larger simulate.particle_mass, or simulate.device=cpu"
        raise UserError(f"the memory of {device} is too small for the forces of a box", "simulate.device", how) from None


class TorchGravity(Gravity):
    """Forces and potential of particles in a periodic box; the same bits each time on the same device.

    Args:
        side, mesh, softening, Om0: as of `Gravity`.
        device: torch's name of it; `cuda` is this process's current GPU.
        compiled: fuse the arithmetic of pairs; None: on a GPU, where it can be.
    """

    def __init__(
        self,
        side: float,
        mesh: int,
        softening: float | np.ndarray,
        Om0: float,
        device: str | torch.device = "cpu",
        compiled: bool | None = None,
    ) -> None:
        self.side, self.strength, self.device = float(side), 1.5 * float(Om0), torch.device(device)
        self.split = SPLIT * self.side / mesh
        with enough_memory(self.device):
            self.mesh = TorchMesh(self.side, mesh, self.split, self.strength, self.device)
            self.pairs = TorchPairs(self.side, self.split, softening, self.device, compiled)

    def _threads(self) -> None:
        """Nothing: torch has its own."""

    def _there(self, of: Callable, x: np.ndarray, mass: np.ndarray, *more: np.ndarray) -> np.ndarray:
        with enough_memory(self.device), torch.inference_mode():
            there = [torch.as_tensor(a, dtype=torch.float64).to(self.device) for a in (x, mass)]
            return of(*there, *(torch.from_numpy(a).to(self.device) for a in more)).cpu().numpy()

    def far(self, x: np.ndarray, mass: np.ndarray) -> np.ndarray:
        """As `Gravity.far`: arrays of the host, float64."""
        return self._there(super().far, x, mass)

    def near(self, x: np.ndarray, mass: np.ndarray, on: np.ndarray | None = None) -> np.ndarray:
        """As `Gravity.near`."""
        return self._there(super().near, x, mass, *([] if on is None else [on]))

    def potential(self, x: np.ndarray, mass: np.ndarray) -> np.ndarray:
        """As `Gravity.potential`."""
        return self._there(super().potential, x, mass)
