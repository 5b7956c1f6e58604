"""Networks compiled as one graph."""

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
