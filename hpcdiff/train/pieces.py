"""A rank's part of a named tensor: what engines give to checkpoints, and take from them."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class Piece:
    """One run of a tensor's elements, in C order of its shape.

    Attributes:
        data: (n,) on the CPU; elements `start` to `start + n` of the whole tensor. n may be 0.
        start: number of the first element.
        shape: shape of the whole tensor, on every rank the same.
    """

    data: torch.Tensor
    start: int
    shape: tuple[int, ...]


def cut(tensor: torch.Tensor, rank: int, size: int) -> Piece:
    """This rank's share of a tensor that every rank holds: a copy on the CPU, elements dealt in equal runs."""
    n = tensor.numel()
    begin, end = n * rank // size, n * (rank + 1) // size
    return Piece(tensor.detach().reshape(-1)[begin:end].to("cpu", copy=True), begin, tuple(tensor.shape))


def room(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Piece:
    """An empty piece that holds a whole tensor, to be filled from a checkpoint."""
    return Piece(torch.empty(torch.Size(shape).numel(), dtype=dtype), 0, tuple(shape))
