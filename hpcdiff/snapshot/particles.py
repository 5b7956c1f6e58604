"""Rows of a snapshot file as plain arrays in Mpc, Msun, g/cm^3 and K, and what is refused among them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from hpcdiff.cosmology import K_B, M_P, MPC_CM, MSUN_G
from hpcdiff.errors import UserError
from hpcdiff.snapshot.dialects import KINDS, X_H, Column
from hpcdiff.snapshot.units import Unit, unit_of

GAMMA = 5 / 3
OUTSIDE = 0.02
"""How far outside the box, in sides, a particle may have drifted before it was written."""
BASES = {
    "length": MPC_CM,
    "mass": MSUN_G,
    "density": MSUN_G / MPC_CM**3,
    "energy": 1.0,
    "number_density": MPC_CM**-3,
    "temperature": 1.0,
}
"""CGS values of which units are meant to be powers of ten."""


@dataclass
class Particles:
    """Some particles of one kind.

    Attributes:
        index: int64 (n,), row in the whole snapshot, within the kind; rows that are left out are missing here.
        position: float64 (n, 3), comoving Mpc, 0 <= x < box.
        mass: float64 (n,), Msun.
        h: float64 (n,), kernel support radius, comoving Mpc; None where the snapshot gives no means to know it.
        density: float64 (n,), gas: physical g/cm^3, else None.
        temperature: float64 (n,), gas: K, else None.
        electrons: float64 (n,), gas: electrons a proton mass, 1/mu_e, else None.
        star_forming: bool (n,), gas: forming stars, or a wind decoupled from the hydrodynamics; None where unknown.
        metallicity: float64 (n,), gas: mass fraction of metals; None where unknown.
        ids: uint64 or int64 (n,), as stored; None where not asked for.
        group: int64 (n,), number of the halo, as stored; None where not asked for.
    """

    index: np.ndarray
    position: np.ndarray
    mass: np.ndarray
    h: np.ndarray | None = None
    density: np.ndarray | None = None
    temperature: np.ndarray | None = None
    electrons: np.ndarray | None = None
    star_forming: np.ndarray | None = None
    metallicity: np.ndarray | None = None
    ids: np.ndarray | None = None
    group: np.ndarray | None = None

    def keep(self, rows: np.ndarray) -> None:
        """Drop all rows but those of the mask (n,)."""
        for name in (f.name for f in fields(self)):
            if getattr(self, name) is not None:
                setattr(self, name, getattr(self, name)[rows])


def joined(parts: list[Particles]) -> Particles:
    """Several runs of particles one behind the other; the parts are emptied on the way, so that memory is not held twice."""
    if len(parts) == 1:
        return parts[0]
    out = Particles(np.empty(0, np.int64), np.empty((0, 3)), np.empty(0))
    for name in (f.name for f in fields(Particles)):
        column = [getattr(p, name) for p in parts]
        setattr(out, name, None if column[0] is None else np.concatenate(column))
        for p in parts:
            setattr(p, name, None)
    return out


@dataclass(frozen=True)
class Rows:
    """Rows a..b of a group `PartTypeN`, to be read quantity by quantity.

    Attributes:
        group: of the open file.
        columns: {quantity: Column}.
        units: units where a dataset has no attributes.
        scale_factor, hubble: a, h.
        a, b: the rows.
    """

    group: h5py.Group
    columns: dict[str, Column]
    units: dict[str, Unit]
    scale_factor: float
    hubble: float
    a: int
    b: int

    def number(self, quantity: str) -> np.ndarray | None:
        """As stored, float64; None where the file has no such quantity."""
        return self.columns[quantity].read(self.group, self.a, self.b) if quantity in self.columns else None

    def cgs(self, quantity: str, of: str) -> np.ndarray | None:
        """In physical CGS, by the dataset's own attributes, else by the unit called `of`."""
        values = self.number(quantity)
        if values is not None:
            unit = unit_of(self.group[self.columns[quantity].name].attrs, self.units[of], BASES[of])
            values *= unit.physical(self.scale_factor, self.hubble)
        return values

    def position(self) -> np.ndarray:
        """Comoving Mpc, (b - a, 3)."""
        coordinates = self.group["Coordinates"]
        unit = unit_of(coordinates.attrs, self.units["length"], MPC_CM).physical(self.scale_factor, self.hubble)
        x = coordinates[self.a : self.b].astype(np.float64, copy=False)
        x *= unit / MPC_CM / self.scale_factor
        return x

    def mass(self, table: float) -> np.ndarray | None:
        """Msun; `table` is what MassTable says."""
        values = self.cgs("mass", "mass")
        if values is None and table > 0:
            return np.full(self.b - self.a, table * self.units["table"].physical(self.scale_factor, self.hubble) / MSUN_G)
        if values is not None:
            values /= MSUN_G
        return values

    def settled(self) -> np.ndarray | None:
        """Mask of the rows that are what their kind says: wind that travels among the stars is not; None = all are."""
        return None if "birth" not in self.columns else self.number("birth") > 0

    def support(self, mass: np.ndarray, density: np.ndarray | None, gamma: float) -> np.ndarray | None:
        """Kernel support radius, comoving Mpc: `gamma` times the file's length, or of gas 2 (3 m/(4 pi rho))^(1/3)."""
        comoving = MPC_CM * self.scale_factor
        values = self.cgs("support", "length")
        if values is not None:
            return values * (gamma / comoving)
        if density is None:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            return 2 * np.cbrt(3 * mass * MSUN_G / density / (4 * np.pi)) / comoving

    @cached_property
    def hydrogen(self) -> np.ndarray | float:
        """Mass fraction of hydrogen."""
        values = self.number("hydrogen")
        return X_H if values is None else values

    def electrons(self, density: np.ndarray, mu_e: float) -> np.ndarray:
        """Electrons a proton mass: X_H n_e/n_H, or n_e m_p/rho, or 1/mu_e (fully ionised)."""
        abundance = self.number("electrons")
        if abundance is not None:
            return abundance * self.hydrogen
        values = self.cgs("electron_density", "number_density")
        if values is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                return values * M_P / density
        return np.full(self.b - self.a, 1 / mu_e)

    def temperature(self, electrons: np.ndarray) -> np.ndarray | None:
        """K: the file's own, or (gamma - 1) u mu m_p/k with mu = 4/(1 + 3 X_H + 4 X_H n_e/n_H)."""
        values = self.cgs("temperature", "temperature")
        if values is None and "energy" in self.columns:
            mu = 4 / (1 + 3 * self.hydrogen + 4 * electrons)
            values = (GAMMA - 1) * self.cgs("energy", "energy") * mu * M_P / K_B
        return values

    def star_forming(self) -> np.ndarray | None:
        """Mask of gas that forms stars (SWIFT writes a negative rate where it once did) or is a decoupled wind."""
        rate, delay = self.number("rate"), self.number("delay")
        if rate is None and delay is None:
            return None
        return np.any([values > 0 for values in (rate, delay) if values is not None], axis=0)

    def stored(self, quantity: str) -> np.ndarray:
        """As stored, in its own type if that is an integer one, else int64."""
        values = self.group[self.columns[quantity].name][self.a : self.b]
        return values if values.dtype.kind in "iu" else values.astype(np.int64)


