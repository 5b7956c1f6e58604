"""What an import has to be told: every key of IMPORT.yaml."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError, nearest
from hpcdiff.maps.layout import UNITS
from hpcdiff.sections import Cosmology, Split
from hpcdiff.strict import Places, check_bounds, number, read

DOCS = "docs/maps.md"


@dataclass
class Import:
    """Images and a catalogue that become a map file; paths are relative to the folder in which the command runs."""

    out: str | None = None
    """The map file that is written."""
    catalog: str | None = None
    """Table with a row a view, in the order of the images: CSV, or columns between blanks; its first line names the columns."""
    columns: list[str] | dict[str, str] | None = None
    """Names of the columns of a table whose first line has none; or {our name: its name}; null = the table uses our names."""
    fields: dict[str, str] = field(default_factory=dict)
    """Images of each field: a .npy or FITS stack (N, npix, npix), or a file a view, its name with {columns} of the catalogue."""
    units: dict[str, str] = field(default_factory=dict)
    """Units of each field's images, as astropy writes them; `littleh` is h, `pix` the area of a pixel."""
    pixel_mpc: float | None = number(None, above=0)
    """Side of a pixel, physical Mpc; or `width_mpc`, or a column of that name."""
    width_mpc: float | None = number(None, above=0)
    """Side of the map, physical Mpc."""
    depth_mpc: float | None = number(None, above=0)
    """Depth along the line of sight, physical Mpc, or a column; needed to turn column densities into units of the mean one."""
    redshift: float | None = number(None, low=0)
    """Redshift of the maps, or a column."""
    cosmology: Cosmology = field(default_factory=Cosmology)
    """The maps' cosmology; Om0, Ob0 and h must be given."""
    split: Split = field(default_factory=Split)
    """Training, validation and test parts, by `halo` or `group`; not with a column `split`."""
    given: frozenset[str] = field(default=frozenset(), metadata={"hidden": True})
    where: str = field(default="", metadata={"hidden": True})

    @property
    def background(self) -> Background:
        """The maps' cosmology."""
        return Background(**vars(self.cosmology))

    @property
    def out_path(self) -> Path:
        """The map file that is written."""
        return Path(self.out)

    def resolved(self) -> dict:
        """All keys as plain nested dictionaries."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in ("given", "where")}


def read_spec(path: str | Path, overrides: list[str] = ()) -> Import:
    """Read IMPORT.yaml, and `key=value` of the command line, which win.

    Raises:
        UserError: a missing or unreadable file; an unknown, missing or contradictory key.
    """
    places = Places(path)
    spec, given = read(Import, places, overrides, DOCS)
    spec.given, spec.where = frozenset(given), str(path)
    check_bounds(spec, places)
    for key, said in (
        ("out", "name the map file to write"),
        ("catalog", "name the table of views"),
        ("fields", "write fields: {sz: sz.npy, ...}"),
        ("cosmology.Om0", "give the maps' own, nothing is guessed"),
        ("cosmology.Ob0", "give the maps' own, nothing is guessed"),
        ("cosmology.h", "give the maps' own, nothing is guessed"),
    ):
        if key not in given or (key == "fields" and not spec.fields):
            raise UserError(f"the key {key!r} is missing", spec.where, said)
    for key in ("fields", "units"):
        for name in getattr(spec, key):
            if name not in UNITS:
                raise UserError(f"{key} names {name!r}{nearest(name, UNITS)}", places.of(key), f"one of {', '.join(UNITS)}")
    for name in spec.fields:
        if name not in spec.units:
            raise UserError(
                f"the key 'units' says nothing about {name!r}",
                places.of("fields", "units"),
                f"write units: {{{name}: ...}}, nothing is guessed",
            )
    if extra := [name for name in spec.units if name not in spec.fields]:
        raise UserError(
            f"units names {extra[0]!r}, which is not among the fields", places.of("fields", "units"), "name its images in fields"
        )
    if not spec.cosmology.Ob0 and {"gas", "star"} & set(spec.fields):
        raise UserError(
            "cosmology.Ob0 is 0, and gas and star are over the mean density of baryons",
            places.of("cosmology.Ob0", "fields"),
            "give one above 0",
        )
    if spec.pixel_mpc is not None and spec.width_mpc is not None:
        raise UserError("pixel_mpc and width_mpc are both given", places.of("pixel_mpc", "width_mpc"), "one of them says it all")
    _check_split(spec.split, places)
    return spec


def _check_split(split: Split, places: Places) -> None:
    if split.by == "region":
        raise UserError(
            "split.by is 'region', which imported maps cannot have", places.of("split.by"), "use halo or group, or a column split"
        )
    if abs(split.train + split.val + split.test - 1) > 1e-9:
        raise UserError("split does not hold together", places.of("split.train", "split.val", "split.test"), "train + val + test must be 1")
