"""GADGET-style HDF5 snapshots, one file or chunks: disjoint slabs of particles as plain arrays.

Knows GADGET-4 (masses in MassTable, cosmology in `Parameters`), GADGET-2/3 (no attributes), AREPO/TNG and EAGLE.
"""

from __future__ import annotations

import glob
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from hpcdiff.cosmology import K_B, M_P, MPC_CM, MSUN_G, Background
from hpcdiff.errors import UserError
from hpcdiff.maps import open_hdf5
from hpcdiff.snapshot.units import code_units, number, unit_of

KINDS = {"gas": 0, "dm": 1, "star": 4, "bh": 5}
"""Particle types by name."""
X_H = 0.76
"""Hydrogen mass fraction where the snapshot has none."""
GAMMA = 5 / 3
COSMOLOGY = {
    "Om0": ("Omega0",),
    "Ob0": ("OmegaBaryon",),
    "h": ("HubbleParam",),
    "sigma8": ("sigma8", "Sigma8"),
    "ns": ("ns", "PrimordialIndex"),
    "Tcmb0": ("Tcmb0",),
}
SUPPORT = ("SmoothingLength", "SubfindHsml", "StellarHsml")
MASS = ("Masses", "Mass")


@dataclass
class Particles:
    """Some particles of one kind.

    Attributes:
        index: int64 (n,), number in the whole snapshot, within the kind.
        position: float64 (n, 3), comoving Mpc, 0 <= x < box.
        mass: float64 (n,), Msun.
        h: float64 (n,), kernel support radius, comoving Mpc; None where the snapshot gives no means to know it.
        density: float64 (n,), gas: physical g/cm^3, else None.
        temperature: float64 (n,), gas: K, else None.
        electrons: float64 (n,), gas: electrons a proton mass, 1/mu_e, else None.
    """

    index: np.ndarray
    position: np.ndarray
    mass: np.ndarray
    h: np.ndarray | None = None
    density: np.ndarray | None = None
    temperature: np.ndarray | None = None
    electrons: np.ndarray | None = None


