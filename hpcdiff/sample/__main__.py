"""`python -m hpcdiff.sample CONFIG.yaml ...`, under torchrun, srun or alone; with FITS images, the posterior of one cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from hpcdiff.command import run_command
from hpcdiff.config import Config
from hpcdiff.launch import run_stage
from hpcdiff.leaving import leave
from hpcdiff.sample.cluster.options import USAGE, is_cluster
from hpcdiff.world import World, launched_rank


def plan(config: Config) -> Iterable[str]:
    """Lines of `--dry-run`: views, network evaluations, bytes."""
    from hpcdiff.maps import MapFile
    from hpcdiff.sample.run import effort, refuse_unbuilt

    refuse_unbuilt(config)

    s = config.sample
    sampler, steps, nfe, samples = effort(config)
    if sampler == "regression":
        yield "1 map a view by regression, the posterior's mean: 1 network evaluation"
    else:
        auto = " (auto)" if s.sampler == "auto" else ""
        yield f"{samples} samples a view by {sampler}{auto}, {steps} noise levels from a {s.init} start"
        yield f"{nfe} network evaluations a sample, {samples * nfe} a view" + (" with gradients, for the guide" if s.guide.field else "")
    path = config.map_paths()[0]
    if path.exists():
        maps = MapFile(path)
        n = len(maps.rows(s.split))
        size = n * samples * maps.npix**2 * 4 * len(config.task.outputs)
        yield f"{n} views in the {s.split} part of {path}: {n * samples * nfe} network evaluations, {size / 1e6:.1f} MB"
    else:
        yield f"{path} is not there yet: run project first"
    if not (config.model_path() / "config.json").exists():
        yield f"{config.model_path()} is not there yet: run train first"
    yield f"writes {config.dir}/samples.h5; of one observed cluster: hpcdiff sample CONFIG.yaml --FIELD FILE.fits ... --out DIR"


def outputs(config: Config) -> Iterable[Path]:
    """What `--overwrite` removes."""
    from hpcdiff.sample.run import output_paths

    return output_paths(config)


def work(config: Config, world: World) -> str:
    """Draw the samples."""
    from hpcdiff.sample.run import sample

    return sample(config, world)


def one_cluster(words: list[str]) -> Iterable[str]:
    """Draw the posterior of one observed cluster; yields lines about it."""
    from hpcdiff.sample.cluster.command import work

    return work(words)


def main(argv: list[str] | None = None) -> int:
    """Run the stage, or draw the posterior of one cluster; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if is_cluster(argv) and not {"-h", "--help"} & set(argv):
        return run_command("sample", USAGE, one_cluster, argv, "nothing is written")
    status = run_stage("sample", plan, work, outputs, argv)
    if {"-h", "--help"} & set(argv) and launched_rank("sample") == 0:
        print(USAGE)
    return status


if __name__ == "__main__":
    leave(main())
