"""The long-range part of gravity on a mesh, in torch: that of `mesh.Mesh`."""

from __future__ import annotations

import torch
from torch import Tensor

from hpcdiff.simulate.nbody.split import waves


class TorchMesh:
    """Solves laplacian(phi) = 3/2 Om0 delta, smoothed by a Gaussian of `split`, in a periodic box.

    Args:
        side, n, split, strength: as of `split.waves`.
        device: of all tensors.
    """

    def __init__(self, side: float, n: int, split: float, strength: float, device: torch.device) -> None:
        self.side, self.n = side, n
        k, kernel = waves(side, n, split, strength)
        whole, half = (torch.from_numpy(one).to(device) for one in k)
        self._k, self._kernel = (whole[:, None, None], whole[:, None], half), torch.from_numpy(kernel).to(device)

    def _clouds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of triangular clouds at x (n, 3): the nearest mesh point (n, 3), and the weights of the points before it, there and after it (n, 3, 3)."""
        at = x * self.n / self.side
        i = (at + 0.5).long()
        d = at - i
        return i % self.n, torch.stack([0.5 * (0.5 - d) ** 2, 0.75 - d * d, 0.5 * (0.5 + d) ** 2], 2)

    def _flat(self, i: Tensor, *offset: int) -> Tensor:
        """Where the mesh points i (m, 3), moved by an offset, stand in the flattened mesh, (m,)."""
        a, b, c = ((i[:, axis] + offset[axis]) % self.n for axis in range(3))
        return (a * self.n + b) * self.n + c

    def _density(self, x: Tensor, mass: Tensor) -> Tensor:
        """Mass of the clouds at each mesh point over the mean, float32 (n, n, n).

        The clouds of one nearest point are added up in their order. Moved by one offset, different points stay different: of what is then added
        to the mesh at once no two meet in a place, so that the sum has no atomic race whose winner could change its last bit.
        """
        i, w = self._clouds(x)
        home, order = self._flat(i, 0, 0, 0).sort(stable=True)
        home, counts = home.unique_consecutive(return_counts=True)
        i, w = torch.stack([home // self.n**2, home // self.n % self.n, home % self.n], 1), w[order]
        m = mass[order] * (self.n**3 / mass.sum())
        mesh = torch.zeros(self.n**3, dtype=torch.float32, device=x.device)
        for a in range(3):
            clouds = (m * w[:, 0, a])[:, None, None] * w[:, 1, :, None] * w[:, 2, None, :]  # (n, 3, 3)
            clouds = torch.segment_reduce(clouds, "sum", lengths=counts, unsafe=True).float()
            for b in range(3):
                for c in range(3):
                    mesh[self._flat(i, a - 1, b - 1, c - 1)] += clouds[:, b, c]
        return mesh.view(self.n, self.n, self.n)

    def _interpolated(self, modes: Tensor, i: Tensor, w: Tensor) -> Tensor:
        """What the mesh of these modes is at clouds, float64 (n,)."""
        mesh, out = torch.fft.irfftn(modes, s=(self.n,) * 3).flatten(), torch.zeros(len(i), dtype=w.dtype, device=w.device)
        for a in range(3):
            for b in range(3):
                for c in range(3):
                    out += w[:, 0, a] * w[:, 1, b] * w[:, 2, c] * mesh[self._flat(i, a - 1, b - 1, c - 1)]
        return out

    def forces(self, x: Tensor, mass: Tensor) -> Tensor:
        """-grad(phi) at the particles, float64 (n, 3); x (n, 3) within the box, Mpc, mass (n,) in any unit; float64."""
        modes, clouds = torch.fft.rfftn(self._density(x, mass)) * self._kernel, self._clouds(x)
        return torch.stack([self._interpolated(-1j * k * modes, *clouds) for k in self._k], 1)

    def potential(self, x: Tensor, mass: Tensor) -> Tensor:
        """phi at the particles, float64 (n,)."""
        return self._interpolated(torch.fft.rfftn(self._density(x, mass)) * self._kernel, *self._clouds(x))
