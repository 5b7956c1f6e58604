"""A snapshot of any number of files as one table a kind of particle: read in slabs, in Mpc, Msun and K."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import h5py
import numpy as np

from hpcdiff.cosmology import MPC_CM, MSUN_G, Background
from hpcdiff.errors import UserError
from hpcdiff.maps import interpreting, open_hdf5
from hpcdiff.snapshot.cells import Cells, read_cells
from hpcdiff.snapshot.dialects import DIALECTS, KINDS, Column
from hpcdiff.snapshot.particles import Particles, Rows, joined, refuse_bad, refuse_twice
from hpcdiff.snapshot.units import Unit

HASHED = ("mass", "support", "density", "energy", "temperature", "electrons", "electron_density", "birth", "rate", "delay")
"""Quantities that the fingerprint looks at, besides positions."""


@dataclass
class Snapshot:
    """What the headers say; particles are read by `read`. Holds no open file, and can be sent to other ranks.

    Attributes:
        paths: chunk files in order.
        dialect: title of the code that wrote it.
        box: side of the periodic box, comoving Mpc.
        redshift: of the snapshot.
        cosmology: the numbers that the snapshot itself gives {"Om0": ...}.
        background: the resolved cosmology.
        assumed: keys of it that neither the snapshot nor the user's config gives.
        counts: {kind: rows in each chunk}.
        mass_table: {kind: stored mass of every particle, 0 if each has its own}.
        has_h: {kind: whether `read` knows a support radius}.
        columns: {kind: {quantity: Column}}, which dataset gives what.
        units: what holds for datasets without attributes.
        to_mpc: comoving Mpc a stored unit of length.
        gamma, kernel: support radius over the stored smoothing length, and the name of the kernel (SWIFT).
        indexed: whether the files say which rows lie where in the box.
        others: {type: rows} that no kind stands for.
    """

    paths: list[Path]
    dialect: str
    box: float
    redshift: float
    cosmology: dict[str, float]
    background: Background
    counts: dict[str, list[int]]
    mass_table: dict[str, float]
    has_h: dict[str, bool]
    columns: dict[str, dict[str, Column]] = field(repr=False)
    units: dict[str, Unit] = field(repr=False)
    to_mpc: float = field(repr=False)
    gamma: float = 1.0
    kernel: str = ""
    indexed: bool = False
    others: dict[int, int] = field(default_factory=dict)
    assumed: frozenset[str] = frozenset()

    @property
    def scale_factor(self) -> float:
        """1/(1+z)."""
        return 1 / (1 + self.redshift)

    @property
    def groups(self) -> str | None:
        """Name of the dataset that gives each particle's halo, None if there is none."""
        return next((str(columns["group"]) for columns in self.columns.values() if "group" in columns), None)

    def count(self, kind: str) -> int:
        """Rows of one kind."""
        return sum(self.counts[kind])

    def read(
        self, kind: str, start: int, stop: int, mu_e: float = 1.13, gas: bool = True, ids: bool = False, groups: bool = False
    ) -> Particles:
        """Particles in rows start..stop of one kind, over the chunks; `index` says which rows they are.

        Rows that are not what their kind says (wind that travels among the stars) are left out.

        Args:
            kind: one of `KINDS`.
            start, stop: rows in the whole snapshot.
            mu_e: mass an electron, proton masses, where the snapshot has no electron abundance.
            gas: for kind `gas`, read density, temperature, electrons, star formation and metallicity too.
            ids, groups: read the particles' ids, the numbers of their halos.
        Raises:
            UserError: a file is damaged; a dataset is missing; coordinates outside the box or not finite; masses negative;
                h or density not above 0; an id twice.
        """
        for wanted, quantity in (
            (gas and kind == "gas", "density"),
            (gas and kind == "gas", "temperature"),
            (ids, "ids"),
            (groups, "group"),
        ):
            if wanted and self.count(kind):
                self.require(kind, quantity)
        parts = []
        for path, offset, a, b in self._runs(kind, start, stop):
            with interpreting(path, "snapshot"), open_hdf5(path, "snapshot") as f:
                rows = self._rows(f, kind, a, b)
                part = self._particles(rows, kind, mu_e, gas and kind == "gas")
                part.ids = rows.stored("ids") if ids else None
                part.group = rows.stored("group") if groups else None
                settled = rows.settled()
            part.index += offset
            if settled is not None and not settled.all():
                part.keep(settled)
            refuse_bad(part, kind, self.box, path)
            parts.append(part)
        if not parts:
            return Particles(np.empty(0, np.int64), np.empty((0, 3)), *[np.empty(0)] * 5)  # the kind has none at all
        out = joined(parts)
        if ids:
            refuse_twice(out.ids, out.index, kind, self.paths[0])
        return out

    def positions(self, kind: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows (n,) and positions (n, 3), comoving Mpc, of what `read` gives, and nothing else is read.

        Raises:
            UserError: a file is damaged; coordinates outside the box or not finite.
        """
        parts = []
        for path, offset, a, b in self._runs(kind, start, stop):
            with interpreting(path, "snapshot"), open_hdf5(path, "snapshot") as f:
                rows = self._rows(f, kind, a, b)
                part = Particles(np.arange(a, b) + offset, rows.position(), np.ones(b - a))
                settled = rows.settled()
            if settled is not None:
                part.keep(settled)
            refuse_bad(part, kind, self.box, path)
            parts.append(part)
        out = joined(parts) if parts else Particles(np.empty(0, np.int64), np.empty((0, 3)), np.empty(0))
        return out.index, out.position

    def _runs(self, kind: str, start: int, stop: int) -> list[tuple[Path, int, int, int]]:
        """(path, rows before it, first and last of its rows that are meant) of each chunk that holds some of the rows.

        Of no rows, the first chunk that has the kind: what is read has the same columns then.
        """
        ends = list(accumulate(self.counts[kind]))
        start = min(max(start, 0), ends[-1])
        stop = min(max(start, stop), ends[-1])
        if start == stop:
            return [(path, 0, 0, 0) for path, n in zip(self.paths, self.counts[kind], strict=True) if n][:1]
        found, k = [], bisect_right(ends, start)
        while k < len(ends) and (offset := ends[k] - self.counts[kind][k]) < stop:
            if self.counts[kind][k]:
                found.append((self.paths[k], offset, max(start - offset, 0), min(stop, ends[k]) - offset))
            k += 1
        return found

    def _rows(self, f: h5py.File, kind: str, a: int, b: int) -> Rows:
        group = f[f"PartType{KINDS[kind]}"]
        return Rows(group, self.columns[kind], self.units, self.scale_factor, self.background.h, a, b)

    def _particles(self, rows: Rows, kind: str, mu_e: float, gas: bool) -> Particles:
        mass = rows.mass(self.mass_table[kind])
        if mass is None:
            self.require(kind, "mass")
        out = Particles(np.arange(rows.a, rows.b), rows.position(), mass)
        density = rows.cgs("density", "density") if gas or "support" not in rows.columns else None
        out.h = rows.support(mass, density, self.gamma)
        if gas:
            out.density = density
            out.electrons = rows.electrons(density, mu_e)
            out.temperature = rows.temperature(out.electrons)
            out.star_forming = rows.star_forming()
            out.metallicity = rows.number("metallicity")
        return out

    def require(self, kind: str, quantity: str, field: str = "") -> None:
        """Check that the snapshot gives a quantity: `mass`, `density`, `temperature`, `metallicity`, `star_forming`, ...

        Args:
            kind, quantity: what is needed.
            field: for which field of the maps, to be named.
        Raises:
            UserError: it has no dataset for it, naming those that would do.
        """
        alternatives = {"temperature": ("temperature", "energy"), "star_forming": ("rate", "delay")}.get(quantity, (quantity,))
        if any(name in self.columns.get(kind, {}) for name in alternatives) or (quantity == "mass" and self.mass_table[kind] > 0):
            return
        names = [str(c) for name in alternatives for c in getattr(DIALECTS[self.dialect], name)]
        what = f"the snapshot's PartType{KINDS[kind]} has no {' or '.join(names) or quantity}"
        for_whom = f", which the field {field!r} needs" if field else f", which give{'s' * (len(names) < 2)} the {quantity}"
        where = next((p for p, n in zip(self.paths, self.counts[kind], strict=True) if n), self.paths[0])
        raise UserError(what + for_whom, where, "take project.fields that do without, or another snapshot")

    def cells(self, kind: str) -> Cells | None:
        """Which rows of a kind lie where in the box, by the snapshot's own index; None where it has none."""
        if not self.indexed or not self.count(kind):
            return None
        with interpreting(self.paths[0], "snapshot"), open_hdf5(self.paths[0], "snapshot") as f:
            return read_cells(f, f"PartType{KINDS[kind]}", self.count(kind), self.to_mpc)

    def describe(self) -> list[str]:
        """What was found, in lines for a person to read."""
        own = ", ".join(f"{key} {value:.6g}" for key, value in self.cosmology.items())
        units = {name: self.units[name] for name in ("length", "mass")}
        lines = [
            f"snapshot: {self.dialect}, {len(self.paths)} file(s), first {self.paths[0]}",
            f"box {self.box:.6g} comoving Mpc, z = {self.redshift:.6g}; cosmology of its own: {own or 'none'}",
            f"where datasets have no units: length {units['length'].cgs / MPC_CM:.4g} Mpc a^{units['length'].a:g} h^{units['length'].h:g}, "
            f"mass {units['mass'].cgs / MSUN_G:.4g} Msun h^{units['mass'].h:g}",
        ]
        for kind in KINDS:
            if self.count(kind):
                lines.append(f"{kind} (PartType{KINDS[kind]}): {self.count(kind)} particles; {self._sources(kind)}")
        for n, rows in self.others.items():
            lines.append(f"PartType{n}: {rows} particles that are not read")
        if self.count("dm") and self.mass_table["dm"] > 0 and "mass" not in self.columns.get("dm", {}) and "Ob0" not in self.assumed:
            mass = self.units["table"].physical(self.scale_factor, self.background.h) / MSUN_G * self.mass_table["dm"]
            whole = mass * self.count("dm") / (self.background.rho_mean(0, "dm") * self.box**3)
            lines.append(f"dark matter: {mass:.6g} Msun a particle, together {whole:.4g} of the cosmic mean (a whole box has about 1)")
        return lines

    def _sources(self, kind: str) -> str:
        columns = self.columns.get(kind, {})
        said = [f"{name} {column}" for name, column in columns.items() if name not in ("support", "ids", "group")]
        if "mass" not in columns and self.mass_table[kind] > 0:
            said.insert(0, "mass MassTable")
        if "support" in columns:
            times = f" x {self.gamma:.6g} ({self.kernel})" if self.kernel else ""
            said.append(f"support radius {columns['support']}{times}")
        else:
            said.append("support radius " + ("from the volume m/rho" if self.has_h[kind] else "not given (from neighbours)"))
        if kind == "gas" and not {"electrons", "electron_density"} & set(columns):
            said.append("electrons: fully ionised, project.mu_e")
        if "group" in columns:
            said.append(f"halo {columns['group']}")
        return ", ".join(said)

    def fingerprint(self, kinds: list[str]) -> str:
        """A hash of the header and of up to 64 blocks of 1024 rows of each kind, whatever the files are called."""
        digest = hashlib.sha256(f"{self.box:.9g} {self.redshift:.9g} {sorted(self.cosmology.items())} {self.gamma:.9g}".encode())
        for kind in kinds:
            digest.update(f"{kind} {self.count(kind)} {self.mass_table[kind]:.9g}".encode())
            starts = np.unique(np.linspace(0, max(self.count(kind) - 1024, 0), 64).astype(np.int64) // 1024 * 1024)
            columns = self.columns.get(kind, {})
            names = list(dict.fromkeys(["Coordinates", *(columns[name].name for name in HASHED if name in columns)]))
            offset = 0
            for path, n in zip(self.paths, self.counts[kind], strict=True):
                runs = [(max(s - offset, 0), min(s + 1024 - offset, n)) for s in starts if s < offset + n and s + 1024 > offset]
                if runs and n:
                    with open_hdf5(path, "snapshot") as f:
                        for name in names:
                            data = f[f"PartType{KINDS[kind]}/{name}"]
                            for a, b in runs:
                                digest.update(data[a:b].tobytes())
                offset += n
        return digest.hexdigest()
