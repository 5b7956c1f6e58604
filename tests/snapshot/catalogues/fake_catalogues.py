"""The same six clusters as every halo finder would write them, with some halos beside them that must be left out."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from hpcdiff.cosmology import MPC_CM, MSUN_G, Background

BACKGROUND = Background(Om0=0.3, h=0.7)
H = BACKGROUND.h
BOX = 100.0
"""Comoving Mpc."""
rng = np.random.default_rng(8)
POSITION = rng.uniform(0, BOX, (6, 3))
M200M = np.array([9.0, 6.5, 4.0, 2.0, 1.5, 1.1]) * 1e14
M200C, M500C = 0.75 * M200M, 0.5 * M200M
LENGTHS = rng.integers(100, 1000, (6, 6))
"""Particles of each type in each group."""


def radii(z: float) -> dict[str, np.ndarray]:
    """R200m, R200c, R500c in comoving Mpc."""
    critical = {f"R{d}c": BACKGROUND.radius(m, d, "crit", z) * (1 + z) for d, m in ((200, M200C), (500, M500C))}
    return {"R200m": BACKGROUND.radius(M200M, z=z) * (1 + z), **critical}


def with_nothing(values: np.ndarray) -> np.ndarray:
    """A row of zeros in third place: a group for which the finder found no overdensity."""
    return np.insert(values, 2, 0, axis=0)


KEPT = np.array([0, 1, 3, 4, 5, 6])
"""Rows of the clusters among those of `with_nothing`."""


def write_subfind(folder: Path, z: float = 0.0, chunks: int = 1, offsets: bool = False, attributes: bool = False, **header: object) -> Path:
    """`folder`/fof_subhalo_tab_099*.hdf5 as TNG (no attributes) or GADGET-4 (`offsets`, `attributes`) would write it."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"GroupPos": POSITION * 1e3 * H, "GroupLenType": LENGTHS.astype(np.int32)}
    for name, mass, radius in zip(("Mean200", "Crit200", "Crit500"), (M200M, M200C, M500C), radii(z).values(), strict=True):
        columns |= {f"Group_M_{name}": mass * H / 1e10, f"Group_R_{name}": radius * 1e3 * H}
    columns = {name: with_nothing(values) for name, values in columns.items()}
    if offsets:  # with room between the groups, unlike a sum of lengths
        columns["GroupOffsetType"] = np.cumsum(columns["GroupLenType"], axis=0) - columns["GroupLenType"] + 10 * np.arange(7)[:, None]
    n = len(KEPT) + 1
    for k in range(chunks):
        name = "fof_subhalo_tab_099.hdf5" if chunks == 1 else f"fof_subhalo_tab_099.{k}.hdf5"
        part = slice(n * k // chunks, n * (k + 1) // chunks)
        with h5py.File(folder / name, "w") as f:
            about = {"BoxSize": BOX * 1e3 * H, "Redshift": z, "Time": 1 / (1 + z), "NumFiles": chunks, "Ngroups_Total": n}
            cosmology = {"HubbleParam": H, "Omega0": 0.3, "OmegaLambda": 0.7}
            f.create_group("Header").attrs.update(
                {**about, "Ngroups_ThisFile": part.stop - part.start, **({} if attributes else cosmology), **header}
            )
            if attributes:
                f.create_group("Parameters").attrs.update({**cosmology, "UnitLength_in_cm": 3.085678e21, "UnitMass_in_g": 1.989e43})
            group = f.create_group("Group")
            f.create_group("Subhalo")
            for key, values in columns.items():
                if part.stop > part.start:
                    group[key] = values[part].astype(np.float32 if values.dtype == np.float64 and "Pos" not in key else values.dtype)
                    if attributes and ("Pos" in key or "_" in key):
                        unit = (1.989e43, 0.0) if "_M_" in key else (3.085678e21, 1.0)
                        group[key].attrs.update({"to_cgs": unit[0], "a_scaling": unit[1], "h_scaling": -1.0})
    return folder


def write_eagle(folder: Path, z: float = 0.0) -> Path:
    """EAGLE's `FOF/` in Mpc/h, with its attributes."""
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / "eagle_subfind_tab_028_z000p000.0.hdf5", "w") as f:
        f.create_group("Header").attrs.update(
            {"BoxSize": BOX * H, "Redshift": z, "HubbleParam": H, "Omega0": 0.3, "ExpansionFactor": 1 / (1 + z), "TotNgroups": 7}
        )
        f.create_group("Units").attrs.update({"UnitLength_in_cm": 3.085678e24, "UnitMass_in_g": 1.989e43})
        columns = {"GroupCentreOfPotential": (POSITION * H, 3.085678e24, 1.0)}
        for name, mass, radius in zip(("Mean200", "Crit200", "Crit500"), (M200M, M200C, M500C), radii(z).values(), strict=True):
            columns[f"Group_M_{name}"] = (mass * H / 1e10, 1.989e43, 0.0)
            columns[f"Group_R_{name}"] = (radius * H, 3.085678e24, 1.0)
        for key, (values, cgs, a) in columns.items():
            f[f"FOF/{key}"] = with_nothing(values)
            f[f"FOF/{key}"].attrs.update({"CGSConversionFactor": cgs, "aexp-scale-exponent": a, "h-scale-exponent": -1.0})
    (folder / "eagle_subfind_ids.0.hdf5").write_bytes(b"")
    return folder


