"""Trains a small network by a list of jobs and writes down what came out: `engine_worker.py JOBS.json`, alone or under torchrun."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from hpcdiff.diffusion import EDMDenoiser
from hpcdiff.network import NCSNpp
from hpcdiff.sections import Train
from hpcdiff.train.data import Batch
from hpcdiff.train.engines import build_engine

GLOBAL_BATCH = 6
"""Images a step, over 1, 2 or 3 ranks."""


def make_denoiser(seed: int = 0) -> EDMDenoiser:
    """A small NCSN++ of 16^2 maps with preconditioning; its weights are a function of the seed."""
    torch.manual_seed(seed)
    network = NCSNpp(channels_in=2, channels_out=2, channels_condition=2, channels=8, multipliers=(1, 2), blocks=1)
    return EDMDenoiser(network, [0.5, 0.4], torch.rand(2, 16, 16), torch.rand(2, 16, 16), torch.tensor([0.3, 0.6]))


def make_batch(number: int, rank: int = 0, size: int = 1, scale: float = 1.0) -> Batch:
    """This rank's images of global batch `number`."""
    g = torch.Generator().manual_seed(1000 + number)
    draw = lambda: torch.randn(GLOBAL_BATCH, 2, 16, 16, generator=g)  # noqa: E731
    parts = (draw() * scale, draw(), torch.rand(GLOBAL_BATCH, generator=g), draw())
    n = GLOBAL_BATCH // size
    return Batch(*(x[rank * n : (rank + 1) * n] for x in parts))


def write(engine, folder: Path) -> None:
    """What each rank gives to a checkpoint; from rank 0 its counters, and the averaged weights by their names in model files."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = engine.pieces()
    save_file({k: p.data for k, p in pieces.items()}, folder / f"{engine.rank}.safetensors")
    (folder / f"{engine.rank}.json").write_text(json.dumps({k: [p.start, p.shape] for k, p in pieces.items()}))
    with engine.averaged() as denoiser:
        if engine.rank == 0:
            save_file({k: v.contiguous() for k, v in denoiser.state_dict().items()}, folder / "averaged")
            loss = engine.losses(denoiser, make_batch(0)).mean().item()
            (folder / "counters").write_text(json.dumps(engine.counters() | {"poll": engine.poll(), "loss": loss}))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # the next job may read it


def glue(folder: Path) -> dict[str, torch.Tensor]:
    """The whole tensors of which the ranks wrote pieces; each element must have come once."""
    whole, seen, shapes = {}, {}, {}
    for path in folder.glob("*.safetensors"):
        places = json.loads(path.with_suffix(".json").read_text())
        for name, data in load_file(path).items():
            start, shape = places[name]
            assert shapes.setdefault(name, shape) == shape
            total, end = torch.Size(shape).numel(), start + len(data)
            assert data.ndim == 1 and 0 <= start <= end <= total, (name, start, shape)
            whole.setdefault(name, torch.full((total,), torch.nan))[start:end] = data
            seen.setdefault(name, torch.zeros(total))[start:end] += 1
    assert all((s == 1).all() for s in seen.values()), [n for n, s in seen.items() if not (s == 1).all()]
    return {name: x.view(shapes[name]) for name, x in whole.items()}


def fill(engine, whole: dict[str, torch.Tensor], updates: int, skipped: int = 0) -> None:
    """Load whole tensors into an engine, as a checkpoint does."""
    wanted = engine.wanted()
    assert set(wanted) == set(whole)
    for name, piece in wanted.items():
        assert piece.shape == tuple(whole[name].shape)
        piece.data.copy_(whole[name].reshape(-1)[piece.start : piece.start + len(piece.data)])
    engine.take(wanted, updates, skipped)


def main(path: Path) -> None:
    from hpcdiff.world import TorchWorld

    world = TorchWorld()
    for job in json.loads(path.read_text()):
        if job["stage"] == 3:
            from hpcdiff.train.engines import zero

            zero.PERSISTENT = 100  # so that most parameters of this small network are shared out
        options = {"precision": job.get("precision", "fp32"), "compile": job.get("compile", False)}
        train = Train(engine=job["engine"], zero_stage=job["stage"], lr=1e-4, **options)
        engine = build_engine(train, make_denoiser(job.get("seed", 0)), world)
        if "take" in job:
            fill(engine, glue(Path(job["take"])), *job["taken"])
        for steps, out in job["phases"]:
            for number in steps:  # None: a batch that is not finite on the last rank
                bad = number is None and world.rank == world.size - 1
                engine.step(make_batch(number or 0, world.rank, world.size, torch.nan if bad else 1.0), 1e-4, 0.99)
            write(engine, Path(out))
    world.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
