"""What each particle brings to each field, and the fields' units and attributes (Hsu et al. 2025, Eqs. 3-7)."""

from __future__ import annotations

import numpy as np

from hpcdiff.config import Project
from hpcdiff.cosmology import K_B, M_E_C2, M_P, MPC_CM, MSUN_G, SIGMA_T, Background
from hpcdiff.errors import UserError
from hpcdiff.maps import UNITS
from hpcdiff.snapshot import Particles, Snapshot

BREMSSTRAHLUNG = 1.4e-27
"""Constant of Eq. 6, erg cm^3/s/K^0.5."""
FIELDS_OF = {
    "gas": ("gas", "sz", "compton_y", "xray", "total"),
    "dm": ("dm", "total"),
    "star": ("star", "total"),
    "bh": ("total",),
}
"""The fields to which each kind of particle brings something."""
DENSITY_FIELDS = {"gas": "gas", "dm": "dm", "star": "gas", "total": "total"}
"""Fields over a mean density, and the component whose mean it is (stars: all baryons')."""
NOT_BUILT = ("temperature",)


def carried(fields: list[str], kind: str) -> list[str]:
    """The weights that particles of `kind` carry for `fields`: `mass`, `y`, `xray`."""
    wanted = [f for f in FIELDS_OF[kind] if f in fields]
    names = {"gas": "mass", "dm": "mass", "star": "mass", "total": "mass", "sz": "y", "compton_y": "y", "xray": "xray"}
    return list(dict.fromkeys(names[f] for f in wanted))


def kinds_for(fields: list[str], snapshot: Snapshot) -> list[str]:
    """The kinds of particles that have to be read for `fields`.

    Raises:
        UserError: the snapshot has none of a kind that a field needs, or a field is not built yet.
    """
    for name in NOT_BUILT:
        if name in fields:
            raise UserError(f"the field {name!r} is not built yet", "project.fields", "leave it out")
    needs = {"gas": ("gas", "sz", "compton_y", "xray"), "dm": ("dm", "total"), "star": ("star",)}
    for kind, names in needs.items():
        wanting = [f for f in names if f in fields]
        if wanting and not snapshot.count(kind):
            how = f"project.fields without {', '.join(wanting)}, or another snapshot"
            raise UserError(f"the snapshot has no {kind} particles, which {wanting[0]!r} needs", snapshot.paths[0], how)
    return [kind for kind in FIELDS_OF if carried(fields, kind) and snapshot.count(kind)]


def weights(particles: Particles, names: list[str], project: Project) -> np.ndarray:
    """What each particle carries, float64 (n, len(names)); a map's value is the column density a Mpc^2 of it.

    `mass`: Msun. `y`: sigma_T/(m_e c^2) N_e k T in Mpc^2, so that its column is the Compton y. `xray`: bolometric
    bremsstrahlung (Eq. 6), 1.4e-27 g_ff T^0.5 n_e sum z^2 n_i m/rho in erg/s Mpc^2/cm^2, so that its column is Eq. 7's.
    """
    columns = []
    for name in names:
        if name == "mass":
            columns.append(particles.mass)
            continue
        grams = particles.mass * MSUN_G
        if name == "y":
            electrons = grams * particles.electrons / M_P
            columns.append(SIGMA_T / M_E_C2 / MPC_CM**2 * electrons * K_B * particles.temperature)
        else:
            n_e = particles.density * particles.electrons / M_P
            emissivity = BREMSSTRAHLUNG * project.gaunt * np.sqrt(particles.temperature) * n_e * project.mu_e * n_e
            columns.append(emissivity * grams / particles.density / MPC_CM**2)
    return np.stack(columns, axis=-1)


def scale(field: str, background: Background, redshift: float, depth_mpc: float) -> float:
    """What the column of a field's weight is divided by: the mean density's column in Msun/Mpc^2, 1/T_cmb, or 1."""
    if field in DENSITY_FIELDS:
        return background.rho_mean(redshift, DENSITY_FIELDS[field]) * depth_mpc
    return 1e-6 / background.Tcmb0 if field == "sz" else 1.0


def attributes(project: Project, background: Background, redshift: float, depth_mpc: float | None) -> dict[str, dict]:
    """Attributes of each field's dataset; `depth_mpc` is None where the views don't share one."""
    out: dict[str, dict] = {}
    for field in project.fields:
        about: dict[str, object] = {"units": UNITS[field], "kernel": "Wendland C2", "method": project.method}
        if field in DENSITY_FIELDS and depth_mpc is not None:
            about["to_msun_per_mpc2"] = scale(field, background, redshift, depth_mpc)
        if field in ("sz", "compton_y", "xray"):
            about.update(mu_e=project.mu_e, gas_cut="none")
        if field == "xray":
            about["gaunt"] = project.gaunt
        out[field] = about
    return out
