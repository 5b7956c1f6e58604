"""What each particle brings to each field, and the fields' units and attributes (Hsu et al. 2025, Eqs. 3-7)."""

from __future__ import annotations

import numpy as np

from hpcdiff.cosmology import K_B, KEV_ERG, M_E_C2, M_P, MPC_CM, MSUN_G, SIGMA_T, Background
from hpcdiff.errors import UserError
from hpcdiff.maps import MEAN_OF, UNITS, shared
from hpcdiff.project.emission import bremsstrahlung, read_cooling
from hpcdiff.project.smooth import margin_pixels
from hpcdiff.sections import GasCut, Project
from hpcdiff.snapshot import Particles, Snapshot

FIELDS_OF = {
    "gas": ("gas", "sz", "compton_y", "xray", "temperature", "total"),
    "dm": ("dm", "total"),
    "star": ("star", "total"),
    "bh": ("total",),
}
"""The fields to which each kind of particle brings something."""
WEIGHTS_OF = {
    **dict.fromkeys(("gas", "dm", "star", "total"), ("mass",)),
    **dict.fromkeys(("sz", "compton_y"), ("y",)),
    "xray": ("xray",),
    "temperature": ("spectroscopic_t", "spectroscopic"),
}
"""The weights whose columns make a field: one, or the two whose ratio it is."""
FINEST_BEAM = 2.0
"""Smallest full width at half maximum, in pixels before averaging down, that a grid of pixels can hold."""


def carried(fields: list[str], kind: str) -> list[str]:
    """The weights that particles of `kind` carry for `fields`, as `weights` names them; `mass` comes first."""
    wanted = [f for f in FIELDS_OF[kind] if f in fields]
    return sorted(dict.fromkeys(name for f in wanted for name in WEIGHTS_OF[f]), key="mass".__ne__)


def kinds_for(fields: list[str], snapshot: Snapshot) -> list[str]:
    """The kinds of particles that have to be read for `fields`.

    Raises:
        UserError: the snapshot has none of a kind that a field needs, or lacks a dataset that it needs.
    """
    needs = {"gas": ("gas", "sz", "compton_y", "xray", "temperature"), "dm": ("dm", "total"), "star": ("star",)}
    for kind, names in needs.items():
        wanting = [f for f in names if f in fields]
        if wanting and not snapshot.count(kind):
            how = f"project.fields without {', '.join(wanting)}, or another snapshot"
            raise UserError(f"the snapshot has no {kind} particles, which {wanting[0]!r} needs", snapshot.paths[0], how)
        for field in wanting:
            for quantity in ("mass",) if WEIGHTS_OF[field] == ("mass",) else ("mass", "density", "temperature"):
                snapshot.require(kind, quantity, field)
    return [kind for kind in FIELDS_OF if carried(fields, kind) and snapshot.count(kind)]


def check_snapshot(project: Project, snapshot: Snapshot) -> None:
    """Refuse a snapshot that lacks what the fields, the gas cut or the cooling table need.

    Raises:
        UserError: as `kinds_for`; no metallicities for a table of several; no word on which gas forms stars; a density over a
            mean that is 0, or that neither the snapshot nor the config says.
    """
    kinds_for(project.fields, snapshot)
    xray = "xray" in project.fields
    if xray and project.cooling and len(read_cooling(project.cooling).metals) > 1:
        snapshot.require("gas", "metallicity", "xray")
    cut = [field for field in project.fields if field in project.gas_cut.fields and field in FIELDS_OF["gas"]]
    if cut and not project.gas_cut.star_forming:
        snapshot.require("gas", "star_forming", cut[0])
    if cut and cut_text(project.gas_cut) != "none":
        snapshot.require("gas", "density", cut[0])
        snapshot.require("gas", "temperature", cut[0])
    means = [field for field in project.fields if MEAN_OF.get(field) in ("gas", "dm")]
    if means and "Ob0" in snapshot.assumed:
        what = f"the snapshot does not say OmegaBaryon, and the mean density that {means[0]!r} is divided by needs it"
        raise UserError(what, snapshot.paths[0], "set cosmology.Ob0 (0 in a run of dark matter alone)")
    baryons = [field for field in means if MEAN_OF[field] == "gas"]
    if baryons and not snapshot.background.Ob0:
        what = f"cosmology.Ob0 is 0, and {baryons[0]!r} is divided by the mean density of baryons"
        raise UserError(what, snapshot.paths[0], "set cosmology.Ob0, or leave the field out")


