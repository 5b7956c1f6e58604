"""Which kind of work an operation of a training step is, from its name and the shapes of its arguments."""

from __future__ import annotations

MATRIX, OTHER = "convolution and dense", "elementwise and other"
KINDS = (
    MATRIX,
    "norm and activation",
    "FIR resampling",
    "attention",
    OTHER,
    "optimiser",
    "weights' average",
    "data and noise",
    "communication",
)
PARTS = {"gradient_norm": "optimiser", "update": "optimiser", "_average": "weights' average"}
"""Methods of an engine that are one kind of work each, which their operations' names don't say."""
RANGE = "benchmark: "
"""How the names of the benchmark's own ranges begin; the kind follows."""
WORDS = (
    ("communication", ("nccl", "gloo", "c10d", "allreduce", "all_reduce", "allgather", "all_gather", "reduce_scatter", "broadcast_")),
    ("optimiser", ("adam", "optimizer.", "multi_tensor", "foreach", "get_total_norm", "clip_grad")),
    ("attention", ("scaled_dot_product", "flash_attn", "flash_fwd", "flash_bwd", "fmha", "attention", "softmax")),
    ("norm and activation", ("group_norm", "groupnorm", "norm_silu", "normsilu", "silu", "rowwisemoments", "var_mean")),
    ("FIR resampling", ("resample", "upsample", "downsample", "upfirdn", "depthwise", "blur")),
    (MATRIX, ("conv", "cudnn", "xmma", "wgrad", "dgrad", "implicit_gemm", "im2col", "col2im", "addmm", "linear", "aten::mm", "aten::bmm")),
)
"""Words in the names of operations, functions and GPU kernels, lower case; the first that is found decides."""


def kind_of(name: str, shapes: list | None = None) -> str | None:
    """The kind of one operation, or None where its name says nothing (it is then that of the operation that called it).

    shapes: of its arguments. A convolution with filters of one input channel and 4 x 4 pixels, or a factor of it, is FIR resampling.
    """
    if name.startswith(RANGE):
        return name.removeprefix(RANGE)
    low = name.lower()
    kind = next((kind for kind, words in WORDS if any(word in low for word in words)), None)
    if kind == MATRIX and shapes and any(_is_fir(shape) for shape in shapes):
        return "FIR resampling"
    return kind


def _is_fir(shape: object) -> bool:
    return isinstance(shape, (list, tuple)) and len(shape) == 4 and shape[1] == 1 and sorted(shape[2:]) in ([4, 4], [1, 4])


def kind_within(names: list[tuple[str, list | None]]) -> str | None:
    """The kind of an operation that stands in others, innermost first: (name, shapes) of each.

    That of the first that has one; but communication wins, then the benchmark's ranges, then attention, whatever is in them.
    """
    kinds = [(kind_of(name, shapes), name.startswith(RANGE)) for name, shapes in names]
    said = [kind for kind, _ in kinds if kind]
    if "communication" in said:
        return "communication"
    ranges = [kind for kind, is_range in kinds if is_range]
    if ranges:
        return ranges[0]
    return "attention" if "attention" in said else said[0] if said else None


def kernel_kind(name: str) -> str:
    """The kind of one GPU kernel by its name alone; fused ones bear the names of what is in them."""
    low = name.lower()
    if low.startswith("triton_"):
        if "conv" in low and "depthwise" in low:
            return "FIR resampling"
        return "norm and activation" if any(w in low for w in ("group_norm", "silu", "var_mean", "sigmoid", "rsqrt")) else OTHER
    return kind_of(name) or (MATRIX if any(w in low for w in ("gemm", "cutlass", "sm90", "sm80")) else OTHER)
