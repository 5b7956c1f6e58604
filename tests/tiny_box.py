"""Tiny GADGET-style snapshots and halo catalogues, written by hand."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

H = 0.7
BOX = 40.0
"""Comoving Mpc."""


def particles(seed: int = 0, n: int = 3000, centres: np.ndarray | None = None) -> dict[int, dict[str, np.ndarray]]:
    """Gas (0) and dark matter (1) in Mpc, Msun, g/cm^3 and (km/s)^2: clumps about `centres` on a smooth background.

    The clumps have an M200m near the 2e14 Msun that `write_halos` gives them.
    """
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, BOX, (8, 3)) if centres is None else centres
    out = {}
    for kind, mass in ((0, 5e13 * len(centres) / n), (1, 2.5e14 * len(centres) / n)):
        near = centres[rng.integers(len(centres), size=n)] + rng.normal(0, 1.0, (n, 3))
        position = np.concatenate([near, rng.uniform(0, BOX, (n // 2, 3))]) % BOX
        m = len(position)
        out[kind] = {"Coordinates": position, "Masses": np.full(m, mass), "SmoothingLength": 10 ** rng.uniform(-1.5, 0.5, m)}
    m = len(out[0]["Masses"])
    out[0] |= {
        "Density": 10 ** rng.uniform(-30, -27, m),
        "InternalEnergy": 10 ** rng.uniform(3, 6, m),
        "ElectronAbundance": np.full(m, 1.1),
    }
    return out


def write_snapshot(path: Path, data: dict[int, dict[str, np.ndarray]], chunks: int = 1, z: float = 0.0, **header: object) -> list[Path]:
    """Write chunks `path`.0.hdf5, ... (or `path` itself, if one) in comoving kpc/h, 1e10 Msun/h, without unit attributes."""
    a = 1 / (1 + z)
    units = {"Coordinates": 1e3 * H, "SmoothingLength": 1e3 * H, "Masses": H / 1e10}
    units["Density"] = 3.0856775814913673e21**3 / 1.988409870698051e43 / H**2 * a**3
    paths = [path] if chunks == 1 else [path.with_name(f"{path.stem}.{k}.hdf5") for k in range(chunks)]
    totals = [len(data[t]["Coordinates"]) if t in data else 0 for t in range(6)]
    for k, chunk in enumerate(paths):
        with h5py.File(chunk, "w") as f:
            this = np.zeros(6, int)
            for kind, columns in data.items():
                n = totals[kind]
                part = slice(n * k // chunks, n * (k + 1) // chunks)
                this[kind] = part.stop - part.start
                for name, values in columns.items():
                    f[f"PartType{kind}/{name}"] = values[part] * units.get(name, 1.0)
            about = {"BoxSize": BOX * 1e3 * H, "NumPart_ThisFile": this, "NumPart_Total": totals, "NumFilesPerSnapshot": chunks}
            about |= {"MassTable": np.zeros(6), "Time": a, "Redshift": z, "HubbleParam": H, "Omega0": 0.3, "OmegaLambda": 0.7}
            f.create_group("Header").attrs.update({**about, "OmegaBaryon": 0.045, **header})
    return paths


def write_halos(path: Path, position: np.ndarray, **columns: np.ndarray) -> None:
    """Write a halo catalogue in HDF5 or CSV, by the suffix of `path`."""
    n = len(position)
    columns = {"halo_id": np.arange(n), "mass_200m": np.full(n, 2e14), **columns}
    if path.suffix == ".csv":
        columns |= dict(zip("xyz", np.transpose(position), strict=True))
        rows = [",".join(columns), *(",".join(repr(c[i].item()) for c in columns.values()) for i in range(n))]
        path.write_text("\n".join(rows) + "\n")
    else:
        with h5py.File(path, "w") as f:
            f.attrs["format"] = "hpcdiff-halos"
            for name, values in {**columns, "position": position}.items():
                f[name] = values


def write_config(path: Path, run_dir: Path, snapshot: Path, halos: Path, **project: object) -> Path:
    """Write a config for `project` with small maps."""
    import yaml

    project = {"npix": 24, "width": 8.0, "depth": 8.0, "split": {"train": 0.6, "val": 0.2, "test": 0.2}, **project}
    tree = {"run": {"dir": str(run_dir)}, "project": {"snapshot": str(snapshot), "halos": str(halos), **project}}
    path.write_text(yaml.safe_dump(tree))
    return path