def check(project: Project, rows: dict[str, np.ndarray] | None = None) -> None:
    """Refuse what does not go together before anything is read.

    Args:
        rows: columns of the catalogue by view, once they are known: the mesh's sides and the beams are held against them.
    Raises:
        UserError: the cut acts on `gas` but `total` wants all of it; the cooling table is damaged; a mesh with a beam, with
            finer pixels, or deeper than wide; a beam that the pixels cannot hold.
    """
    if "gas" in project.gas_cut.fields and {"gas", "total"} <= set(project.fields) and cut_text(project.gas_cut) != "none":
        raise UserError("project.gas_cut acts on gas, but total needs all gas", "project.fields", "leave one of the two out")
    if project.cooling and "xray" in project.fields:
        read_cooling(project.cooling)
    mesh = project.method == "mesh"
    if mesh and (project.beam is not None or project.oversample > 1):
        raise UserError("project.method = mesh has neither beam nor oversampling", "config", "use exact, or leave them out")
    if rows is None:
        return
    for field in project.fields:
        depth = depth_of(field, rows)
        if mesh and not np.allclose(depth, rows["width_mpc"], rtol=1e-9, atol=0):
            raise UserError("project.method = mesh is a cube, so depth must equal width", "config", f"mend project.depth for {field}")
        fine = rows["width_mpc"] / (project.npix * project.oversample)
        fwhm = beam_of(field, rows)
        bad = np.flatnonzero((fwhm > 0) & (fwhm < FINEST_BEAM * fine))
        if len(bad):
            more = int(np.ceil(FINEST_BEAM * rows["width_mpc"][bad[0]] / project.npix / fwhm[bad[0]]))
            what = f"project.beam of {field}, {fwhm[bad[0]]:.4g} Mpc, is below {FINEST_BEAM} pixels of {fine[bad[0]]:.4g} Mpc"
            raise UserError(what, f"halo {rows['halo_id'][bad[0]]}", f"project.oversample={more} holds it")


def notes(project: Project) -> list[str]:
    """Lines for the plan and the run about fields whose numbers depend on a choice that was not made."""
    cut = project.gas_cut
    if "temperature" in project.fields and ("temperature" not in cut.fields or cut.temperature is None):
        return [
            "temperature weighs gas with rho T^(-3/4), so the coldest and densest gas decides it: project.gas_cut.temperature (in K, "
            "3e5, say) leaves that out"
        ]
    return []


def fingerprints(project: Project) -> dict[str, str]:
    """What the fields are made from besides the particles: {"cooling": SHA-256 of the table}, where there is one."""
    return {"cooling": read_cooling(project.cooling).sha256} if project.cooling and "xray" in project.fields else {}


def depth_of(field: str, rows: dict[str, np.ndarray]) -> np.ndarray:
    """Depth of a field's views along the line of sight, physical Mpc (n,)."""
    return rows.get(f"depth_{field}_mpc", rows["depth_mpc"])


def beam_of(field: str, rows: dict[str, np.ndarray]) -> np.ndarray:
    """Full width at half maximum of a field's beam by view, physical Mpc (n,); 0 = none."""
    return rows.get(f"beam_{field}_mpc", np.zeros(len(rows["width_mpc"])))


def padded_width(rows: dict[str, np.ndarray], project: Project) -> np.ndarray:
    """Side of the square whose particles matter to each view, physical Mpc (n,): the map, and the beam's reach around it.

    A particle matters if its kernel touches the square and its centre lies within the depth.
    """
    fine = rows["width_mpc"] / (project.npix * project.oversample)
    return rows["width_mpc"] + 2 * margins(rows, project) * fine


def margins(rows: dict[str, np.ndarray], project: Project) -> np.ndarray:
    """Pixels, before averaging down, that each view needs on every side for its widest beam, int64 (n,)."""
    fine = rows["width_mpc"] / (project.npix * project.oversample)
    return np.max([margin_pixels(beam_of(field, rows) / fine) for field in project.fields], axis=0)


def reads_gas(project: Project, kind: str) -> bool:
    """Whether more than positions, masses and smoothing lengths of `kind` must be read."""
    cut = "gas" in project.fields and "gas" in project.gas_cut.fields and cut_text(project.gas_cut) != "none"
    return kind == "gas" and (cut or carried(project.fields, kind) != ["mass"])


MOST_WEIGHT = 1e30
"""What a particle may carry, in the units of `weights`: maps are float32, which ends at 3e38."""


