"""The command line `hpcdiff sample CONFIG --sz FILE.fits --xray FILE.fits --out DIR`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcdiff.config import Config, read_config
from hpcdiff.errors import UserError, nearest
from hpcdiff.sections import FIELDS

NUMBERS = ("ra", "dec", "redshift", "width", "r500", "r200")
SWITCHES = ("fill-nan", "overwrite", "dry-run")
VALUED = ("out", *NUMBERS, *FIELDS)
USAGE = """usage: hpcdiff sample CONFIG.yaml --FIELD FILE.fits ... --out DIR [section.key=value ...]     one observed cluster
  --sz, --xray, ...   a FITS image of each input of the model, FILE.fits or FILE.fits[EXTENSION]; units from BUNIT, places from the WCS
                      and of the field of sample.guide, if there is one
  --out DIR           folder for <field>_mean.fits, _std.fits, _samples.fits, masses.json, masses.csv, cluster.png
  --redshift Z        of the cluster; else the header key REDSHIFT
  --ra, --dec         centre, degrees (ICRS); else the middle of the first image
  --r500, --r200      radii of the cylinders, physical Mpc; else fitted to each sample
  --width             side of the grid, physical Mpc, for a model whose maps had no common one
  --fill-nan          pixels without a value take the nearest one's
  --overwrite         replaces an earlier posterior in DIR; --dry-run says what would be done
see docs/one_cluster.md"""


@dataclass
class Options:
    """The command line.

    Attributes:
        config: resolved. images: {field: FILE.fits}. out: folder. numbers: {name: float} of `NUMBERS`, those given. switches: those given.
    """

    config: Config
    images: dict[str, str]
    out: Path
    numbers: dict[str, float]
    switches: set[str]


def is_cluster(argv: list[str]) -> bool:
    """Does this command line ask for one cluster, and not for the stage?"""
    return any(word.startswith("--") and word[2:].split("=")[0] in (*VALUED, "fill-nan") for word in argv)


def parse(argv: list[str]) -> Options:
    """Read the command line; `--name value` and `--name=value` are the same.

    Raises:
        UserError: an unknown or unfinished option, one given twice, a number that is none or out of range, no config.
    """
    values, switches, words, rest = {}, set(), [], iter(argv)
    for word in rest:
        if not word.startswith("--"):
            words.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if name in SWITCHES and not equals:
            switches.add(name)
            continue
        if name not in VALUED:
            known = [f"--{n}" for n in (*VALUED, *SWITCHES)]
            raise UserError(f"unknown option {word!r}{nearest(f'--{name}', known)}", "command line", "see hpcdiff sample --help")
        value = value if equals else next(rest, "")
        if not value or (value.startswith("--") and not equals):
            raise UserError(f"--{name} lacks its value", "command line", "see hpcdiff sample --help")
        if name in values:
            raise UserError(f"--{name} is given twice", "command line", "give it once")
        values[name] = value
    if not words or "=" in words[0] or words[0].startswith("-"):
        raise UserError("no config file given", "command line", "see hpcdiff sample --help")
    if "out" not in values:
        raise UserError("--out is missing", "command line", "name the folder to write")
    images = {name: value for name, value in values.items() if name in FIELDS}
    if not images:
        raise UserError("no image is given", "command line", "give --sz FILE.fits and the like, one for each input of the model")
    numbers = {name: _number(name, values[name]) for name in NUMBERS if name in values}
    return Options(read_config(words[0], words[1:]), images, Path(values["out"]), numbers, switches)


def _number(name: str, text: str) -> float:
    """A number of the command line, in its range."""
    low, high = {"ra": (-360, 360), "dec": (-90, 90), "redshift": (0, 1100)}.get(name, (0, 1e4))
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not low <= value <= high or (low == value == 0 and name != "redshift"):
        raise UserError(
            f"{text!r} is no number from {low} to {high}",
            f"--{name}",
            {"ra": "degrees", "dec": "degrees", "redshift": "of the cluster"}.get(name, "physical Mpc, above 0"),
        )
    return value
