"""The run's configuration, read strictly; its sections are in `sections.py`.

`docs/config.md` is generated (`python -m hpcdiff.config > docs/config.md`).
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path

from hpcdiff.errors import UserError, nearest
from hpcdiff.sections import (
    AUTO_INIT,
    AUTO_STEPS,
    FIELDS,
    Cosmology,
    Diffusion,
    Evaluate,
    Network,
    Observe,
    Project,
    Run,
    Sample,
    Simulate,
    Task,
    Train,
)
from hpcdiff.strict import Places, check_bounds, fields_of, leaves, read, reference, to_yaml


@dataclass
class Config:
    """One run, from simulation to report."""

    run: Run = field(default_factory=Run)
    cosmology: Cosmology = field(default_factory=Cosmology)
    simulate: Simulate = field(default_factory=Simulate)
    project: Project = field(default_factory=Project)
    task: Task = field(default_factory=Task)
    observe: Observe = field(default_factory=Observe)
    network: Network = field(default_factory=Network)
    diffusion: Diffusion = field(default_factory=Diffusion)
    train: Train = field(default_factory=Train)
    sample: Sample = field(default_factory=Sample)
    evaluate: Evaluate = field(default_factory=Evaluate)
    given: frozenset[str] = field(default=frozenset(), metadata={"hidden": True})

    @property
    def dir(self) -> Path:
        """The run's folder."""
        return Path(self.run.dir)

    def map_paths(self) -> list[Path]:
        """The map files that training, sampling and evaluation read."""
        maps = self.run.maps
        return [self.dir / "maps.h5"] if maps is None else [Path(p) for p in ([maps] if isinstance(maps, str) else maps)]

    def model_path(self) -> Path:
        """The folder of the trained model."""
        return self.dir / "model" if self.run.model is None else Path(self.run.model)

    def resolved(self, *sections: str) -> dict:
        """The named sections (all, if none is named) as plain nested dictionaries."""
        whole = {f.name: dataclasses.asdict(getattr(self, f.name)) for f in fields_of(Config)}
        return {name: whole[name] for name in sections} if sections else whole

    def to_yaml(self, *sections: str) -> str:
        """The named sections (all, if none is named) as YAML."""
        return to_yaml(self.resolved(*sections))


def read_config(path: str | Path, overrides: list[str] = (), by: str = "command line") -> Config:
    """Read a YAML file and apply dotted overrides ("train.lr=1e-3") of what `by` names, which win.

    Raises:
        UserError: the file is missing or not YAML, a key is unknown (the nearest valid one is named), a value has the
            wrong type or is out of range, or an environment variable `${VAR}` is not set.
    """
    places = Places(path, by)
    config, given = read(Config, places, overrides)
    config.given = frozenset(given)
    if config.sample.sampler == "auto":
        config.sample.steps = config.sample.steps if "sample.steps" in given else AUTO_STEPS
        config.sample.init = config.sample.init if "sample.init" in given else AUTO_INIT
    check_bounds(config, places)
    _check_together(config, places)
    return config


SHARES = ("project.split.train", "project.split.val", "project.split.test")


