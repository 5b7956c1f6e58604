"""Seconds of a training step by formula: what a GPU computes, and what the ranks exchange. A model, no measurement."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Cluster:
    """A cluster of equal nodes.

    Attributes:
        per_node: GPUs a node. flops: what a GPU does in training, FLOP/s. overhead: seconds of a step that no batch shortens (launches, optimiser).
        inside: bytes/s and GPU between GPUs of a node, each way. between: bytes/s and GPU between nodes, each way.
        latency: seconds of one hop of a ring inside a node, and between nodes.
    """

    per_node: int = 8
    flops: float = 250e12
    overhead: float = 0.015
    inside: float = 200e9
    between: float = 50e9
    latency: tuple[float, float] = (3e-6, 8e-6)


def all_reduce_seconds(size: float, ranks: int, cluster: Cluster) -> float:
    """Ring all-reduce of `size` bytes: 2 (N - 1) hops, each of size / N at the slowest link.

    2 (N - 1) / N size / bandwidth + 2 (N - 1) latency (Patarasu and Yuan 2009). Over several nodes the ring is one of rings: reduce-scatter
    inside each node, a ring between nodes for each of its GPUs, all-gather inside, as hierarchical collectives do.
    """
    local = min(ranks, cluster.per_node)
    nodes = math.ceil(ranks / cluster.per_node)
    inside = 2 * (local - 1) * (size / local / cluster.inside + cluster.latency[0])
    between = 2 * (nodes - 1) * (size / local / nodes / cluster.between + cluster.latency[1])
    return inside + between


def step_seconds(maps: float, ranks: int, forward_flop: float, parameters: int, cluster: Cluster, overlap: bool = True) -> float:
    """Seconds of a step with `maps` on each of `ranks`: forward, backward (twice as long), and what of the fp32 all-reduce is not hidden.

    All but the last bucket's share of the exchange (25 MB of DDP) can run beside the backward pass, as far as that is long enough.
    """
    forward = maps * forward_flop / cluster.flops
    exchange = all_reduce_seconds(4.0 * parameters, ranks, cluster) if ranks > 1 else 0.0
    if not overlap:
        return cluster.overhead + 3 * forward + exchange
    last = min(1.0, 25 * 2**20 / (4.0 * parameters)) * exchange
    return cluster.overhead + 3 * forward + last + max(0.0, exchange - last - 2 * forward)
