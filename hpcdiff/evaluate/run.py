"""The evaluation, read from top to bottom: fit the baselines, measure every view, reduce."""

from __future__ import annotations

import numpy as np

from hpcdiff.evaluate.baselines import Baselines
from hpcdiff.evaluate.blocks import in_blocks
from hpcdiff.evaluate.inputs import Samples, hubble, parts_of
from hpcdiff.evaluate.reduce import reduce_views
from hpcdiff.evaluate.views import Ruler
from hpcdiff.maps import MapFile
from hpcdiff.world import World

FORMAT, VERSION = "hpcdiff-metrics", 1


def measure(config, world: World, maps: MapFile, samples: Samples, made_from: dict[str, str]) -> dict | None:
    """The whole content of `metrics.json`, on rank 0; None elsewhere. Collective."""
    inputs, outputs, catalog = config.task.inputs, samples.fields, maps.catalog
    baselines = Baselines(world, maps, inputs, outputs)
    ruler = Ruler(maps.npix, hubble(maps, config), config.evaluate.k_split, baselines)

    def block(positions: np.ndarray) -> dict[str, np.ndarray]:
        rows = samples.views[positions]
        x = np.stack([maps.read(f, rows) for f in inputs], 1).astype(np.float64)
        y = np.stack([maps.read(f, rows) for f in outputs], 1).astype(np.float64)
        drawn = [samples.read(f, positions) for f in outputs]
        views = [
            ruler.view(row, catalog["width_mpc"][row], catalog["radius_200m"][row], x[n], y[n], [d[n].astype(np.float64) for d in drawn])
            for n, row in enumerate(rows)
        ]
        return {name: np.stack([v[name] for v in views]) for name in views[0]}

    parts = list(in_blocks(world, np.arange(len(samples.views)), block, " views", size=4))
    if not world.main:
        return None
    order = np.argsort(samples.views)
    rows = samples.views[order]
    columns = {name: np.concatenate([p[name] for p in parts])[order] for name in parts[0]}
    numbers = reduce_views(columns, catalog["halo_id"][rows], catalog["mass_200m"][rows], samples.count, config.evaluate, baselines)
    said = {name: samples.attributes.get(name) for name in ("sampler", "steps", "nfe", "seed", "model")}
    return {
        "format": FORMAT,
        "version": VERSION,
        "config": config.resolved("task", "evaluate"),
        "inputs": made_from,
        "control": samples.control,
        "samples": samples.count,
        "parts": parts_of(maps, rows),
        "mass_range": [float(catalog["mass_200m"][rows].min()), float(catalog["mass_200m"][rows].max())],
        **said,
        **numbers,
    }
