"""What somebody else might have: the maps of a map file as .npy stacks and a CSV catalogue, in an order of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from conftest import make_maps

from hpcdiff.maps import UNITS, MapFile

COSMOLOGY = {"Om0": 0.3, "Ob0": 0.045, "h": 0.7}
FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}


def export(folder: Path, axes: int = 2, **options: object) -> tuple[MapFile, np.ndarray]:
    """Write maps.h5, and from it <field>.npy, halos.csv and import.yaml; returns the map file and the order of the images."""
    make_maps(folder / "maps.h5", axes=axes, **options)
    maps = MapFile(folder / "maps.h5")
    order = np.random.default_rng(3).permutation(maps.n_views)
    for field in maps.fields:
        np.save(folder / f"{field}.npy", maps.read(field, np.arange(maps.n_views))[order])
    c = maps.catalog
    columns = {name: c[name] for name in ("halo_id", "mass_200m", "radius_200m", "sightline_index", "group")}
    columns["axis"] = np.array(["x", "y", "z"])[c["axis"]]
    columns |= {name: c["position"][:, k] for k, name in enumerate("xyz")}
    columns |= {f"sightline_{name}": c["sightline"][:, k] for k, name in enumerate("xyz")}
    columns["label"] = np.array([f"view{row}" for row in range(maps.n_views)])
    columns["richness"] = np.arange(maps.n_views) * 1.5
    write_csv(folder / "halos.csv", {name: values[order] for name, values in columns.items()})
    write_import(folder)
    return maps, order


def write_csv(path: Path, columns: dict[str, np.ndarray], mark: str = ",") -> None:
    """A text table, floats with all their digits."""
    n = len(next(iter(columns.values())))
    rows = [mark.join(columns), *(mark.join(str(values[i].item()) for values in columns.values()) for i in range(n))]
    path.write_text("\n".join(rows) + "\n")


def write_import(folder: Path, **changes: object) -> Path:
    """Write import.yaml for what `export` wrote; None takes a key out."""
    fields = ("dm", "gas", "sz", "xray")
    tree = {
        "out": str(folder / "imported" / "maps.h5"),
        "catalog": str(folder / "halos.csv"),
        "fields": {name: str(folder / f"{name}.npy") for name in fields},
        "units": {name: UNITS[name] for name in fields},
        "width_mpc": 12.8,
        "depth_mpc": 12.8,
        "redshift": 0.0,
        "cosmology": COSMOLOGY,
        "split": FRACTIONS,
        **changes,
    }
    path = folder / "import.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in tree.items() if value is not None}))
    return path
