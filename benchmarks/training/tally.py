"""What a step computes and moves, by kind of work, counted operation by operation."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from training.kinds import KINDS, OTHER, kind_within

PACKAGE = "hpcdiff"


class Tally(TorchDispatchMode):
    """Counts, while it is active, FLOP of convolutions and matrix products, and bytes that each operation reads and writes.

    Each operation reads its arguments and writes its results once: what it takes where nothing is fused and nothing stays in caches.
    Attributes:
        flops, bytes: {kind: total}.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops, self.bytes = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
        self.part: str | None = None

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        options = options or {}
        result = operation(*arguments, **options)
        if operation.is_view or operation._schema.name in ("aten::empty", "aten::empty_like", "aten::empty_strided", "aten::detach"):
            return result
        given = [x for x in tree_leaves((arguments, options)) if isinstance(x, torch.Tensor)]
        kind = self.part or self._kind(operation._schema.name, [list(x.shape) for x in given])
        count = flop_registry.get(operation.overloadpacket)
        if count:
            self.flops[kind] += count(*arguments, **options, out_val=result)
        moved = sum(_bytes(x) for x in given) + _written_in_place(operation, arguments)
        if not any(r.alias_info for r in operation._schema.returns):
            moved += sum(_bytes(x) for x in tree_leaves(result) if isinstance(x, torch.Tensor))
        self.bytes[kind] += moved
        return result

    def _kind(self, name: str, shapes: list) -> str:
        """From the operation and the functions of the package that called it."""
        names: list[tuple[str, list | None]] = [(name, shapes)]
        frame = sys._getframe(2)
        while frame is not None:
            if PACKAGE in frame.f_code.co_filename:
                names.append((f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_qualname}", None))
            frame = frame.f_back
        return kind_within(names) or OTHER

    def within(self, method, kind: str):
        """The method, with all that it does counted under one kind."""

        def run(*arguments):
            self.part = kind
            try:
                return method(*arguments)
            finally:
                self.part = None

        return run


def _bytes(x: torch.Tensor) -> int:
    return x.numel() * x.element_size()


def _written_in_place(operation, arguments) -> int:
    """Bytes of the arguments that the operation changes."""
    changed = [a for s, a in zip(operation._schema.arguments, arguments, strict=False) if s.alias_info and s.alias_info.is_write]
    return sum(_bytes(x) for x in tree_leaves(changed) if isinstance(x, torch.Tensor))
