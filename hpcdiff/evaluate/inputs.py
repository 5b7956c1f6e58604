"""What is evaluated: the samples and the map file, checked against each other before any work."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np

from hpcdiff.errors import UserError
from hpcdiff.evaluate.blocks import in_blocks
from hpcdiff.maps import PARTS, MapFile, has_format, interpreting, open_hdf5, refuse_hollow
from hpcdiff.observe import ObservedMaps
from hpcdiff.plain import NotPlain, read_json, read_yaml
from hpcdiff.samples import FORMAT, VERSION, find_shards, verify_shard
from hpcdiff.scout import go_ahead
from hpcdiff.versions import refuse_version
from hpcdiff.world import World


class Samples:
    """A finished samples file, opened for each read; its shards, if it has some, are all there.

    Attributes:
        path, shards (list), fields (list), views (int64 (M,), rows of the map file), count (samples a view), npix, attributes (root),
        inputs ({name: fingerprint}, empty if the file has none), control (text or None).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists() and (shards := path.with_name("samples.partial")).exists():
            raise UserError("sampling is not finished", shards, "run sample again")
        with interpreting(path, "samples file"), open_hdf5(path, "samples file") as f:
            if not has_format(f, FORMAT):
                raise UserError("not a samples file", path, f"its root attribute `format` should be {FORMAT!r}")
            refuse_version("samples file", f.attrs.get("version"), VERSION, path, "sample --overwrite")
            said = {k: v.item() if isinstance(v, np.generic) else v for k, v in f.attrs.items()}
            self.attributes = {k: v for k, v in said.items() if isinstance(v, (str, int)) or (isinstance(v, float) and math.isfinite(v))}
            for data in (f["catalog/view"], *f["samples"].values()):
                refuse_hollow(data, path)
            if f["catalog/view"].ndim != 1 or f["catalog/view"].dtype.kind not in "iu":
                raise UserError("/catalog/view is no list of row numbers", path, "run sample again")
            self.views = f["catalog/view"][:].astype(np.int64)
            self.fields = sorted(f["samples"])
            if odd := [name for name in self.fields if f["samples"][name].dtype.kind != "f"]:
                raise UserError(f"/samples/{odd[0]} is {f['samples'][odd[0]].dtype}, not float32", path, "run sample again")
            shapes = {name: f["samples"][name].shape for name in self.fields}
        if not self.fields or not len(self.views):
            raise UserError("the samples file holds no samples", path, "run sample again")
        shape = shapes[self.fields[0]]
        for name, other in shapes.items():
            if len(other) != 4 or other[0] != len(self.views) or other != shape or other[1] < 1 or other[2] != other[3]:
                raise UserError(
                    f"/samples/{name} has shape {other} for {len(self.views)} views", path, "it should be (views, samples, npix, npix)"
                )
        self.count, self.npix = shape[1], shape[2]
        try:
            self.inputs = read_json(str(self.attributes.get("inputs") or "{}"))
            self.config = read_yaml(str(self.attributes.get("config") or "{}")) or {}
            if not all(isinstance(part, dict) for part in (self.inputs, self.config, *self.config.values())):
                raise NotPlain("no mapping of names")
        except (NotPlain, AttributeError):
            raise UserError("its root attributes `inputs` and `config` are not JSON and YAML", path, "run sample again") from None
        self.control = self.attributes.get("control") or None
        self.shards = find_shards(path)

    def read(self, field: str, positions: np.ndarray) -> np.ndarray:
        """Samples float32 (len(positions), S, npix, npix) at neighbouring positions of the file.

        Raises:
            UserError: a value is not finite.
        """
        with open_hdf5(self.path, "samples file") as f:
            block = f["samples"][field][positions[0] : positions[-1] + 1]
        if not np.isfinite(block).all():
            bad = self.views[positions[~np.isfinite(block).all(axis=(1, 2, 3))][0]]
            raise UserError(f"/samples/{field} has values that are not finite (view {bad})", self.path, "sample --overwrite")
        return block

    def against(self, maps: MapFile) -> None:
        """Raise a UserError if these are not samples of `maps`."""
        made_from = self.inputs.get("maps")
        if made_from is not None and made_from != maps.fingerprint:
            raise UserError(
                f"the samples were made from another map file (fingerprint {made_from}, not {maps.fingerprint})",
                self.path,
                f"sample --overwrite, or name their map file in run.maps instead of {maps.path}",
            )
        maps.require(self.fields, "the samples file")
        outside = self.views[(self.views < 0) | (self.views >= maps.n_views)]
        if len(outside):
            raise UserError(f"view {outside[0]} is outside the map file ({maps.n_views} views)", self.path, "run sample again")
        if len(np.unique(self.views)) < len(self.views):
            raise UserError("a view stands twice in /catalog/view", self.path, "run sample again")
        if self.npix != maps.npix:
            raise UserError(f"the samples have {self.npix} pixels a side, the maps {maps.npix}", self.path, "run sample again")

    def fingerprint(self, world: World) -> str:
        """SHA-256 over the views and samples, hexadecimal, the same with shards or without. Collective.

        Raises:
            UserError: a shard differs from its checksum; a value is not finite.
        """

        def check(block: np.ndarray) -> dict[str, np.ndarray]:
            for n in block:
                verify_shard(self.shards[n])
            return {}

        go_ahead(world, [shard.path for shard in self.shards], "shard of the samples")
        for _ in in_blocks(world, np.arange(len(self.shards)), check, " shards checked"):
            pass

        def digest(block: np.ndarray) -> dict[str, np.ndarray]:
            h = hashlib.sha256(self.views[block].astype("<i8").tobytes())
            for field in sorted(self.fields):
                h.update(field.encode() + self.read(field, block).astype("<f4", copy=False).tobytes())
            return {"digest": np.frombuffer(h.digest(), np.uint8)}

        whole = hashlib.sha256()
        for part in in_blocks(world, np.arange(len(self.views)), digest, " views checked"):
            whole.update(part["digest"].astype(np.uint8).tobytes())
        return whole.hexdigest()


