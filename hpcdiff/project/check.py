"""`--check`: what was found in the snapshot and the halo catalogue, and what one halo looks like; nothing is written."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from importlib import metadata

import h5py
import numpy as np

from hpcdiff.config import Config
from hpcdiff.cosmology import MPC_CM, MSUN_G
from hpcdiff.maps import UNITS, open_hdf5
from hpcdiff.project.forecast import forecast, ranks_of_launcher
from hpcdiff.project.look import Look
from hpcdiff.project.render import HaloMaps
from hpcdiff.project.sanity import ASTRAY, verdict
from hpcdiff.project.stage import beyond_cells, inputs_of, open_inputs, views_of
from hpcdiff.project.views import notes
from hpcdiff.snapshot import KINDS, Halos, Snapshot
from hpcdiff.snapshot.particles import BASES
from hpcdiff.snapshot.units import ATTRIBUTES, number, unit_of
from hpcdiff.world import World, threads_per_rank, under_mpi

SHOWN = {
    "mass": ("mass", "Msun", MSUN_G),
    "support": ("length", "comoving Mpc", MPC_CM),
    "density": ("density", "g/cm^3", 1.0),
    "energy": ("energy", "(km/s)^2", 1e10),
    "temperature": ("temperature", "K", 1.0),
    "electron_density": ("number_density", "1/cm^3", 1.0),
}
"""Quantities whose conversion is shown: their unit, and the CGS value of the unit in which it is shown."""
FEW = 500
"""Particles inside R200m of a halo below which its map is little more than noise."""


def check(config: Config) -> Iterator[str]:
    """Lines about the inputs, as they are found; the last one is the verdict.

    Raises:
        UserError: what a run would refuse, and a catalogue that does not fit the particles.
    """
    snapshot, halos = open_inputs(config)
    yield from snapshot.describe()
    yield from conversions(snapshot)
    yield cosmology(config, snapshot)
    yield from libraries()
    yield from _catalogue(config, halos)
    catalog = views_of(snapshot, halos, config.project)
    yield from beyond_cells(snapshot, catalog, config.project)
    yield from _totals(config, snapshot, halos, catalog)
    world = World()
    threads = threads_per_rank(world)
    look = Look(config, snapshot, halos, catalog, threads)
    look.read(world)
    yield from _one_halo(look)
    for kind in look.kinds:
        yield from _particles(look, kind)
    if not look.sampled:
        yield from _maps(look, threads)
    yield from _masses(look)
    said = verdict(look.ratios, snapshot.background.h, look.kinds, inputs_of(config)[1])
    yield f"verdict: {'; '.join([said or _fits(look), *_warnings(look)])}"


def conversions(snapshot: Snapshot) -> Iterator[str]:
    """What a stored number of each dataset is multiplied by, kind by kind, and where that comes from."""
    a, h = snapshot.scale_factor, snapshot.background.h
    for kind, columns in snapshot.columns.items():
        path = next((p for p, n in zip(snapshot.paths, snapshot.counts[kind], strict=True) if n), None)
        if path is None:
            continue
        with open_hdf5(path, "snapshot") as f:
            group, said = f[f"PartType{KINDS[kind]}"], []
            for quantity, name, (of, unit, cgs) in (
                ("", "Coordinates", ("length", "comoving Mpc", MPC_CM)),
                *((q, columns[q].name, SHOWN[q]) for q in SHOWN if q in columns),
            ):
                attributes = group[name].attrs
                factor = unit_of(attributes, snapshot.units[of], BASES[of]).physical(a, h) / cgs
                factor /= a if "comoving" in unit else 1.0
                factor *= snapshot.gamma if quantity == "support" else 1.0
                own = any(number(attributes, names[0]) for names in ATTRIBUTES)
                said.append(f"{name} x {factor:.6g} = {unit}{'' if own else ' *'}")
        star = " (* no attributes: the code's units)" if any(s.endswith("*") for s in said) else ""
        yield f"units of {kind}: {', '.join(said)}{star}"


def cosmology(config: Config, snapshot: Snapshot) -> str:
    """The cosmology that is used, and where each number comes from."""
    said = []
    for key, value in vars(snapshot.background).items():
        source = "snapshot" if key in snapshot.cosmology else "config" if f"cosmology.{key}" in config.given else "default"
        said.append(f"{key} {value:.6g} ({source})")
    return f"cosmology: {', '.join(said)}"


def libraries() -> Iterator[str]:
    """HDF5 and MPI: versions, and whether several ranks could write."""
    parallel = "parallel" if h5py.get_config().mpi else "not parallel: one rank can write, several cannot (bash jobs/env.sh)"
    yield f"HDF5 {h5py.version.hdf5_version}, h5py {h5py.version.version}, {parallel}"
    if importlib.util.find_spec("mpi4py") is None:
        yield "MPI: mpi4py is not there; one process works"
        return
    version = metadata.version("mpi4py")
    if not under_mpi():  # importing mpi4py.MPI would call MPI_Init
        yield f"MPI: mpi4py {version}; no MPI launcher started this process"
        return
    import mpi4py

    mpi4py.rc.initialize = False  # the version can be asked for without joining the other ranks
    from mpi4py import MPI

    library = " ".join(MPI.Get_library_version().split("\n")[0].replace("\0", " ").split())
    yield f"MPI: {library}, mpi4py {version}, {ranks_of_launcher()} rank(s)"


def _catalogue(config: Config, halos: Halos) -> Iterator[str]:
    mass = np.log10(halos.mass_200m)
    of_catalogue = [name for name in halos.radii if name != "R200m"]
    radii = f", {' and '.join(of_catalogue)} its own" if of_catalogue else ""
    members = f", members of {', '.join(halos.members)}" if halos.members else ""
    extra = f", also {', '.join(sorted(halos.extra))}" if halos.extra else ""
    yield (
        f"halo catalogue: {halos.source}, {inputs_of(config)[1]}: {len(halos)} halos, log M200m/Msun {mass.min():.2f} to "
        f"{mass.max():.2f} (median {np.median(mass):.2f}){radii}{members}{extra}"
    )
    yield from halos.dropped


def _totals(config: Config, snapshot: Snapshot, halos: Halos, catalog: dict) -> Iterator[str]:
    project, n = config.project, len(catalog["halo_id"])
    size = n * project.npix**2 * 4 * len(project.fields)
    yield f"views: {n} of {len(np.unique(catalog['halo_id']))} halos, {len(project.fields)} fields of {project.npix}^2: {size / 1e9:.4g} GB"
    yield from notes(halos, catalog, project, snapshot.redshift, snapshot.box, snapshot.background)
    yield from forecast(snapshot, catalog, project, ranks_of_launcher())


def _one_halo(look: Look) -> Iterator[str]:
    k, row, catalog = look.halo[0], look.first[0], look.catalog
    where = ", ".join(f"{x:.4f}" for x in look.position[0])
    yield (
        f"halo {look.halos.halo_id[k]}, the most massive: M200m {look.halos.mass_200m[k]:.5g} Msun, R200m {look.radius[0]:.4g} comoving Mpc "
        f"= {catalog['radius_200m'][row]:.4g} physical, at ({where}) comoving Mpc"
    )
    width, depth = catalog["width_mpc"][row], catalog["depth_mpc"][row]
    pixel = width / look.config.project.npix
    yield (
        f"its maps: {look.last[0] - row} views, {width:.5g} x {width:.5g} x {depth:.5g} physical Mpc, pixel {1e3 * pixel:.4g} kpc "
        f"(comoving, at z = {look.snapshot.redshift:.4g}: {width / look.snapshot.scale_factor:.5g} Mpc)"
    )
    if look.members_only:
        yield "the snapshot is large and has no index of its own: only members of the halos were read"
    for kind, part in look.sampled.items():
        yield f"{kind}: many rows and no index of them: {part:.3g} of them were read, in blocks spread evenly; the numbers below are of these"
    if look.member is not None:
        few = int((look.members == 0).sum())
        yield (
            f"members of {len(look.members)} halos: {look.members.sum()} particles, {look.near.sum()} within {ASTRAY:g} R200m of the centres"
            + (f"; {few} of these halos have none (first: halo {look.halos.halo_id[look.halo[np.argmin(look.members)]]})" if few else "")
        )


def _particles(look: Look, kind: str) -> Iterator[str]:
    p, n = look.particles[kind], int(look.within[kind][0])
    inside = look.in_view(kind)
    yield (
        f"{kind}: {look.counts[kind]} in the box, {int(inside.sum())} in the halo's first view, {n} inside R200m, "
        f"{look.mass_within[kind][0]:.4g} Msun"
    )
    if not inside.any():
        return
    pixel = look.catalog["width_mpc"][look.first[0]] / (look.config.project.npix * look.config.project.oversample)
    size = p.h[inside] * look.snapshot.scale_factor / pixel
    small = size < 1
    source = "" if look.own_h[kind] else " (estimated among these alone; a run computes them in the whole box)"
    yield (
        f"{kind}: support radius {_range(size)} pixels{source}; smaller than a pixel: {small.mean():.1%} of them, "
        f"{p.mass[inside][small].sum() / p.mass[inside].sum():.1%} of the mass"
    )
    for name, unit in (("density", "g/cm^3"), ("temperature", "K"), ("electrons", "electrons a proton mass"), ("metallicity", "metals")):
        values = getattr(p, name)
        if values is not None:
            yield f"{kind}: {name} {_range(values[inside])} {unit if name != 'metallicity' else 'mass fraction'}"
    if p.star_forming is not None:
        yield f"{kind}: {p.star_forming[inside].mean():.2%} forms stars or is wind"
    yield f"{kind}: {'no id is there twice' if p.ids is not None else 'the snapshot has no ids'}"


def _range(values: np.ndarray) -> str:
    low, median, high = np.percentile(values, [0, 50, 100])
    return f"{low:.3g} in all" if low == high else f"{low:.3g} to {high:.3g} (median {median:.3g})"


def _maps(look: Look, threads: int) -> Iterator[str]:
    snapshot, row = look.snapshot, look.first[0]
    view = {name: column[row : row + 1] for name, column in look.catalog.items()}
    maps = HaloMaps(look.config.project, snapshot.background, snapshot.redshift, snapshot.box, view, threads)
    for kind in look.kinds:
        if (table := look.table(kind)) is not None:
            maps.add(kind, table)
    for field, values in maps.finish().items():
        unit = "" if UNITS[field] == "dimensionless" else f" {UNITS[field]}"
        yield f"map {field}: mean {values.mean(dtype=np.float64):.4g}{unit}, largest {values.max():.4g}{unit}"


def _masses(look: Look) -> Iterator[str]:
    own, known = float(look.ratios[0]), look.ratios[np.isfinite(look.ratios)]
    whole = sum(look.mass_of_box.values())
    if np.isfinite(whole):
        mean = whole / (look.snapshot.background.rho_mean(0.0) * look.snapshot.box**3)
        yield f"all particles of the box weigh {mean:.4g} of the cosmic mean"
    if look.sampled:
        yield "from a sample neither maps nor masses of halos can be told"
        return
    inside = sum(look.mass_within[kind][0] for kind in look.kinds)
    parts = f"the particles inside its R200m weigh {inside:.4g} Msun, {inside / look.halos.mass_200m[look.halo[0]]:.3g} of its M200m"
    if len(known):
        spread = f"; their own M200m over the catalogue's: {_number(own)} there, {_range(known)} over {len(known)} halos"
    else:
        spread = "; R200m is wider than the maps, so no M200m can be measured"
    yield parts + spread


def _number(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "unknown"


def _fits(look: Look) -> str:
    if not {"gas", "dm"} <= set(look.kinds):
        many = [kind for kind in look.runs if kind not in look.kinds]
        why = f"{' and '.join(many)} would be many rows to read" if many else f"the snapshot has {' and '.join(look.kinds)} alone"
        return f"{why}, so the halo catalogue's masses cannot be compared"
    if look.sampled:
        return "of a sample of the rows nothing is odd; the halo catalogue's masses cannot be compared with it"
    if not np.isfinite(look.ratios).any():
        return "the maps are too narrow to measure M200m in them, so the halo catalogue's masses cannot be compared"
    return "the halo catalogue fits the particles"


def _warnings(look: Look) -> Iterator[str]:
    whole = sum(look.mass_of_box.values()) / (look.snapshot.background.rho_mean(0.0) * look.snapshot.box**3)
    if {"gas", "dm"} <= set(look.kinds) and np.isfinite(whole) and abs(whole - 1) > 0.05:
        yield f"the box weighs {whole:.3g} of the cosmic mean: a part of a box, or other units?"
    inside = sum(look.within.values())
    if inside.min() < FEW and not look.sampled:
        yield f"coarse: halo {look.halos.halo_id[look.halo[np.argmin(inside)]]} has {inside.min()} particles inside R200m"
    if ranks_of_launcher() > 1 and not h5py.get_config().mpi:
        yield "h5py has no parallel HDF5, so these ranks cannot write"
