"""The stage itself: what it will do, and doing it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml

from hpcdiff import maps
from hpcdiff.config import Config
from hpcdiff.cosmology import Background
from hpcdiff.errors import Stopped, UserError
from hpcdiff.launch import provenance
from hpcdiff.project import fields
from hpcdiff.project.exchange import Reach, Share, exchange, read_share
from hpcdiff.project.image import deposit
from hpcdiff.project.views import catalogue, length_mpc
from hpcdiff.snapshot import Halos, Snapshot, open_snapshot, read_halos, snapshot_paths
from hpcdiff.strict import refuse_difference, to_yaml
from hpcdiff.world import World, threads_per_rank


def outputs(config: Config) -> list[Path]:
    """What this stage writes below run.dir."""
    return [config.dir / name for name in ("maps.h5", "maps.h5.partial", "maps.h5.partial.tmp")]


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
    fields.kinds_for(config.project.fields, snapshot)
    return snapshot, read_halos(halos, snapshot.background, snapshot.box)


def _inputs_exist(config: Config, halos: bool = True) -> bool:
    where, halo_path = inputs_of(config)
    try:
        snapshot_paths(where)
    except UserError:
        return False
    return halo_path.exists() or not halos


def plan(config: Config) -> list[str]:
    """Lines for --dry-run: views, bytes, particles, or which input is not there yet."""
    _refuse_unbuilt(config)
    project = config.project
    for key in ("width", "depth"):
        length_mpc(getattr(project, key), np.ones(1), key)
    where, halo_path = inputs_of(config)
    if not _inputs_exist(config, halos=False):
        return [*_estimate(config), f"the snapshot {where} is not there yet"]
    if not halo_path.exists():
        return [*_estimate(config), f"the halo catalogue {halo_path} is not there yet"]
    snapshot, halos = open_inputs(config)
    catalog = catalogue(halos, project, snapshot.redshift, snapshot.box)
    n, parts = len(catalog["halo_id"]), np.bincount(catalog["split"], minlength=3)
    kinds = fields.kinds_for(project.fields, snapshot)
    return [
        f"snapshot: {len(snapshot.paths)} file(s), box {snapshot.box:.6g} comoving Mpc, z = {snapshot.redshift:.4g}, "
        + ", ".join(f"{snapshot.count(kind)} {kind}" for kind in kinds),
        f"halos: {len(np.unique(catalog['halo_id']))} of {len(halos)}; views: {n} (train {parts[0]}, val {parts[1]}, test {parts[2]})",
        f"maps.h5: {len(project.fields)} fields of {project.npix}^2 pixels, {_size(n, config)}",
    ]


def _estimate(config: Config) -> list[str]:
    views = config.project.views
    if views.mode == "flat_mass":
        low, high = np.log10(config.simulate.mass_range)
        n = int(views.per_dex * (high - low))
        return [f"views: at most {views.per_dex} a dex, {n} over simulate.mass_range; maps.h5: at most {_size(n, config)}"]
    each = views.sightlines * len(views.axes)
    return [f"views: {each} a halo; maps.h5: {_size(each, config)} a halo"]


def _size(n: int, config: Config) -> str:
    return f"{n * config.project.npix**2 * 4 * len(config.project.fields) / 2**20:.1f} MiB"


def _refuse_unbuilt(config: Config) -> None:
    project = config.project
    if project.method == "mesh":
        raise UserError("project.method = mesh is not built yet", "config", "use exact")
    if project.split.by == "region":
        raise UserError("project.split.by = region is not built yet", "config", "use halo or group")
    for name in fields.NOT_BUILT:
        if name in project.fields:
            raise UserError(f"the field {name!r} is not built yet", "project.fields", "leave it out")


def work(config: Config, world: World) -> str:
    """Project every view that is not there yet; returns a line about what was done."""
    _refuse_unbuilt(config)
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
    project = config.project
    if final.exists():
        stored = maps.MapFile(final).attributes
        if not {"config", "inputs"} <= set(stored):
            return f"{final} is finished already (another program made it, so its config and inputs are not compared)"
        old = yaml.safe_load(stored["config"])
        refuse_difference({"project": old.get("project")}, config.resolved("project"), final, "project")
        try:
            snapshot, halos = open_inputs(config)
        except UserError:
            if _inputs_exist(config):
                raise
            return f"{final} is finished already (its snapshot or halo catalogue is gone, so they are not compared)"
    else:
        snapshot, halos = open_inputs(config)
    catalog = catalogue(halos, project, snapshot.redshift, snapshot.box)
    kinds = fields.kinds_for(project.fields, snapshot)
    sections = {"project": config.resolved("project")["project"], "cosmology": vars(snapshot.background)}
    inputs = json.dumps({"halos": halos.fingerprint(), "snapshot": snapshot.fingerprint(kinds)}, sort_keys=True)
    if final.exists():
        refuse_difference(old, sections, final, "project")
        if stored.get("inputs") != inputs:
            refuse_difference({"inputs": json.loads(stored["inputs"])}, {"inputs": json.loads(inputs)}, final, "project")
        return f"{final} is finished already, {len(catalog['halo_id'])} views; nothing to do"
    attributes = {**vars(snapshot.background), "redshift": snapshot.redshift, "box_mpc": snapshot.box}
    width, depth = (_shared(catalog[f"{key}_mpc"]) for key in ("width", "depth"))
    if width is not None:
        attributes.update(width_mpc=width, pixel_mpc=width / project.npix)
    if depth is not None:
        attributes["depth_mpc"] = depth
    attributes.update(config=to_yaml(sections), inputs=inputs)
    attributes["provenance"] = provenance(world, inputs=json.loads(inputs), simulation_engine=_engine_of(snapshot))
    return snapshot, catalog, attributes


def _shared(values: np.ndarray) -> float | None:
    return float(values[0]) if np.all(values == values[0]) else None


def _project(config: Config, world: World, snapshot: Snapshot, catalog: dict, attributes: dict, final: Path) -> str:
    project, n_threads = config.project, threads_per_rank(world)
    about = fields.attributes(project, snapshot.background, snapshot.redshift, attributes.get("depth_mpc"))
    writer = maps.MapWriter(final, world, catalog, about, project.npix, attributes)
    try:
        ids, first, n_views = np.unique(catalog["halo_id"], return_index=True, return_counts=True)
        todo = np.array([not writer.done[a : a + n].all() for a, n in zip(first, n_views, strict=True)])
        first, n_views = first[todo], n_views[todo]
        if len(first):
            _project_halos(config, world, snapshot, catalog, writer, first, n_views, n_threads)
    except (UserError, Stopped):  # every rank raises these together; closing is collective
        writer.close()
        raise
    writer.finish()
    old = f", {(~todo).sum()} of them from before" if not todo.all() else ""
    return f"{len(catalog['halo_id'])} views of {len(ids)} halos{old} in {final}"


def _engine_of(snapshot: Snapshot) -> str:
    """What made the snapshot: the embedded simulation's engine, the run's label, or unknown."""
    with maps.open_hdf5(snapshot.paths[0], "snapshot") as f:
        if f.attrs.get("format") == "hpcdiff-snapshot":
            return yaml.safe_load(f.attrs.get("config", "{}")).get("simulate", {}).get("engine", "hpcdiff")
        return str(np.ravel(f["Header"].attrs.get("RunLabel", "unknown"))[0])


def _project_halos(
    config: Config,
    world: World,
    snapshot: Snapshot,
    catalog: dict,
    writer: maps.MapWriter,
    first: np.ndarray,
    n_views: np.ndarray,
    threads: int,
) -> None:
    """Read the particles, then in each round every rank projects one halo; the costliest halos come first, so that the
    halos of a round cost about the same."""
    project = config.project
    kinds = fields.kinds_for(project.fields, snapshot)
    reach = _reach(snapshot, catalog, first, n_views)
    shares: dict[str, Share] = {}
    mine = sum(snapshot.count(k) * (world.rank + 1) // world.size - snapshot.count(k) * world.rank // world.size for k in kinds)
    with world.progress(mine, "particles") as bar:
        for kind in kinds:
            shares[kind] = read_share(snapshot, kind, reach, project, world, threads, bar)
    cost = np.sum(world.allgather(_cost(shares, reach, project.npix).tolist()), axis=0) * n_views
    order = np.argsort(-cost, kind="stable")
    with world.progress(int(n_views.sum()), "views") as bar:
        for start in range(0, len(order), world.size):
            turn = order[start : start + world.size]
            wanted = [int(turn[r]) if r < len(turn) else None for r in range(world.size)]
            tables = {kind: exchange(shares[kind], wanted, world) for kind in kinds}
            block, row = None, 0
            if (halo := wanted[world.rank]) is not None:
                row = int(first[halo])
                rows = np.arange(row, row + n_views[halo])
                block = _maps_of_halo(tables, project, snapshot, catalog, rows, threads)
            writer.write(row, block)
            bar.update(int(n_views[turn].sum()))
            if world.stop_agreed() and start + world.size < len(order):
                raise Stopped("maps so far are kept; run the same command again")


def _reach(snapshot: Snapshot, catalog: dict, first: np.ndarray, n_views: np.ndarray) -> Reach:
    comoving = 1 / snapshot.scale_factor
    width, depth = (catalog[f"{key}_mpc"][first] * comoving / 2 for key in ("width", "depth"))
    rows = np.concatenate([np.arange(a, a + n) for a, n in zip(first, n_views, strict=True)])
    unrotated = bool((catalog["sightline"][rows] == [0, 0, 1]).all())
    return Reach(catalog["position"][first], width, depth, unrotated)


def _cost(shares: dict[str, Share], reach: Reach, npix: int) -> np.ndarray:
    """Estimated work for one view of each halo, by this rank's particles: pixels under the kernels and a little each."""
    cost = np.zeros(len(reach.position))
    for share in shares.values():
        pixel = 2 * reach.half_width / npix
        for halo in range(len(cost)):
            h = share.table[share.members[share.starts[halo] : share.starts[halo + 1]], 4]
            cost[halo] += 4 * len(h) + np.minimum((2 * h / pixel[halo] + 1) ** 2, npix**2).sum()
    return cost


