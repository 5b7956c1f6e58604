"""A small map file, to be written in parts."""

from __future__ import annotations

import numpy as np

from hpcdiff import maps
from hpcdiff.world import World

NPIX, N = 8, 6


def catalog(n: int = N) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: (10 * rng.random((n, *shape))).astype(kind) for name, (kind, shape) in maps.CATALOG.items()}


def writer(path, n: int = N, world: World | None = None, **attributes) -> maps.MapWriter:
    attributes = {"config": "a", "inputs": "b", **attributes}
    return maps.MapWriter(path, world or World(), catalog(n), {"gas": {"units": "dimensionless"}, "dm": {}}, NPIX, attributes)


def some_maps(n: int = N) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: rng.random((n, NPIX, NPIX)).astype(np.float32) for name in ("gas", "dm")}


def part(data, a, b):
    return {name: values[a:b] for name, values in data.items()}
