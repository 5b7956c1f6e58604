"""The import itself: what it will do, and doing it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hpcdiff import files
from hpcdiff.errors import Busy, UserError
from hpcdiff.launch import provenance
from hpcdiff.lock import Lock
from hpcdiff.maps.imports.catalog import build_catalog
from hpcdiff.maps.imports.fits import HeaderCheck
from hpcdiff.maps.imports.images import open_images
from hpcdiff.maps.imports.spec import Import
from hpcdiff.maps.imports.table import read_table
from hpcdiff.maps.imports.units import factors
from hpcdiff.maps.layout import FORMAT, MEAN_OF, UNITS, block_rows, shared
from hpcdiff.maps.reader import MapFile, open_hdf5
from hpcdiff.maps.sound import interpreting
from hpcdiff.maps.splits import PARTS
from hpcdiff.maps.structure import config_of
from hpcdiff.maps.writer import MapWriter
from hpcdiff.plain import read_json
from hpcdiff.strict import refuse_difference, to_yaml
from hpcdiff.world import World


class Sources:
    """Everything that an import reads, checked: catalogue, images, factors.

    Attributes:
        catalog: columns of `/catalog` but the checksum, (N, ...).
        order: which image each row is, int64 (N,).
        images: {field: Stack or Single}.
        factors: {field: float64 (N,)}, by row.
        npix: pixels a side.
        notes: what could not be compared, a line each.
    """

    def __init__(self, spec: Import) -> None:
        self.spec, self.table = spec, read_table(spec.catalog, spec.columns)
        self.checks = {field: HeaderCheck(field, spec.units[field], np.nan, spec.background, 0.0) for field in spec.fields}
        self.images = {field: open_images(text, self.table, self.checks[field]) for field, text in sorted(spec.fields.items())}
        self.npix = self._npix()
        self.catalog, self.order = build_catalog(spec, self.table, self.npix)
        pixel = self.catalog["width_mpc"] / self.npix
        for field, images in self.images.items():
            check = self.checks[field]
            check.pixel_mpc, check.redshift = (shared(v, np.nan) for v in (pixel, self.catalog["redshift"]))
            images.read(np.array([0]))  # the first header against what is known now
        arguments = (spec.background, self.catalog["redshift"], pixel, self.catalog["depth_mpc"], spec.where)
        self.factors = {field: factors(field, spec.units[field], *arguments) for field in self.images}

    @property
    def notes(self) -> list[str]:
        """What the headers say that could not be compared."""
        return sorted(note for check in self.checks.values() for note in check.notes)

    def _npix(self) -> int:
        first = next(iter(self.images))
        for field, images in self.images.items():
            shape, where = images.shape, self.spec.fields[field]
            if len(shape) != 3 or shape[1] != shape[2] or shape[1] < 2:
                raise UserError(f"{field} has shape {shape}", where, "give N square images, (N, npix, npix)")
            if shape[0] != len(self.table):
                what = f"{field} has {shape[0]} images, and the catalogue has {len(self.table)} rows"
                raise UserError(what, f"{where} and {self.table.path}", "give a row a view, in the order of the images")
            if shape[1] != self.images[first].shape[1]:
                raise UserError(
                    f"{field} has {shape[1]} pixels a side, {first} {self.images[first].shape[1]}", where, "give maps of one size"
                )
        return images.shape[1]

    def maps(self, field: str, start: int, stop: int) -> np.ndarray:
        """The images of rows start..stop in the map file's units, float32 (n, npix, npix).

        Raises:
            UserError: values that are not finite, or that float32 does not hold; an image of the wrong sign.
        """
        given = self.images[field].read(self.order[start:stop])
        values = given.astype(np.float64) * self.factors[field][start:stop, None, None]
        with np.errstate(over="ignore", under="ignore"):
            out = values.astype(np.float32)
        largest = np.maximum(values.max(axis=(1, 2)), -values.min(axis=(1, 2)))
        tiny = (largest > 0) & (largest < np.finfo(np.float32).tiny)
        flat = out.reshape(len(out), -1)
        reasons = (
            (~np.isfinite(given).reshape(len(out), -1).all(axis=1), "has values that are not finite", "mend or leave out the view"),
            (~np.isfinite(flat).all(axis=1), f"has values that float32 does not hold, in {UNITS[field]}", "mend units"),
            (tiny, f"is below what float32 holds, in {UNITS[field]}", "mend units"),
            (
                (flat.max(axis=1) <= 0) & (flat.min(axis=1) < 0),
                "has no pixel above 0",
                "give it with the other sign: sz is T_cmb y, positive",
            ),
        )
        for bad, what, how in reasons:
            if bad.any():
                image = int(self.order[start + int(np.argmax(bad))])
                raise UserError(f"image {image} of {field} {what}", f"{self.spec.fields[field]}, {self.table.at(image)}", how)
        return out

    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of the catalogue and of each field's images."""
        paths = [path for images in self.images.values() for path in images.paths]
        with World().progress(len(paths) + 1, "files") as bar:
            return {name: _sha256(source, bar) for name, source in (("catalog", [self.table.path]), *self._paths())}

    def _paths(self) -> list[tuple[str, list[Path]]]:
        return [(field, images.paths) for field, images in self.images.items()]


