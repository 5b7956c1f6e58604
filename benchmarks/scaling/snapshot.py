"""A clustered snapshot that is made in seconds: NFW clusters on a uniform background, GADGET's layout, several chunk files."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np

from hpcdiff.cosmology import K_B, M_P, Background
from scaling.sky import below

FAR = 2.5
"""R200m to which a cluster's particles reach."""
CONCENTRATION = 5.0
NEIGHBOURS = 48
"""Particles within a support radius."""
KPC = 1e3
"""In an Mpc."""


def _profile() -> tuple[np.ndarray, np.ndarray]:
    """r/R200m and the mass inside it over M200m (Navarro, Frenk & White 1997)."""
    r = np.geomspace(1e-3, FAR, 500)
    x = CONCENTRATION * r
    return r, (np.log1p(x) - x / (1 + x)) / (np.log1p(CONCENTRATION) - CONCENTRATION / (1 + CONCENTRATION))


def write(folder: Path, particles: int, halos: int = 24, chunks: int = 4, seed: int = 0) -> int:
    """Write `folder`/snapshot/s.N.hdf5 and `folder`/halos.hdf5; rows follow each other along x, as a simulation's domains do.

    Args:
        particles: of both kinds together.
        halos: above 1e14 Msun, at the quantiles of the mass function; the box has as much room as they need.
        chunks: files.
    Returns:
        Bytes of the snapshot.
    """
    rng, b = np.random.default_rng(seed), Background()
    (folder / "snapshot").mkdir(parents=True)
    edges, cumulative = below(b)
    side = float(np.cbrt(halos / cumulative[-1]))
    mass = rng.permutation(np.interp((np.arange(halos) + 0.5) / halos * cumulative[-1], cumulative, edges))
    centre = rng.uniform(0, side, (halos, 3))
    with h5py.File(folder / "halos.hdf5", "w") as f:
        f.attrs["format"] = "hpcdiff-halos"
        f["halo_id"], f["position"], f["mass_200m"] = np.arange(halos), centre, mass
    n = particles // 2
    columns = {kind: _columns(kind, n, centre, mass, side, b, rng) for kind in ("gas", "dm")}
    for k in range(chunks):
        rows = slice(n * k // chunks, n * (k + 1) // chunks)
        with h5py.File(folder / "snapshot" / f"s.{k}.hdf5", "w") as f:
            this = rows.stop - rows.start
            about = {"BoxSize": side * KPC * b.h, "NumPart_ThisFile": [this, this, 0, 0, 0, 0], "NumFilesPerSnapshot": chunks}
            about |= {"NumPart_Total": [n, n, 0, 0, 0, 0], "MassTable": np.zeros(6), "Time": 1.0, "Redshift": 0.0}
            about |= {"HubbleParam": b.h, "Omega0": b.Om0, "OmegaLambda": 1 - b.Om0, "OmegaBaryon": b.Ob0}
            f.create_group("Header").attrs.update(about)
            for number, kind in enumerate(columns):
                for name, values in columns[kind].items():
                    f[f"PartType{number}/{name}"] = values[rows]
    return sum(path.stat().st_size for path in (folder / "snapshot").iterdir())


def _columns(kind: str, n: int, centre: np.ndarray, mass: np.ndarray, side: float, b: Background, rng: np.random.Generator) -> dict:
    """Datasets of `n` particles of one kind in comoving kpc/h, 1e10 Msun/h and (km/s)^2, as 32-bit numbers but for positions."""
    r_grid, inside = _profile()
    chance = mass * inside[-1] / (b.rho_mean() * side**3)
    members = rng.multinomial(n, [*chance, 1 - chance.sum()])
    halo = np.repeat(np.arange(len(mass)), members[:-1])
    r = np.interp(rng.random(len(halo)) * inside[-1], inside, r_grid)
    way = rng.normal(size=(len(halo), 3))
    near = centre[halo] + (r * b.radius(mass)[halo] / np.linalg.norm(way, axis=1))[:, None] * way
    position = np.concatenate([near, rng.uniform(0, side, (members[-1], 3))]) % side
    x = CONCENTRATION * np.maximum(r, 5e-3)
    peak = 200 / 3 * CONCENTRATION**3 / (np.log1p(CONCENTRATION) - CONCENTRATION / (1 + CONCENTRATION))
    over = np.concatenate([1 + peak / (x * (1 + x) ** 2), np.ones(members[-1])])  # density over the mean
    kelvin = np.concatenate([1e7 * (mass[halo] / 1e14) ** (2 / 3), np.full(members[-1], 1e4)])
    order = np.argsort(position[:, 0], kind="stable")
    position, over, kelvin = position[order], over[order], kelvin[order]
    h = np.cbrt(3 * NEIGHBOURS * side**3 / (4 * np.pi * n * over)) * KPC * b.h
    one = b.rho_mean(0, "gas" if kind == "gas" else "dm") * side**3 / n
    out = {"Coordinates": position * KPC * b.h, "Masses": np.full(n, one / 1e10 * b.h)}
    if kind == "gas":
        density = over * b.rho_mean(0, "gas") / 1e10 / KPC**3 / b.h**2
        energy = 1.5 * K_B * kelvin / (0.6 * M_P) / 1e10
        out |= {"SmoothingLength": h, "Density": density, "InternalEnergy": energy, "ElectronAbundance": np.full(n, 1.16)}
    else:
        out["SubfindHsml"] = h
    out = {name: values if name == "Coordinates" else values.astype(np.float32) for name, values in out.items()}
    return {**out, "ParticleIDs": rng.permutation(2 * n)[:n].astype(np.uint64)}


def write_config(path: Path, box: Path, **project: object) -> Path:
    """A config whose results stand in its own folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = {
        "snapshot": str(box / "snapshot"),
        "halos": str(box / "halos.hdf5"),
        "split": {"train": 1.0, "val": 0.0, "test": 0.0},
        **project,
    }
    path.write_text(json.dumps({"run": {"dir": str(path.parent)}, "project": keys}))  # JSON is YAML
    return path
