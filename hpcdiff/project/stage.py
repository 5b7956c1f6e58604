"""The stage itself: what it will do, and doing it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from hpcdiff import maps
from hpcdiff.config import Config
from hpcdiff.cosmology import Background
from hpcdiff.errors import Stopped, UserError
from hpcdiff.launch import provenance
from hpcdiff.plain import read_json
from hpcdiff.project import fields
from hpcdiff.project.forecast import forecast, ranks_of_launcher
from hpcdiff.project.lengths import check_lengths
from hpcdiff.project.members import members_of
from hpcdiff.project.passes import SMOOTHING, Projection
from hpcdiff.project.views import catalogue, notes, views_per_halo
from hpcdiff.sections import Project
from hpcdiff.snapshot import Halos, Snapshot, catalogue_paths, open_snapshot, read_halos, snapshot_paths, support_files
from hpcdiff.strict import refuse_difference, to_yaml
from hpcdiff.world import World, threads_per_rank

MOST_VIEWS = 10_000_000
"""Views of one map file: their catalogue stands whole in the memory of every rank, 186 bytes a view and twice that while it is made: 3.6 GB."""


def outputs(config: Config) -> list[Path]:
    """What this stage writes below run.dir."""
    maps_ = [config.dir / name for name in ("maps.h5", "maps.h5.partial", "maps.h5.partial.tmp")]
    return [*maps_, *support_files(config.dir / SMOOTHING)]


def inputs_of(config: Config) -> tuple[Path, Path]:
    """Snapshot and halo catalogue."""
    project = config.project
    return Path(project.snapshot or config.dir / "snapshot"), Path(project.halos or config.dir / "halos.hdf5")


def open_inputs(config: Config) -> tuple[Snapshot, Halos]:
    """Headers of the snapshot, and the halo catalogue.

    Raises:
        UserError: either is not there, damaged, or contradicts the config.
    """
    where, halos = inputs_of(config)
    snapshot = open_snapshot(where, Background(**vars(config.cosmology)), config.given)
    project = config.project
    fields.check_snapshot(project, snapshot)
    found = read_halos(
        halos, snapshot.background, snapshot.box, snapshot.redshift, project.catalog, snapshot, mass_range=project.mass_range
    )
    if project.particles == "members":
        members_of(found, np.arange(0), fields.kinds_for(project.fields, snapshot), snapshot, config)
    return snapshot, found


def _inputs_exist(config: Config, halos: bool = True) -> bool:
    where, halo_path = inputs_of(config)
    try:
        snapshot_paths(where)
    except UserError:
        return False
    return not halos or bool(catalogue_paths(halo_path))


def plan(config: Config) -> list[str]:
    """Lines for --dry-run: views, bytes, particles, or which input is not there yet."""
    project = config.project
    fields.check(project)
    check_lengths(project)
    where, halo_path = inputs_of(config)
    if not _inputs_exist(config, halos=False):
        return [*_estimate(config), f"the snapshot {where} is not there yet"]
    if not catalogue_paths(halo_path):
        return [*_estimate(config), f"the halo catalogue {halo_path} is not there yet"]
    snapshot, halos = open_inputs(config)
    catalog = views_of(snapshot, halos, project)
    n, parts = len(catalog["halo_id"]), np.bincount(catalog["split"], minlength=3)
    kinds = fields.kinds_for(project.fields, snapshot)
    return [
        f"snapshot: {len(snapshot.paths)} file(s), box {snapshot.box:.6g} comoving Mpc, z = {snapshot.redshift:.4g}, "
        + ", ".join(f"{snapshot.count(kind)} {kind}" for kind in kinds),
        f"halos: {len(np.unique(catalog['halo_id']))} of {len(halos)}; views: {n} (train {parts[0]}, val {parts[1]}, test {parts[2]})",
        *halos.dropped,
        *notes(halos, catalog, project, snapshot.redshift, snapshot.box, snapshot.background),
        f"maps.h5: {len(project.fields)} fields of {project.npix}^2 pixels, {_size(n, config)}",
        *forecast(snapshot, catalog, project, ranks_of_launcher()),
    ]


def _estimate(config: Config) -> list[str]:
    views = config.project.views
    if views.mode == "flat_mass":
        key, masses = ("project", config.project.mass_range) if config.project.mass_range else ("simulate", config.simulate.mass_range)
        n = int(views.per_dex * np.log10(masses[1] / masses[0]))
        return [f"views: at most {views.per_dex} a dex, {n} over {key}.mass_range; maps.h5: at most {_size(n, config)}"]
    each = views.sightlines * len(views.axes)
    return [f"views: {each} a halo; maps.h5: {_size(each, config)} a halo"]


def _size(n: int, config: Config) -> str:
    return f"{n * config.project.npix**2 * 4 * len(config.project.fields) / 2**20:.1f} MiB"


def work(config: Config, world: World) -> str:
    """Project every view that is not there yet; returns a line about what was done."""
    final = config.dir / "maps.h5"
    prepared = None
    with world.together():
        if world.main:
            prepared = _prepare(config, world, final)
    prepared = world.broadcast(prepared)
    if isinstance(prepared, str):
        return prepared
    return _project(config, world, *prepared, final)


def _prepare(config: Config, world: World, final: Path) -> str | tuple:
    """On rank 0: everything but the particles, or a line that all is done."""
    project, sections = config.project, stored_sections(config)
    if final.exists():
        stored = maps.MapFile(final).attributes
        if not {"config", "inputs"} <= set(stored):
            return f"{final} is finished already (another program made it, so its config and inputs are not compared)"
        old = maps.config_of(stored)
        refuse_difference({"project": old.get("project")}, sections, final, "project")
        try:
            snapshot, halos = open_inputs(config)
        except UserError:
            if _inputs_exist(config):
                raise
            return f"{final} is finished already (its snapshot or halo catalogue is gone, so they are not compared)"
    else:
        snapshot, halos = open_inputs(config)
    catalog = views_of(snapshot, halos, project)
    kinds = fields.kinds_for(project.fields, snapshot)
    sections["cosmology"] = vars(snapshot.background)
    made_of = {"halos": halos.fingerprint(), "snapshot": snapshot.fingerprint(kinds), **fields.fingerprints(project)}
    inputs = json.dumps(made_of, sort_keys=True)
    if final.exists():
        refuse_difference(old, sections, final, "project")
        if stored.get("inputs") != inputs:
            with maps.interpreting(final, "map file"):
                refuse_difference({"inputs": read_json(str(stored["inputs"]))}, {"inputs": json.loads(inputs)}, final, "project")
        return f"{final} is finished already, {len(catalog['halo_id'])} views; nothing to do"
    attributes = {**vars(snapshot.background), "redshift": snapshot.redshift, "box_mpc": snapshot.box}
    width, depth = (maps.shared(catalog[f"{key}_mpc"]) for key in ("width", "depth"))
    if width is not None:
        attributes.update(width_mpc=width, pixel_mpc=width / project.npix)
    if depth is not None:
        attributes["depth_mpc"] = depth
    attributes.update(config=to_yaml(sections), inputs=inputs)
    attributes["provenance"] = provenance(world, inputs=json.loads(inputs), simulation_engine=_engine_of(snapshot))
    about = notes(halos, catalog, project, snapshot.redshift, snapshot.box, snapshot.background)
    for line in [*halos.dropped, *about, *beyond_cells(snapshot, catalog, project)]:
        world.print(f"hpcdiff project: {line}")
    return snapshot, halos, catalog, attributes


def stored_sections(config: Config) -> dict:
    """The config as the map file stores it; how much memory the ranks had leaves no trace in the maps."""
    project = config.resolved("project")["project"]
    return {"project": {key: value for key, value in project.items() if key != "memory_gb"}}


def views_of(snapshot: Snapshot, halos: Halos, project: Project) -> dict[str, np.ndarray]:
    """The map file's catalogue.

    Raises:
        UserError: too many views; views that do not fit together or into the box.
    """
    n = int(views_per_halo(halos.mass_200m, halos.halo_id, project.views).sum()) * len(project.views.axes)
    if n > MOST_VIEWS:
        size = n * project.npix**2 * 4 * len(project.fields)
        what = f"{len(halos)} halos have {n} views, {size / 1e12:.3g} TB of maps, and {MOST_VIEWS} are the most"
        raise UserError(what, project.halos or "project.halos", "narrow project.mass_range, or take fewer project.views")
    catalog = catalogue(halos, project, snapshot.redshift, snapshot.box, snapshot.background)
    fields.check(project, catalog)
    return catalog


def _project(config: Config, world: World, snapshot: Snapshot, halos: Halos, catalog: dict, attributes: dict, final: Path) -> str:
    project, n_threads = config.project, threads_per_rank(world)
    about = fields.attributes(project, snapshot.background, snapshot.redshift, catalog)
    writer = maps.MapWriter(final, world, catalog, about, project.npix, attributes)
    before, report = int(writer.done.sum()), []
    try:
        if not writer.done.all():
            report = [Projection(config, world, snapshot, halos, catalog, writer, n_threads).run()]
    except (UserError, Stopped):  # every rank raises these together; closing is collective
        writer.close()
        raise
    writer.finish()
    old = f", {before} of them from before" if before else ""
    n = len(catalog["halo_id"])
    return "; ".join([f"{n} views of {len(np.unique(catalog['halo_id']))} halos{old} in {final}", *report])


def beyond_cells(snapshot: Snapshot, catalog: dict[str, np.ndarray], project: Project) -> list[str]:
    """That maps reach beyond the cells of clusters that the embedded simulation has evolved one by one, if they do."""
    with maps.interpreting(snapshot.paths[0], "snapshot"), maps.open_hdf5(snapshot.paths[0], "snapshot") as f:
        made = maps.config_of(f.attrs).get("simulate", {}) if maps.has_format(f, "hpcdiff-snapshot") else {}
    if made.get("engine") != "nbody" or made.get("box") is not None:
        return []
    sides, which = np.unique(np.stack([catalog["width_mpc"], catalog["depth_mpc"]]), axis=1, return_inverse=True)
    across = np.array([project.views.across(width, depth) * (1 + snapshot.redshift) for width, depth in sides.T])[which.ravel()]
    wide = across > made["cell"]
    if not wide.any():
        return []
    what = f"{wide.sum()} of {len(wide)} views reach up to {across.max() / 2:.3g} Mpc from their cluster, beyond its cell"
    return [
        f"{what} of {made['cell']:g} Mpc (simulate.cell): what is there belongs to other clusters; take smaller project.width and project.depth"
    ]


def _engine_of(snapshot: Snapshot) -> str:
    """What made the snapshot: the embedded simulation's engine, the run's label, or unknown."""
    with maps.interpreting(snapshot.paths[0], "snapshot"), maps.open_hdf5(snapshot.paths[0], "snapshot") as f:
        if maps.has_format(f, "hpcdiff-snapshot"):
            return str(f.attrs.get("engine") or maps.config_of(f.attrs).get("simulate", {}).get("engine", "hpcdiff"))
        return str(np.ravel(f["Header"].attrs.get("RunLabel", "unknown"))[0])