@dataclass
class Snapshot:
    """What the headers say; particles are read by `read`.

    Attributes:
        paths: chunk files in order.
        box: side of the periodic box, comoving Mpc.
        redshift: of the snapshot.
        cosmology: the numbers that the snapshot itself gives {"Om0": ...}.
        background: the resolved cosmology.
        counts: {kind: particles in each chunk}.
        mass_table: {kind: stored mass of every particle, 0 if each has its own}.
        has_h: {kind: whether `read` knows a support radius}.
    """

    paths: list[Path]
    box: float
    redshift: float
    cosmology: dict[str, float]
    background: Background
    counts: dict[str, list[int]]
    mass_table: dict[str, float]
    has_h: dict[str, bool]
    units: dict = field(default_factory=dict, repr=False)

    @property
    def scale_factor(self) -> float:
        """1/(1+z)."""
        return 1 / (1 + self.redshift)

    def count(self, kind: str) -> int:
        """Particles of one kind."""
        return sum(self.counts[kind])

    def read(self, kind: str, start: int, stop: int, mu_e: float = 1.13, gas: bool = True) -> Particles:
        """Particles start..stop of one kind, over the chunks.

        Args:
            kind: one of `KINDS`.
            start, stop: numbers in the whole snapshot.
            mu_e: mass an electron, proton masses, where the snapshot has no ElectronAbundance.
            gas: for kind `gas`, read density, temperature and electrons too.
        Raises:
            UserError: a file is damaged; coordinates are not finite; masses negative; h or density not above 0.
        """
        parts, offset = [], 0
        for path, n in zip(self.paths, self.counts[kind], strict=True):
            a, b = max(start - offset, 0), min(stop - offset, n)
            if a < b:
                with open_hdf5(path, "snapshot") as f:
                    part = self._read_chunk(f[f"PartType{KINDS[kind]}"], kind, a, b, mu_e, gas and kind == "gas")
                    part.index += offset
                    self._check(part, kind, path)
                    parts.append(part)
            offset += n
        if not parts:
            return Particles(np.empty(0, np.int64), np.empty((0, 3)), *[np.empty(0)] * 5)
        columns = [[getattr(p, name) for p in parts] for name in Particles.__dataclass_fields__]
        return Particles(*[None if c[0] is None else np.concatenate(c) for c in columns])

    def _read_chunk(self, group: h5py.Group, kind: str, a: int, b: int, mu_e: float, gas: bool) -> Particles:
        def column(name: str, of: str | None = None, base: float = 1.0) -> np.ndarray:
            """Values in physical CGS, or as stored where `of` is None."""
            values = group[name][a:b].astype(np.float64)
            if of is not None:
                values *= unit_of(group[name].attrs, self.units[of], base).physical(self.scale_factor, self.background.h)
            return values

        comoving = MPC_CM * self.scale_factor
        out = Particles(np.arange(a, b), column("Coordinates", "length", MPC_CM) / comoving, np.empty(0))
        name = next((m for m in MASS if m in group), None)
        if self.mass_table[kind] > 0:
            factor = self.units["mass"].physical(self.scale_factor, self.background.h) / MSUN_G
            out.mass = np.full(b - a, self.mass_table[kind] * factor)
        elif name is not None:
            out.mass = column(name, "mass", MSUN_G) / MSUN_G
        else:
            raise KeyError(f"neither Masses nor a MassTable entry in {group.name}")
        density = None
        if kind == "gas" and "Density" in group:
            density = column("Density", "density", MSUN_G / MPC_CM**3)
        name = next((s for s in SUPPORT if s in group), None)
        if name is not None:
            out.h = column(name, "length", MPC_CM) / comoving
        elif density is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                out.h = 2 * np.cbrt(3 * out.mass * MSUN_G / density / (4 * np.pi)) / comoving
        if gas:
            if density is None:
                raise KeyError(f"no Density in {group.name}")
            hydrogen = column("GFM_Metals")[:, 0] if "GFM_Metals" in group else X_H
            out.density = density
            out.electrons = column("ElectronAbundance") * hydrogen if "ElectronAbundance" in group else np.full(b - a, 1 / mu_e)
            if "Temperature" in group:
                out.temperature = column("Temperature")
            else:
                mu = 4 / (1 + 3 * hydrogen + 4 * out.electrons)
                out.temperature = (GAMMA - 1) * column("InternalEnergy", "energy", 1.0) * mu * M_P / K_B
        return out

    def _check(self, p: Particles, kind: str, path: Path) -> None:
        def refuse(bad: np.ndarray, what: str) -> None:
            if bad.any():
                how = f"first at particle {int(p.index[np.argmax(bad)])} of {int(bad.sum())}; check the snapshot"
                raise UserError(f"{what} in PartType{KINDS[kind]}", path, how)

        refuse(~np.isfinite(p.position).all(axis=1), "coordinates that are not finite")
        refuse((abs(p.position - self.box / 2) > 0.6 * self.box).any(axis=1), f"coordinates far outside the box of {self.box:.6g} Mpc")
        refuse(~((p.mass >= 0) & np.isfinite(p.mass)), "negative or undefined masses")
        if p.h is not None:
            refuse(~((p.h > 0) & np.isfinite(p.h)), "smoothing lengths (or densities) that are not above 0")
        if p.density is not None:
            refuse(~((p.density > 0) & np.isfinite(p.density)), "densities that are not above 0")
            refuse(~((p.temperature >= 0) & np.isfinite(p.temperature)), "temperatures that are negative or undefined")
            refuse(~((p.electrons >= 0) & np.isfinite(p.electrons)), "electron abundances that are negative or undefined")
        p.position %= self.box
        p.position[p.position >= self.box] = 0.0  # rounding of tiny negative numbers

    def fingerprint(self, kinds: list[str]) -> str:
        """A hash of the header and of up to 64 blocks of 1024 particles of each kind, whatever the files are called."""
        text = [f"{self.box:.9g} {self.redshift:.9g} {sorted(self.cosmology.items())}"]
        digest = hashlib.sha256(text[0].encode())
        for kind in kinds:
            digest.update(f"{kind} {self.count(kind)} {self.mass_table[kind]:.9g}".encode())
            starts = np.unique(np.linspace(0, max(self.count(kind) - 1024, 0), 64).astype(np.int64) // 1024 * 1024)
            offset = 0
            for path, n in zip(self.paths, self.counts[kind], strict=True):
                mine = starts[(starts >= offset) & (starts < offset + n)] - offset
                if len(mine):
                    with open_hdf5(path, "snapshot") as f:
                        group = f[f"PartType{KINDS[kind]}"]
                        for name in ("Coordinates", *MASS, *SUPPORT, "Density", "InternalEnergy", "Temperature", "ElectronAbundance"):
                            if name in group:
                                for a in mine:
                                    digest.update(group[name][a : a + 1024].tobytes())
                offset += n
        return digest.hexdigest()


def snapshot_paths(where: str | Path) -> list[Path]:
    """The chunk files that a file, a folder or a glob means, in the order of their numbers.

    Raises:
        UserError: there are none.
    """
    where = str(where)
    path = Path(where)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix in (".hdf5", ".h5") and not p.name.startswith("."))
    elif path.exists():
        found = [path]
    else:
        found = [Path(p) for p in glob.glob(where)]
    if not found:
        what = "no *.hdf5 in the snapshot folder" if path.is_dir() else "the snapshot is not there"
        raise UserError(what, where, "run simulate, or set project.snapshot")
    return sorted(found, key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", p.name)])


def open_snapshot(where: str | Path, cosmology: Background, given: frozenset[str] | set[str] = frozenset()) -> Snapshot:
    """Read the headers of a snapshot.

    Args:
        where: file, folder or glob of chunk files.
        cosmology: fills what the snapshot does not say.
        given: dotted keys that the user's config sets; a `cosmology.` key among them must agree with the snapshot.
    Raises:
        UserError: files missing, damaged or not a snapshot; a chunk missing; the cosmology contradicts the config.
    """
    paths = snapshot_paths(where)
    counts: dict[str, list[int]] = {kind: [] for kind in KINDS}
    first: dict = {}
    has_h = dict.fromkeys(KINDS, True)
    for path in paths:
        with open_hdf5(path, "snapshot") as f:
            if "Header" not in f:
                raise UserError("not a GADGET snapshot: it has no Header", path, "check project.snapshot")
            for kind, number_ in KINDS.items():
                name = f"PartType{number_}/Coordinates"
                counts[kind].append(len(f[name]) if name in f else 0)
                group = f[f"PartType{number_}"] if counts[kind][-1] else {}
                known = any(s in group for s in SUPPORT) or (kind == "gas" and "Density" in group)
                has_h[kind] &= known or not counts[kind][-1]
            if not first:
                first = _header(f, path)
    if first["files"] not in (0, len(paths)):
        raise UserError(
            f"{len(paths)} of the snapshot's {first['files']} chunk files are there", where, "give a folder or glob that holds them all"
        )
    for kind, total in first["totals"].items():
        if total != sum(counts[kind]):
            raise UserError(
                f"the header promises {total} particles of PartType{KINDS[kind]} and the files hold {sum(counts[kind])}",
                where,
                "a chunk is missing or cut short",
            )
    resolved = _resolve(first["cosmology"], cosmology, given, paths[0])
    a = 1 / (1 + first["redshift"])
    length = first["length"].physical(a, resolved.h) / (MPC_CM * a)
    return Snapshot(
        paths, first["box"] * length, first["redshift"], first["cosmology"], resolved, counts, first["masses"], has_h, first["units"]
    )


def _header(f: h5py.File, path: Path) -> dict:
    header = f["Header"].attrs
    groups = [f[name].attrs for name in ("Header", "Units", "Parameters", "Cosmology") if name in f]
    redshift, box = number(header, "Redshift"), number(header, "BoxSize")
    if redshift is None and number(header, "Time"):
        redshift = 1 / number(header, "Time") - 1
    if box is None or not box > 0 or redshift is None or not redshift > -1:
        raise UserError("the snapshot's Header has no BoxSize or Redshift", path, "only cosmological, periodic boxes can be read")
    units = code_units(groups)
    coordinates = next((f[f"PartType{n}/Coordinates"] for n in range(6) if f"PartType{n}/Coordinates" in f), None)
    length = unit_of({} if coordinates is None else coordinates.attrs, units["length"], MPC_CM)
    table, totals, high = (np.ravel(header.get(name, [])) for name in ("MassTable", "NumPart_Total", "NumPart_Total_HighWord"))
    found = {}
    for key, names in COSMOLOGY.items():
        values = (number(g, name) for g in groups for name in names)
        value = next((v for v in values if v and np.isfinite(v)), None)
        if value is not None:
            found[key] = value
    dark_energy = next((v for g in groups if (v := number(g, "OmegaLambda")) is not None), None)
    if dark_energy is not None and "Om0" in found and abs(found["Om0"] + dark_energy - 1) > 0.01:
        raise UserError(
            f"the snapshot's universe is not flat (Omega0 + OmegaLambda = {found['Om0'] + dark_energy:.4g})",
            path,
            "only flat ones can be read",
        )

    return {
        "box": box,
        "length": length,
        "redshift": redshift,
        "files": int(number(header, "NumFilesPerSnapshot") or 0),
        "masses": {kind: float(table[n]) if n < len(table) else 0.0 for kind, n in KINDS.items()},
        "totals": {kind: int(totals[n]) + (int(high[n]) << 32 if n < len(high) else 0) for kind, n in KINDS.items() if n < len(totals)},
        "cosmology": found,
        "units": units,
    }


def _resolve(found: dict[str, float], config: Background, given: frozenset[str] | set[str], path: Path) -> Background:
    values = {key: getattr(config, key) for key in COSMOLOGY}
    for key, value in found.items():
        if f"cosmology.{key}" in given and abs(values[key] / value - 1) > 1e-3:
            raise UserError(f"cosmology.{key} is {values[key]:.6g} and the snapshot's own is {value:.6g}", path, "drop the key, or mend it")
        values[key] = value
    return Background(**values)
