"""What a reader of halo catalogues is asked for, and what it gives."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpcdiff.cosmology import Background
from hpcdiff.errors import UserError

if TYPE_CHECKING:
    from hpcdiff.snapshot.snapshot import Snapshot


@dataclass
class Request:
    """What is known of the snapshot before its catalogue is read.

    Attributes:
        background, redshift: of the snapshot.
        box: comoving Mpc; None = not known.
        snapshot: for the offsets and group numbers of particles; None = not at hand.
        mass_range: lowest and highest M200m that are kept, Msun; None = all.
        zero, outside: halos left out so far, without a mass and outside the range.
        heaviest: the largest mass seen, Msun.
    """

    background: Background
    redshift: float = 0.0
    box: float | None = None
    snapshot: Snapshot | None = None
    mass_range: tuple[float, float] | None = None
    zero: int = 0
    outside: int = 0
    heaviest: float = 0.0

    @property
    def scale_factor(self) -> float:
        """1/(1+z)."""
        return 1 / (1 + self.redshift)

    def rows(self, mass: np.ndarray) -> np.ndarray:
        """Numbers of the halos that are kept, by M200m in Msun: int64; a mass of 0 means that there is none.

        What is not a number is kept, to be refused with its row's number.
        """
        empty = mass <= 0
        low, high = self.mass_range or (0.0, np.inf)
        outside = ~empty & ((mass < low) | (mass > high))
        self.zero += int(empty.sum())
        self.outside += int(outside.sum())
        self.heaviest = max(self.heaviest, float(np.max(mass, initial=0.0)))
        return np.flatnonzero(~empty & ~outside)

    def dropped(self) -> list[str]:
        """Lines about the halos that were left out."""
        lines = [f"{self.zero} of the catalogue's halos have no M200m and are left out"] if self.zero else []
        if self.outside:
            lines.append(
                f"{self.outside} of the catalogue's halos lie outside project.mass_range [{self.mass_range[0]:.4g}, {self.mass_range[1]:.4g}]"
            )
        return lines


@dataclass
class Table:
    """Halos as a reader found them.

    Attributes:
        columns: {name: (n, ...)}: `halo_id`, `position` (comoving Mpc), `mass_200m` (Msun), `radius_200m` (comoving Mpc) or one
            of the two, `radius_200c`, `radius_500c` (comoving Mpc) and `mass_200c`, `mass_500c` (Msun) where known, `group`, more.
        members: {kind: int64 (n, 2)}, first row and number of rows in the snapshot; None = not known.
        about: what the catalogue says of its snapshot: any of `redshift`, `box` (comoving Mpc), `Om0`, `h`.
        dropped: lines about what was left out or what the masses are.
    """

    columns: dict[str, np.ndarray]
    members: dict[str, np.ndarray] | None = None
    about: dict[str, float] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)


def joined(parts: list[dict[str, np.ndarray]], path: Path) -> dict[str, np.ndarray]:
    """Columns of several files or blocks as one.

    Raises:
        UserError: there are none.
    """
    if not parts:
        raise UserError("the halo catalogue is empty", path, "give at least one halo")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def catalogue_paths(where: str | Path) -> list[Path]:
    """The files that a file, a folder or a glob means, in the order of their numbers; none if there is nothing.

    In a folder with other tables beside them, the files named `*tab*` are meant; `tab.0.hdf5` alone stands for all its chunks.
    """
    path = Path(where)
    if path.is_dir():
        found = [p for p in path.iterdir() if p.suffix in (".hdf5", ".h5") and not p.name.startswith(".")]
        tables = [p for p in found if re.search(r"(subhalo|subfind)_tab", p.name)]
        found = tables or [p for p in found if "_tab" in p.name] or found
    elif path.exists():
        chunk = re.fullmatch(r"(.+\.)\d+(\.(?:hdf5|h5))", path.name)
        found = (
            [p for p in path.parent.iterdir() if re.fullmatch(rf"{re.escape(chunk[1])}\d+{re.escape(chunk[2])}", p.name)]
            if chunk
            else [path]
        )
    else:
        found = [Path(p) for p in glob.glob(str(where))]
    return sorted(found, key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", p.name)])


def chosen(names: dict[str, str], lacking: str, has: list[str], path: Path) -> None:
    """Refuse a catalogue that has no M200m, naming the masses that it has."""
    if lacking not in names:
        what = ", ".join(sorted(has)) or "none"
        raise UserError(
            f"the halo catalogue has no M200m (its masses: {what})", path, "convert them to M200m in a CSV: a guess is not made here"
        )
