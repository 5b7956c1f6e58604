"""All five stages within a minute: their config, and what must be the same bytes."""

from __future__ import annotations

from pathlib import Path

import h5py

STAGES = ("simulate", "project", "train", "sample", "evaluate")
TINY = """
run: {{dir: {dir}}}
simulate: {{clusters: 27, mass_range: [2.0e14, 1.0e15], cell: 32.0, particle_mass: 1.0e12}}
project: {{npix: 16, split: {{train: 0.6, val: 0.2, test: 0.2}}}}
task: {{transform: asinh}}
network: {{channels: 8, multipliers: [1, 2], blocks: 1}}
diffusion: {{precondition: edm}}
train: {{batch_size: 8, images: 160, precision: fp32, lr: 1.0e-4, ema: 0.9}}
sample: {{steps: 6, samples: 3, batch_size: 12, init: matched}}
"""


def assert_same_maps(one: Path, other: Path) -> None:
    """Two map files have the same fields and catalogue, byte for byte."""
    with h5py.File(one) as a, h5py.File(other) as b:
        for group in ("fields", "catalog"):
            assert set(a[group]) == set(b[group])
            for name in a[group]:
                assert a[group][name][:].tobytes() == b[group][name][:].tobytes(), name