def _sha256(paths: list[Path], bar) -> str:
    """Of the file, or of the files' SHA-256, one behind the other."""
    hashes = []
    for path in paths:
        hashes.append(files.sha256_file(path))
        bar.update(1)
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def import_maps(spec: Import, dry: bool = False, overwrite: bool = False) -> Iterator[str]:
    """Make the map file that `spec` describes; yields lines about it.

    Killed at any moment, the same call goes on where it was; the final name appears when the file is whole.

    Args:
        spec: from `read_spec`.
        dry: only say what would be done.
        overwrite: begin afresh.
    Raises:
        UserError: whatever is wrong with the input.
    """
    sources = Sources(spec)
    if dry:
        yield to_yaml({"import": spec.resolved()}).rstrip()
        yield from (f"# {line}" for line in _plan(sources))
        return
    files.make_folder(spec.out_path.parent)
    lock = Lock(spec.out_path.absolute().parent / ".project.lock")  # the one of whoever writes map files here
    if not lock.acquire():
        raise Busy(f"another import or project is at work ({lock.holder()})", spec.out_path.parent, "wait for it or end it")
    try:
        yield from _plan(sources)
        yield _write(spec, sources, overwrite)
    finally:
        lock.release()


def _plan(sources: Sources) -> Iterator[str]:
    catalog, n = sources.catalog, len(sources.order)
    parts = np.bincount(catalog["split"], minlength=3)
    said = ", ".join(f"{part} {k}" for part, k in zip(PARTS, parts, strict=True))
    yield f"{n} views of {len(np.unique(catalog['halo_id']))} halos ({said}), {sources.npix} x {sources.npix} pixels"
    yield f"{sources.spec.out}: {n * sources.npix**2 * 4 * len(sources.images) / 2**20:.1f} MiB"
    for field, factor in sources.factors.items():
        span = f"{factor.min():.8g}" if factor.min() == factor.max() else f"{factor.min():.8g} to {factor.max():.8g}"
        yield f"{field}: {sources.spec.units[field]} times {span} is {UNITS[field]}"
    yield from (f"note: {note}" for note in sources.notes)


def _write(spec: Import, sources: Sources, overwrite: bool) -> str:
    path, n = spec.out_path, len(sources.order)
    section = {name: value for name, value in spec.resolved().items() if name != "out"}
    if "split" in sources.table:
        section["split"] = "column"
    config, inputs = {"import": section}, sources.fingerprints()
    if overwrite:
        old = [one for one in (path, Path(f"{path}.partial")) if os.path.lexists(one)]
        for one in old:
            _refuse_foreign(one, sources)
        for one in old:
            one.unlink()
    if path.exists():
        stored = MapFile(path).attributes
        refuse_difference(config_of(stored), config, path, "import")
        with interpreting(path, "map file"):
            refuse_difference(read_json(str(stored.get("inputs", "{}"))), inputs, path, "import")
        return f"{path} is finished already, {n} views; nothing to do"
    writer = MapWriter(
        path, World(), sources.catalog, _field_attributes(sources), sources.npix, _attributes(sources, config, inputs), "import"
    )
    before = int(writer.done.sum())
    try:
        step = block_rows(sources.npix, len(sources.images))
        with World().progress(n, "views", initial=before) as bar:
            for start in range(0, n, step):
                stop = min(n, start + step)
                if not writer.done[start:stop].all():
                    writer.write(start, {field: sources.maps(field, start, stop) for field in sources.images})
                    bar.update(int((~writer.done[start:stop]).sum()))
    except BaseException:
        writer.close()
        raise
    writer.finish()
    return f"{n} views in {path}" + (f", {before} of them from before" if before else "")


def _refuse_foreign(old: Path, sources: Sources) -> None:
    """Raise a UserError if what stands at `old` is anything but a map file that an import has made."""
    how = "name another file in the key out, or move that one away"
    if old.is_dir():
        raise UserError("a folder stands where the map file is to be written", old, how)
    inputs = [sources.table.path, *(path for images in sources.images.values() for path in images.paths)]
    if old.exists() and any(old.samefile(path) for path in inputs):
        raise UserError("--overwrite would remove one of the import's own inputs", old, how)
    try:
        with open_hdf5(old, "map file") as f:
            ours = f.attrs.get("format") == FORMAT and "import" in config_of(f.attrs)
    except UserError:
        ours = False
    if not ours:
        raise UserError("--overwrite would remove what no import has made", old, how)


def _field_attributes(sources: Sources) -> dict[str, dict]:
    out = {}
    depth, redshift = (shared(sources.catalog[name]) for name in ("depth_mpc", "redshift"))
    for field in sources.images:
        out[field] = {"units": UNITS[field], "kernel": "unknown", "method": "imported", "imported_units": sources.spec.units[field]}
        if field in MEAN_OF and depth is not None and redshift is not None:
            out[field]["to_msun_per_mpc2"] = sources.spec.background.rho_mean(redshift, MEAN_OF[field]) * depth
    return out


def _attributes(sources: Sources, config: dict, inputs: dict) -> dict:
    out: dict[str, object] = dict(vars(sources.spec.background))
    for name in ("width_mpc", "depth_mpc", "redshift"):
        if (value := shared(sources.catalog[name])) is not None:
            out[name] = value
    if "width_mpc" in out:
        out["pixel_mpc"] = out["width_mpc"] / sources.npix
    inputs_text = json.dumps(inputs, sort_keys=True)
    return {
        **out,
        "config": to_yaml(config),
        "inputs": inputs_text,
        "provenance": provenance(World(), inputs=inputs, simulation_engine="imported"),
    }
