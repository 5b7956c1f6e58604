"""Lengths of the config in physical Mpc for each halo: "2 R200m", "0.015 R500c", one a field; and what fits into the box."""

from __future__ import annotations

import functools
import re

import numpy as np

from hpcdiff.cosmology import Background, colossus_cosmology
from hpcdiff.errors import UserError, nearest
from hpcdiff.sections import Project
from hpcdiff.snapshot import Halos

RADII = {"R200m": ("mean", 200), "R200c": ("crit", 200), "R500c": ("crit", 500)}
"""Spherical-overdensity radii that a length may be given in: the density and how many times it."""
COLUMN = {"R200c": "radius_200c", "R500c": "radius_500c"}
"""Columns of `/catalog` that hold them, physical Mpc, besides `radius_200m`."""
MASSES_OF_GRID = 200
"""Masses at which the concentration is computed; between them radii are interpolated in log M."""


def parse(value: float | str, key: str) -> tuple[float, str | None]:
    """A number and the radius that it multiplies (None: it is physical Mpc) of a length such as 12.8 or "2 R200c".

    Raises:
        UserError: anything else, or a length that is not above 0.
    """
    match = re.fullmatch(r"\s*([0-9.eE+-]+)\s*(?:\*?\s*(R[0-9]+[mc]))?\s*", str(value))
    try:
        factor, radius = (float(match[1]), match[2]) if match else (-1.0, None)
    except ValueError:
        factor, radius = -1.0, None
    if not 0 < factor < np.inf or radius not in (None, *RADII):
        raise UserError(f"project.{key} is {value!r}", "config", f'give physical Mpc, or a text such as "2 R200m" ({", ".join(RADII)})')
    return factor, radius


def of_fields(value: float | str | dict | None, key: str, fields: list[str], whole: bool) -> dict[str, tuple[float, str | None]]:
    """A length for each field, parsed: one for all of them, or a mapping {field: length}.

    Args:
        value: as the config has it; None = none for any field.
        key: `depth` or `beam`.
        fields: the fields that are projected.
        whole: a mapping must name every one of them.
    Raises:
        UserError: a mapping names another field, or not all of them.
    """
    if not isinstance(value, dict):
        return {} if value is None else dict.fromkeys(fields, parse(value, key))
    for name in value:
        if name not in fields:
            raise UserError(f"project.{key} names {name!r}{nearest(name, fields)}", "config", f"project.fields are {', '.join(fields)}")
    missing = [name for name in fields if name not in value]
    if whole and missing:
        raise UserError(
            f"project.{key} gives no length for {', '.join(missing)}", "config", "name every one of project.fields, or give one number"
        )
    return {name: parse(value[name], f"{key}.{name}") for name in fields if name in value}


def check_lengths(project: Project) -> set[str]:
    """The radii (`R200m`, ...) that `width`, `depth` and `beam` are given in; a length that is none is refused.

    Raises:
        UserError: as `parse` and `of_fields`.
    """
    parsed = [parse(project.width, "width"), *of_fields(project.depth, "depth", project.fields, True).values()]
    parsed += of_fields(project.beam, "beam", project.fields, False).values()
    return {radius for _, radius in parsed if radius}


def columns(halos: Halos, project: Project, redshift: float, background: Background | None) -> dict[str, np.ndarray]:
    """The lengths of every halo: {`width_mpc`, `depth_mpc`, ...: float64 (n,), physical Mpc}.

    `depth_mpc` is the deepest field's; `depth_<field>_mpc` stands beside it where `project.depth` is a mapping,
    `beam_<field>_mpc` (full width at half maximum) where there is a beam, `radius_200c` and `radius_500c` where the catalogue
    or the config knows them.

    Args:
        halos: their `radii` (comoving Mpc) win; others follow from M200m as `radii_of_nfw` has it.
        project: the config's section.
        redshift: of the snapshot.
        background: its cosmology; needed where a radius has to be computed.
    Raises:
        UserError: a length that is none.
    """
    a = 1 / (1 + redshift)
    radii = {"R200m": halos.radius_200m * a, **{name: values * a for name, values in halos.radii.items() if name in COLUMN}}
    for name in sorted(check_lengths(project) - set(radii)):
        assert background is not None, "radii from masses need the cosmology"
        radii[name] = radius_of_nfw(halos.mass_200m, name, redshift, background)

    def mpc(parsed: tuple[float, str | None]) -> np.ndarray:
        factor, radius = parsed
        return np.full(len(halos), factor) if radius is None else factor * radii[radius]

    depth = of_fields(project.depth, "depth", project.fields, True)
    beam = of_fields(project.beam, "beam", project.fields, False)
    out = {"width_mpc": mpc(parse(project.width, "width")), "depth_mpc": np.max([mpc(d) for d in depth.values()], axis=0)}
    if isinstance(project.depth, dict):
        out |= {f"depth_{field}_mpc": mpc(d) for field, d in depth.items()}
    out |= {f"beam_{field}_mpc": mpc(b) for field, b in beam.items()}
    return out | {COLUMN[name]: values for name, values in radii.items() if name in COLUMN}


