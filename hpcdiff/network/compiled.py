"""Networks compiled as one graph."""

import os
import shutil
import sys

import torch
from torch import nn


def compiled(module: nn.Module, backend: str = "inductor") -> nn.Module:
    """The module compiled as one graph for each shape of its input; it shares its parameters with the module.

    A graph break is an error (torch._dynamo.exc.Unsupported) at the first call. One optimisation of reductions is left out:
    in PyTorch 2.10 to 2.13 it may lose gradients, among others that of the bias of a convolution to which the time is added
    (github.com/pytorch/pytorch/issues/190796 and 193061).
    """
    options = None
    if backend == "inductor" and "triton.mix_order_reduction" in torch._inductor.list_options():
        options = {"triton.mix_order_reduction": False}
    return torch.compile(module, backend=backend, fullgraph=True, dynamic=False, options=options)


def cannot_compile(device: torch.device) -> str | None:
    """Why a network cannot be compiled for this device, in words; None if all that is needed is there.

    PyTorch calls a C++ compiler for CPUs, and for GPUs Triton, which calls a C compiler; compute nodes often have neither.
    """
    if device.type == "cuda":
        try:
            import triton  # noqa: F401
        except ImportError:
            return "Triton is not installed"
        if torch.version.hip is None and torch.cuda.get_device_capability(device) < (7, 0):
            return f"Triton knows no {torch.cuda.get_device_name(device)}"
        names = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
        return None if any(map(shutil.which, names)) else f"there is no C compiler ({' or '.join(names)})"
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    return None if shutil.which(name) else f"there is no C++ compiler ({name})"
