"""One pass over the map files checks them and finds what the transforms need; a second one, for those that scale by mean and spread."""

from __future__ import annotations

import numpy as np

from hpcdiff.errors import UserError
from hpcdiff.maps import view_checksum
from hpcdiff.sections import Task
from hpcdiff.train.data.stream import Stream
from hpcdiff.train.data.sums import shared_out, summed, total
from hpcdiff.train.data.views import Views
from hpcdiff.transform import Pixels, Transform, by_bounds, by_spread, needs_spread
from hpcdiff.world import World


def transform_name(task: Task, field: str) -> str:
    """The transform of one field: `task.transform` itself, or its entry there (default linear)."""
    return task.transform if isinstance(task.transform, str) else task.transform.get(field, "linear")


def fit_transforms(views: Views, task: Task, world: World) -> dict[str, Transform]:
    """Each field's transform, from the training views of all files; every view is checked on the way. Collective.

    The views are dealt over the ranks, and the outcome is the same on every rank, to the bit, for any number of them. Inputs that an
    observation model acts on are scaled by what they are without it.

    Raises:
        UserError: views that differ from their checksum, values that are not finite, a field that is constant or that its transform
            cannot take.
    """
    names = {field: transform_name(task, field) for field in (*task.inputs, *task.outputs)}
    pixels = _checked(views, names, world)
    transforms = {field: by_bounds(name, field, pixels[field]) for field, name in names.items()}
    spread = [field for field, name in names.items() if needs_spread(name)]
    if spread:
        with world.together():
            stream = Stream(views, spread, {})

        def moments(block: np.ndarray) -> np.ndarray:
            values = [transforms[field].bend(maps) for field, maps in zip(spread, stream.read(block).swapaxes(0, 1), strict=True)]
            return np.array([[v.sum(), (v**2).sum()] for v in values])

        count = views.n_train * stream.npix**2
        for field, (first, second) in zip(spread, summed(views.n_train, moments, (len(spread), 2), world) / count, strict=True):
            transforms[field] = by_spread(transforms[field], float(first), float(np.sqrt(max(second - first**2, 0.0))))
        stream.close()
    return transforms


def _checked(views: Views, names: dict[str, str], world: World) -> dict[str, Pixels]:
    """Read every view once; {field: Pixels} of the training views of all ranks. Collective."""
    pixels, damaged, spoiled = {field: Pixels() for field in names}, [], []
    with world.together():
        for f, maps in enumerate(views.files):
            mine = np.flatnonzero(views.file == f)
            one = Views([maps], np.zeros(len(mine), np.int64), views.row[mine], [])
            stream = Stream(one, maps.fields, {})  # the checksum is over all fields of the file
            for block in shared_out(len(mine), world.rank, world.size):
                whole = stream.read(block)
                stored = maps.catalog["checksum"][one.row[block]]
                checksums = stream.pool.map(lambda view, names=maps.fields: view_checksum(dict(zip(names, view, strict=True))), whole)
                good = np.array(list(checksums)) == stored
                damaged += [[f, int(row)] for row in one.row[block][~good]]
                for field, name in names.items():
                    values = whole[:, maps.fields.index(field)]
                    finite = np.isfinite(values).all((1, 2))
                    spoiled += [[f, int(row), field] for row in one.row[block][good & ~finite]]
                    values = values[good & finite & (mine[block] < views.n_train)]
                    if len(values):
                        pixels[field].add(values, name)
            stream.close()
    damaged, spoiled = (sorted(x for part in world.allgather(found) for x in part) for found in (damaged, spoiled))
    if damaged:
        path = views.files[damaged[0][0]].path
        raise UserError(
            f"{len(damaged)} views differ from their checksum (first {damaged[0][1]})",
            path,
            f"python -m hpcdiff.maps clear {path}, and project again",
        )
    if spoiled:
        f, row, field = spoiled[0]
        raise UserError(f"/fields/{field} has values that are not finite (view {row})", views.files[f].path, "make it again")
    for field, mine in pixels.items():
        low, high, floor = zip(*world.allgather([mine.low, mine.high, mine.floor]), strict=True)
        counts = total(mine.counts, world) if names[field].startswith("asinh") else mine.counts
        pixels[field] = Pixels(min(low), max(high), min(floor), counts)
    return pixels