def open_inputs(config) -> tuple[MapFile, Samples]:
    """The map file, its inputs as sampling saw them, and its samples, held against each other and against the config.

    Raises:
        UserError: a file is missing, damaged, foreign, or does not belong to the other.
    """
    paths = config.map_paths()
    if len(paths) != 1:
        raise UserError("evaluation reads one map file (several are not built yet)", "run.maps", "name one")
    samples = Samples(config.dir / "samples.h5")
    maps = MapFile(paths[0])
    samples.against(maps)
    if set(samples.fields) != set(config.task.outputs):
        raise UserError(
            f"the samples are of {', '.join(samples.fields)}, task.outputs names {', '.join(config.task.outputs)}",
            samples.path,
            "evaluate with the config that sampled",
        )
    maps.require(config.task.inputs, "task.inputs")
    if maps.npix < 4:
        raise UserError(f"maps of {maps.npix} pixels a side hold no scale to measure", maps.path, "project with project.npix=32 or more")
    samples.fields = list(config.task.outputs)
    observed = samples.config.get("observe", config.resolved("observe")["observe"])
    seed = samples.config.get("run", {}).get("seed", config.run.seed)
    if config.evaluate.regression:
        rival = Samples(Path(config.evaluate.regression))
        if rival.config.get("observe", observed) != observed:
            raise UserError(
                "the regression saw its inputs otherwise observed than the samples did", rival.path, "give both the same `observe`"
            )
    return ObservedMaps(maps, observed, config.task.inputs, seed), samples


def cosmology(maps: MapFile, config) -> tuple[float, float, float]:
    """h, Om0 and Ob0 of the maps: the file's own, else the config's."""
    return tuple(float(maps.attributes.get(name, getattr(config.cosmology, name))) for name in ("h", "Om0", "Ob0"))


def depth_of(catalog: dict[str, np.ndarray], field: str) -> np.ndarray:
    """Depth in Mpc of each view's map of a field: its own (`project.depth.<field>`), else that of all."""
    return catalog.get(f"depth_{field}_mpc", catalog["depth_mpc"])


def engine_of(maps: MapFile) -> str | None:
    """What made the simulation, from the map file's provenance; None where it does not say."""
    names = (str(maps.provenance.get(key) or "") for key in ("simulation_engine", "engine", "simulation"))
    return next((name for name in names if name not in ("", "unknown")), None)


def parts_of(maps: MapFile, rows: np.ndarray) -> str:
    """The parts of the split that `rows` lie in, as a text."""
    return ", ".join(PARTS[p] for p in np.unique(maps.catalog["split"][rows]))