def refuse_bad(p: Particles, kind: str, box: float, path: Path) -> None:
    """Refuse particles whose numbers make no sense, and bring those that drifted out of the box back into it.

    Raises:
        UserError: naming the first of them.
    """

    def refuse(fine: bool, bad, what: str) -> None:
        if not fine:
            rows = bad()
            how = f"the first is particle {int(p.index[np.argmax(rows)])}; {int(rows.sum())} in all; check the snapshot"
            raise UserError(f"{what} in PartType{KINDS[kind]}", path, how)

    if not len(p.index):
        return
    low, high, far = p.position.min(), p.position.max(), OUTSIDE * box
    refuse(bool(np.isfinite(low) and np.isfinite(high)), lambda: ~np.isfinite(p.position).all(axis=1), "coordinates that are not finite")
    outside = f"coordinates outside the box of {box:.6g} Mpc"
    refuse(low >= -far and high <= box + far, lambda: ((p.position < -far) | (p.position > box + far)).any(axis=1), outside)
    for values, allow_0, what in (
        (p.mass, True, "negative or undefined masses"),
        (p.density, False, "densities that are not above 0"),
        (p.h, False, "smoothing lengths (or densities) that are not above 0"),
        (p.temperature, True, "temperatures that are negative or undefined"),
        (p.electrons, True, "electron abundances that are negative or undefined"),
    ):
        if values is not None:
            least, most = values.min(), values.max()
            fine = (least >= 0 if allow_0 else least > 0) and most < np.inf
            refuse(fine, lambda v=values, z=allow_0: ~(((v >= 0) if z else (v > 0)) & (v < np.inf)), what)
    if p.h is not None:
        wide = f"smoothing lengths (or the volumes m/rho) that reach over more than half the box of {box:.6g} Mpc"
        refuse(p.h.max() <= box / 2, lambda: p.h > box / 2, wide)
    if low < 0 or high >= box:
        p.position %= box
        p.position[p.position >= box] = 0.0  # rounding of tiny negative numbers


def refuse_twice(ids: np.ndarray, index: np.ndarray, kind: str, where: Path) -> None:
    """Refuse particles that have the same id.

    Raises:
        UserError: naming the first that is there a second time.
    """
    order = np.argsort(ids, kind="stable")
    twice = order[1:][ids[order[1:]] == ids[order[:-1]]]
    if len(twice):
        how = f"the first is particle {int(index[twice.min()])}; {len(twice)} in all; check the snapshot"
        raise UserError(f"the same ParticleIDs more than once in PartType{KINDS[kind]}", where, how)
