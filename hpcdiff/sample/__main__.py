"""`python -m hpcdiff.sample CONFIG.yaml ...`, under torchrun, srun or alone."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from hpcdiff.config import Config
from hpcdiff.launch import run_stage
from hpcdiff.world import World


def plan(config: Config) -> Iterable[str]:
    """Lines of `--dry-run`: views, network evaluations, bytes."""
    from hpcdiff import diffusion
    from hpcdiff.maps import MapFile
    from hpcdiff.sample.run import refuse_unbuilt
    from hpcdiff.sections import AUTO_SAMPLER

    refuse_unbuilt(config)

    s = config.sample
    sampler = AUTO_SAMPLER if s.sampler == "auto" else s.sampler
    nfe = diffusion.nfe(sampler, s.steps)
    yield f"{s.samples} samples a view by {sampler}, {nfe} network evaluations each: {s.samples * nfe} a view"
    path = config.map_paths()[0]
    if path.exists():
        maps = MapFile(path)
        n = len(maps.rows(s.split))
        size = n * s.samples * maps.npix**2 * 4 * len(config.task.outputs)
        yield f"{n} views in the {s.split} part of {path}: {n * s.samples * nfe} network evaluations, {size / 1e6:.1f} MB"
    else:
        yield f"{path} is not there yet: run project first"
    if not (config.model_path() / "config.json").exists():
        yield f"{config.model_path()} is not there yet: run train first"
    yield f"writes {config.dir}/samples.h5"


def outputs(config: Config) -> Iterable[Path]:
    """What `--overwrite` removes."""
    from hpcdiff.sample.run import output_paths

    return output_paths(config)


def work(config: Config, world: World) -> str:
    """Draw the samples."""
    from hpcdiff.sample.run import sample

    return sample(config, world)


def main(argv: list[str] | None = None) -> int:
    """Run the stage; returns its exit status."""
    return run_stage("sample", plan, work, outputs, argv)


if __name__ == "__main__":
    sys.exit(main())
