"""One physical set of particles, written as each simulation code would: true names, attributes and units."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

MPC, MSUN = 3.0856775814913673e24, 1.988409870698051e33
H, OMEGA, BARYONS, BOX = 0.7, 0.3, 0.045, 40.0
"""The cosmology, and the side of the box in comoving Mpc."""
X_H, MU_E = 0.76, 1.13
TITLES = {
    "gadget2": "GADGET-2/3",
    "gadget4": "GADGET-4",
    "tng": "AREPO",
    "simba": "GIZMO",
    "swift": "SWIFT",
    "eagle": "EAGLE",
}


def physical(z: float, n: int = 60, seed: int = 1) -> dict[str, dict[str, np.ndarray]]:
    """Comoving Mpc, Msun, physical g/cm^3 and K of gas, dm and stars; the gas cells are as large as m/rho says."""
    rng = np.random.default_rng(seed)
    out = {}
    for kind in ("gas", "dm", "star"):
        out[kind] = {
            "position": rng.uniform(0, BOX, (n, 3)),
            "mass": 10 ** rng.uniform(7, 9, n) if kind != "dm" else np.full(n, 5e9),
            "h": 10 ** rng.uniform(-2, 0, n),
            "ids": rng.permutation(10 * n)[:n] + {"gas": 0, "dm": 10_000, "star": 20_000}[kind],
        }
    gas = out["gas"]
    gas["density"] = 10 ** rng.uniform(-30, -25, n)
    gas["h"] = 2 * np.cbrt(3 * gas["mass"] * MSUN / (4 * np.pi * gas["density"])) / MPC * (1 + z)
    gas["abundance"] = rng.uniform(0.3, 1.2, n)
    gas["electrons"] = gas["abundance"] * X_H
    gas["temperature"] = 10 ** rng.uniform(4, 8, n)
    mu = 4 / (1 + 3 * X_H + 4 * gas["electrons"])
    gas["energy"] = 1.5 * 1.380649e-16 * gas["temperature"] / (mu * 1.67262192369e-24)  # erg/g
    gas["rate"] = np.where(rng.uniform(size=n) < 0.3, 0.5, 0.0)
    gas["metallicity"] = rng.uniform(0, 0.03, n)
    return out


def write(code: str, path: Path, z: float = 0.0, data: dict | None = None, **header: object) -> Path:
    """Write one file in the way of a code, one of `TITLES`."""
    data = physical(z) if data is None else data
    with h5py.File(path, "w") as f:
        {"swift": _swift, "eagle": _eagle, "tng": _tng, "simba": _simba}.get(code, _gadget)(f, data, z, code)
        f["Header"].attrs.update(header)
    return path


def _header(f: h5py.File, data: dict, z: float, types: int = 6, unit: float = 1e3 * H) -> None:
    count = np.zeros(types, np.int32)
    for kind, n in {"gas": 0, "dm": 1, "star": 4}.items():
        if n < types:
            count[n] = len(data[kind]["mass"])
    about = {"BoxSize": BOX * unit, "NumPart_ThisFile": count, "NumPart_Total": count.astype(np.uint32), "NumFilesPerSnapshot": 1}
    f.create_group("Header").attrs.update({**about, "MassTable": np.zeros(types), "Redshift": z, "Time": 1 / (1 + z)})


def _fill(f: h5py.File, data: dict, names: dict, factors: dict, attributes=lambda quantity: {}) -> None:
    """Datasets PartTypeN/name = physical value * factor, with the attributes of their quantity."""
    for kind, n in {"gas": 0, "dm": 1, "star": 4}.items():
        for quantity, name in names.items():
            if quantity in data[kind]:
                f[f"PartType{n}/{name}"] = data[kind][quantity] * factors.get(quantity, 1)
                f[f"PartType{n}/{name}"].attrs.update(attributes(quantity))


def _little_h(z: float, kpc: float = 1e3) -> dict[str, float]:
    """From physical numbers to comoving kpc/h, 1e10 Msun/h, (km/s)^2; `kpc`: stored units a Mpc."""
    density = (MPC / kpc) ** 3 / (1e10 * MSUN) / H**2 / (1 + z) ** 3
    return {"position": kpc * H, "h": kpc * H, "mass": H / 1e10, "density": density, "energy": 1e-10}


SPH = {
    "position": "Coordinates",
    "mass": "Masses",
    "h": "SmoothingLength",
    "density": "Density",
    "energy": "InternalEnergy",
    "abundance": "ElectronAbundance",
    "rate": "StarFormationRate",
    "ids": "ParticleIDs",
}


def _gadget(f: h5py.File, data: dict, z: float, code: str) -> None:
    cosmology = {"Omega0": OMEGA, "OmegaLambda": 1 - OMEGA, "HubbleParam": H, "OmegaBaryon": BARYONS}
    if code == "gadget2":
        _header(f, data, z)
        f["Header"].attrs.update({**{k: v for k, v in cosmology.items() if k != "OmegaBaryon"}, "Flag_Sfr": 1})
        _fill(f, data, {**SPH, "metallicity": "Metallicity"}, _little_h(z))
        return
    exponents = {"position": (1, -1), "h": (1, -1), "mass": (0, -1), "density": (-3, 2), "energy": (0, 0)}
    cgs = {"position": 3.085678e21, "h": 3.085678e21, "mass": 1.989e43, "density": 6.769911178294544e-22, "energy": 1e10}

    def attributes(quantity: str) -> dict:
        a, h = exponents.get(quantity, (0, 0))
        return {"to_cgs": cgs[quantity], "a_scaling": a, "h_scaling": h} if quantity in cgs else {}

    _header(f, data, z, types=5)
    units = {"UnitLength_in_cm": 3.085678e21, "UnitMass_in_g": 1.989e43, "UnitVelocity_in_cm_per_s": 1e5}
    f.create_group("Parameters").attrs.update({**cosmology, **units, "ComovingIntegrationOn": 1, "Hubble": 0.1})
    f.create_group("Config").attrs["NTYPES"] = 5.0
    _fill(f, data, {**SPH, "metallicity": "Metallicity"}, _little_h(z), attributes)
    f["Header"].attrs["MassTable"] = [0, 5e9 * H / 1e10, 0, 0, 0]
    del f["PartType1/Masses"]


def _tng(f: h5py.File, data: dict, z: float, code: str) -> None:
    exponents = {"position": (1, -1), "h": (1, -1), "mass": (0, -1), "density": (-3, 2), "energy": (0, 0)}
    cgs = {"position": 3.085678e21, "h": 3.085678e21, "mass": 1.989e43, "density": 6.76991118e-22, "energy": 1e10}

    def attributes(quantity: str) -> dict:
        a, h = exponents.get(quantity, (0, 0))
        return {"to_cgs": [cgs.get(quantity, 0.0)], "a_scaling": [float(a)], "h_scaling": [float(h)]}

    _header(f, data, z)
    names = {**SPH, "metallicity": "GFM_Metallicity", "h": "SubfindHsml"}
    f["Header"].attrs.update({"Omega0": OMEGA, "OmegaLambda": 1 - OMEGA, "OmegaBaryon": BARYONS, "HubbleParam": H})
    f["Header"].attrs.update({"UnitLength_in_cm": 3.085678e21, "UnitMass_in_g": 1.989e43, "UnitVelocity_in_cm_per_s": 1e5})
    f["Header"].attrs["MassTable"] = [0, 5e9 * H / 1e10, 0, 4.7e-5, 0, 0]
    _fill(f, data, names, _little_h(z), attributes)
    n = len(data["gas"]["mass"])
    del f["PartType1/Masses"]
    f["PartType0/SubfindHsml"][:] = 77.0  # of the dark matter around the cell
    f["PartType4/StellarHsml"] = f["PartType4/SubfindHsml"][:]
    f["PartType4/SubfindHsml"][:] = 77.0
    f["PartType0/GFM_Metals"] = np.column_stack([np.full(n, X_H), np.full((n, 9), 0.02)])
    f["PartType0/GFM_Metals"].attrs.update(attributes("metals"))
    f["PartType4/GFM_StellarFormationTime"] = np.full(len(data["star"]["mass"]), 0.4)


def _simba(f: h5py.File, data: dict, z: float, code: str) -> None:
    _header(f, data, z)
    f["Header"].attrs.update({"Omega0": OMEGA, "OmegaLambda": 1 - OMEGA, "HubbleParam": H, "Flag_Metals": 11})
    _fill(f, data, SPH, _little_h(z))
    metals = np.full((len(data["gas"]["mass"]), 11), 1e-4)
    metals[:, 0] = data["gas"]["metallicity"]
    metals[:, 1] = 1 - X_H - metals[:, 0]
    f["PartType0/Metallicity"] = metals
    f["PartType0/DelayTime"] = np.zeros(len(metals))
    for n in (0, 1, 4):
        f[f"PartType{n}/HaloID"] = np.arange(len(f[f"PartType{n}/Masses"])) % 7
    f["PartType1/AGS-Softening"] = np.full(len(data["dm"]["mass"]), 1.0)


SWIFT_CGS = "Conversion factor to CGS (not including cosmological corrections)"
SWIFT_PHYSICAL = "Conversion factor to physical CGS (including cosmological corrections)"
GAMMA_C2 = 1.936492


def swift_attributes(cgs: float, a: float, z: float, stored_physical: bool = False) -> dict:
    """What SWIFT writes at a dataset; the physical factor has a in it even where the numbers are physical already."""
    about = {SWIFT_CGS: [cgs], "a-scale exponent": [np.float32(a)], "h-scale exponent": [np.float32(0)]}
    return {**about, SWIFT_PHYSICAL: [cgs * (1 + z) ** -a], "Value stored as physical": [int(stored_physical)]}


def _swift(f: h5py.File, data: dict, z: float, code: str) -> None:
    length, mass, time = 3.08567758149e24, 1.98841e43, 3.08567758149e17  # 100 km/s
    count = np.zeros(7, np.int64)
    count[[0, 1, 4]] = [len(data[k]["mass"]) for k in ("gas", "dm", "star")]
    about = {"Code": "SWIFT", "BoxSize": np.full(3, BOX), "Dimension": [3], "Redshift": [z], "Scale-factor": [1 / (1 + z)]}
    about |= {"NumPart_ThisFile": count, "NumPart_Total": count.astype(np.uint32), "NumPart_Total_HighWord": np.zeros(7, np.uint32)}
    about |= {"MassTable": np.zeros(7), "NumFilesPerSnapshot": [1], "ThisFile": [0], "Time": [0.0142], "OutputType": "FullVolume"}
    f.create_group("Header").attrs.update(about)
    omegas = {"Omega_m": [OMEGA], "Omega_b": [BARYONS], "Omega_lambda": [1 - OMEGA - 9e-5], "Omega_r": [9e-5], "Omega_k": [0.0]}
    f.create_group("Cosmology").attrs.update({"Cosmological run": [1], **omegas, "h": [H], "Redshift": [z], "T_CMB_0 [K]": [2.7255]})
    for name in ("Units", "InternalCodeUnits"):
        unit = {"Unit length in cgs (U_L)": [length], "Unit mass in cgs (U_M)": [mass], "Unit time in cgs (U_t)": [time]}
        f.create_group(name).attrs.update({**unit, "Unit temperature in cgs (U_T)": [1.0], "Unit current in cgs (U_I)": [1.0]})
    f.create_group("HydroScheme").attrs["Kernel function"] = np.bytes_("Wendland C2")
    f.create_group("Parameters").attrs["Cosmology:h"] = "0.7"
    velocity2 = (length / time) ** 2
    names = {"position": "Coordinates", "mass": "Masses", "h": "SmoothingLengths", "density": "Densities", "energy": "InternalEnergies"}
    names |= {"temperature": "Temperatures", "rate": "StarFormationRates", "metallicity": "MetalMassFractions", "ids": "ParticleIDs"}
    cgs = {"position": (length, 1), "h": (length, 1), "mass": (mass, 0), "density": (mass / length**3, -3), "energy": (velocity2, -2)}
    factors = {"mass": 1e-10, "h": 1 / GAMMA_C2, "density": MPC**3 / (1e10 * MSUN) / (1 + z) ** 3, "energy": 1 / velocity2 / (1 + z) ** 2}
    _fill(f, data, names, factors, lambda quantity: swift_attributes(*cgs.get(quantity, (1.0, 0)), z))
    del f["PartType1/SmoothingLengths"]
    gas, n_gas = f["PartType0"], len(data["gas"]["mass"])
    gas["StarFormationRates"][:] = np.where(data["gas"]["rate"] > 0, data["gas"]["rate"], -0.3)  # was forming stars at a = 0.3
    gas["ElementMassFractions"] = np.column_stack([np.full(n_gas, X_H), np.full((n_gas, 8), 0.02)])
    gas["ElectronNumberDensities"] = data["gas"]["electrons"] * data["gas"]["density"] / 1.67262192369e-24 * length**3
    gas["ElectronNumberDensities"].attrs.update(swift_attributes(length**-3, -3, z, stored_physical=True))
    f["GasParticles"] = h5py.SoftLink("/PartType0")


def _eagle(f: h5py.File, data: dict, z: float, code: str) -> None:
    exponents = {"position": (1, -1), "h": (1, -1), "mass": (0, -1), "density": (-3, 2), "energy": (0, 0)}
    cgs = {"position": 3.085678e24, "h": 3.085678e24, "mass": 1.989e43, "density": 6.769911e-31, "energy": 1e10}

    def attributes(quantity: str) -> dict:
        a, h = exponents.get(quantity, (0, 0))
        return {"CGSConversionFactor": cgs.get(quantity, 1.0), "aexp-scale-exponent": np.float32(a), "h-scale-exponent": np.float32(h)}

    _header(f, data, z, unit=H)
    f["Header"].attrs.update({"Omega0": OMEGA, "OmegaLambda": 1 - OMEGA, "OmegaBaryon": BARYONS, "HubbleParam": H})
    f["Header"].attrs.update({"ExpansionFactor": 1 / (1 + z), "MassTable": [0, 5e9 * H / 1e10, 0, 0, 0, 0]})
    units = {"UnitLength_in_cm": 3.085678e24, "UnitMass_in_g": 1.989e43, "UnitVelocity_in_cm_per_s": 1e5}
    f.create_group("Units").attrs.update(units)
    names = {k: v for k, v in SPH.items() if k != "abundance"}
    names |= {"mass": "Mass", "temperature": "Temperature", "metallicity": "SmoothedMetallicity"}
    _fill(f, data, names, _little_h(z, kpc=1.0), attributes)
    del f["PartType1/Mass"], f["PartType1/SmoothingLength"]
    f["PartType0/SmoothedElementAbundance/Hydrogen"] = np.full(len(data["gas"]["mass"]), X_H)
    for n in (0, 1, 4):
        f[f"PartType{n}/GroupNumber"] = np.where(np.arange(len(f[f"PartType{n}/Coordinates"])) % 3, 5, -(2**30)).astype(np.int32)
