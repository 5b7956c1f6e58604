"""What each simulation code calls things in its snapshots, and how the codes are told apart by a file's content."""

from __future__ import annotations

from dataclasses import dataclass, replace

import h5py
import numpy as np

KINDS = {"gas": 0, "dm": 1, "star": 4, "bh": 5}
"""Particle types by name."""
X_H = 0.76
"""Hydrogen mass fraction where the snapshot has none."""
BLOCK = 1 << 18
"""Rows of a table with many columns that are held at once when one column is wanted."""


@dataclass(frozen=True)
class Column:
    """One number a particle: a dataset (`columns` empty), the sum of some of its columns, or (`rest`) 1 minus that sum."""

    name: str
    columns: tuple[int, ...] = ()
    rest: bool = False

    def __str__(self) -> str:
        text = [f"{self.name}[:,{c}]" for c in self.columns] or [self.name]
        return " - ".join(["1", *text]) if self.rest else " + ".join(text)

    def fits(self, group: h5py.Group) -> bool:
        """Whether the group has such a dataset of numbers, with enough columns; element 0 of a table of one column is the column itself."""
        data = group.get(self.name)
        if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "iuf":
            return False
        shape = data.shape
        return len(shape) == 1 + bool(self.columns) and max(self.columns, default=0) < (shape[1] if self.columns else 1)

    def read(self, group: h5py.Group, a: int, b: int) -> np.ndarray:
        """Rows a..b in the file's units, float64 (b - a,) or (b - a, 3)."""
        stored = group[self.name]
        if not self.columns:
            return stored[a:b].astype(np.float64, copy=False)
        out = np.empty(b - a)
        for start in range(a, b, BLOCK):  # whole rows are read faster than every tenth number, and a block of them is small
            rows = stored[start : min(start + BLOCK, b)]
            out[start - a : start - a + len(rows)] = rows[:, list(self.columns)].sum(axis=1, dtype=np.float64)
        return 1 - out if self.rest else out


@dataclass(frozen=True)
class Dialect:
    """The names of one code's datasets; where there are several, the first that a file has is taken.

    Attributes:
        title: the code, as people call it.
        little_h: whether lengths and masses are counted in units over h where no attribute says so.
        mass, density, energy, temperature: as they are called; specific thermal energy; K.
        support_gas, support: kernel support radius (SWIFT: times the kernel's gamma), of gas and of the other kinds;
            gas without one has it from the volume m/rho.
        electrons: n_e/n_H; electron_density: n_e.
        hydrogen, metallicity: mass fractions of hydrogen and of all metals.
        rate: star formation rate; delay: above 0 in gas that flows as a decoupled wind.
        birth: of stars, not above 0 in wind that only travels among them and is left out.
        group: number of the halo to which the particle belongs.
    """

    title: str
    little_h: bool = True
    mass: tuple[Column, ...] = (Column("Masses"), Column("Mass"))
    density: tuple[Column, ...] = (Column("Density"),)
    support_gas: tuple[Column, ...] = (Column("SmoothingLength"), Column("SubfindHsml"))
    support: tuple[Column, ...] = (Column("SmoothingLength"), Column("StellarHsml"), Column("SubfindHsml"))
    energy: tuple[Column, ...] = (Column("InternalEnergy"),)
    temperature: tuple[Column, ...] = (Column("Temperature"),)
    electrons: tuple[Column, ...] = (Column("ElectronAbundance"),)
    electron_density: tuple[Column, ...] = ()
    hydrogen: tuple[Column, ...] = ()
    metallicity: tuple[Column, ...] = (Column("Metallicity", (0,)), Column("Metallicity"))
    rate: tuple[Column, ...] = (Column("StarFormationRate"),)
    delay: tuple[Column, ...] = (Column("DelayTime"),)
    birth: tuple[Column, ...] = ()
    ids: tuple[Column, ...] = (Column("ParticleIDs"),)
    group: tuple[Column, ...] = ()


