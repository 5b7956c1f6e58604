"""The evaluation, read from top to bottom: fit the baselines, measure every view, reduce."""

from __future__ import annotations

import numpy as np

from hpcdiff.evaluate.baselines import Baselines
from hpcdiff.evaluate.baselines.training import chosen
from hpcdiff.evaluate.blocks import in_blocks
from hpcdiff.evaluate.inputs import Samples, cosmology, depth_of, engine_of, parts_of
from hpcdiff.evaluate.reduce import reduce_views
from hpcdiff.evaluate.reference import Reference, Summaries
from hpcdiff.evaluate.spectra import HalfModes
from hpcdiff.evaluate.views import Place, Ruler
from hpcdiff.maps import MapFile
from hpcdiff.measures import pixel_rings
from hpcdiff.structure import Structure
from hpcdiff.world import World

FORMAT, VERSION = "hpcdiff-metrics", 1


def refuse_damaged(world: World, maps: MapFile, views: np.ndarray) -> None:
    """Hold the maps of these views, and of the training views that the baselines read, against their checksums. Collective.

    Raises:
        UserError: some are damaged.
    """
    train = maps.rows("train")
    rows = np.union1d(views, chosen(maps.catalog["halo_id"][train], train)) if len(train) else np.sort(views)

    def check(block: np.ndarray) -> dict[str, np.ndarray]:
        maps.refuse_damaged(block)
        return {}

    for _ in in_blocks(world, rows, check, " views of the maps checked", size=64):
        pass


def make_ruler(config, world: World, maps: MapFile, samples: Samples) -> Ruler:
    """Fit on the training split what views are held against. Collective."""
    h, om0, ob0 = cosmology(maps, config)
    baselines = Baselines(world, maps, config.task.inputs, samples.fields, config, samples.views)
    summaries = Summaries(pixel_rings(maps.npix), HalfModes(maps.npix))
    reference = Reference(world, maps, baselines, summaries)
    return Ruler(h, config.evaluate.k_split, baselines, summaries, reference, Structure(maps.npix, h, om0, ob0))


def measure_views(world: World, maps: MapFile, samples: Samples, ruler: Ruler) -> dict[str, np.ndarray] | None:
    """The numbers of every view, {name: (views, ...)} sorted by view, on rank 0; None elsewhere. Collective.

    A rank holds the maps of one block of views at a time, and rank 0 the numbers, some 20 kB a view.
    """
    width, r200, redshift = (maps.catalog[name] for name in ("width_mpc", "radius_200m", "redshift"))
    depth = {field: depth_of(maps.catalog, field) for field in (*ruler.baselines.inputs, *samples.fields)}

    def block(positions: np.ndarray) -> dict[str, np.ndarray]:
        rows = samples.views[positions]
        x, y = (np.stack([maps.read(f, rows) for f in fields], 1).astype(np.float64) for fields in (ruler.baselines.inputs, samples.fields))
        drawn = [samples.read(f, positions) for f in samples.fields]
        views = []
        for n, row in enumerate(rows):
            of_view = np.stack([d[n] for d in drawn]).astype(np.float64)
            place = Place(int(row), float(width[row]), {f: float(d[row]) for f, d in depth.items()}, float(r200[row]), float(redshift[row]))
            views.append(ruler.view(place, x[n], y[n], of_view))
        return {name: np.stack([v[name] for v in views]) for name in views[0]}

    parts = [part for part in in_blocks(world, np.arange(len(samples.views)), block, " views", size=4) if world.main]
    if not world.main:
        return None
    order = np.argsort(samples.views)
    return {name: np.concatenate([p.pop(name) for p in parts])[order] for name in list(parts[0])}


def measure(config, world: World, maps: MapFile, samples: Samples, made_from: dict[str, str]) -> dict | None:
    """The whole content of `metrics.json`, on rank 0; None elsewhere. Collective."""
    refuse_damaged(world, maps, samples.views)
    ruler = make_ruler(config, world, maps, samples)
    columns = measure_views(world, maps, samples, ruler)
    if columns is None:
        return None
    rows = np.sort(samples.views)
    catalog = {name: values[rows] for name, values in maps.catalog.items()}
    numbers = reduce_views(columns, catalog, samples.count, config.evaluate, ruler.baselines, ruler.reference.reason)
    said = {name: samples.attributes.get(name) for name in ("sampler", "steps", "nfe", "seed", "model")}
    return {
        "format": FORMAT,
        "version": VERSION,
        "config": config.resolved("task", "evaluate"),
        "inputs": made_from,
        "simulation_engine": engine_of(maps),
        "control": samples.control,
        "samples": samples.count,
        "parts": parts_of(maps, rows),
        "mass_range": [float(catalog["mass_200m"].min()), float(catalog["mass_200m"].max())],
        **said,
        **numbers,
    }
