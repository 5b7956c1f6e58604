"""Which views there are: sightlines, frames, and the rows of the map file's catalogue."""

from __future__ import annotations

import re

import numpy as np

from hpcdiff.config import Project, Views
from hpcdiff.errors import UserError
from hpcdiff.maps import CATALOG, deal, splitmix64
from hpcdiff.snapshot import Halos

GOLDEN = np.pi * (3 - np.sqrt(5))
"""Golden angle."""
AXIS_NUMBER = {"x": 0, "y": 1, "z": 2}
DEX = 0.1
"""Width of a mass bin of `flat_mass`."""


def sightlines(n: int, sphere: str = "half") -> np.ndarray:
    """Unit vectors on a Fibonacci sphere, float64 (n, 3); a single one is (0, 0, 1).

    z_i = 1 - (2i+1)/n on the full sphere, 1 - (2i+1)/(2n) on half of it; phi_i = i pi (3 - sqrt 5).
    """
    if n == 1:
        return np.array([[0.0, 0.0, 1.0]])
    i = np.arange(n)
    z = 1 - (2 * i + 1) / (n if sphere == "full" else 2 * n)
    rho = np.sqrt(1 - z**2)
    return np.stack([rho * np.cos(i * GOLDEN), rho * np.sin(i * GOLDEN), z], axis=-1)


def rotation(sightline: np.ndarray) -> np.ndarray:
    """The smallest rotation that takes z to `sightline`: float64 (3, 3), its ROWS are the rotated x, y, z axes.

    For -z, where every axis in the xy plane is as good, 180 degrees about x.
    """
    x, y, z = np.asarray(sightline, np.float64)
    if z < -1 + 1e-12:
        return np.diag([1.0, -1.0, -1.0])
    s = 1 / (1 + z)  # Rodrigues' formula for the axis z cross sightline
    return np.array([[1 - s * x * x, -s * x * y, -x], [-s * x * y, 1 - s * y * y, -y], [x, y, z]])


def frame(sightline: np.ndarray, axis: int) -> np.ndarray:
    """Rows: unit vectors in the box along i, along j and along the line of sight of one view, float64 (3, 3)."""
    return rotation(sightline)[[(axis + 1) % 3, (axis + 2) % 3, axis]]


def length_mpc(value: float | str, radius: np.ndarray, key: str) -> np.ndarray:
    """A width in physical Mpc for each halo: a number, or a text such as "2 R200m" times `radius` (physical Mpc)."""
    if not isinstance(value, str):
        return np.full(len(radius), float(value))
    match = re.fullmatch(r"\s*([0-9.eE+-]+)\s*\*?\s*R200m\s*", value)
    try:
        factor = float(match[1]) if match else float(value)
    except ValueError:
        factor = -1.0
    if not 0 < factor < np.inf:
        raise UserError(f"project.{key} is {value!r}", "config", 'give physical Mpc, or a text such as "2 R200m"')
    return factor * radius if match else np.full(len(radius), factor)


def views_per_halo(mass: np.ndarray, halo_id: np.ndarray, views: Views, seed: int = 0) -> np.ndarray:
    """Sightlines of each halo, int64 (n,); 0 = the halo is left out.

    `fixed`: the same for all. `flat_mass`: in each 0.1 dex of mass `per_dex`/10 views, low masses thinned by a hash of
    the halo's id, high masses seen from more sightlines, at most `max_per_halo` views each.
    """
    if views.mode == "fixed":
        return np.full(len(mass), views.sightlines, np.int64)
    n_axes = len(views.axes)
    most = max(views.max_per_halo // n_axes, 1)
    wanted = max(round(views.per_dex * DEX / n_axes), 1)  # sightlines a bin
    bins = np.floor(np.log10(mass) / DEX + 1e-9).astype(np.int64)
    lot = splitmix64(np.asarray(halo_id, np.int64).view(np.uint64) ^ splitmix64(np.array([seed + 1], np.uint64)))
    counts = np.zeros(len(mass), np.int64)
    for b in np.unique(bins):
        members = np.flatnonzero(bins == b)
        members = members[np.argsort(lot[members], kind="stable")]
        each, more = divmod(wanted, len(members))
        counts[members] = np.minimum(each + (np.arange(len(members)) < more), most)
    return counts


def catalogue(halos: Halos, project: Project, redshift: float, box: float | None = None) -> dict[str, np.ndarray]:
    """Columns of `/catalog` but the checksum, rows ordered by (halo_id, sightline_index, axis).

    Args:
        halos: ordered by id.
        project: the config's section.
        redshift: of the snapshot.
        box: comoving Mpc; a map wider or deeper than half of it is refused.
    Raises:
        UserError: such a map; an empty part of the split; a split that is not built yet.
    """
    a = 1 / (1 + redshift)
    radius = halos.radius_200m * a
    width, depth = (length_mpc(getattr(project, key), radius, key) for key in ("width", "depth"))
    for key, values in (("width", width), ("depth", depth)):
        if box is not None and values.max() > box * a / 2 * (1 + 1e-9):
            raise UserError(
                f"project.{key} of {values.max():.6g} physical Mpc is more than half the box of {box * a:.6g}",
                f"halo {halos.halo_id[np.argmax(values)]}",
                "a halo would overlap its own image: take a smaller one",
            )
    if project.split.by == "region":
        raise UserError("project.split.by = region is not built yet", "config", "use halo or group")
    counts = views_per_halo(halos.mass_200m, halos.halo_id, project.views, project.split.seed)
    axes = sorted(AXIS_NUMBER[axis] for axis in project.views.axes)
    row = np.repeat(np.arange(len(halos)), counts * len(axes))
    index = np.concatenate([np.repeat(np.arange(n), len(axes)) for n in counts])
    axis = np.tile(axes, counts.sum())
    directions = {n: sightlines(n, project.views.sphere) for n in np.unique(counts) if n}
    direction = np.array([directions[counts[r]][i] for r, i in zip(row, index, strict=True)]).reshape(-1, 3)
    seen = np.flatnonzero(counts)
    kept = halos.group if project.split.by == "group" else halos.halo_id
    parts = np.zeros(len(halos), np.int8)
    parts[seen] = deal(kept[seen], project.split)
    return {
        "halo_id": halos.halo_id[row],
        "mass_200m": halos.mass_200m[row],
        "radius_200m": radius[row],
        "sightline": direction,
        "sightline_index": index.astype(np.int64),
        "axis": axis.astype(np.int8),
        "split": parts[row],
        "frame": np.array([frame(d, k) for d, k in zip(direction, axis, strict=True)]).reshape(-1, 3, 3),
        "width_mpc": width[row],
        "depth_mpc": depth[row],
        "redshift": np.full(len(row), redshift),
        "position": halos.position[row],
        "group": halos.group[row],
        **{name: column[row] for name, column in halos.extra.items() if column.dtype.kind in "iubf" and name not in (*CATALOG, "checksum")},
    }
