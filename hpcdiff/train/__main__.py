"""`python -m hpcdiff.train CONFIG.yaml ...`, under torchrun, srun or alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hpcdiff.config import Config
from hpcdiff.launch import run_stage
from hpcdiff.leaving import leave
from hpcdiff.world import World


def plan(config: Config) -> Iterable[str]:
    """Lines of `--dry-run`: training set, parameters, arithmetic, steps, checkpoints."""
    from hpcdiff.denoiser import build_denoiser
    from hpcdiff.maps import MapFile
    from hpcdiff.train.flops import STEP, forward_flops

    npix = config.project.npix
    for path in config.map_paths():
        if path.exists():
            maps = MapFile(path)
            npix = maps.npix
            yield f"{path}: {len(maps.rows('train'))} training and {len(maps.rows('val'))} validation views of {npix} x {npix}"
        else:
            yield f"{path} is not there yet: run project first"
    denoiser = build_denoiser(config.resolved())
    parameters = sum(p.numel() for p in denoiser.parameters())
    if config.task.method == "regression":
        yield "a mean-square regression: the mean of the posterior alone, by the same network; the section diffusion is not used"
    yield f"{config.network.name}: {parameters} parameters; a checkpoint has {16 * parameters / 1e6:.1f} MB, {config.train.keep} are kept"
    t = config.train
    yield f"{t.images} images in {-(-t.images // t.batch_size)} steps of {t.batch_size}, engine {t.engine}, {t.precision}"
    if npix % 2 ** (len(config.network.multipliers) - 1) == 0:  # else `train` refuses, with its reason
        flops = STEP * forward_flops(denoiser, len(config.task.outputs), npix, len(config.task.inputs))
        yield f"{flops / 1e9:.4g} GFLOP an image, {flops * t.images / 1e15:.4g} PFLOP in all"
    yield f"writes {config.dir}/checkpoints, tensorboard, stats.jsonl and model"


def outputs(config: Config) -> Iterable[Path]:
    """What `--overwrite` removes."""
    return [
        config.dir / "checkpoints",
        config.dir / "tensorboard",
        config.dir / "stats.jsonl",
        config.dir / "model",
        config.dir / "model.partial",
    ]


def work(config: Config, world: World) -> str:
    """Train; torch is imported here, not by `--help`."""
    from hpcdiff.train.loop import train

    return train(config, world)


def main(argv: list[str] | None = None) -> int:
    """Run the stage; returns its exit status."""
    return run_stage("train", plan, work, outputs, argv)


if __name__ == "__main__":
    leave(main())