def write_soap(path: Path, z: float = 0.0, physical: bool = True) -> Path:
    """SOAP: radii stored physical (as FLAMINGO's) or comoving, masses in 1e10 Msun; the third halo is a satellite."""
    path.parent.mkdir(parents=True, exist_ok=True)
    a = 1 / (1 + z)
    with h5py.File(path, "w") as f:
        f.create_group("Header").attrs.update({"BoxSize": [BOX] * 3, "Redshift": [z], "OutputType": "SOAP", "Scale-factor": [a]})
        f.create_group("Cosmology").attrs.update({"Omega_m": [0.3], "h": [H], "Omega_b": [0.045]})
        index = 10 + np.arange(7)
        f["InputHalos/HaloCatalogueIndex"] = index
        f["InputHalos/HBTplus/HostFOFId"] = 100 + np.arange(7)
        f["InputHalos/IsCentral"] = np.array([1, 1, 0, 1, 1, 1, 1], np.uint8)
        columns = {"InputHalos/HaloCentre": (POSITION, MPC_CM, 1.0, False)}
        for name, mass, radius in zip(("200_mean", "200_crit", "500_crit"), (M200M, M200C, M500C), radii(z).values(), strict=True):
            columns[f"SO/{name}/TotalMass"] = (mass / 1e10, 1e10 * MSUN_G, 0.0, True)
            columns[f"SO/{name}/SORadius"] = (radius * (a if physical else 1), MPC_CM, 1.0, physical)
        for key, (values, cgs, exponent, stored) in columns.items():
            f[key] = np.insert(values, 2, 3e4, axis=0) if "Mass" in key else with_nothing(values)
            f[key].attrs.update(
                {
                    "Conversion factor to CGS (not including cosmological corrections)": [cgs],
                    "a-scale exponent": [exponent],
                    "h-scale exponent": [0.0],
                    "Value stored as physical": [int(stored)],
                }
            )
    return path


def write_rockstar(
    path: Path, z: float = 0.0, names: str = "M200b M200c M500c", comments: str = "", parents: bool = True, box: float = BOX
) -> Path:
    """Rockstar's out_*.list; the third halo lies in the first, so its PID is that one's id."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f"#ID DescID Mvir Vmax Vrms Rvir Rs Np X Y Z {names} Xoff b_to_a(500c) A[x](500c){' PID' if parents else ''}",
        f"#a = {1 / (1 + z):.6f}",
        f"#Om = 0.300000; Ol = 0.700000; h = {H:.6f}",
        f"#Box size: {box * H:.6f} Mpc/h",
        "#Units: Masses in Msun / h",
        "#Units: Positions in Mpc / h (comoving)",
        "#Units: Halo Distances, Lengths, and Radii in kpc / h (comoving)",
    ]
    lines += [f"#{comments}"] if comments else []
    for k in range(7):
        row = int(np.searchsorted(KEPT, k))
        satellite = k not in KEPT
        masses = {"M200b": M200M, "M200b_all": 1.1 * M200M, "M200c": M200C, "M500c": M500C}
        x = POSITION[0] if satellite else POSITION[row]
        numbers = [f"{m[row] * H:.9e}" for name, m in masses.items() if name in names.split()]
        halo = [40 + k, -1, "1.0e14", 900, 800, 1500, 200, 5000, *(f"{v * H:.9f}" for v in x), *numbers, 0.1, 0.9, 0.3]
        lines.append(" ".join(map(str, [*halo, *([40 if satellite else -1] if parents else [])])))
    path.write_text("\n".join(lines) + "\n")
    return path


def write_ahf(
    path: Path, z: float = 0.0, mass: np.ndarray = M200M, radius: np.ndarray | None = None, first: int = 5_000_000_000_000_000_001
) -> Path:
    """AHF's *.AHF_halos, bounded by 200 times the mean density unless told otherwise; the third is a subhalo of the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    radius = radii(z)["R200m"] if radius is None else radius
    lines = ["#ID(1)\thostHalo(2)\tnumSubStruct(3)\tMvir(4)\tnpart(5)\tXc(6)\tYc(7)\tZc(8)\tVXc(9)\tRvir(10)\tRmax(11)"]
    for k in range(7):
        row, satellite = int(np.searchsorted(KEPT, k)), k not in KEPT
        halo = [first + k, first if satellite else 0, 1, f"{mass[row] * H:.9e}", 900]
        halo += [f"{v * H * 1e3:.6f}" for v in POSITION[row]] + [10.5, f"{(0.1 if satellite else 1) * radius[row] * H * 1e3:.6f}", 80]
        lines.append("\t".join(map(str, halo)) + "\t")
    path.write_text("\n".join(lines) + "\n")
    return path
