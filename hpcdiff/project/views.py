"""Which views there are: sightlines, frames, and the rows of the map file's catalogue."""

from __future__ import annotations

import numpy as np

from hpcdiff.cosmology import Background
from hpcdiff.maps import deal, splitmix64
from hpcdiff.project import fields, lengths, regions
from hpcdiff.sections import Project, Views
from hpcdiff.snapshot import Halos

GOLDEN = np.pi * (3 - np.sqrt(5))
"""Golden angle."""
AXIS_NUMBER = {"x": 0, "y": 1, "z": 2}
DEX = 0.1
"""Width of a mass bin of `flat_mass`."""
THINNING = np.uint64(0x9D39247E33776D41)
"""Salt of the hash that thins low masses: independent of the split, whatever its seed."""


def sightlines(n: int, sphere: str = "half") -> np.ndarray:
    """Unit vectors on a Fibonacci sphere, float64 (n, 3); a single one is (0, 0, 1)."""
    return directions(np.arange(n), np.full(n, n), sphere)


def directions(i: np.ndarray, n: np.ndarray, sphere: str = "half") -> np.ndarray:
    """Sightline number i of n on a Fibonacci sphere, float64 (m, 3), for arrays i and n (m,); n = 1 is (0, 0, 1).

    z_i = 1 - (2i+1)/n on the full sphere, 1 - (2i+1)/(2n) on half of it; phi_i = i pi (3 - sqrt 5).
    """
    z = np.where(n == 1, 1.0, 1 - (2 * i + 1) / (n if sphere == "full" else 2 * n))
    rho = np.sqrt(1 - z**2)
    return np.stack([rho * np.cos(i * GOLDEN), rho * np.sin(i * GOLDEN), z], axis=-1)


def rotation(sightline: np.ndarray) -> np.ndarray:
    """The smallest rotation that takes z to each `sightline` (..., 3): float64 (..., 3, 3), its ROWS are the rotated x, y, z axes.

    For -z, where every axis in the xy plane is as good, 180 degrees about x.
    """
    x, y, z = np.moveaxis(np.asarray(sightline, np.float64), -1, 0)
    opposite = z < -1 + 1e-12
    s = 1 / np.where(opposite, 1.0, 1 + z)  # Rodrigues' formula for the axis z cross sightline
    rows = [[1 - s * x * x, -s * x * y, -x], [-s * x * y, 1 - s * y * y, -y], [x, y, z]]
    matrix = np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
    return np.where(opposite[..., None, None], np.diag([1.0, -1.0, -1.0]), matrix)


