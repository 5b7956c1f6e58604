"""A short summary of a map file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hpcdiff.maps.reader import MapFile
from hpcdiff.maps.splits import PARTS
from hpcdiff.maps.structure import config_of
from hpcdiff.plain import NotPlain, read_json
from hpcdiff.strict import to_yaml

SAMPLE_VIEWS = 64
"""Views, evenly spread over the file, whose maps give the ranges."""


def info(path: str | Path) -> Iterator[str]:
    """Lines about a finished map file: views, fields with units and ranges, config, provenance.

    Raises:
        UserError: no whole map file.
    """
    maps = MapFile(path)
    c, n = maps.catalog, maps.n_views
    parts = ", ".join(f"{part} {len(maps.rows(part))} of {len(np.unique(c['halo_id'][maps.rows(part)]))} halos" for part in PARTS)
    yield f"{maps.path}: {n} views of {len(np.unique(c['halo_id']))} halos, {maps.npix} x {maps.npix} pixels, fingerprint {maps.fingerprint}"
    yield f"views: {parts}"
    yield f"M200m: {_span(c['mass_200m'])} Msun; z: {_span(c['redshift'])}"
    yield f"width: {_span(c['width_mpc'])} Mpc; depth: {_span(c['depth_mpc'])} Mpc; pixel: {_span(c['width_mpc'] / maps.npix)} Mpc"
    rows = np.unique(np.linspace(0, n - 1, min(n, SAMPLE_VIEWS)).astype(int))
    yield f"fields (lowest, mean and highest pixel of {'all' if len(rows) == n else len(rows)} views):"
    for name in maps.fields:
        values = maps.read(name, rows)
        about = ", ".join(f"{k} {_short(v)}" for k, v in maps.field_attributes[name].items() if k != "units")
        low, mean, high = values.min(), values.mean(dtype=np.float64), values.max()
        yield f"  {name} [{maps.units[name]}]: {low:.4g}, {mean:.4g}, {high:.4g}" + (f" ({about})" if about else "")
    numbers = {k: v for k, v in maps.attributes.items() if isinstance(v, (int, float)) and k != "npix"}
    yield "attributes: " + ", ".join(f"{k} {_short(v)}" for k, v in sorted(numbers.items()))
    for key in ("inputs", "provenance"):
        yield from _section(key, _json(maps.attributes.get(key)))
    yield from _section("config", config_of(maps.attributes))


def _span(values: np.ndarray) -> str:
    low, high = np.min(values), np.max(values)
    if np.isnan(low):
        return "unknown"
    return f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}"


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, (float, np.floating)) else str(value)


def _json(text: object) -> object:
    try:
        return read_json(str(text or "{}"))
    except NotPlain:
        return str(text)


def _section(name: str, content: object) -> Iterator[str]:
    yield f"{name}:" if content else f"{name}: none stored"
    if content:
        yield from (f"  {line}" for line in to_yaml(content).splitlines())
