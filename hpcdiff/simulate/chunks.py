"""The stage's files: draws, chunks of the snapshot, the halo catalogue, and where each stands until all is done."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

os.environ.setdefault("HDF5_USE_FILE_LOCKING", "BEST_EFFORT")  # scratch file systems often have no locks

import h5py
import numpy as np

from hpcdiff import checked, cosmology, files
from hpcdiff.errors import UserError
from hpcdiff.scout import SCOUT
from hpcdiff.simulate import profiles
from hpcdiff.simulate.cluster import draw_cluster
from hpcdiff.simulate.neighbours import smoothing
from hpcdiff.simulate.particles import Drawn, draw_block
from hpcdiff.simulate.plan import STRAY, Plan


class Folder:
    """Where things stand below `run.dir`: all below `simulate.partial/` until the snapshot is whole."""

    def __init__(self, directory: Path) -> None:
        self.snapshot, self.halos = directory / "snapshot", directory / "halos.hdf5"
        self.partial = directory / "simulate.partial"
        self.config, self.draws, self.chunks = self.partial / "config.yaml", self.partial / "draws", self.partial / "snapshot"

    def outputs(self) -> list[Path]:
        """What `--overwrite` removes, the sign of completion first.

        Raises:
            UserError: something stands there that this stage did not write.
        """
        if (path := self.foreign()) is not None:
            raise UserError("simulate did not write this and does not remove it", path, "move it, or take another run.dir")
        return [self.halos, self.snapshot, self.partial]

    def foreign(self) -> Path | None:
        """A file where this stage's catalogue or snapshot should stand that it did not write; what it wrote may be damaged."""
        if self.halos.exists() and not _ours(self.halos, "hpcdiff-halos"):
            return self.halos
        chunks = sorted(self.snapshot.iterdir()) if self.snapshot.is_dir() else [self.snapshot] if self.snapshot.exists() else []
        odd = [path for path in chunks if not re.fullmatch(r"snapshot_\d{6}\.hdf5(\.tmp)?", path.name)]
        return next((path for path in [*odd, *chunks[:1]] if path in odd or not _ours(path, "hpcdiff-snapshot")), None)

    def draw(self, block: int) -> Path:
        """The drawn particles of a block; of the N-body engine the state of a box that is being evolved."""
        return self.draws / f"{block:06d}.npz"

    def rows(self, block: int) -> Path:
        """The halos of a block of the N-body engine."""
        return self.draws / f"halos_{block:06d}.npz"

    def chunk(self, block: int) -> Path:
        """The chunk of a block, in the unfinished snapshot."""
        return self.chunks / f"snapshot_{block:06d}.hdf5"


def _ours(path: Path, form: str) -> bool:
    """Is it a file of this format, or one that nobody can read any more?"""
    form_of = _format(path)
    return path.is_file() and (h5py.is_hdf5(path) or not path.stat().st_size) if form_of is None else form_of == form


def ours(path: Path) -> bool:
    """Is it a chunk of this stage's, or one that nobody can read any more?"""
    return _ours(path, "hpcdiff-snapshot")


def _format(path: Path) -> str | None:
    """What a file's attribute `format` says, empty if there is none; None: the file is not whole."""
    if SCOUT.look(path, own=True):
        return None
    try:
        with h5py.File(path) as f:
            return str(f.attrs.get("format", ""))
    except OSError as error:
        if error.errno not in (None, errno.EISDIR):
            raise  # the disk does not give it now: no damage
        return None


def cut_short(path: Path) -> bool:
    """Is a finished chunk gone, or no whole file? What it holds is not read."""
    return not path.exists() or _format(path) != "hpcdiff-snapshot"


def write_draw(plan: Plan, folder: Folder, block: int) -> None:
    """Draw a block's particles and keep them until its neighbours have been written."""
    drawn, path = draw_block(plan, block), folder.draw(block)
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as f:
        np.savez(f, **vars(drawn))
    files.sync(temporary)
    os.replace(temporary, path)


def read_draw(folder: Folder, block: int, *names: str) -> list[np.ndarray]:
    """Arrays of a block's draw, checked against the file's own CRC-32.

    Raises:
        UserError: it is gone or damaged.
    """
    path = folder.draw(block)
    try:
        with np.load(path) as f:
            return [f[name] for name in names]
    except checked.DAMAGED:
        raise UserError("a draw is gone or damaged", path, "run simulate again, which draws it again") from None


