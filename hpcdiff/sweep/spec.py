"""SWEEP.yaml: what an ensemble varies, read as strictly as a config."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from hpcdiff.config import Config, all_keys, read_config
from hpcdiff.errors import UserError, nearest
from hpcdiff.plain import NotPlain, read_yaml
from hpcdiff.strict import Places, build, check_bounds, fields_of, number, some_of

DOCS = "docs/scaling.md"
STAGES = ("train", "sample", "evaluate")
OURS = ("run.dir", "run.maps")
"""Keys that the sweep itself sets for each member."""
MOST = 1000
"""Members: their folders are named by three digits, and Slurm's arrays are no longer unless its MaxArraySize is raised."""


@dataclass
class Sweep:
    """An ensemble of runs; paths are relative to the folder in which the command runs."""

    base: str | None = None
    """Config file of what all members have in common."""
    dir: str | None = None
    """Folder of the sweep; each member's `run.dir` is a folder in it."""
    maps: str | list[str] | None = None
    """Map file or files that all members share; null = those of `base`."""
    stages: list[str] = some_of(*STAGES, default=STAGES)
    """What is run of each member."""
    throttle: int = number(0, low=0)
    """Members that Slurm runs at a time; 0 = as many as it can."""
    sbatch: list[str] = field(default_factory=list)
    """Further options of sbatch, as --time=2:00:00."""
    vary: dict[str, list] = field(default_factory=dict, metadata={"hidden": True})
    members: list[dict] = field(default_factory=list, metadata={"hidden": True})
    where: str = field(default="", metadata={"hidden": True})

    @property
    def folder(self) -> Path:
        """Folder of the sweep."""
        return Path(self.dir)


def read_sweep(path: str | Path) -> Sweep:
    """Read SWEEP.yaml: the keys of `Sweep`, and

    vary: {section.key: [values], ...}      every combination of the values is a member, the last key running fastest
    members: [{section.key: value, ...}]    further members, one by one

    Raises:
        UserError: a missing or unreadable file; an unknown or missing key (the nearest valid one is named), here or in what is varied.
    """
    try:
        tree = read_yaml(Path(path).read_text()) or {}
    except NotPlain as error:
        raise UserError("the sweep is not YAML", path, error) from None
    except (OSError, ValueError) as error:  # not there, no UTF-8, a NUL in its name
        raise UserError("cannot read the sweep", path, getattr(error, "strerror", None) or str(error)) from None
    if not isinstance(tree, dict):
        raise UserError("the sweep is not a mapping of keys", path, f"see {DOCS}")
    # what is varied may be of any type: it is checked as a part of each member's config
    vary, members = tree.pop("vary", None) or {}, tree.pop("members", None) or []
    places = Places(path)
    sweep = build(Sweep, tree, set(), places, valid=[*(f.name for f in fields_of(Sweep)), "vary", "members"], docs=DOCS)
    sweep.where = str(path)
    check_bounds(sweep, places)
    for key in ("base", "dir"):
        if getattr(sweep, key) is None:
            raise UserError(f"the key {key!r} is missing", path, "base: a config file, dir: the folder of the sweep")
    if not isinstance(vary, dict) or not all(isinstance(values, list) and values for values in vary.values()):
        raise UserError("vary is no mapping of keys to lists of values", path, "write vary: {run.seed: [0, 1, 2]}")
    if not isinstance(members, list) or not all(isinstance(m, dict) and m for m in members):
        raise UserError("members is no list of mappings", path, "write members: [{run.seed: 3, train.lr: 1.0e-3}]")
    if not vary and not members:
        raise UserError("the sweep varies nothing", path, "write vary: {run.seed: [0, 1, 2]}, or members: [...]")
    for name, keys in (("vary", vary), *((f"members[{n}]", m) for n, m in enumerate(members))):
        for key in keys:
            _check_key(name, str(key), path)
    if (n := math.prod(map(len, vary.values())) * bool(vary) + len(members)) > MOST:
        raise UserError(f"the sweep has {n} members", path, f"{MOST} are the most; vary less, or make several")
    for key, value in (one for member in members for one in member.items()):
        _texts(key, [value], path)
    for key, values in vary.items():
        seen = _texts(key, values, path)
        if twice := next((v for n, v in enumerate(seen) if v in seen[:n]), None):
            raise UserError(f"vary names {twice} twice for {key}", path, "name each value once")
    sweep.stages = [s for s in STAGES if s in sweep.stages]
    sweep.vary, sweep.members = vary, members
    return sweep


def _texts(key: str, values: list, path: object) -> list[str]:
    """Values as overrides say them."""
    try:
        return [json.dumps(v, sort_keys=True) for v in values]
    except TypeError:
        raise UserError(f"a value for {key} is of a type that no config holds", path, "quote dates and times") from None


def _check_key(name: str, key: str, path: object) -> None:
    if key not in (valid := all_keys()):
        raise UserError(f"{name} has the unknown key {key!r}{nearest(key, valid)}", path, "see docs/config.md")
    if key in OURS:
        raise UserError(f"{name} has {key!r}", path, "write dir and maps beside it: the sweep sets them for each member")
    if key.split(".")[0] in ("simulate", "project", "cosmology"):
        raise UserError(f"{name} has {key!r}, which changes the maps, and all members share theirs", path, "make a sweep for each map file")


def base_config(sweep: Sweep) -> Config:
    """The config that all members start from, with the maps that they share."""
    config = read_config(sweep.base)
    maps = sweep.maps if sweep.maps is not None else [str(p) for p in config.map_paths()]
    config.run.maps = maps[0] if isinstance(maps, list) and len(maps) == 1 else maps
    return config


def missing_maps(config: Config) -> Path | None:
    """The first map file that is not there."""
    return next((p for p in config.map_paths() if not p.exists()), None)
