"""A map file of random round clusters, so that the benchmark's data take the way of a real training's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpcdiff import maps
from hpcdiff.sections import Split
from hpcdiff.world import World

WIDTH_MPC = 12.8


def write_maps(path: Path, views: int, npix: int, seed: int = 0) -> None:
    """Write `views` views of sz, xray, gas and dm with npix^2 pixels, one a halo; 8 in 10 of them train."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:npix, :npix] - (npix - 1) / 2
    mass = 10 ** rng.uniform(14.2, 15, views)
    shape = mass[:, None, None] / 1e15 * np.exp(-(x**2 + y**2) / (2 * (npix / 6) ** 2))
    halo = np.arange(views)
    catalog = {
        "halo_id": halo,
        "mass_200m": mass,
        "radius_200m": np.cbrt(3 * mass / (4 * np.pi * 200 * 4.08e10)),
        "sightline": np.tile([0.0, 0, 1], (views, 1)),
        "sightline_index": np.zeros(views),
        "axis": np.full(views, 2),
        "split": maps.deal(halo, Split()),
        "frame": np.tile(np.eye(3), (views, 1, 1)),
        "width_mpc": np.full(views, WIDTH_MPC),
        "depth_mpc": np.full(views, WIDTH_MPC),
        "redshift": np.zeros(views),
        "position": rng.uniform(0, 100, (views, 3)),
        "group": halo,
    }
    catalog = {name: np.asarray(column, maps.CATALOG[name][0]) for name, column in catalog.items()}
    attributes = {"config": "project: {}\n", "inputs": "{}", "provenance": "{}", "Om0": 0.3, "Ob0": 0.045, "h": 0.7}
    attributes |= {"pixel_mpc": WIDTH_MPC / npix, "width_mpc": WIDTH_MPC, "depth_mpc": WIDTH_MPC}
    peaks = {"sz": 50.0, "xray": 1e-4, "gas": 80.0, "dm": 100.0}
    writer = maps.MapWriter(path, World(), catalog, {f: {"units": maps.UNITS[f]} for f in peaks}, npix, attributes)
    writer.write(0, {f: (peak * shape * np.abs(rng.normal(1, 0.3, shape.shape))).astype(np.float32) for f, peak in peaks.items()})
    writer.finish()