def damaged(folder: Folder, block: int) -> list[Path]:
    """Files of this block that a killed run has left and that are not as they were written: they must be made again."""
    found = []
    if folder.draw(block).exists():
        try:
            read_draw(folder, block, "dm", "gas", "pressure", "temperature")
        except UserError:
            found.append(folder.draw(block))
    if folder.chunk(block).exists() and not whole(folder.chunk(block)):
        found.append(folder.chunk(block))
    return found


def whole(chunk: Path) -> bool:
    """Is a chunk as it was written, by its checksums?"""
    if SCOUT.look(chunk, own=True):
        return False
    try:
        with h5py.File(chunk) as f:
            checked.read_through(f)
    except (OSError, RuntimeError, KeyError) as error:
        if getattr(error, "errno", None):
            raise  # the disk does not give it now: no damage
        return False
    return True


class Surroundings:
    """Reads the particles in and around a block, through periodic walls."""

    def __init__(self, plan: Plan, folder: Folder, block: int) -> None:
        self.plan, self.folder = plan, folder
        corners = np.array([plan.corner(cell) for cell in plan.blocks[block]])
        self.low, self.high = corners.min(axis=0), corners.max(axis=0) + plan.cell

    def __call__(self, margin: float, kind: str) -> np.ndarray:
        """Positions of `dm` or `gas` within the margin (Mpc) of where the block's own may be, (n, 3)."""
        plan, stray = self.plan, STRAY * self.plan.cell
        low, high = self.low - stray - margin, self.high + stray + margin
        first, last = (np.floor(x / plan.cell).astype(int) for x in (low - stray, high + stray))
        found = []
        for block, image in self._blocks(first, last):
            x = _positions(self.folder, block, kind) + plan.side * np.array(image)
            found.append(x[((x >= low) & (x <= high)).all(axis=1)])
        return np.concatenate(found)

    def _blocks(self, first: np.ndarray, last: np.ndarray) -> list[tuple[int, tuple[int, int, int]]]:
        """Blocks, and by how many box sides each is shifted, that hold the cells from `first` to `last`."""
        plan, found = self.plan, {}
        n = -(-plan.n_side // plan.block_edge)
        axes = []
        for a, b in zip(first, last, strict=True):
            cells = np.arange(a, b + 1)
            axes.append(dict.fromkeys(zip((cells % plan.n_side // plan.block_edge).tolist(), (cells // plan.n_side).tolist(), strict=True)))
        for x, i in axes[0]:
            for y, j in axes[1]:
                for z, k in axes[2]:
                    found[(x * n + y) * n + z, (i, j, k)] = None
        return sorted(found)


def _positions(folder: Folder, block: int, kind: str) -> np.ndarray:
    return read_draw(folder, block, kind)[0]


def write_chunk(plan: Plan, folder: Folder, block: int, provenance: str, threads: int) -> None:
    """Smoothing lengths, densities and energies of a block's particles, into its chunk of the snapshot."""
    drawn = Drawn(*read_draw(folder, block, "dm", "gas", "pressure", "temperature"))
    around = Surroundings(plan, folder, block)
    margin = plan.first_margin()
    h_dm, _ = smoothing(drawn.dm, lambda m: around(m, "dm"), margin, False, threads)
    h_gas, number = smoothing(drawn.gas, lambda m: around(m, "gas"), margin, True, threads)
    energy = internal_energy(plan, drawn, plan.m_gas * number)
    little_h = plan.background.h
    kpc, mass = 1e3 * little_h, 1e10 / little_h  # per Mpc; Msun per unit
    ids = np.concatenate([plan.first[c] + np.arange(plan.n_cell[c]) for c in plan.blocks[block]]).astype("<u8")
    path = folder.chunk(block)
    temporary = path.with_name(path.name + ".tmp")
    with checked.create(temporary) as f:
        f.attrs.update(
            {
                **{"format": "hpcdiff-snapshot", "version": 1, "config": stored(plan.config), "provenance": provenance, "inputs": "{}"},
                "engine": plan.engine,
            }
        )
        header(f.create_group("Header"), plan, len(drawn.gas), len(drawn.dm))
        for group, x, h, first, m in (
            ("PartType0", drawn.gas, h_gas, 0, plan.m_gas),
            ("PartType1", drawn.dm, h_dm, plan.n_total, plan.m_dm),
        ):
            inside = (x * kpc) % (plan.side * kpc)
            inside[inside >= plan.side * kpc] = 0.0  # the remainder of a tiny negative number
            checked.put(f, f"{group}/Coordinates", inside)
            checked.put(f, f"{group}/Masses", np.full(len(x), m / mass, "<f4"))
            checked.put(f, f"{group}/SmoothingLength", (h * kpc).astype("<f4"))
            checked.put(f, f"{group}/ParticleIDs", ids + np.uint64(first))
        checked.put(f, "PartType0/Density", (plan.m_gas * number / mass / kpc**3).astype("<f4"))
        checked.put(f, "PartType0/InternalEnergy", energy.astype("<f4"))
        checked.put(f, "PartType0/ElectronAbundance", np.full(len(drawn.gas), profiles.X_E, "<f4"))
    os.replace(temporary, path)


def internal_energy(plan: Plan, drawn: Drawn, density: np.ndarray) -> np.ndarray:
    """u in (km/s)^2 at the density (Msun/Mpc^3): the cluster's pressure, or the group's or the IGM's temperature if higher."""
    per_kelvin = cosmology.K_B / (profiles.MU * cosmology.M_P) * 1e-10  # kT/(mu m_p) in (km/s)^2
    igm = 1e4 * (density / plan.background.rho_mean(component="gas")) ** 0.6
    cluster = drawn.pressure * (profiles.MU_E / profiles.MU) / density
    return 1.5 * np.maximum(cluster, per_kelvin * np.maximum(igm, drawn.temperature))


def header(group: h5py.Group, plan: Plan, n_gas: int, n_dm: int) -> None:
    """The attributes of `Header` for a chunk of so many particles; `plan` is that of any engine, and says how many there are in all."""
    b = plan.background
    this = np.zeros(6, "<i4")
    this[:2] = n_gas, n_dm
    group.attrs.update(
        {
            "BoxSize": plan.side * 1e3 * b.h,
            "NumPart_ThisFile": this,
            **totals(plan.n_total, plan.n_total),
            "NumFilesPerSnapshot": len(plan.blocks),
            "MassTable": np.zeros(6),
            "Time": 1.0,
            "Redshift": 0.0,
            "HubbleParam": b.h,
            "Omega0": b.Om0,
            "OmegaLambda": 1 - b.Om0,
            "OmegaBaryon": b.Ob0,
        }
    )


def totals(n_gas: int, n_dm: int) -> dict[str, np.ndarray]:
    """The attributes of `Header` that say how many particles all chunks have."""
    total = np.zeros(6, "<u8")
    total[:2] = n_gas, n_dm
    return {
        "NumPart_Total": (total & 0xFFFFFFFF).astype("<u4"),
        "NumPart_Total_HighWord": (total >> np.uint64(32)).astype("<u4"),
    }


def stored(config) -> str:
    """The resolved sections that make the simulation, as YAML."""
    from hpcdiff.strict import to_yaml

    return to_yaml({**config.resolved("cosmology", "simulate"), "run": {"seed": config.run.seed}})


def timeless(provenance: str) -> str:
    """The part of the provenance that does not depend on the ranks and the day, so that chunks don't either."""
    return json.dumps({k: v for k, v in json.loads(provenance).items() if k not in ("ranks", "job", "time")}, sort_keys=True)


def write_halos(plan: Plan, path: Path, provenance: str) -> None:
    """The halo catalogue, in the order of halo_id."""
    cells = np.flatnonzero(plan.halo_id >= 0)
    clusters = [draw_cluster(plan, int(cell), plan.rng(cell)) for cell in cells]
    columns = {
        "halo_id": np.array([c.halo_id for c in clusters], "<i8"),
        "position": np.array([plan.corner(cell) + c.position for cell, c in zip(cells, clusters, strict=True)]),
        "mass_200m": np.array([c.mass for c in clusters]),
        "radius_200m": np.array([c.radius for c in clusters]),
    }
    for name in clusters[0].columns():
        columns[name] = np.array([c.columns()[name] for c in clusters])
    temporary = path.with_name(path.name + ".tmp")
    with checked.create(temporary) as f:
        f.attrs.update({"format": "hpcdiff-halos", "version": 1, "config": stored(plan.config), "provenance": provenance, "inputs": "{}"})
        for name, value in columns.items():
            checked.put(f, name, value)
    os.replace(temporary, path)
