"""Marking views of a finished map file, so that the next `project` computes them, and them alone, again."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np

from hpcdiff import files
from hpcdiff.errors import Busy, UserError
from hpcdiff.lock import Lock
from hpcdiff.maps.check import check
from hpcdiff.maps.reader import MapFile, open_hdf5
from hpcdiff.maps.sound import refuse_leading_out
from hpcdiff.maps.structure import config_of, rows_text


def clear(path: str | Path, rows: list[int] | None = None, halos: list[int] | None = None) -> str:
    """Set the checksums of the damaged views (or of those named) to 0 and put the file back to `<path>.partial`.

    What was made from the maps stays valid: computed again from the same particles they are the same bytes.

    Args:
        path: a finished map file.
        rows, halos: rows and halo ids to be cleared; both None = the damaged views.
    Returns:
        one line about what was done.
    Raises:
        UserError: the file is not finished; a `project` is at work; an unfinished file stands beside it; an imported file; unknown rows or halos.
    """
    path = Path(path)
    if path.suffix == ".partial":
        raise UserError("the map file is not finished", path, "run project again")
    partial = Path(f"{path}.partial")
    whole = MapFile(path)
    if "import" in config_of(whole.attributes):
        raise UserError("imported maps have no particles to be computed from", path, "import them again with --overwrite")
    if partial.exists():
        raise UserError("an unfinished map file stands beside it", partial, "run project again, or remove that one")
    lock = Lock(path.absolute().parent / ".project.lock")
    if not lock.acquire():
        raise Busy(f"a project is at work ({lock.holder()})", path.absolute().parent, "wait for it or end it")
    try:
        chosen = _damaged(path) if rows is None and halos is None else _named(whole, rows or [], halos or [])
        if not len(chosen):
            return f"no view of {path} is damaged; nothing was changed"
        with open_hdf5(path, "map file") as f:
            refuse_leading_out(f, path, "project --overwrite")
        # first the name: whoever reads on under the final one must not find a view without a checksum
        os.replace(path, partial)
        files.sync(path.absolute().parent)
        with h5py.File(partial, "r+") as f:
            f["catalog/checksum"][chosen] = 0
        files.sync(partial)
    finally:
        lock.release()
    return f"{len(chosen)} of {whole.n_views} views are cleared ({rows_text(chosen)}); {path} is {partial} now: run project again"


def _damaged(path: Path) -> np.ndarray:
    found = check(path)
    if found.wrong:
        raise UserError(f"more than its maps is damaged: {found.wrong[0]}", path, "project --overwrite")
    return found.damaged


def _named(maps: MapFile, rows: list[int], halos: list[int]) -> np.ndarray:
    """The rows named, and those of the halos named, int64 (n,)."""
    for row in rows:
        if not 0 <= row < maps.n_views:
            raise UserError(f"there is no row {row}", maps.path, f"it has rows 0 to {maps.n_views - 1}")
    ids = maps.catalog["halo_id"]
    for halo in halos:
        if halo not in ids:
            raise UserError(f"there is no halo {halo}", maps.path, f"its ids are {ids.min()} to {ids.max()}")
    return np.union1d(np.array(rows, np.int64), np.flatnonzero(np.isin(ids, halos)))