def frames(sightline: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Rows: unit vectors in the box along i, along j and along the line of sight of each view, float64 (n, 3, 3).

    Args:
        sightline: (n, 3) unit vectors.
        axis: (n,) 0, 1, 2 = the rotated frame's x, y, z along which the box is projected.
    """
    axis = np.asarray(axis)
    cyclic = (axis[:, None] + [1, 2, 0]) % 3
    return np.take_along_axis(rotation(sightline), cyclic[:, :, None], axis=1)


def views_per_halo(mass: np.ndarray, halo_id: np.ndarray, views: Views) -> np.ndarray:
    """Sightlines of each halo, int64 (n,); 0 = the halo is left out.

    `fixed`: the same for all. `flat_mass` (Hsu et al. 2025, Fig. 1): `per_dex`/10 views in each 0.1 dex of mass; low masses are
    thinned by a hash of the halo's id, high masses seen from more sightlines, at most `max_per_halo` views each. A bin that
    the catalogue's lowest mass cuts gets as many as the part above it.

    When a halo is added (not lighter than all others), other bins stay as they are. In a thinned bin at most one halo leaves; in one whose halos are seen
    often, the halos give it some of theirs: with n there before, none more than wanted/n^2 + 1.
    """
    if views.mode == "fixed":
        return np.full(len(mass), views.sightlines, np.int64)
    counts, log_mass = np.zeros(len(mass), np.int64), np.log10(mass) / DEX + 1e-9
    bins = np.floor(log_mass).astype(np.int64)
    most = max(views.max_per_halo // len(views.axes), 1)
    lot = splitmix64(splitmix64(np.asarray(halo_id, np.int64).view(np.uint64)) ^ THINNING)
    order = np.lexsort((lot, bins))
    numbers, first = np.unique(bins[order], return_index=True)
    for b, members in zip(numbers, np.split(order, first[1:]), strict=True):
        part = min(b + 1 - log_mass.min(), 1.0)
        wanted = max(round(part * views.per_dex * DEX / len(views.axes)), 1)  # sightlines in this bin
        each, more = divmod(wanted, len(members))
        counts[members] = np.minimum(each + (np.arange(len(members)) < more), most)
    return counts


def catalogue(
    halos: Halos, project: Project, redshift: float, box: float | None = None, background: Background | None = None
) -> dict[str, np.ndarray]:
    """Columns of `/catalog` but the checksum, rows ordered by (halo_id, sightline_index, axis).

    `group` is the halo catalogue's, or the block of the box where the split is by region.

    Args:
        halos: ordered by id.
        project: the config's section.
        redshift: of the snapshot.
        box: comoving Mpc; views that do not fit into it are refused. None = not checked.
        background: the snapshot's cosmology, where lengths are in radii that the halo catalogue lacks.
    Raises:
        UserError: a length that is none; a view that does not fit; an empty part of the split.
    """
    a = 1 / (1 + redshift)
    sizes = lengths.columns(halos, project, redshift, background)
    parts, group = np.zeros(len(halos), np.int8), halos.group
    there = np.ones(len(halos), bool)
    if project.split.by == "region":
        parts, group, there = regions.deal_regions(halos.position, box, _gap(project, sizes, a), project.split)
    counts = np.zeros(len(halos), np.int64)
    counts[there] = views_per_halo(halos.mass_200m[there], halos.halo_id[there], project.views)
    seen = np.flatnonzero(counts)
    if project.split.by != "region":
        parts[seen] = deal((halos.group if project.split.by == "group" else halos.halo_id)[seen], project.split)
    axes = np.array(sorted(AXIS_NUMBER[axis] for axis in project.views.axes))
    row = np.repeat(np.arange(len(halos)), counts * len(axes))
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts * len(axes)) * len(axes)
    index, axis = place // len(axes), axes[place % len(axes)]
    direction = directions(index, counts[row], project.views.sphere)
    out = {
        "halo_id": halos.halo_id[row],
        "mass_200m": halos.mass_200m[row],
        "radius_200m": halos.radius_200m[row] * a,
        "sightline": direction,
        "sightline_index": index,
        "axis": axis.astype(np.int8),
        "split": parts[row],
        "frame": frames(direction, axis),
        "redshift": np.full(len(row), redshift),
        "position": halos.position[row],
        "group": group[row],
        **{name: values[row] for name, values in sizes.items()},
    }
    if box is not None:
        lengths.refuse_unfitting(out, (fields.padded_width(out, project) - out["width_mpc"]) / 2, box * a)
    return out | {name: column[row] for name, column in halos.extra.items() if name not in out}


def _gap(project: Project, sizes: dict[str, np.ndarray], a: float) -> float:
    return regions.gap(project.views, sizes["width_mpc"] / a, sizes["depth_mpc"] / a)


def notes(halos: Halos, catalog: dict[str, np.ndarray], project: Project, redshift: float, box: float, background: Background) -> list[str]:
    """Lines for the plan and the run: radii that were computed, what the split leaves out or tears apart, what is in each part, and
    fields that depend on a choice not made.

    Args:
        catalog: as `catalogue` made it of the others.
    """
    lines = lengths.computed_radii(halos, project)
    if project.split.by == "region":
        gap, blocks = _gap(project, lengths.columns(halos, project, redshift, background), 1 / (1 + redshift)), project.split.blocks
        lost = int((~regions.deal_regions(halos.position, box, gap, project.split)[2]).sum())
        where = f"in the gaps of {gap:.4g} comoving Mpc between parts; {blocks}^3 blocks of {box / blocks:.4g}"
        lines.append(f"{lost} of {len(halos)} halos are left out {where}")
    elif project.split.by == "halo":
        both = np.unique(np.stack([catalog["group"], catalog["split"]]), axis=1)
        if torn := both.shape[1] - len(np.unique(both[0])):
            lines.append(f"{torn} groups of halos have members in several parts; split.by: group keeps them together")
    return [*lines, *regions.report(catalog, box), *fields.notes(project)]
