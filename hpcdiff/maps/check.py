"""Is a map file whole? Checksums, values, and what its catalogue says of itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcdiff.errors import Busy, UserError
from hpcdiff.lock import Lock
from hpcdiff.maps.layout import FORMAT, blocks, view_checksum
from hpcdiff.maps.reader import has_format, open_hdf5
from hpcdiff.maps.sound import interpreting, refuse_hollow
from hpcdiff.maps.structure import config_of, layout_faults, other_faults
from hpcdiff.world import World, threads_per_rank

AXES = "xyz"


@dataclass
class Findings:
    """What `check` found.

    Attributes:
        n_views: rows of the file.
        unwritten: rows without a checksum, int64 (n,); an unfinished file may have them.
        damaged: rows whose maps differ from their checksum or cannot be read, int64 (n,).
        not_finite: rows whose maps are as they were written, and hold values that are not finite, int64 (n,).
        wrong: what else does not hold, a line each.
        imported: the maps came from elsewhere, not from particles.
        catalog: {column: (N, ...)}.
    """

    n_views: int
    unwritten: np.ndarray
    damaged: np.ndarray
    not_finite: np.ndarray
    wrong: list[str]
    imported: bool
    catalog: dict[str, np.ndarray]

    def view(self, row: int) -> str:
        """Which view a row is."""
        c = self.catalog
        axis = int(c["axis"][row])
        axis = AXES[axis] if 0 <= axis < 3 else axis
        return f"row {row}: halo {c['halo_id'][row]}, sightline {c['sightline_index'][row]}, axis {axis}"


def refuse_busy(path: Path) -> None:
    """Raise a UserError if a `project` is at work in the folder of `path`."""
    lock = Lock(path.absolute().parent / ".project.lock")
    if lock.path.exists():
        try:
            free = lock.acquire()
        except OSError:  # another's folder, which we may only read
            return
        if not free:
            raise Busy(f"a project is at work ({lock.holder()})", lock.path.parent, "wait for it or end it")
        lock.release()


def check(path: str | Path) -> Findings:
    """Read a map file through, finished or `.partial`, with a progress bar and in bounded memory.

    Raises:
        UserError: no map file, or so damaged that it cannot be read through.
    """
    path, world = Path(path), World()
    if not path.exists() and Path(f"{path}.partial").exists():
        raise UserError("the map file is not finished", f"{path}.partial", "run project again")
    if path.suffix == ".partial":
        refuse_busy(path)
    with open_hdf5(path, "map file") as f:
        if not has_format(f, FORMAT):
            raise UserError("not a map file", path, f"its root attribute `format` should be {FORMAT!r}")
        with interpreting(path, "map file"):
            fault = next(layout_faults(f), None)
        if fault is not None:
            raise UserError(f"the map file's layout is damaged: {fault}", path, "make it again (--overwrite)")
        with interpreting(path, "map file"):
            for data in [*f["catalog"].values(), *f["fields"].values()]:
                refuse_hollow(data, path)
            catalog = {name: data[:] for name, data in f["catalog"].items()}
            config = config_of(f.attrs)
            wrong = list(other_faults(f, catalog, config))
        rows, stored = np.arange(len(catalog["halo_id"])), catalog["checksum"]
        state = np.empty(len(rows), "U1")
        with world.progress(len(rows), "views") as bar, ThreadPoolExecutor(threads_per_rank(world)) as pool:
            for part, maps in blocks(f, rows):
                views = range(part.start, part.stop)
                state[part] = list(pool.map(lambda row, maps=maps, a=part.start: _state(maps, row - a, stored[row]), views))
                bar.update(len(views))
    # a view that was never written has no checksum; in a finished file that is damage
    unwritten = (state == "d") & (stored == 0) & (path.suffix == ".partial")
    return Findings(
        len(rows),
        rows[unwritten],
        rows[(state == "d") & ~unwritten],
        rows[state == "n"],
        wrong,
        "import" in config,
        catalog,
    )


def _state(maps: dict[str, np.ndarray] | None, i: int, checksum: int) -> str:
    """One view: d = damaged, n = whole, with values that are not finite, w = whole."""
    if maps is None or view_checksum({name: m[i] for name, m in maps.items()}) != checksum:
        return "d"
    return "w" if all(np.isfinite(m[i]).all() for m in maps.values()) else "n"