GADGET = Dialect("GADGET-2/3")
DIALECTS = {
    dialect.title: dialect
    for dialect in (
        GADGET,
        replace(GADGET, title="hpcdiff"),
        replace(GADGET, title="GADGET-4"),
        replace(
            GADGET,
            title="AREPO",
            support_gas=(Column("SmoothingLength"),),  # its gas has the SubfindHsml of the dark matter around it
            hydrogen=(Column("GFM_Metals", (0,)),),
            metallicity=(Column("GFM_Metallicity"), Column("Metallicity")),
            birth=(Column("GFM_StellarFormationTime"),),
        ),
        replace(
            GADGET,
            title="GIZMO",
            hydrogen=(Column("Metallicity", (0, 1), rest=True),),
            group=(Column("HaloID"),),
        ),
        replace(
            GADGET,
            title="EAGLE",
            mass=(Column("Mass"), Column("Masses")),
            hydrogen=(Column("SmoothedElementAbundance/Hydrogen"), Column("ElementAbundance/Hydrogen")),
            metallicity=(Column("SmoothedMetallicity"), Column("Metallicity")),
            group=(Column("GroupNumber"),),
        ),
        Dialect(
            "SWIFT",
            little_h=False,
            mass=(Column("Masses"), Column("DynamicalMasses")),
            density=(Column("Densities"),),
            support_gas=(Column("SmoothingLengths"),),
            support=(Column("SmoothingLengths"),),
            energy=(Column("InternalEnergies"),),
            temperature=(Column("Temperatures"),),
            electrons=(),
            electron_density=(Column("ElectronNumberDensities"),),
            hydrogen=(Column("ElementMassFractions", (0,)), Column("SmoothedElementMassFractions", (0,))),
            metallicity=(Column("MetalMassFractions"), Column("SmoothedMetalMassFractions")),
            rate=(Column("StarFormationRates"),),
            delay=(),
            group=(Column("FOFGroupIDs"), Column("HaloCatalogueIndex"), Column("GroupNr_bound"), Column("GroupNr_all")),
        ),
    )
}
"""Every dialect by its title."""
KERNELS = {
    "cubic": 1.825742,
    "quartic": 2.018932,
    "quintic": 2.195775,
    "wendland c2": 1.936492,
    "wendland c4": 2.207940,
    "wendland c6": 2.449490,
}
"""Support radius over SWIFT's smoothing length (twice the kernel's standard deviation), by the kernel's name."""


def recognise(f: h5py.File) -> Dialect:
    """The code that wrote a snapshot, from what its file holds."""
    header = f["Header"].attrs
    groups = [f[name] for name in sorted(f) if name.startswith("PartType") and isinstance(f.get(name), h5py.Group)]
    gas = f.get("PartType0", {})
    config = f["Config"].attrs if "Config" in f else {}
    coordinates = [g["Coordinates"].attrs for g in groups if "Coordinates" in g]
    if f.attrs.get("format") == "hpcdiff-snapshot":
        title = "hpcdiff"
    elif _text(header.get("Code")) == "SWIFT" or "InternalCodeUnits" in f or "HydroScheme" in f or "Densities" in gas:
        title = "SWIFT"
    elif any("CGSConversionFactor" in c for c in coordinates) or any("Mass" in g and "Masses" not in g for g in groups):
        title = "EAGLE"
    elif "Composition_vector_length" in header or "VORONOI" in config or any(_arepo(g) for g in groups):
        title = "AREPO"
    elif any(name in header for name in ("GIZMO_version", "UnitLength_In_CGS", "Kernel_Function_ID")) or any(_gizmo(g) for g in groups):
        title = "GIZMO"
    elif "Parameters" in f or "to_cgs" in (coordinates[0] if coordinates else {}):
        title = "GADGET-4"
    else:
        title = "GADGET-2/3"
    return DIALECTS[title]


def _text(value: object) -> str:
    value = np.ravel(value)[0] if np.size(value) else ""
    return value.decode() if isinstance(value, bytes) else str(value)


def _arepo(group: h5py.Group) -> bool:
    return "CenterOfMass" in group or any(name.startswith("GFM_") for name in group)


def _gizmo(group: h5py.Group) -> bool:
    return "AGS-Softening" in group or "HaloID" in group or Column("Metallicity", (0, 1)).fits(group)


def columns_of(dialect: Dialect, group: h5py.Group, kind: str) -> dict[str, Column]:
    """Which dataset of a group `PartTypeN` gives which quantity, as far as there are any.

    Returns:
        {quantity: Column}, quantities named as the attributes of `Dialect`; `support` is that of the kind.
    """
    wanted = {"mass": dialect.mass, "ids": dialect.ids, "group": dialect.group}
    wanted["support"] = dialect.support_gas if kind == "gas" else dialect.support
    if kind == "star":
        wanted["birth"] = dialect.birth
    if kind == "gas":
        for name in ("density", "energy", "temperature", "electrons", "electron_density", "hydrogen", "metallicity", "rate", "delay"):
            wanted[name] = getattr(dialect, name)
    found = {name: next((c for c in columns if c.fits(group)), None) for name, columns in wanted.items()}
    return {name: column for name, column in found.items() if column is not None}


def kernel_gamma(f: h5py.File) -> tuple[float | None, str]:
    """Support radius over SWIFT's SmoothingLengths, and the kernel's name; None where the file does not say which kernel it is."""
    about = f["HydroScheme"].attrs if "HydroScheme" in f else {}
    name = _text(about.get("Kernel function", ""))
    if "Kernel gamma" in about:
        return float(np.ravel(about["Kernel gamma"])[0]), name
    return next((gamma for key, gamma in KERNELS.items() if key in name.lower()), None), name