def weights(particles: Particles, names: list[str], project: Project) -> np.ndarray:
    """What each particle carries, float64 (n, len(names)); a map's value is the column density a Mpc^2 of it.

    `mass`: Msun. `y`: sigma_T/(m_e c^2) N_e k T in Mpc^2, so that its column is the Compton y. `xray`: emissivity (bolometric
    bremsstrahlung, Eq. 6, or the user's table) times m/rho in erg/s Mpc^2/cm^2, so that its column is Eq. 7's.
    `spectroscopic`: m rho T^(-3/4) in Msun 1e-27 g/cm^3 keV^(-3/4) (Mazzotta et al. 2004), 0 for gas of no temperature;
    `spectroscopic_t`: T times it in keV. Gas that `project.gas_cut` leaves out carries none of what the cut acts on.

    Raises:
        UserError: numbers are out of the cooling table's range, or of a map's.
    """
    fields = [field for field in project.gas_cut.fields if field != "gas" or field in project.fields]  # its mass is also total's
    acts = {name for field in fields for name in WEIGHTS_OF[field]}
    hot = _hot(particles, project.gas_cut) if particles.temperature is not None and acts & set(names) else None
    columns = []
    for name in names:
        with np.errstate(all="ignore"):  # looked at below
            column = particles.mass if name == "mass" else _gas_weight(particles, name, project)
        if (bad := ~(np.abs(column) < MOST_WEIGHT)).any():
            first = (
                f"the first is particle {int(particles.index[np.argmax(bad)])}; {int(bad.sum())} in all; check the snapshot and its units"
            )
            raise UserError(
                f"particles whose {name} is not finite or beyond {MOST_WEIGHT:g}, which no map holds", "project.snapshot", first
            )
        columns.append(column if hot is None or name not in acts else np.where(hot, column, 0.0))
    return np.stack(columns, axis=-1)


def _gas_weight(p: Particles, name: str, project: Project) -> np.ndarray:
    grams = p.mass * MSUN_G
    if name == "y":
        return SIGMA_T / M_E_C2 / MPC_CM**2 * grams * p.electrons / M_P * K_B * p.temperature
    if name == "xray":
        return _emissivity(p, project) * grams / p.density / MPC_CM**2
    kev = p.temperature * K_B / KEV_ERG
    power = {"spectroscopic": -0.75, "spectroscopic_t": 0.25}[name]
    return p.mass * p.density / 1e-27 * np.where(kev > 0, np.where(kev > 0, kev, 1.0) ** power, 0.0)


def _emissivity(p: Particles, project: Project) -> np.ndarray:
    if not project.cooling:
        return bremsstrahlung(p.density, p.temperature, p.electrons, project.mu_e, project.gaunt)
    return read_cooling(project.cooling).emissivity(p.density, p.temperature, p.electrons, p.metallicity, project.mu_e)


def _hot(p: Particles, cut: GasCut) -> np.ndarray | None:
    """Which gas the cut keeps, bool (n,); None where it keeps all."""
    keep = []
    if cut.temperature is not None:
        keep.append(p.temperature > cut.temperature)
    if cut.density is not None:
        keep.append(p.density < cut.density)
    if not cut.star_forming:
        keep.append(~p.star_forming)
    return np.logical_and.reduce(keep) if keep else None


def cut_text(cut: GasCut) -> str:
    """The cut in words, for the attribute `gas_cut`; `none` where it keeps all."""
    parts = [f"T > {cut.temperature:g} K"] if cut.temperature is not None else []
    parts += [f"rho < {cut.density:g} g/cm^3"] if cut.density is not None else []
    parts += [] if cut.star_forming else ["no star formation"]
    return ", ".join(parts) or "none"


def scale(field: str, background: Background, redshift: float, depth_mpc: float) -> float:
    """What the column of a field's weight is divided by: the mean density's column in Msun/Mpc^2, 1/T_cmb, or 1."""
    if field in MEAN_OF:
        return background.rho_mean(redshift, MEAN_OF[field]) * depth_mpc
    return 1e-6 / background.Tcmb0 if field == "sz" else 1.0


def attributes(project: Project, background: Background, redshift: float, rows: dict[str, np.ndarray]) -> dict[str, dict]:
    """Attributes of each field's dataset; lengths that the views (`rows`, columns of the catalogue) do not share are left out."""
    out: dict[str, dict] = {}
    for field in project.fields:
        about: dict[str, object] = {"units": UNITS[field], "kernel": "Wendland C2", "method": project.method}
        depth, beam = shared(depth_of(field, rows)), shared(beam_of(field, rows))
        if depth is not None:
            about["depth_mpc"] = depth
            if field in MEAN_OF:
                about["to_msun_per_mpc2"] = scale(field, background, redshift, depth)
        if beam:
            about["beam_fwhm_mpc"] = beam
        if project.beam is not None or project.oversample > 1:
            about["oversample"] = project.oversample
        hot = [name for name in FIELDS_OF["gas"] if name not in ("gas", "total")]
        if field in hot:
            about["mu_e"] = project.mu_e
        if field in hot or (field == "gas" and field in project.gas_cut.fields):
            about["gas_cut"] = cut_text(project.gas_cut) if field in project.gas_cut.fields else "none"
        if field == "xray":
            about |= {"cooling": read_cooling(project.cooling).sha256} if project.cooling else {"gaunt": project.gaunt}
        out[field] = about
    return out