def _maps_of_halo(
    tables: dict[str, np.ndarray], project, snapshot: Snapshot, catalog: dict, rows: np.ndarray, threads: int
) -> dict[str, np.ndarray]:
    """All views of one halo: {field: float32 (len(rows), npix, npix)}."""
    out = {field: np.zeros((len(rows), project.npix, project.npix), np.float32) for field in project.fields}
    a, box = snapshot.scale_factor, snapshot.box
    weight_of = {"sz": "y", "compton_y": "y", "xray": "xray"}
    for kind, table in tables.items():
        offset = table[:, 1:4] - catalog["position"][rows[0]]
        offset = (offset - box * np.rint(offset / box)) * a  # nearest image, physical Mpc
        h, carried = table[:, 4] * a, table[:, 5:]
        names = fields.carried(project.fields, kind)
        for k, row in enumerate(rows):
            seen = offset @ catalog["frame"][row].T
            width, depth = catalog["width_mpc"][row], catalog["depth_mpc"][row]
            inside = (abs(seen[:, 2]) < depth / 2) & (abs(seen[:, :2]).max(axis=1, initial=0) < width / 2 + h)
            image = deposit(seen[inside], h[inside], carried[inside], project.npix, width, threads=threads)
            for field in project.fields:
                if field in fields.FIELDS_OF[kind]:
                    divisor = fields.scale(field, snapshot.background, snapshot.redshift, depth)
                    out[field][k] += image[names.index(weight_of.get(field, "mass"))] / np.float32(divisor)
    return out
