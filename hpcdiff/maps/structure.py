"""What must hold between the parts of a map file, besides its checksums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import h5py
import numpy as np

from hpcdiff.maps.layout import CATALOG, UNITS, VERSION
from hpcdiff.maps.splits import split_ids
from hpcdiff.plain import NotPlain, read_yaml
from hpcdiff.sections import Split
from hpcdiff.strict import Places, build


def rows_text(rows: np.ndarray, most: int = 10) -> str:
    """Row numbers for a message: "rows 5, 17, 88", and how many more."""
    more = f" and {len(rows) - most} more" if len(rows) > most else ""
    return f"row{'s' if len(rows) != 1 else ''} {', '.join(str(row) for row in rows[:most])}{more}"


def config_of(attributes: Mapping[str, object]) -> dict:
    """The config that a map file stores, {} where another program left none; `import` is in that of an imported one."""
    try:
        config = read_yaml(str(attributes.get("config", "{}")))
    except NotPlain:
        config = None
    return config if isinstance(config, dict) else {}


def layout_faults(f: h5py.File) -> Iterator[str]:
    """What keeps an open map file from being read through, a line each."""
    for name in ("fields", "catalog"):
        if not isinstance(f.get(name), h5py.Group):
            yield f"it has no group /{name}"
            return
    if not isinstance(f.attrs.get("npix"), (int, np.integer)) or f.attrs["npix"] < 1:
        yield "its root attribute npix is not a number of pixels"
        return
    npix = int(f.attrs["npix"])
    for name in (*CATALOG, "checksum"):
        if not isinstance(f["catalog"].get(name), h5py.Dataset):
            yield f"it has no /catalog/{name}"
            return
    n = f["catalog/halo_id"].shape[0] if f["catalog/halo_id"].ndim == 1 else -1
    for name, (kind, shape) in {**CATALOG, "checksum": ("<u4", ())}.items():
        data = f["catalog"][name]
        if data.shape != (n, *shape) or data.dtype != np.dtype(kind):
            yield f"/catalog/{name} is {data.dtype} {data.shape}, not {np.dtype(kind)} {(n, *shape)}"
    if not len(f["fields"]):
        yield "it holds no field"
    for name, data in f["fields"].items():
        if not isinstance(data, h5py.Dataset) or data.shape != (n, npix, npix) or data.dtype != np.dtype("<f4"):
            yield f"/fields/{name} is not float32 {(n, npix, npix)}"


def other_faults(f: h5py.File, catalog: dict[str, np.ndarray], config: dict) -> Iterator[str]:
    """What does not hold in a map file that can be read, a line each.

    Args:
        f: the open file.
        catalog: its columns {name: (N, ...)}.
        config: what `config_of` found.
    """
    yield from _attributes(f, catalog)
    yield from _order(catalog)
    yield from _values(catalog, "import" in config)
    yield from _halos(catalog, config)


def _attributes(f: h5py.File, catalog: dict) -> Iterator[str]:
    """Root attributes, units and the layout on the disk."""
    if f.attrs.get("version") != VERSION:
        yield f"its version is {f.attrs.get('version')}, not {VERSION}"
    for name, data in f["fields"].items():
        if data.chunks is not None:
            yield f"/fields/{name} is chunked, not contiguous (reads of single views are slow)"
        units = data.attrs.get("units")
        if name in UNITS and units != UNITS[name]:
            yield f"/fields/{name} is in {units!r}, not {UNITS[name]!r}"
    for name in ("width_mpc", "depth_mpc"):
        if name in f.attrs and not np.allclose(catalog[name], f.attrs[name], rtol=1e-12, atol=0, equal_nan=True):
            yield f"the root attribute {name} is {f.attrs[name]:.6g}, and /catalog/{name} differs"
    if "pixel_mpc" in f.attrs and not np.allclose(catalog["width_mpc"] / f.attrs["npix"], f.attrs["pixel_mpc"], rtol=1e-12, atol=0):
        yield f"the root attribute pixel_mpc is {f.attrs['pixel_mpc']:.6g}, and /catalog/width_mpc differs"


def _order(catalog: dict) -> Iterator[str]:
    keys = np.stack([catalog[name].astype(np.int64) for name in ("halo_id", "sightline_index", "axis")], axis=-1)
    step = np.diff(keys, axis=0)
    first = np.argmax(step != 0, axis=1)
    bad = np.flatnonzero(step[np.arange(len(step)), first] <= 0) + 1
    if len(bad):
        yield f"the views are not ordered by (halo_id, sightline_index, axis), or one stands twice ({rows_text(bad)})"


def _values(catalog: dict, imported: bool) -> Iterator[str]:
    """Columns within their range; an imported file does not know its frames, and says so with NaN."""
    n = len(catalog["halo_id"])
    good = {"axis": np.isin(catalog["axis"], (0, 1, 2)), "split": np.isin(catalog["split"], (0, 1, 2))}
    for name in ("mass_200m", "radius_200m", "width_mpc"):
        good[name] = np.isfinite(catalog[name]) & (catalog[name] > 0)
    good["depth_mpc"] = (catalog["depth_mpc"] > 0) & np.isfinite(catalog["depth_mpc"])
    good["redshift"] = np.isfinite(catalog["redshift"]) & (catalog["redshift"] > -1)
    good["position"] = np.isfinite(catalog["position"]).all(axis=1)
    good["sightline"] = abs(np.linalg.norm(catalog["sightline"], axis=1) - 1) < 1e-9
    if imported:
        for name in ("depth_mpc", "position", "sightline"):
            good[name] = good[name] | np.isnan(catalog[name]).reshape(n, -1).all(axis=1)
    for name, ok in good.items():
        if not ok.all():
            yield f"/catalog/{name} is out of range ({rows_text(np.flatnonzero(~ok))})"
    known = good["axis"] & ~(np.isnan(catalog["frame"]).reshape(n, -1).all(axis=1) & imported)
    if (bad := np.flatnonzero(known & ~_smallest_rotations(catalog))).size:
        yield f"/catalog/frame is not the smallest rotation that takes z to the sightline ({rows_text(bad)})"


def _smallest_rotations(catalog: dict) -> np.ndarray:
    """Does each frame hold the rotated axes of the smallest rotation of z to the sightline? bool (N,).

    The trace of a rotation is 1 + 2 cos(angle), and no rotation of z to s has a smaller angle than that between them.
    """
    sightline, axis = catalog["sightline"], catalog["axis"].astype(int)
    place = (np.arange(3) - axis[:, None] - 1) % 3  # where x, y, z stand among (i, j, line of sight)
    turned = np.take_along_axis(catalog["frame"], place[:, :, None], axis=1)
    good = np.linalg.norm(turned @ turned.transpose(0, 2, 1) - np.eye(3), axis=(1, 2)) < 1e-9
    good &= np.linalg.det(np.nan_to_num(turned)) > 0
    good &= (abs(turned[:, 2] - sightline) < 1e-9).all(axis=1)
    return good & (abs(np.trace(turned, axis1=1, axis2=2) - 1 - 2 * sightline[:, 2]) < 1e-9)


def _halos(catalog: dict, config: dict) -> Iterator[str]:
    """What all views of a halo share, and the split."""
    ids, first, halo = np.unique(catalog["halo_id"], return_index=True, return_inverse=True)
    for name in ("mass_200m", "radius_200m", "group", "split", "position"):
        values = np.nan_to_num(catalog[name], nan=-1.0).reshape(len(halo), -1)
        if (bad := np.flatnonzero((values != values[first][halo]).any(axis=1))).size:
            yield f"views of one halo differ in {name} ({rows_text(bad)})"
    section = config.get("project", config.get("import"))
    said = section.get("split") if isinstance(section, dict) else None
    if not isinstance(said, dict) or said.get("by") not in ("halo", "group"):
        return
    kept = catalog["halo_id" if said["by"] == "halo" else "group"]
    split = build(Split, said, set(), Places("its config"))
    if (bad := np.flatnonzero(split_ids(kept, split) != catalog["split"])).size:
        yield f"the split is not that of its config ({rows_text(bad)})"
