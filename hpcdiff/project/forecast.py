"""What a run will read, make and take, from headers and the halo catalogue alone."""

from __future__ import annotations

import os

import numpy as np

from hpcdiff.cosmology import Background
from hpcdiff.project import fields
from hpcdiff.project.balance import RATES, Budget, Load, make_plan, size_text, time_text
from hpcdiff.project.render import HaloMaps
from hpcdiff.project.source import FOUND_BYTES
from hpcdiff.sections import Project
from hpcdiff.snapshot import Snapshot
from hpcdiff.snapshot.domains import grid_side
from hpcdiff.snapshot.nearest import NEIGHBOURS, PARTICLE_BYTES

OUTSKIRTS = 1.5
"""Mass about a halo that its views see beyond the mean density, in units of its M200m."""
COST = 120.0
"""Expected `image.deposit_cost` of a particle, where nothing is known of its size."""
COLUMNS = {"gas": 9, "dm": 5, "star": 5, "bh": 5}
"""Numbers that are read of a particle, about."""

NEIGHBOUR_SECONDS = 1.06e-5
"""Of one core, to find a particle's neighbours (measured)."""
SHELL = 4
"""Cells of the search's grid around a domain that hold its neighbours."""
POSITION_ROOM = 32
"""Bytes of a particle that the search keeps rather than read again, where a quarter of the memory holds them."""


def ranks_of_launcher() -> int:
    """The number of ranks that an MPI launcher or Slurm has started, 1 without one."""
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return 1


def expected_rows(
    catalog: dict[str, np.ndarray], first: np.ndarray, count: int, background: Background, project: Project, box: float
) -> np.ndarray:
    """Particles of one kind that each halo sees, float64 (n,): the mean density over what its views cover, and the halo itself.

    Args:
        catalog: columns by view.
        first: int64 (n,), one view of each halo.
        count: particles of the kind in the box; it is taken to follow the mass.
        box: side, comoving Mpc.
    """
    view = {name: column[first] for name, column in catalog.items()}
    comoving = 1 + view["redshift"]
    wide, deep = fields.padded_width(view, project) * comoving, view["depth_mpc"] * comoving
    volume = np.minimum(np.maximum(2 * wide**2 * deep, np.pi / 6 * wide**3), box**3)  # cylinders about cuboids, turned
    halo = OUTSKIRTS * view["mass_200m"] * np.minimum(1.0, np.minimum(wide, deep) / (2 * view["radius_200m"] * comoving))
    return count * np.minimum(1.0, volume / box**3 + halo / (background.rho_mean(0.0) * box**3))


def forecast(snapshot: Snapshot, catalog: dict[str, np.ndarray], project: Project, ranks: int) -> list[str]:
    """Lines for --dry-run: particles expected in the views, bytes to read, passes, seconds."""
    kinds = fields.kinds_for(project.fields, snapshot)
    _, first, views = np.unique(catalog["halo_id"], return_index=True, return_counts=True)
    total = sum(snapshot.count(kind) for kind in kinds)
    seen = {kind: expected_rows(catalog, first, snapshot.count(kind), snapshot.background, project, snapshot.box) for kind in kinds}
    rows = sum(seen.values())
    size = sum(n * (8 * (5 + len(fields.carried(project.fields, kind))) + FOUND_BYTES) for kind, n in seen.items())
    side = project.npix * project.oversample
    seconds = (RATES.deposit * COST + RATES.seen) * rows + RATES.pixel * side**2 * len(project.fields)
    canvas = HaloMaps.view_bytes(project, {name: column[first] for name, column in catalog.items()}, seen).astype(np.int64)
    step = np.full(len(views), len(project.views.axes))
    load = Load(views, step, rows.astype(np.int64), size.astype(np.int64), seconds, canvas, 4 * project.npix**2 * len(project.fields))
    plan = make_plan(load, ranks, Budget.of(project.memory_gb))
    reading = RATES.read * total / ranks
    searching, searches = neighbour_search(snapshot, kinds, project.memory_gb, ranks)
    read = sum(snapshot.count(kind) * COLUMNS[kind] for kind in kinds) * 4
    return [
        f"particles: {_count(total)} to read (some {size_text(read)}), {_count(rows.sum())} expected in the halos' views "
        f"(mean density over their volume, and {OUTSKIRTS} M200m a halo)",
        *searches,
        f"plan: {plan.describe()}",
        f"forecast: {time_text(searching) + ' to find neighbours, ' if searches else ''}{time_text(reading)} to read and "
        f"{time_text(plan.wall)} to project on {ranks} rank{'s' if ranks > 1 else ''} "
        f"of one thread (a fast disk; the real run says how it compares), {(searching + reading + plan.wall) / max(read / 1e12, 1e-12):.3g} s a TB",
    ]


def neighbour_search(snapshot: Snapshot, kinds: list[str], memory_gb: float, ranks: int) -> tuple[float, list[str]]:
    """Seconds to find the support radii that the snapshot lacks, and a line for each such kind.

    A rank holds a part of the box in each turn; positions are read again in every turn, unless there is room to keep them.
    """
    seconds, lines = 0.0, []
    for kind in (k for k in kinds if not snapshot.has_h[k]):
        n = snapshot.count(kind)
        turns = _turns(n, 0.6e9 * memory_gb / PARTICLE_BYTES, ranks)
        reads = 1 if POSITION_ROOM * (n // ranks + 1) < memory_gb * 1e9 / 4 else 1 + turns
        took = (NEIGHBOUR_SECONDS + RATES.read * reads) * n / ranks
        seconds += took
        lines.append(
            f"smoothing lengths of {kind}: none in the snapshot; the {NEIGHBOURS}th neighbours of {_count(n)} particles take "
            f"{time_text(took)} in about {turns} turn{'s' * (turns > 1)}, positions read {reads} time{'s' * (reads > 1)} "
            "(once; the next run finds them beside the maps)"
        )
    return seconds, lines


def _turns(n: int, room: float, ranks: int) -> int:
    """Domains of evenly spread particles that each rank searches, with what lies around them within `room` particles."""
    cells = grid_side(n) ** 3
    margin = SHELL * np.cbrt(n / cells)  # in mean distances of particles
    domain = n / ranks / np.ceil(3 * n / ranks / room)
    while domain > n / cells and min(n, (np.cbrt(domain) + 2 * margin) ** 3) > room:
        domain /= 2
    return max(1, int(np.ceil(n / ranks / domain)))


def _count(n: float) -> str:
    return f"{n:.0f}" if n < 1e6 else f"{n:.3g}"