def computed_radii(halos: Halos, project: Project) -> list[str]:
    """A line for the plan, where radii that the catalogue lacks are computed from its masses; else none."""
    missing = sorted(check_lengths(project) - {"R200m"} - set(halos.radii))
    return [f"{' and '.join(missing)}: from M200m, NFW with c(M) of Diemer & Joyce (2019)"] if missing else []


def radius_of_nfw(mass_200m: np.ndarray, name: str, redshift: float, background: Background) -> np.ndarray:
    """`R200c` or `R500c`, physical Mpc, of NFW halos of M200m (Msun) with the median concentration of Diemer & Joyce (2019)."""
    mass_200m = np.asarray(mass_200m, np.float64)
    low, high = np.log10(mass_200m.min()), np.log10(mass_200m.max())
    grid, ratio = _radius_ratio(name, redshift, background, np.floor(low), np.ceil(high) + (np.floor(low) == np.ceil(high)))
    return background.radius(mass_200m, 200, "mean", redshift) * np.interp(np.log10(mass_200m), grid, ratio)


@functools.lru_cache(maxsize=8)
def _radius_ratio(name: str, redshift: float, background: Background, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """log10 M200m between `low` and `high`, and `name` over R200m there."""
    from colossus.halo import concentration, mass_defs

    b = background
    colossus_cosmology(b)
    grid = np.linspace(low, high, MASSES_OF_GRID)
    c = concentration.concentration(10**grid * b.h, "200m", redshift, model="diemer19")
    wanted = name[1:].lower()
    radius = mass_defs.changeMassDefinition(10**grid * b.h, c, redshift, "200m", wanted)[1] / 1e3 / b.h
    of, overdensity = RADII["R200m"]
    return grid, radius / b.radius(10**grid, overdensity, of, redshift)


def half_extent(frame: np.ndarray, half_width: np.ndarray, half_depth: np.ndarray) -> np.ndarray:
    """How far the cuboid of each view reaches from the halo along the box's own axes, float64 (n, 3).

    Args:
        frame: (n, 3, 3), rows: along i, along j, along the line of sight.
        half_width, half_depth: (n,), any length; the result has the same unit.
    """
    half = np.stack([half_width, half_width, half_depth], axis=-1)
    return np.einsum("nkb,nk->nb", np.abs(frame), half)


def refuse_unfitting(rows: dict[str, np.ndarray], margin: np.ndarray, box: float) -> None:
    """A map must not contain two images of one point of the periodic box.

    That is so as long as its cuboid reaches no further than half the box along each of the box's axes: then the nearest
    image of every particle in it is the one that the map shows.

    Args:
        rows: columns of the catalogue, by view.
        margin: (n,), physical Mpc beyond the map on each side from which the beam brings light.
        box: side, physical Mpc.
    Raises:
        UserError: the cuboid of a view reaches further.
    """
    if not len(rows["frame"]):
        return
    reach = half_extent(rows["frame"], rows["width_mpc"] / 2 + margin, rows["depth_mpc"] / 2).max(axis=1)
    worst = int(np.argmax(reach))
    if reach[worst] > box / 2 * (1 + 1e-9):
        width, depth, beam = rows["width_mpc"][worst], rows["depth_mpc"][worst], margin[worst]
        key = "depth" if depth > width else "width"
        sizes = f"project.{key} of {max(width, depth):.6g} physical Mpc (width {width:.6g}, depth {depth:.6g}"
        raise UserError(
            f"{sizes}{f', beam {beam:.3g} on each side' if beam else ''}) does not fit into the box of {box:.6g}",
            f"halo {rows['halo_id'][worst]}, sightline {rows['sightline_index'][worst]}, axis {'xyz'[rows['axis'][worst]]}",
            f"it reaches {reach[worst]:.6g} from the halo along an axis of the box, more than half of it: take a smaller one",
        )