def _check_together(config: Config, places: Places) -> None:
    """Rules that hold between keys. Each: the key, whether it holds, how to mend it, and which keys may be at fault if not the one alone."""
    project, split, diffusion = config.project, config.project.split, config.diffusion
    rules = [
        (
            "simulate.mass_range",
            len(config.simulate.mass_range) == 2 and 0 < config.simulate.mass_range[0] < config.simulate.mass_range[1],
            "give [lowest, highest] in Msun",
        ),
        (
            "project.mass_range",
            project.mass_range is None or (len(project.mass_range) == 2 and 0 <= project.mass_range[0] < project.mass_range[1]),
            "give [lowest, highest] in Msun, or null",
        ),
        ("cosmology.Ob0", config.cosmology.Ob0 < config.cosmology.Om0, "it must be below Om0", "cosmology.Ob0", "cosmology.Om0"),
        ("project.width", isinstance(project.width, str) or project.width > 0, "it must be above 0"),
        ("project.depth", all(isinstance(d, str) or d > 0 for d in _each(project.depth)), "it must be above 0"),
        ("project.beam", all(b is None or isinstance(b, str) or b > 0 for b in _each(project.beam)), "it must be above 0"),
        ("project.gaunt", project.gaunt == "fit" or not isinstance(project.gaunt, str), 'give a number, or "fit"'),
        ("project.split", abs(split.train + split.val + split.test - 1) < 1e-9, "train + val + test must be 1", *SHARES),
        (
            "diffusion.sigma_min",
            diffusion.sigma_min < diffusion.sigma_max,
            "it must be below sigma_max",
            "diffusion.sigma_min",
            "diffusion.sigma_max",
        ),
        ("network.multipliers", all(m > 0 for m in config.network.multipliers) and config.network.multipliers, "whole numbers above 0"),
        (
            "network.attention",
            config.network.attention == "coarsest"
            if isinstance(config.network.attention, str)
            else all(a in {2**n for n in range(len(config.network.multipliers))} for a in config.network.attention),
            "give coarsest, or a list of 1, 2, 4, ... up to the coarsest level's factor",
            "network.attention",
            "network.multipliers",
        ),
        (
            "train.map_weights",
            config.train.map_weights is None or min(config.train.map_weights, default=0) > 0,
            "give numbers above 0, or null",
        ),
        (
            "train.map_weights",
            config.train.map_weights is None or len(config.train.map_weights) == len(config.map_paths()),
            "give one number for each file of run.maps, or null",
            "train.map_weights",
            "run.maps",
        ),
        (
            "sample.guide",
            (config.sample.guide.field is None) == (config.sample.guide.noise is None),
            "give both field and noise, or neither",
            "sample.guide.field",
            "sample.guide.noise",
        ),
        (
            "sample.churn",
            config.sample.churn == 0 or config.sample.sampler == "heun",
            "only heun has churn",
            "sample.churn",
            "sample.sampler",
        ),
        (
            "task.outputs",
            not set(config.task.inputs) & set(config.task.outputs),
            "no field may be input and output",
            "task.inputs",
            "task.outputs",
        ),
        (
            "evaluate.mass_bins",
            all(len(b) == 2 and b[0] < b[1] for b in config.evaluate.mass_bins.values()) and "all" not in config.evaluate.mass_bins,
            "each is [low, high]; the name `all` is taken",
        ),
    ]
    for key, ok, how, *others in rules:
        if not ok:
            raise UserError(f"{key} does not hold together", places.of(*(others or [key])), how)
    for key, value in (("task.transform", config.task.transform), ("project.beam", project.beam), ("project.depth", project.depth)):
        for name in value if isinstance(value, dict) else ():
            if name not in FIELDS:
                raise UserError(f"{key} names {name!r}{nearest(name, FIELDS)}", places.of(key), "name a field")


def _each(value: object) -> list:
    """The values of a mapping, or the one value."""
    return list(value.values()) if isinstance(value, dict) else [value]


def all_keys() -> list[str]:
    """Every valid dotted key."""
    return [dotted for dotted, _, _ in leaves(Config())]


def key_reference() -> str:
    """The config reference, `docs/config.md`."""
    return reference(Config, "# Config reference\n\nMade by `python -m hpcdiff.config > docs/config.md`; do not edit by hand.")


def main(argv: list[str]) -> int:
    """Print the reference, or `get KEY CONFIG.yaml [overrides]`: one resolved value, for job scripts."""
    if not argv:
        print(key_reference(), end="")
        return 0
    try:
        words = [a for a in argv[2:] if not a.startswith("--")]  # the stages' own options
        if argv[0] != "get" or not words:
            raise UserError(
                "not understood", "command line", "usage: python -m hpcdiff.config [get KEY CONFIG.yaml [section.key=value ...]]"
            )
        values = {dotted: value for dotted, _, value in leaves(read_config(words[0], words[1:]))}
        if argv[1] not in values:
            raise UserError(f"unknown key {argv[1]!r}{nearest(argv[1], values)}", "command line", "see docs/config.md")
    except UserError as error:
        print(f"hpcdiff config: error: {error}", file=sys.stderr)
        return 2
    print(values[argv[1]])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
